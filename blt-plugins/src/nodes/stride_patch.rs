use crate::patcher::StreamPatcher;
use crate::ports::Bytes;
use blt_core::bytes::Batch;
use blt_core::patch::stream::StrideStream;
use blt_core::patch::{self, Patches};
use blt_derive::{node, params};
use blt_graph::NodeError;

/// Patches of a fixed number of bytes (MegaByte's); BOS is a patch of its own.
#[params]
pub struct StridePatch {
    /// Bytes in a patch.
    pub stride: usize,
}

#[node(example = "stride: 6")]
impl StreamPatcher for StridePatch {
    type In = Bytes;
    type Stream = StrideStream;

    fn check(&self) -> Result<(), NodeError> {
        match self.stride {
            0 => Err(NodeError::param("stride", "a patch has at least one byte, stride: 1")),
            _ => Ok(()),
        }
    }

    fn begin(&self, _: Option<f32>) -> StrideStream {
        StrideStream::new(self.stride)
    }

    fn patches(&self, batch: &Batch, _: Option<&[f32]>) -> Result<Patches, NodeError> {
        Ok(patch::stride_patches(batch, self.stride)?)
    }
}
