use crate::patcher::StreamPatcher;
use crate::ports::Bytes;
use blt_core::bytes::Batch;
use blt_core::patch::stream::ByteStream;
use blt_core::patch::{self, Patches};
use blt_derive::{node, params};
use blt_graph::NodeError;

/// Every byte is a patch of its own.
#[params]
pub struct BytePatch {}

#[node]
impl StreamPatcher for BytePatch {
    type In = Bytes;
    type Stream = ByteStream;

    fn begin(&self, _: Option<f32>) -> ByteStream {
        ByteStream
    }

    fn patches(&self, batch: &Batch, _: Option<&[f32]>) -> Result<Patches, NodeError> {
        Ok(patch::byte_patches(batch))
    }
}
