use crate::facilities::provide;
use crate::patcher::check_max_patch_length;
use crate::ports::{Bytes, BytesInfo, Patches, PatchesInfo};
use blt_core::bytes::Batch;
use blt_data::{ListColumn, ListKind};
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use std::rc::Rc;

/// Patches computed elsewhere, from a list column of patch lengths.
///
/// A list of integers, BOS's own patch first; they sum to `n_bytes + 1` (one more, for the unseen
/// next byte, is accepted). Zeros are skipped. Where a patch starts may depend on later bytes, so
/// such runs carry the mark `boundary_lookahead`.
#[params]
pub struct ColumnPatch {
    /// The list column.
    pub column: String,
    #[shared]
    pub max_patch_length: Option<usize>,
}

#[node(example = "in: docs, column: patch_lengths")]
impl Node for ColumnPatch {
    type In = Bytes;
    type Out = Patches;

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        check_max_patch_length(self.max_patch_length)?;
        if self.column.is_empty() {
            return Err(NodeError::param("column", "the column's name is empty"));
        }
        Ok(PatchesInfo::looks_ahead())
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<(), NodeError> {
        let column = self.column.clone();
        provide(cx, ListColumn { column, kind: ListKind::PatchLengths });
        Ok(())
    }

    fn run(
        &self,
        _: &(),
        batch: Rc<Batch>,
        _: &RunCx,
    ) -> Result<Rc<blt_core::patch::Patches>, NodeError> {
        let lists = batch.lists.get(&self.column).ok_or_else(|| {
            NodeError::param("column", format!("the source did not read column `{}`", self.column))
        })?;
        let patches = blt_core::patch::Patches::from_lengths(&batch, lists)?;
        Ok(Rc::new(patches.split_if(self.max_patch_length)?))
    }
}
