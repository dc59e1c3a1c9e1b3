//! The graph that a model of several parts is.

use super::byte_embed::ByteEmbed;
use super::byte_lm::{ByteLm, ContextReset};
use super::entropy_patch::EntropyPatch;
use super::latent::Latent;
use super::local_decoder::{DecoderCross, LocalDecoder};
use super::local_encoder::LocalEncoder;
use super::next_byte_loss::NextByteLoss;
use super::ngram_lm::NgramLm;
use crate::model::Sizes;
use blt_core::hf::{ModelShape, PatchingShape};
use blt_core::patch::EntropyRule;
use blt_graph::{Graph, GraphSpec, Wire};

fn patcher(rule: EntropyRule, max_patch_length: Option<usize>) -> EntropyPatch {
    EntropyPatch { max_patch_length, ..EntropyPatch::of_rule(rule) }
}

/// The nodes that one would write for a model of this shape; its bytes come from outside, and so do
/// its patches where it has no patcher.
pub fn graph_of(shape: &ModelShape) -> GraphSpec {
    let mut graph = Graph::new();
    let bytes = Wire::outside("bytes");
    let patches = match &shape.patching {
        PatchingShape::Outside => Wire::outside("patches"),
        PatchingShape::Entropy { model, rule, max_patch_length } => {
            let Sizes { dim, layers, heads, kv_heads, ffn, window, rope_theta, eps } =
                Sizes::of(model.layers, &model.block);
            let context_reset =
                if model.reset_at_newline { ContextReset::Newline } else { ContextReset::None };
            let lm = ByteLm {
                dim,
                layers,
                heads,
                kv_heads,
                ffn,
                window,
                context_reset,
                rope_theta,
                eps,
            };
            let (entropies, ..) = graph.add("entropy", lm, bytes.clone());
            graph.add("patches", patcher(*rule, *max_patch_length), (bytes.clone(), entropies))
        }
        PatchingShape::Counts { model, rule, max_patch_length } => {
            let (entropies, ..) = graph.add("entropy", NgramLm::of(model.config), bytes.clone());
            graph.add("patches", patcher(*rule, *max_patch_length), (bytes.clone(), entropies))
        }
    };
    let (ngrams, table, functions) = match &shape.hash {
        Some(hash) => (hash.sizes.clone(), hash.vocab, hash.functions),
        None => (Vec::new(), ByteEmbed::new(1).table, 1),
    };
    let embed = graph.add(
        "embed",
        ByteEmbed { ngrams, table, functions, ..ByteEmbed::new(shape.encoder.block.dim) },
        bytes.clone(),
    );
    let e = &shape.encoder;
    let Sizes { layers, heads, kv_heads, ffn, window, rope_theta, eps, .. } =
        Sizes::of(e.layers, &e.block);
    let (cross, pooling, k) = (e.cross_layers, e.pooling, e.k);
    let encoder =
        LocalEncoder { layers, heads, kv_heads, ffn, window, k, cross, pooling, rope_theta, eps };
    let (states, patch_states) = graph.add("encoder", encoder, (embed, patches));
    let Sizes { dim, layers, heads, kv_heads, ffn, rope_theta, eps, .. } =
        Sizes::of(shape.latent.layers, &shape.latent.block);
    let latents = graph.add(
        "latent",
        Latent { dim, layers, heads, kv_heads, ffn, rope_theta, eps },
        patch_states,
    );
    let d = &shape.decoder;
    let Sizes { layers, heads, kv_heads, ffn, window, rope_theta, eps, .. } =
        Sizes::of(d.layers, &d.block);
    let cross = if d.cross_all { DecoderCross::All } else { DecoderCross::First };
    let decoder = LocalDecoder { layers, heads, kv_heads, ffn, window, cross, rope_theta, eps };
    let logits = graph.add("decoder", decoder, (states, latents));
    graph.add("loss", NextByteLoss { eos: false }, (logits, bytes));
    graph.finish()
}
