//! The paper's closed formula for FLOPs per byte, for graphs of BLT's shape.

use crate::nodes::{DecoderCross, Latent, LocalDecoder, LocalEncoder};
use crate::ports::{ByteStates, PatchStates};
use blt_core::bytes::VOCAB;
use blt_core::flops::{Shape, closed_form};
use blt_core::model::CrossLayers;
use blt_graph::{Plan, PlannedNode};

/// Forward FLOPs per byte at a mean patch size; None where the goals' sub-graph has not one
/// encoder, one latent transformer and one decoder. `context_bytes`: the mean length of a span.
pub fn per_byte(
    plan: &Plan,
    goals: &[&str],
    patch_size: Option<f64>,
    context_bytes: f64,
) -> Option<f64> {
    let nodes = plan.needs(goals).ok()?;
    let one = |kind: &str| {
        let mut of_kind = nodes.iter().filter(|n| n.entry.name == kind);
        of_kind.next().filter(|_| of_kind.next().is_none())
    };
    let (encoder, latent, decoder) = (one("LocalEncoder")?, one("Latent")?, one("LocalDecoder")?);
    let dim = encoder.infos[0].as_ref()?.get::<ByteStates>()?.dim;
    let k = encoder.infos[1].as_ref()?.get::<PatchStates>()?.k;
    let e: LocalEncoder = params(encoder)?;
    let l: Latent = params(latent)?;
    let d: LocalDecoder = params(decoder)?;
    Some(closed_form(&Shape {
        patch_size: patch_size?,
        context_bytes,
        k,
        encoder_dim: dim,
        encoder_layers: e.layers,
        encoder_window: e.window.map_or(context_bytes as usize, |w| w.min(context_bytes as usize)),
        encoder_cross_layers: if e.cross == CrossLayers::All { e.layers } else { 1 },
        latent_dim: l.dim,
        latent_layers: l.layers,
        decoder_dim: dim,
        decoder_layers: d.layers,
        decoder_window: d.window.map_or(context_bytes as usize, |w| w.min(context_bytes as usize)),
        decoder_cross_layers: if d.cross == DecoderCross::All { d.layers } else { 1 },
        vocab: VOCAB,
    }))
}

fn params<T: serde::de::DeserializeOwned>(node: &PlannedNode) -> Option<T> {
    serde_json::from_value(serde_json::Value::Object(node.params.clone())).ok()
}
