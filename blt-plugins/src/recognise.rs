//! Recognises a Byte Latent Transformer in a sub-graph by the roles of its nodes ([`ModelPart`]),
//! for exports, checkpoints and the paper's FLOPs.

use crate::checkpoint::counts_file;
use crate::model_part::ModelPart;
use crate::plan_queries::{input_of, outputs_of};
use crate::ports::{ByteStates, Bytes, Entropies, PatchStates, Patches};
use blt_core::bytes::VOCAB;
use blt_core::flops::{Shape, closed_form};
use blt_core::hf::{CountsShape, ModelShape, PatchingShape};
use blt_core::model::{CrossLayers, LatentConfig, LocalDecoderConfig, LocalEncoderConfig};
use blt_core::patch::EntropyRule;
use blt_graph::{Plan, PlannedNode, Port};
use serde_json::Value;

/// Why a sub-graph is not a BLT model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotBlt {
    #[error("it has {found} {kind} nodes where a BLT model has one")]
    Count { kind: &'static str, found: usize },
    #[error("`{node}` reads its {port} from `{found}` where a BLT model's reads {expected}")]
    Wire { node: String, port: &'static str, found: String, expected: String },
    #[error("the parameters of `{node}` cannot be read: {reason}")]
    Params { node: String, reason: String },
    #[error("`{node}` ({kind}) has parameters, which a BLT model has no place for")]
    ForeignParams { node: String, kind: &'static str },
}

/// A model in a sub-graph.
pub enum Found {
    /// One node that is a whole model. Its configuration is known once it is built.
    Whole(String),
    Parts(Box<ModelInParts>),
}

/// A model of several nodes.
pub struct ModelInParts {
    /// The configuration. A threshold that has not been found yet is 0.
    pub shape: ModelShape,
    /// The nodes that have the model's parameters.
    pub nodes: Vec<String>,
    /// The patcher that the rule in the configuration belongs to.
    pub patcher: Option<String>,
}

impl ModelInParts {
    /// Returns the model with the rule that its patcher learned, if any. `learned` returns the
    /// learned rule of a node.
    pub fn with_rule(mut self, learned: impl Fn(&str) -> Option<EntropyRule>) -> Self {
        if let (
            PatchingShape::Entropy { rule, .. } | PatchingShape::Counts { rule, .. },
            Some(node),
        ) = (&mut self.shape.patching, &self.patcher)
            && let Some(found) = learned(node)
        {
            *rule = found;
        }
        self
    }
}

/// The rule in the learned values of an entropy patcher.
pub fn learned_rule(learned: &Value) -> Option<EntropyRule> {
    serde_json::from_value(learned.get("rule")?.clone()).ok()
}

/// The nodes of a sub-graph that have a role, in order of data flow.
type Parts<'a> = Vec<(&'a PlannedNode, ModelPart)>;

fn roles<'a>(plan: &Plan, nodes: &[&'a PlannedNode]) -> Result<Parts<'a>, NotBlt> {
    let mut parts = Vec::new();
    for node in nodes {
        let role = plan
            .role(node)
            .map_err(|e| NotBlt::Params { node: node.name.clone(), reason: e.to_string() })?;
        parts.extend(role.map(|role| (*node, role)));
    }
    Ok(parts)
}

/// The only node for whose role `of` returns something. `kind`: the name of such nodes in errors.
fn only<'a, T>(
    parts: &'a Parts,
    kind: &'static str,
    of: impl Fn(&'a ModelPart) -> Option<T>,
) -> Result<(&'a PlannedNode, T), NotBlt> {
    let mut found: Vec<_> =
        parts.iter().filter_map(|(node, part)| Some((*node, of(part)?))).collect();
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok(only),
        (found, _) => Err(NotBlt::Count { kind, found }),
    }
}

fn encoder(part: &ModelPart) -> Option<&LocalEncoderConfig> {
    if let ModelPart::Encoder(config) = part { Some(config) } else { None }
}

fn latent(part: &ModelPart) -> Option<&LatentConfig> {
    if let ModelPart::Latent(config) = part { Some(config) } else { None }
}

fn decoder(part: &ModelPart) -> Option<&LocalDecoderConfig> {
    if let ModelPart::Decoder(config) = part { Some(config) } else { None }
}

/// Checks that `node` reads its input of type `P` from `from`.
fn reads<P: Port>(plan: &Plan, node: &PlannedNode, from: &PlannedNode) -> Result<(), NotBlt> {
    let (port, found) = input_of::<P>(plan, node).unwrap_or_default();
    match outputs_of::<P>(from).next().map(|(wire, _)| wire).unwrap_or_default() {
        expected if expected == found => Ok(()),
        expected => Err(NotBlt::Wire { node: node.name.clone(), port, found, expected }),
    }
}

