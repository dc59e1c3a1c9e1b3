//! The footer of a part: how a later run knows what the part holds.

use super::summary::Summary;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a part's footer holds under [`FOOTER_KEY`](super::FOOTER_KEY), as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    pub format: u32,
    /// The version of this crate that wrote it.
    pub version: String,
    /// A digest of the model.
    pub model: String,
    /// [`Unit::key`](super::Unit::key).
    pub key: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    /// The row groups of the input file.
    pub groups: Range<usize>,
    pub summary: Summary,
}
