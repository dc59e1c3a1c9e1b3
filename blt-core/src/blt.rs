//! A whole model in one piece, as checkpoints hold it.

use crate::backend::BackendError;
use crate::bytes::Batch;
use crate::counts::Counts;
use crate::hf::{ModelShape, PatchingShape};
use crate::model::{ByteEmbed, ByteLm, Head, Latent, LocalDecoder, LocalEncoder, Session};
use crate::params::ParamMaker;
use crate::patch::{EntropyRule, entropy_patches, newline_reset};
use crate::patch::{PatchError, Patches};
use std::rc::Rc;

/// The five parts of a model and, where it has one, its entropy patcher.
pub struct Blt {
    pub(crate) embed: ByteEmbed,
    pub(crate) encoder: LocalEncoder,
    pub(crate) latent: Latent,
    pub(crate) decoder: LocalDecoder,
    pub(crate) patcher: Option<EntropyPatcher>,
}

pub(crate) struct EntropyPatcher {
    pub(crate) model: EntropyModel,
    pub(crate) rule: EntropyRule,
    pub(crate) max_patch_length: Option<usize>,
}

pub(crate) enum EntropyModel {
    Lm { model: ByteLm, reset_at_newline: bool },
    Counts(Rc<Counts>),
}

/// An entropy model's results for a batch.
pub struct Patched {
    /// Its logits.
    pub head: Head,
    /// Of the next byte in nats, `[n]`.
    pub entropies: Vec<f32>,
    pub patches: Patches,
}

impl Blt {
    /// Registers the parameters in the order of checkpoints: embeddings, encoder, latent, decoder,
    /// entropy model. `counts` is the entropy model of a shape whose entropy model is counts; a
    /// model made without them has no patcher.
    pub fn new(maker: &mut ParamMaker, shape: &ModelShape, counts: Option<Rc<Counts>>) -> Self {
        let embed = ByteEmbed::new(maker, shape.encoder.block.dim, shape.hash.clone());
        let encoder = LocalEncoder::new(maker, &shape.encoder);
        let latent = Latent::new(maker, &shape.latent);
        let decoder = LocalDecoder::new(maker, &shape.decoder);
        let patcher = match &shape.patching {
            PatchingShape::Outside => None,
            PatchingShape::Entropy { model, rule, max_patch_length } => Some(EntropyPatcher {
                model: EntropyModel::Lm {
                    model: ByteLm::new(maker, model.layers, &model.block),
                    reset_at_newline: model.reset_at_newline,
                },
                rule: *rule,
                max_patch_length: *max_patch_length,
            }),
            PatchingShape::Counts { rule, max_patch_length, .. } => {
                counts.map(|counts| EntropyPatcher {
                    model: EntropyModel::Counts(counts),
                    rule: *rule,
                    max_patch_length: *max_patch_length,
                })
            }
        };
        Blt { embed, encoder, latent, decoder, patcher }
    }

    /// The entropy model's logits, entropies and patches of a batch; None where the model has no
    /// entropy model. `record`: on the way to a gradient of its own loss (borders have none).
    ///
    /// # Errors
    /// Outside, a device that failed; inside, an entropy that is not finite.
    pub fn patch(
        &self,
        cx: &Session,
        batch: &Batch,
        record: bool,
    ) -> Result<Option<Result<Patched, PatchError>>, BackendError> {
        self.patcher.as_ref().map(|patcher| patcher.patch(cx, batch, record)).transpose()
    }

    /// The states that give the logits, `[n, dim]`.
    ///
    /// # Errors
    /// Of the device.
    pub fn forward(
        &self,
        cx: &Session,
        batch: &Batch,
        patches: &Patches,
    ) -> Result<Head, BackendError> {
        let x = self.embed.forward(cx, batch)?;
        let (bytes, patch_states) = self.encoder.forward(cx, x, batch, patches)?;
        let latents = self.latent.forward(cx, patch_states, patches)?;
        self.decoder.forward(cx, bytes, latents, batch, patches)
    }
}

impl EntropyPatcher {
    fn patch(
        &self,
        cx: &Session,
        batch: &Batch,
        record: bool,
    ) -> Result<Result<Patched, PatchError>, BackendError> {
        let head = match &self.model {
            EntropyModel::Lm { model, reset_at_newline } => {
                let lines = reset_at_newline.then(|| newline_reset(batch));
                let seen = lines.as_ref().unwrap_or(batch);
                cx.paused(!record, || model.forward(cx, seen))?
            }
            EntropyModel::Counts(counts) => {
                Head::Counts { counts: counts.clone(), batch: batch.clone() }
            }
        };
        let entropies = head.entropies(cx)?;
        let patches = entropy_patches(batch, &entropies, self.rule, self.max_patch_length);
        Ok(patches.map(|patches| Patched { head, entropies, patches }))
    }
}
