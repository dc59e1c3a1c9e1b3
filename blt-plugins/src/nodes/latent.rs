use crate::model::{Sizes, default_eps, default_theta, session, with_params};
use crate::ports::{PatchStates, PatchStatesInfo, PatchStatesValue};
use blt_core::model;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The latent transformer over patches: causal inside a span, positions count patches, no final
/// norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Width; patch states of another width are projected to it.
    pub dim: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key/value heads; as many as `heads` where left out.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward layers; 8/3 of the width rounded up to a multiple of 64 where
    /// left out.
    #[serde(default)]
    pub ffn: Option<usize>,
    /// RoPE's base.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// RMSNorm's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
}

impl Latent {
    /// All else at its default.
    pub fn new(dim: usize, layers: usize, heads: usize) -> Self {
        Latent {
            dim,
            layers,
            heads,
            kv_heads: None,
            ffn: None,
            rope_theta: default_theta(),
            eps: default_eps(),
        }
    }
}

impl Latent {
    pub(crate) fn config(&self, input_dim: usize) -> Result<model::LatentConfig, NodeError> {
        let sizes = Sizes {
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            ffn: self.ffn,
            window: None,
            rope_theta: self.rope_theta,
            eps: self.eps,
        };
        Ok(model::LatentConfig { layers: self.layers, block: sizes.resolve()?, input_dim })
    }
}

impl Node for Latent {
    const NAME: &'static str = "Latent";
    const INPUTS: &'static [&'static str] = &["patches"];
    const OUTPUTS: &'static [&'static str] = &["patches"];
    const EXAMPLE: &'static str =
        "{node: Latent, in: encoder.patches, dim: 128, layers: 4, heads: 4}";
    type In = PatchStates;
    type Out = PatchStates;
    type State = model::Latent;

    fn check(&self, input: PatchStatesInfo, _: &CheckCx) -> Result<PatchStatesInfo, NodeError> {
        self.config(input.dim)?;
        Ok(PatchStatesInfo { dim: self.dim, k: input.k })
    }

    fn build(&self, input: PatchStatesInfo, cx: &mut BuildCx) -> Result<model::Latent, NodeError> {
        let config = self.config(input.dim)?;
        with_params(cx, |maker| model::Latent::new(maker, &config))
    }

    fn run(
        &self,
        part: &model::Latent,
        x: PatchStatesValue,
        cx: &RunCx,
    ) -> Result<PatchStatesValue, NodeError> {
        Ok(PatchStatesValue {
            states: part.forward(&session(cx), x.states, &x.patches)?,
            patches: x.patches,
        })
    }
}

blt_graph::node!(Latent);
