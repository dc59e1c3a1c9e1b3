use crate::model::{
    Sizes, cross_of, default_eps, default_theta, default_window, session, with_params,
};
use crate::ports::{
    ByteStates, ByteStatesInfo, ByteStatesValue, Logits, LogitsValue, PatchStates, PatchStatesInfo,
    PatchStatesValue,
};
use blt_core::model;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In which decoder layers bytes attend to the latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderCross {
    All,
    First,
}

/// The local decoder: a byte transformer that cross-attends to the latents and predicts the next
/// byte.
///
/// It starts from the encoder's byte states. A byte reads the k rows of the last patch that ended
/// before the next byte's patch began. Paper section 3.3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalDecoder {
    /// Transformer layers.
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
    /// Layers before which bytes attend to the latents: `all` or `first`.
    #[serde(default = "all")]
    #[schemars(with = "String")]
    pub cross: DecoderCross,
    /// RoPE's base.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// RMSNorm's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
}

fn all() -> DecoderCross {
    DecoderCross::All
}

impl LocalDecoder {
    /// All else at its default.
    pub fn new(layers: usize, heads: usize) -> Self {
        LocalDecoder {
            layers,
            heads,
            kv_heads: None,
            ffn: None,
            window: default_window(),
            cross: all(),
            rope_theta: default_theta(),
            eps: default_eps(),
        }
    }
}

impl LocalDecoder {
    pub(crate) fn config(
        &self,
        bytes: &ByteStatesInfo,
        patches: &PatchStatesInfo,
    ) -> Result<model::LocalDecoderConfig, NodeError> {
        let sizes = Sizes {
            dim: bytes.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            ffn: self.ffn,
            window: self.window,
            rope_theta: self.rope_theta,
            eps: self.eps,
        };
        let block = sizes.resolve()?;
        let cross = cross_of(&block);
        Ok(model::LocalDecoderConfig {
            layers: self.layers,
            block,
            cross,
            cross_all: self.cross == DecoderCross::All,
            k: patches.k,
            latent_dim: patches.dim,
        })
    }
}

impl Node for LocalDecoder {
    const NAME: &'static str = "LocalDecoder";
    const INPUTS: &'static [&'static str] = &["bytes", "patches"];
    const OUTPUTS: &'static [&'static str] = &["logits"];
    const EXAMPLE: &'static str = "{node: LocalDecoder, in: {bytes: encoder.bytes, patches: latent}, layers: 2, heads: 4, window: 128}";
    type In = (ByteStates, PatchStates);
    type Out = Logits;
    type State = model::LocalDecoder;

    fn check(
        &self,
        (bytes, patches): (ByteStatesInfo, PatchStatesInfo),
        _: &CheckCx,
    ) -> Result<(), NodeError> {
        self.config(&bytes, &patches).map(drop)
    }

    fn build(
        &self,
        (bytes, patches): (ByteStatesInfo, PatchStatesInfo),
        cx: &mut BuildCx,
    ) -> Result<model::LocalDecoder, NodeError> {
        let config = self.config(&bytes, &patches)?;
        with_params(cx, |maker| model::LocalDecoder::new(maker, &config))
    }

    fn run(
        &self,
        part: &model::LocalDecoder,
        (bytes, patches): (ByteStatesValue, PatchStatesValue),
        cx: &RunCx,
    ) -> Result<LogitsValue, NodeError> {
        let head = part.forward(
            &session(cx),
            bytes.states,
            patches.states,
            &bytes.batch,
            &patches.patches,
        )?;
        Ok(LogitsValue { head, batch: bytes.batch })
    }
}

blt_graph::node!(LocalDecoder);
