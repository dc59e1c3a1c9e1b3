//! What `score` measured: counts, sums, and how scores are distributed.

use super::number::Ordered;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What `score` measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScoreResult {
    /// The wire that scores.
    pub goal: String,
    /// Lists that were written with the scores.
    pub emit: Vec<String>,
    /// Where the parts went, if not into the step's own directory.
    pub output: Option<String>,
    /// The documents that were read: `valid`, `train` or `all`.
    pub split: String,
    /// Digest of the model.
    pub model: String,
    #[serde(flatten)]
    pub counts: ScoreCounts,
    /// Row groups that were not read, because their statistics rule out the condition.
    pub row_groups_skipped: u64,
    pub unreadable: Vec<UnreadableRows>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<ScoreHistogram>,
    /// In input order.
    pub parts: Vec<ScoredPart>,
}

/// Counts and sums over rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScoreCounts {
    /// Rows that were read.
    pub rows: u64,
    /// Of them, the rows that were written.
    pub kept: u64,
    /// Documents, the empty ones included.
    pub documents: u64,
    pub bytes: u64,
    /// Rows without a document.
    pub nulls: u64,
    /// Documents without a byte.
    pub empty: u64,
    /// Rows that could not be read or scored, by cause.
    pub failed: Ordered<u64>,
    #[serde(flatten)]
    pub sums: ScoreSums,
}

/// What the scores add up to, as far as the goal has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreSums {
    /// Of a model with a loss.
    #[serde(flatten)]
    pub likelihood: Option<Likelihood>,
    /// Of a model with patches, or a patcher.
    #[serde(flatten)]
    pub patching: Option<Patching>,
}

/// How well documents are predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Likelihood {
    pub nats: f64,
    /// Bits per byte; None where there is no byte.
    pub bpb: Option<f64>,
}

/// Into how many patches documents are cut; the patch of BOS is not counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Patching {
    pub patches: u64,
    /// None where there is no patch.
    pub bytes_per_patch: Option<f64>,
}

/// Rows of a row group that could not be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnreadableRows {
    /// The input file, as named in the pipeline.
    pub input: String,
    /// The row group's number in its file.
    pub group: u64,
    /// Numbered in the file.
    pub rows: Range<u64>,
    /// Columns that are lost.
    pub columns: Vec<String>,
    pub cause: String,
}

/// A Parquet file that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoredPart {
    /// The input file, as named in the pipeline.
    pub input: String,
    /// Row groups of the input file, the last excluded.
    pub groups: (u64, u64),
    /// The file's name below the outputs.
    pub part: String,
    #[serde(flatten)]
    pub counts: ScoreCounts,
}

/// What a histogram counts documents by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistogramOf {
    BitsPerByte,
    BytesPerPatch,
}

impl HistogramOf {
    /// As in result.json.
    pub fn name(self) -> &'static str {
        match self {
            HistogramOf::BitsPerByte => "bits_per_byte",
            HistogramOf::BytesPerPatch => "bytes_per_patch",
        }
    }

    /// Bins start at multiples of it.
    pub fn width(self) -> f64 {
        match self {
            HistogramOf::BitsPerByte => 0.1,
            HistogramOf::BytesPerPatch => 0.5,
        }
    }

    /// The number of bins. The last one counts all that is larger too.
    pub fn bins(self) -> u32 {
        match self {
            HistogramOf::BitsPerByte => 160,
            HistogramOf::BytesPerPatch => 128,
        }
    }
}

/// Documents by their score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScoreHistogram {
    pub of: HistogramOf,
    /// Bins start at multiples of it.
    pub width: f64,
    /// Where the last bin starts, which counts all that is larger too.
    pub last: f64,
    pub all: HistogramGroup,
    /// The column whose values are counted apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// By the column's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Ordered<HistogramGroup>>,
}

/// Documents that are counted together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistogramGroup {
    pub documents: u64,
    pub bytes: u64,
    #[serde(flatten)]
    pub sums: ScoreSums,
    /// Documents by where their bin starts.
    pub counts: Ordered<u64>,
}
