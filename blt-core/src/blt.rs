//! A whole model in one piece, as checkpoints hold it.

use crate::bytes::Batch;
use crate::hf::{ModelShape, PatchingShape};
use crate::model::{ByteEmbed, ByteLm, Head, Latent, LocalDecoder, LocalEncoder, Session};
use crate::params::ParamMaker;
use crate::patches::{PatchError, Patches};
use crate::patching::{EntropyRule, entropy_patches, newline_reset};

/// The five parts of a model and, where it has one, its entropy patcher.
pub struct Blt {
    embed: ByteEmbed,
    encoder: LocalEncoder,
    latent: Latent,
    decoder: LocalDecoder,
    patcher: Option<EntropyPatcher>,
}

struct EntropyPatcher {
    model: ByteLm,
    rule: EntropyRule,
    max_patch_length: Option<usize>,
    reset_at_newline: bool,
}

impl Blt {
    /// Registers the parameters in the order of checkpoints: embeddings, encoder, latent, decoder, entropy model.
    pub fn new(maker: &mut ParamMaker, shape: &ModelShape) -> Self {
        let embed = ByteEmbed::new(maker, shape.encoder.block.dim, shape.hash.clone());
        let encoder = LocalEncoder::new(maker, &shape.encoder);
        let latent = Latent::new(maker, &shape.latent);
        let decoder = LocalDecoder::new(maker, &shape.decoder);
        let patcher = match &shape.patching {
            PatchingShape::Outside => None,
            PatchingShape::Entropy { model, rule, max_patch_length } => Some(EntropyPatcher {
                model: ByteLm::new(maker, model.layers, &model.block),
                rule: *rule,
                max_patch_length: *max_patch_length,
                reset_at_newline: model.reset_at_newline,
            }),
        };
        Blt { embed, encoder, latent, decoder, patcher }
    }

    /// Entropies of the next byte in nats, `[n]`, of the entropy model, and the patches that they make; None where the model has no
    /// patcher. Nothing is recorded: borders have no gradient.
    ///
    /// # Errors
    /// An entropy that is not finite.
    pub fn patch(&self, cx: &Session, batch: &Batch) -> Option<Result<(Vec<f32>, Patches), PatchError>> {
        let patcher = self.patcher.as_ref()?;
        let lines = patcher.reset_at_newline.then(|| newline_reset(batch));
        cx.backend.pause(true);
        let entropies = patcher.model.forward(cx, lines.as_ref().unwrap_or(batch)).entropies(cx);
        cx.backend.pause(false);
        let patches = entropy_patches(batch, &entropies, patcher.rule, patcher.max_patch_length);
        Some(patches.map(|patches| (entropies, patches)))
    }

    /// The states that give the logits, `[n, dim]`.
    pub fn forward(&self, cx: &Session, batch: &Batch, patches: &Patches) -> Head {
        let x = self.embed.forward(cx, batch);
        let (bytes, patch_states) = self.encoder.forward(cx, &x, batch, patches);
        let latents = self.latent.forward(cx, &patch_states, patches);
        self.decoder.forward(cx, &bytes, &latents, batch, patches)
    }
}
