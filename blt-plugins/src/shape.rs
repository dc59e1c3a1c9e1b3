//! The model that a sub-graph is, when it has BLT's shape: what exports and checkpoints say of it.

use crate::model::Sizes;
use crate::nodes::{
    ByteEmbed, ByteLm, ContextReset, EntropyPatch, Latent, LocalDecoder, LocalEncoder,
};
use crate::ports::{ByteStates, PatchStates};
use blt_core::hf::{ByteLmShape, ModelShape, PatchingShape};
use blt_core::patching::EntropyRule;
use blt_graph::{GraphSpec, Node, Plan, PlannedNode, Port, Wire};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Facility of a node that is a whole model.
pub struct WholeModel(pub ModelShape);

/// Why a sub-graph is no BLT model.
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

/// The nodes of a sub-graph that make a model.
pub enum Found {
    /// One node that is a whole model: its shape is known once it is built.
    Whole(String),
    Parts(Box<Parts>),
}

/// A model of several nodes.
pub struct Parts {
    /// A threshold that is still to be found reads 0.
    pub shape: ModelShape,
    /// The nodes that hold its parameters.
    pub nodes: Vec<String>,
    /// The patcher whose rule the shape has.
    pub patcher: Option<String>,
}

impl Parts {
    /// The shape with the rule that the patcher learned, if it learned one. `learned` is what a
    /// checkpoint says of a node.
    pub fn with_rule(mut self, learned: impl Fn(&str) -> Option<EntropyRule>) -> Self {
        if let (PatchingShape::Entropy { rule, .. }, Some(node)) =
            (&mut self.shape.patching, &self.patcher)
            && let Some(found) = learned(node)
        {
            *rule = found;
        }
        self
    }
}

/// The rule in what an entropy patcher learned.
pub fn learned_rule(learned: &Value) -> Option<EntropyRule> {
    serde_json::from_value(learned.get("rule")?.clone()).ok()
}

fn only<'a>(nodes: &[&'a PlannedNode], kind: &'static str) -> Result<&'a PlannedNode, NotBlt> {
    let mut of_kind = nodes.iter().filter(|n| n.entry.name == kind);
    match (of_kind.next(), of_kind.next()) {
        (Some(node), None) => Ok(node),
        (first, second) => Err(NotBlt::Count {
            kind,
            found: first.iter().len() + second.iter().len() + of_kind.count(),
        }),
    }
}

fn params<T: DeserializeOwned>(node: &PlannedNode) -> Result<T, NotBlt> {
    serde_json::from_value(Value::Object(node.params.clone())).map_err(|e| unreadable(node, e))
}

fn unreadable(node: &PlannedNode, reason: impl std::fmt::Display) -> NotBlt {
    NotBlt::Params { node: node.name.clone(), reason: reason.to_string() }
}

/// What is known of output `port` of a node that is used.
fn info<P: Port>(node: &PlannedNode, port: usize) -> Result<&P::Info, NotBlt> {
    let info = node.infos.get(port).and_then(|info| info.as_ref()?.get::<P>());
    info.ok_or_else(|| unreadable(node, format!("no {} is known of it", P::NAME)))
}

/// The wire into input `port`, as `node.port`.
fn wire(plan: &Plan, node: &PlannedNode, port: &str) -> Option<String> {
    plan.wires(node).into_iter().find(|(name, _)| *name == port)?.1
}

