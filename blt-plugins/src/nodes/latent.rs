use crate::facilities::provide_streaming;
use crate::model::{session, sizes, with_params};
use crate::model_part::ModelPart;
use crate::node_size::NodeSize;
use crate::ports::{PatchStates, PatchStatesInfo, PatchStatesValue};
use blt_core::model;
use blt_core::sizes::MAX_DIM;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use std::any::Any;

/// The latent transformer over patches: causal inside a span, positions count patches, no final
/// norm.
#[params]
pub struct Latent {
    /// Width; patch states of another width are projected to it.
    #[range(1..=MAX_DIM)]
    pub dim: usize,
    #[shared]
    pub layers: usize,
    #[shared]
    pub heads: usize,
    #[shared]
    pub kv_heads: Option<usize>,
    #[shared]
    pub ffn: Option<usize>,
    #[shared]
    pub rope_theta: f64,
    #[shared]
    pub eps: f64,
}

impl Latent {
    fn config(&self, input_dim: usize) -> Result<model::LatentConfig, NodeError> {
        let block = sizes!(self, dim: self.dim, window: None).resolve()?;
        Ok(model::LatentConfig { layers: self.layers, block, input_dim })
    }
}

#[node(example = "in: encoder.patches, dim: 128, layers: 4, heads: 4")]
impl Node for Latent {
    type In = PatchStates;
    type Out = PatchStates;
    type State = model::Latent;

    fn check(&self, input: PatchStatesInfo, cx: &CheckCx) -> Result<PatchStatesInfo, NodeError> {
        let config = self.config(input.dim)?;
        NodeSize::state(cx, 0, |maker| model::Latent::new(maker, &config));
        Ok(PatchStatesInfo { dim: self.dim, k: input.k })
    }

    fn role(&self, input: PatchStatesInfo) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::Latent(self.config(input.dim)?).role()
    }

    fn build(&self, input: PatchStatesInfo, cx: &mut BuildCx) -> Result<model::Latent, NodeError> {
        let config = self.config(input.dim)?;
        let part = with_params(cx, |maker| model::Latent::new(maker, &config))?;
        let decodes = part.clone();
        provide_streaming(cx, move |backend| decodes.streaming(backend));
        Ok(part)
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
