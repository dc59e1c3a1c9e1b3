use crate::patcher::StreamPatcher;
use crate::ports::Bytes;
use blt_core::bytes::Batch;
use blt_core::patch::stream::{PatchStream, SpaceGridStream, StrideStream, stream_patches};
use blt_core::patch::{self, Limits, Patches};
use blt_core::sizes::MAX_BYTES;
use blt_derive::{node, params};
use blt_graph::NodeError;
use serde::{Deserialize, Serialize, Serializer};

/// Where a stride's patches may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StrideAlign {
    Character,
    Space,
}

/// Patches of a fixed number of bytes (MegaByte's); BOS is a patch of its own.
///
/// Patch k starts at byte floor(k * stride) of the span, so `stride: 5.5` makes patches of 5 and 6
/// bytes in turn. `align: character` moves a start that falls inside a UTF-8 character to the
/// character's end. `align: space` takes white space near the grid: the text is divided into cells
/// of `stride` bytes around the multiples of `stride`, and in each cell the first byte after white
/// space starts a patch, the only one; a cell without white space starts none. The grid stays where
/// it is in all of these.
#[params]
pub struct StridePatch {
    /// Bytes in a patch, not always a whole number.
    #[serde(serialize_with = "whole")]
    #[range(1.0..=MAX_BYTES as f64)]
    pub stride: f64,
    /// `character`: a patch starts at a UTF-8 character, never inside one. `space`: after white
    /// space near each point of the grid.
    #[schemars(schema_with = "blt_graph::words::<Option<StrideAlign>>")]
    pub align: Option<StrideAlign>,
    #[shared]
    pub max_patch_length: Option<usize>,
}

/// A whole stride is written without a fraction.
fn whole<S: Serializer>(stride: &f64, to: S) -> Result<S::Ok, S::Error> {
    match *stride as u64 {
        whole if whole as f64 == *stride => to.serialize_u64(whole),
        _ => to.serialize_f64(*stride),
    }
}

#[node(example = "stride: 6")]
impl StreamPatcher for StridePatch {
    type In = Bytes;
    type Stream = Box<dyn PatchStream>;

    fn begin(&self, _: Option<f32>) -> Box<dyn PatchStream> {
        match self.align {
            Some(StrideAlign::Space) => Box::new(SpaceGridStream::new(self.stride)),
            _ => Box::new(StrideStream::new(self.stride)),
        }
    }

    fn max_patch_length(&self) -> Option<usize> {
        self.max_patch_length
    }

    fn limits(&self) -> Limits {
        let characters = self.align == Some(StrideAlign::Character);
        Limits { characters, ..self.max_patch_length.into() }
    }

    fn patches(&self, batch: &Batch, _: Option<&[f32]>) -> Result<Patches, NodeError> {
        match self.stride.fract() == 0.0 && self.align != Some(StrideAlign::Space) {
            true => Ok(patch::stride_patches(batch, self.stride as usize)?),
            false => Ok(stream_patches(batch, None, |bos| self.begin(bos))),
        }
    }
}
