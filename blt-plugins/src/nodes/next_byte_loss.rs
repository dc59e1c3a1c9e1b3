use crate::model::session;
use crate::ports::{Bytes, BytesInfo, Logits, LogitsValue, Loss, LossValue};
use blt_core::bytes::Batch;
use blt_core::model::next_byte_targets;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Cross-entropy of the next byte, in nats, averaged over the bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextByteLoss {
    /// The end of a document (EOS) is a target too. Bits per byte never count it.
    #[serde(default)]
    pub eos: bool,
}

impl Node for NextByteLoss {
    const NAME: &'static str = "NextByteLoss";
    const INPUTS: &'static [&'static str] = &["logits", "bytes"];
    const OUTPUTS: &'static [&'static str] = &["loss"];
    const EXAMPLE: &'static str = "{node: NextByteLoss, in: {logits: decoder, bytes: docs}}";
    type In = (Logits, Bytes);
    type Out = Loss;
    type State = ();

    fn check(&self, _: ((), BytesInfo), _: &CheckCx) -> Result<(), NodeError> {
        Ok(())
    }

    fn build(&self, _: ((), BytesInfo), _: &mut BuildCx) -> Result<(), NodeError> {
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

blt_graph::node!(NextByteLoss);
