use crate::facilities::provide_streaming;
use crate::model::{cross_of, session, sizes, with_params};
use crate::model_part::ModelPart;
use crate::node_size::NodeSize;
use crate::ports::{
    ByteStates, ByteStatesInfo, ByteStatesValue, PatchStates, PatchStatesInfo, PatchStatesValue,
    Patches, PatchesInfo,
};
use blt_core::backend::Pooling;
use blt_core::model::{self, CrossLayers};
use blt_core::sizes::{MAX_DIM, MAX_ROWS};
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use std::any::Any;
use std::rc::Rc;

/// The local encoder: a light byte transformer, then cross-attention from pooled patch queries to
/// the patch's bytes.
///
/// A patch's query is pooled from its byte states, mapped to k rows, and each row attends to the
/// bytes of the patch alone. Self-attention sees the last `window` bytes of the span and crosses
/// patch borders. Paper section 3.2.
#[params]
pub struct LocalEncoder {
    #[shared]
    #[default(1)]
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
    /// Query rows for each patch; the patch states are k times the byte width.
    #[default(2)]
    #[range(1..=MAX_ROWS)]
    pub k: usize,
    /// Layers in which patches attend to their bytes: `last`, `all` (the paper's: pooled once, then
    /// refined in each layer), or `all_repool` (pooled anew in each layer, so that only the last
    /// has an effect: `cross_attn_all_layers` of the Hugging Face layout).
    #[default(CrossLayers::Last)]
    #[schemars(schema_with = "blt_graph::words::<CrossLayers>")]
    pub cross: CrossLayers,
    /// How a patch's query is pooled from its byte states: `max`, `mean` or `min`.
    #[default(Pooling::Max)]
    #[schemars(schema_with = "blt_graph::words::<Pooling>")]
    pub pooling: Pooling,
    #[shared]
    pub rope_theta: f64,
    #[shared]
    pub eps: f64,
}

impl LocalEncoder {
    fn config(&self, dim: usize) -> Result<model::LocalEncoderConfig, NodeError> {
        let block = sizes!(self, dim: dim, window: self.window).resolve()?;
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

#[node(example = "in: {bytes: embed, patches: patches}, layers: 1, heads: 4, k: 2, window: 128")]
impl Node for LocalEncoder {
    type In = (ByteStates, Patches);
    type Out = (ByteStates, PatchStates);
    type State = model::LocalEncoder;

    fn check(
        &self,
        (bytes, _): (ByteStatesInfo, PatchesInfo),
        cx: &CheckCx,
    ) -> Result<(ByteStatesInfo, PatchStatesInfo), NodeError> {
        let config = self.config(bytes.dim)?;
        let kept = self.layers * bytes.dim;
        NodeSize::state(cx, kept, |maker| model::LocalEncoder::new(maker, &config));
        Ok((bytes.clone(), PatchStatesInfo { dim: self.k * bytes.dim, k: self.k }))
    }

    fn role(
        &self,
        (bytes, _): (ByteStatesInfo, PatchesInfo),
    ) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::Encoder(self.config(bytes.dim)?).role()
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
        let part = with_params(cx, |maker| model::LocalEncoder::new(maker, &config))?;
        let decodes = part.clone();
        provide_streaming(cx, move |backend| decodes.streaming(backend));
        Ok(part)
    }

    fn run(
        &self,
        part: &model::LocalEncoder,
        (bytes, patches): (ByteStatesValue, Rc<blt_core::patch::Patches>),
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
