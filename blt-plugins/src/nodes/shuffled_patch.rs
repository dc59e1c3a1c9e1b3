use crate::ports::{Bytes, BytesInfo, Patches, PatchesInfo};
use blt_core::bytes::Batch;
use blt_core::patch::shuffled_patches;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use std::rc::Rc;

/// A control: the patches of another patcher with their lengths shuffled within each span.
///
/// There are as many patches as the other patcher makes, of the same lengths, at other places. A
/// patcher that is not better than its own control has gained by its sizes at most, not by where
/// its patches start. The order is drawn from the seed and the bytes of the span alone: it is the
/// same in every pass over the documents, and in any batch. A patch that starts by its length alone
/// may lie anywhere, so such runs carry the mark `boundary_lookahead`, and are not ranked.
#[params]
pub struct ShuffledPatch {}

#[node(example = "in: {bytes: docs, patches: strides}")]
impl Node for ShuffledPatch {
    type In = (Bytes, Patches);
    type Out = Patches;
    type State = u64;

    fn check(&self, _: (BytesInfo, PatchesInfo), _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        Ok(PatchesInfo::looks_ahead())
    }

    fn build(&self, _: (BytesInfo, PatchesInfo), cx: &mut BuildCx) -> Result<u64, NodeError> {
        Ok(cx.seed)
    }

    fn run(
        &self,
        seed: &u64,
        (batch, patches): (Rc<Batch>, Rc<blt_core::patch::Patches>),
        _: &RunCx,
    ) -> Result<Rc<blt_core::patch::Patches>, NodeError> {
        Ok(Rc::new(shuffled_patches(&batch, &patches, *seed)))
    }
}
