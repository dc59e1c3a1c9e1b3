use crate::facilities::provide_streaming;
use crate::model::{cross_of, session, sizes, with_params};
use crate::model_part::ModelPart;
use crate::node_size::NodeSize;
use crate::ports::{
    ByteStates, ByteStatesInfo, ByteStatesValue, Logits, LogitsValue, PatchStates, PatchStatesInfo,
    PatchStatesValue,
};
use blt_core::model;
use blt_core::sizes::MAX_DIM;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use serde::{Deserialize, Serialize};
use std::any::Any;

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
#[params]
pub struct LocalDecoder {
    #[shared]
    pub layers: usize,
    /// Attention heads, of self- and cross-attention.
    #[range(1..=MAX_DIM)]
    pub heads: usize,
    #[shared]
    pub kv_heads: Option<usize>,
    #[shared]
    pub ffn: Option<usize>,
    #[shared]
    pub window: Option<usize>,
    /// Layers before which bytes attend to the latents: `all` or `first`.
    #[default(DecoderCross::All)]
    #[schemars(schema_with = "blt_graph::words::<DecoderCross>")]
    pub cross: DecoderCross,
    #[shared]
    pub rope_theta: f64,
    #[shared]
    pub eps: f64,
}

impl LocalDecoder {
    fn config(
        &self,
        bytes: &ByteStatesInfo,
        patches: &PatchStatesInfo,
    ) -> Result<model::LocalDecoderConfig, NodeError> {
        let block = sizes!(self, dim: bytes.dim, window: self.window).resolve()?;
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

#[node(example = "in: {bytes: encoder.bytes, patches: latent}, layers: 2, heads: 4, window: 128")]
impl Node for LocalDecoder {
    type In = (ByteStates, PatchStates);
    type Out = Logits;
    type State = model::LocalDecoder;

    fn check(
        &self,
        (bytes, patches): (ByteStatesInfo, PatchStatesInfo),
        cx: &CheckCx,
    ) -> Result<(), NodeError> {
        let config = self.config(&bytes, &patches)?;
        let kept = self.layers * bytes.dim;
        NodeSize::state(cx, kept, |maker| model::LocalDecoder::new(maker, &config));
        Ok(())
    }

    fn role(
        &self,
        (bytes, patches): (ByteStatesInfo, PatchStatesInfo),
    ) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::Decoder(self.config(&bytes, &patches)?).role()
    }

    fn build(
        &self,
        (bytes, patches): (ByteStatesInfo, PatchStatesInfo),
        cx: &mut BuildCx,
    ) -> Result<model::LocalDecoder, NodeError> {
        let config = self.config(&bytes, &patches)?;
        let part = with_params(cx, |maker| model::LocalDecoder::new(maker, &config))?;
        let decodes = part.clone();
        provide_streaming(cx, move |backend| decodes.streaming(backend));
        Ok(part)
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
