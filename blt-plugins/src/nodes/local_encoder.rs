use crate::model::{
    Sizes, cross_of, default_eps, default_theta, default_window, session, with_params,
};
use crate::ports::{
    ByteStates, ByteStatesInfo, ByteStatesValue, PatchStates, PatchStatesInfo, PatchStatesValue,
    Patches, PatchesInfo,
};
use blt_core::backend::Pooling;
use blt_core::model::{self, CrossLayers};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// The local encoder: a light byte transformer, then cross-attention from pooled patch queries to
/// the patch's bytes.
///
/// A patch's query is pooled from its byte states, mapped to k rows, and each row attends to the
/// bytes of the patch alone. Self-attention sees the last `window` bytes of the span and crosses
/// patch borders. Paper section 3.2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalEncoder {
    /// Transformer layers.
    #[serde(default = "one")]
    pub layers: usize,
    /// Attention heads, of self- and cross-attention.
    pub heads: usize,
    /// Key/value heads; as many as `heads` where left out.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward layers; 8/3 of the width rounded up to a multiple of 64 where
    /// left out.
    #[serde(default)]
    pub ffn: Option<usize>,
    /// How many bytes back a byte sees, itself included; null: the whole span.
    #[serde(default = "default_window")]
    pub window: Option<usize>,
    /// Query rows a patch; the patch states are k times the byte width.
    #[serde(default = "two")]
    pub k: usize,
    /// Layers in which patches attend to their bytes: `last`, `all` (pooled once and refined, the
    /// paper), or `all_repool` (pooled anew in each layer, so that only the last has an
    /// effect: the Hugging Face layout's `cross_attn_all_layers`).
    #[serde(default = "last")]
    #[schemars(with = "String")]
    pub cross: CrossLayers,
    /// How a patch's query is pooled from its byte states: `max`, `mean` or `min`.
    #[serde(default = "max")]
    #[schemars(with = "String")]
    pub pooling: Pooling,
    /// RoPE's base.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// RMSNorm's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn last() -> CrossLayers {
    CrossLayers::Last
}

fn max() -> Pooling {
    Pooling::Max
}

impl LocalEncoder {
    /// All else at its default.
    pub fn new(heads: usize) -> Self {
        LocalEncoder {
            layers: one(),
            heads,
            kv_heads: None,
            ffn: None,
            window: default_window(),
            k: two(),
            cross: last(),
            pooling: max(),
            rope_theta: default_theta(),
            eps: default_eps(),
        }
    }
}

impl LocalEncoder {
    pub(crate) fn config(&self, dim: usize) -> Result<model::LocalEncoderConfig, NodeError> {
        let sizes = Sizes {
            dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            ffn: self.ffn,
            window: self.window,
            rope_theta: self.rope_theta,
            eps: self.eps,
        };
        let block = sizes.resolve()?;
        if self.k == 0 {
            return Err(NodeError::param("k", "a patch has at least one query row, k: 1"));
        }
        let cross = cross_of(&block);
        Ok(model::LocalEncoderConfig {
            layers: self.layers,
            block,
            cross,
            cross_layers: self.cross,
            pooling: self.pooling,
            k: self.k,
        })
    }
}

impl Node for LocalEncoder {
    const NAME: &'static str = "LocalEncoder";
    const INPUTS: &'static [&'static str] = &["bytes", "patches"];
    const OUTPUTS: &'static [&'static str] = &["bytes", "patches"];
    const EXAMPLE: &'static str = "{node: LocalEncoder, in: {bytes: embed, patches: patches}, layers: 1, heads: 4, k: 2, window: 128}";
    type In = (ByteStates, Patches);
    type Out = (ByteStates, PatchStates);
    type State = model::LocalEncoder;

    fn check(
        &self,
        (bytes, _): (ByteStatesInfo, PatchesInfo),
        _: &CheckCx,
    ) -> Result<(ByteStatesInfo, PatchStatesInfo), NodeError> {
        self.config(bytes.dim)?;
        Ok((bytes.clone(), PatchStatesInfo { dim: self.k * bytes.dim, k: self.k }))
    }

    fn build(
        &self,
        (bytes, _): (ByteStatesInfo, PatchesInfo),
        cx: &mut BuildCx,
    ) -> Result<model::LocalEncoder, NodeError> {
        let config = self.config(bytes.dim)?;
        if self.cross == CrossLayers::AllRepool && self.layers > 1 {
            tracing::warn!(
                node = cx.node,
                "cross: all_repool pools anew in each layer, so the cross-attention of all layers but the last gets no gradient"
            );
        }
        with_params(cx, |maker| model::LocalEncoder::new(maker, &config))
    }

    fn run(
        &self,
        part: &model::LocalEncoder,
        (bytes, patches): (ByteStatesValue, Rc<blt_core::patches::Patches>),
        cx: &RunCx,
    ) -> Result<(ByteStatesValue, PatchStatesValue), NodeError> {
        let (states, patch_states) =
            part.forward(&session(cx), bytes.states, &bytes.batch, &patches)?;
        Ok((
            ByteStatesValue { states, batch: bytes.batch },
            PatchStatesValue { states: patch_states, patches },
        ))
    }
}

blt_graph::node!(LocalEncoder);
