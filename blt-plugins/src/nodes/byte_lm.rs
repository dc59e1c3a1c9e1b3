use crate::facilities::provide_streaming;
use crate::model::{byte_model_outputs, session, sizes, with_params};
use crate::model_part::ModelPart;
use crate::node_size::NodeSize;
use crate::ports::{Bytes, BytesInfo, Entropies, Logits, LogitsValue, Loss, LossValue};
use blt_core::backend::BlockConfig;
use blt_core::bytes::Batch;
use blt_core::hf::ByteLmShape;
use blt_core::model;
use blt_core::patch::newline_reset;
use blt_core::sizes::MAX_DIM;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::rc::Rc;

/// Where the model's context begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextReset {
    /// At the start of a span alone.
    None,
    /// Also at the byte after each newline, as after BOS: the paper's cure for entropy drift.
    Newline,
}

/// A small byte language model: the entropy model that patchers read.
///
/// A bare wire means its entropies (of the next byte, in nats, one for each id). Train it with
/// `goal: NAME.loss`; a graph that only uses its entropies does not train it, since patch borders
/// have no gradient.
#[params]
pub struct ByteLm {
    /// Width.
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
    pub window: Option<usize>,
    /// Where the context starts anew: `none`, or `newline` (at the byte after each newline, as
    /// after BOS).
    #[default(ContextReset::None)]
    #[schemars(schema_with = "blt_graph::words::<ContextReset>")]
    pub context_reset: ContextReset,
    #[shared]
    #[default(10_000.0)]
    pub rope_theta: f64,
    #[shared]
    pub eps: f64,
}

impl ByteLm {
    fn block(&self) -> Result<BlockConfig, NodeError> {
        sizes!(self, dim: self.dim, window: self.window).resolve()
    }
}

#[node(example = "in: docs, dim: 64, layers: 2, heads: 4, window: 128")]
impl Node for ByteLm {
    type In = Bytes;
    type Out = (Option<Entropies>, Option<Loss>, Option<Logits>);
    type State = model::ByteLm;

    fn check(
        &self,
        _: BytesInfo,
        cx: &CheckCx,
    ) -> Result<(Option<()>, Option<()>, Option<()>), NodeError> {
        let block = self.block()?;
        let kept = self.layers * self.dim;
        NodeSize::state(cx, kept, |maker| model::ByteLm::new(maker, self.layers, &block));
        Ok((Some(()), Some(()), Some(())))
    }

    fn role(&self, _: BytesInfo) -> Result<Option<Box<dyn Any>>, NodeError> {
        let shape = ByteLmShape {
            layers: self.layers,
            block: self.block()?,
            reset_at_newline: self.context_reset == ContextReset::Newline,
        };
        ModelPart::EntropyModel(shape).role()
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteLm, NodeError> {
        let block = self.block()?;
        let part = with_params(cx, |maker| model::ByteLm::new(maker, self.layers, &block))?;
        let (decodes, resets) = (part.clone(), self.context_reset == ContextReset::Newline);
        provide_streaming(cx, move |backend| decodes.streaming(backend, resets));
        Ok(part)
    }

    fn run(
        &self,
        part: &model::ByteLm,
        batch: Rc<Batch>,
        cx: &RunCx,
    ) -> Result<(Option<Rc<Vec<f32>>>, Option<LossValue>, Option<LogitsValue>), NodeError> {
        let session = session(cx);
        // A fresh context replaces the newline by BOS at the same place: positions stay, and
        // targets are the document's own.
        let lines = (self.context_reset == ContextReset::Newline).then(|| newline_reset(&batch));
        let seen: &Batch = lines.as_ref().unwrap_or(&batch);
        // Borders have no gradient: a graph that wants entropies alone records nothing here.
        let trains = cx.wanted("loss") || cx.wanted("logits");
        session.paused(!trains, || {
            let head = part.forward(&session, seen)?;
            byte_model_outputs(head, &session, &batch, cx)
        })
    }
}
