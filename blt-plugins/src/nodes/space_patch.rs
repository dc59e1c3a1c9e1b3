use crate::ports::{Bytes, BytesInfo, Patches, PatchesInfo};
use blt_core::bytes::Batch;
use blt_core::patching;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// A patch starts after each space-like byte that follows one that is not (SpaceByte's rule).
///
/// Space-like is ASCII that is not alphanumeric, and the first byte of a multi-byte character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpacePatch {
    /// Longest patch in bytes; longer ones are split greedily from the left.
    #[serde(default)]
    pub max_patch_length: Option<usize>,
}

impl Node for SpacePatch {
    const NAME: &'static str = "SpacePatch";
    const INPUTS: &'static [&'static str] = &["bytes"];
    const OUTPUTS: &'static [&'static str] = &["patches"];
    const EXAMPLE: &'static str = "{node: SpacePatch, in: docs}";
    type In = Bytes;
    type Out = Patches;
    type State = ();

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        super::check_max_patch_length(self.max_patch_length)?;
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
        let patches = patching::space_patches(&batch);
        Ok(Rc::new(patches.split_if(self.max_patch_length)?))
    }
}

blt_graph::node!(SpacePatch);