/// Finds the model in `nodes`, a sub-graph in order of data flow.
///
/// # Errors
/// If the sub-graph is not a BLT model, and why.
pub fn find(plan: &Plan, nodes: &[&PlannedNode]) -> Result<Found, NotBlt> {
    let parts = roles(plan, nodes)?;
    if let Ok((whole, ())) =
        only(&parts, "Blt", |part| matches!(part, ModelPart::Whole).then_some(()))
        && !parts.iter().any(|(_, part)| decoder(part).is_some())
    {
        return Ok(Found::Whole(whole.name.clone()));
    }
    let (embed, hash) = only(&parts, "ByteEmbed", |part| match part {
        ModelPart::Embedding(hash) => Some(hash),
        _ => None,
    })?;
    let (encoder, encoder_config) = only(&parts, "LocalEncoder", encoder)?;
    let (latent, latent_config) = only(&parts, "Latent", latent)?;
    let (decoder, decoder_config) = only(&parts, "LocalDecoder", decoder)?;
    reads::<ByteStates>(plan, encoder, embed)?;
    reads::<PatchStates>(plan, latent, encoder)?;
    reads::<ByteStates>(plan, decoder, encoder)?;
    reads::<PatchStates>(plan, decoder, latent)?;
    let mut model = ModelInParts {
        shape: ModelShape {
            hash: hash.clone(),
            encoder: encoder_config.clone(),
            latent: latent_config.clone(),
            decoder: decoder_config.clone(),
            patching: PatchingShape::Outside,
        },
        nodes: [embed, encoder, latent, decoder].map(|n| n.name.clone()).to_vec(),
        patcher: None,
    };
    if let Some((patcher, entropy_model, patching)) = own_patcher(plan, &parts, encoder, embed) {
        model.shape.patching = patching;
        model.nodes.push(entropy_model.name.clone());
        model.patcher = Some(patcher.name.clone());
    }
    Ok(Found::Parts(Box::new(model)))
}

/// The patcher that `encoder` reads, and the entropy model that the patcher reads, if both read the
/// same bytes as `embed`: only then can the model find its patches itself.
fn own_patcher<'a>(
    plan: &Plan,
    parts: &Parts<'a>,
    encoder: &PlannedNode,
    embed: &PlannedNode,
) -> Option<(&'a PlannedNode, &'a PlannedNode, PatchingShape)> {
    let read = |wire: String| {
        let from = plan.goal(&wire).ok()?.node;
        parts.iter().find(|(node, _)| node.name == from.name)
    };
    let (patcher, rule) = read(input_of::<Patches>(plan, encoder)?.1)?;
    let ModelPart::EntropyPatcher { rule, max_patch_length } = rule else { return None };
    let (entropy_model, shape) = read(input_of::<Entropies>(plan, patcher)?.1)?;
    let bytes = |node| input_of::<Bytes>(plan, node).map(|(_, wire)| wire);
    let (rule, max_patch_length) = (*rule, *max_patch_length);
    let patching = match shape.clone() {
        ModelPart::EntropyModel(model) => PatchingShape::Entropy { model, rule, max_patch_length },
        ModelPart::EntropyCounts(config) => {
            let model = CountsShape { config, file: counts_file(&entropy_model.name) };
            PatchingShape::Counts { model, rule, max_patch_length }
        }
        _ => return None,
    };
    let same = bytes(patcher) == bytes(embed) && bytes(entropy_model) == bytes(embed);
    same.then_some((*patcher, *entropy_model, patching))
}

/// The paper's closed formula for forward FLOPs per byte; `None` if the sub-graph of `goals` does
/// not have exactly one encoder, one latent transformer and one decoder. `context_bytes`: the mean
/// length of a span, in bytes.
pub fn closed_form_flops(
    plan: &Plan,
    goals: &[&str],
    patch_size: Option<f64>,
    context_bytes: f64,
) -> Option<f64> {
    let parts = roles(plan, &plan.needs(goals).ok()?).ok()?;
    let (_, e) = only(&parts, "LocalEncoder", encoder).ok()?;
    let (_, l) = only(&parts, "Latent", latent).ok()?;
    let (_, d) = only(&parts, "LocalDecoder", decoder).ok()?;
    let window = |window: Option<usize>| {
        window.map_or(context_bytes as usize, |w| w.min(context_bytes as usize))
    };
    Some(closed_form(&Shape {
        patch_size: patch_size?,
        context_bytes,
        k: e.k,
        encoder_dim: e.block.dim,
        encoder_layers: e.layers,
        encoder_window: window(e.block.window),
        encoder_cross_layers: if e.cross_layers == CrossLayers::All { e.layers } else { 1 },
        latent_dim: l.block.dim,
        latent_layers: l.layers,
        decoder_dim: d.block.dim,
        decoder_layers: d.layers,
        decoder_window: window(d.block.window),
        decoder_cross_layers: if d.cross_all { d.layers } else { 1 },
        vocab: VOCAB,
    }))
}
