use crate::model::session;
use crate::ports::{Bytes, Logits, LogitsValue, Loss, LossValue};
use blt_core::bytes::Batch;
use blt_core::model::next_byte_targets;
use blt_derive::{node, params};
use blt_graph::{Node, NodeError, RunCx};
use std::rc::Rc;

/// Cross-entropy of the next byte, in nats, averaged over the bytes.
#[params]
pub struct NextByteLoss {
    /// The end of a document (EOS) is a target too. Bits per byte never count it.
    #[default(false)]
    pub eos: bool,
}

#[node(example = "in: {logits: decoder, bytes: docs}")]
impl Node for NextByteLoss {
    type In = (Logits, Bytes);
    type Out = Loss;

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
