use crate::patcher::StreamPatcher;
use crate::ports::Bytes;
use blt_core::bytes::Batch;
use blt_core::patch::stream::SpaceStream;
use blt_core::patch::{self, Patches};
use blt_derive::{node, params};
use blt_graph::NodeError;

/// A patch starts after each space-like byte that follows a byte that is not space-like
/// (SpaceByte's rule).
///
/// Space-like is ASCII that is not alphanumeric, and the first byte of a multi-byte character.
#[params]
pub struct SpacePatch {
    #[shared]
    pub max_patch_length: Option<usize>,
}

#[node]
impl StreamPatcher for SpacePatch {
    type In = Bytes;
    type Stream = SpaceStream;

    fn begin(&self, _: Option<f32>) -> SpaceStream {
        SpaceStream::default()
    }

    fn max_patch_length(&self) -> Option<usize> {
        self.max_patch_length
    }

    fn patches(&self, batch: &Batch, _: Option<&[f32]>) -> Result<Patches, NodeError> {
        Ok(patch::space_patches(batch))
    }
}
