use crate::ports::{Bytes, BytesInfo, Patches, PatchesInfo};
use blt_core::bytes::Batch;
use blt_core::patching;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Patches of a fixed number of bytes (MegaByte's); BOS is a patch of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StridePatch {
    /// Bytes in a patch.
    pub stride: usize,
}

impl Node for StridePatch {
    const NAME: &'static str = "StridePatch";
    const INPUTS: &'static [&'static str] = &["bytes"];
    const OUTPUTS: &'static [&'static str] = &["patches"];
    const EXAMPLE: &'static str = "{node: StridePatch, in: docs, stride: 6}";
    type In = Bytes;
    type Out = Patches;
    type State = ();

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        if self.stride == 0 {
            return Err(NodeError::param("stride", "a patch has at least one byte, stride: 1"));
        }
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
        let patches = patching::stride_patches(&batch, self.stride)?;
        Ok(Rc::new(patches))
    }
}

blt_graph::node!(StridePatch);
