use crate::ports::{Bytes, BytesInfo, Patches, PatchesInfo};
use blt_core::bytes::Batch;
use blt_core::patching;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Every byte is a patch of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BytePatch {}

impl Node for BytePatch {
    const NAME: &'static str = "BytePatch";
    const INPUTS: &'static [&'static str] = &["bytes"];
    const OUTPUTS: &'static [&'static str] = &["patches"];
    const EXAMPLE: &'static str = "{node: BytePatch, in: docs}";
    type In = Bytes;
    type Out = Patches;
    type State = ();

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        Ok(PatchesInfo { boundary_lookahead: false })
    }

    fn build(&self, _: BytesInfo, _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }

    fn run(
        &self,
        _: &(),
        batch: Rc<Batch>,
        _: &RunCx,
    ) -> Result<Rc<blt_core::patches::Patches>, NodeError> {
        let patches = patching::byte_patches(&batch);
        Ok(Rc::new(patches))
    }
}

blt_graph::node!(BytePatch);