/// Finds the model in `nodes`, a sub-graph in order of data flow.
pub fn find(plan: &Plan, nodes: &[&PlannedNode]) -> Result<Found, NotBlt> {
    if let Ok(whole) = only(nodes, crate::nodes::Blt::NAME)
        && !nodes.iter().any(|n| n.entry.name == LocalDecoder::NAME)
    {
        return Ok(Found::Whole(whole.name.clone()));
    }
    let (embed, encoder) = (only(nodes, ByteEmbed::NAME)?, only(nodes, LocalEncoder::NAME)?);
    let (latent, decoder) = (only(nodes, Latent::NAME)?, only(nodes, LocalDecoder::NAME)?);
    for (node, port, expected) in [
        (encoder, "bytes", format!("{}.bytes", embed.name)),
        (latent, "patches", format!("{}.patches", encoder.name)),
        (decoder, "bytes", format!("{}.bytes", encoder.name)),
        (decoder, "patches", format!("{}.patches", latent.name)),
    ] {
        let found = wire(plan, node, port).unwrap_or_default();
        if found != expected {
            return Err(NotBlt::Wire { node: node.name.clone(), port, found, expected });
        }
    }
    let dim = info::<ByteStates>(embed, 0)?.dim;
    let patch_states = info::<PatchStates>(encoder, 1)?;
    let bad = |node| move |e: blt_graph::NodeError| unreadable(node, e);
    let mut parts = Parts {
        shape: ModelShape {
            hash: params::<ByteEmbed>(embed)?.hash(),
            encoder: params::<LocalEncoder>(encoder)?.config(dim).map_err(bad(encoder))?,
            latent: params::<Latent>(latent)?.config(patch_states.dim).map_err(bad(latent))?,
            decoder: params::<LocalDecoder>(decoder)?
                .config(info::<ByteStates>(encoder, 0)?, info::<PatchStates>(latent, 0)?)
                .map_err(bad(decoder))?,
            patching: PatchingShape::Outside,
        },
        nodes: [embed, encoder, latent, decoder].map(|n| n.name.clone()).to_vec(),
        patcher: None,
    };
    let named = |wire: String| plan.node(wire.split('.').next().unwrap_or_default());
    let patcher = wire(plan, encoder, "patches")
        .and_then(named)
        .filter(|n| n.entry.name == EntropyPatch::NAME);
    if let Some(patcher) = patcher {
        let model = wire(plan, patcher, "entropies")
            .and_then(named)
            .filter(|n| n.entry.name == ByteLm::NAME);
        let source = wire(plan, embed, "bytes");
        if let Some(model) = model
            && wire(plan, patcher, "bytes") == source
            && wire(plan, model, "bytes") == source
        {
            let rule: EntropyPatch = params(patcher)?;
            let lm: ByteLm = params(model)?;
            parts.shape.patching = PatchingShape::Entropy {
                model: ByteLmShape {
                    layers: lm.layers,
                    block: lm.block().map_err(bad(model))?,
                    reset_at_newline: lm.context_reset == ContextReset::Newline,
                },
                rule: rule.rule_or_zero().map_err(bad(patcher))?,
                max_patch_length: rule.max_patch_length,
            };
            parts.nodes.push(model.name.clone());
            parts.patcher = Some(patcher.name.clone());
        }
    }
    Ok(Found::Parts(Box::new(parts)))
}

/// The nodes that one would write for a model of this shape; its bytes come from outside, and so do
/// its patches where it has no patcher.
pub fn graph_of(shape: &ModelShape) -> GraphSpec {
    let mut graph = blt_graph::Graph::new();
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
            let patcher = EntropyPatch {
                max_patch_length: *max_patch_length,
                ..EntropyPatch::of_rule(*rule)
            };
            graph.add("patches", patcher, (bytes.clone(), entropies))
        }
    };
    let (ngrams, table, functions) = match &shape.hash {
        Some(hash) => (hash.sizes.clone(), hash.vocab, hash.functions),
        None => (Vec::new(), ByteEmbed::new(1).table, 1),
    };
    let embed = graph.add(
        "embed",
        ByteEmbed { dim: shape.encoder.block.dim, ngrams, table, functions },
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
    let cross = if d.cross_all {
        crate::nodes::DecoderCross::All
    } else {
        crate::nodes::DecoderCross::First
    };
    let decoder = LocalDecoder { layers, heads, kv_heads, ffn, window, cross, rope_theta, eps };
    let logits = graph.add("decoder", decoder, (states, latents));
    graph.add("loss", crate::nodes::NextByteLoss { eos: false }, (logits, bytes));
    graph.finish()
}
