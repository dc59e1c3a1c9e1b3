use crate::facilities::{Facilities, provide};
use crate::model::session;
use crate::ports::{Bytes, BytesInfo, Logits, LogitsValue, Loss, LossValue};
use blt_core::bytes::Batch;
use blt_core::model::next_byte_targets;
use blt_derive::{node, params};
use blt_graph::{BuildCx, Node, NodeError, RunCx};
use std::rc::Rc;

/// Cross-entropy of the next byte, in nats, averaged over the bytes.
#[params]
pub struct NextByteLoss {
    /// The end of a document (EOS) is a target too. Bits per byte never count it.
    #[default(false)]
    pub eos: bool,
}

/// The targets of a loss that predicts EOS.
struct WithEos;

impl Facilities for WithEos {
    fn n_targets(&self, batch: &Batch) -> Option<usize> {
        Some(next_byte_targets(batch, true).iter().flatten().count())
    }
}

#[node(example = "in: {logits: decoder, bytes: docs}")]
impl Node for NextByteLoss {
    type In = (Logits, Bytes);
    type Out = Loss;

    fn build(&self, _: ((), BytesInfo), cx: &mut BuildCx) -> Result<(), NodeError> {
        if self.eos {
            provide(cx, WithEos);
        }
        Ok(())
    }

    fn run(
        &self,
        _: &(),
        (logits, batch): (LogitsValue, Rc<Batch>),
        cx: &RunCx,
    ) -> Result<LossValue, NodeError> {
        let targets = next_byte_targets(&batch, self.eos);
        let loss = logits.head.loss(&session(cx), &targets)?;
        Ok(LossValue { loss: loss.loss, nats: Rc::new(loss.nats), batch })
    }
}
