//! Requests for whole rows: which row groups of which files, and which of their rows.

use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::portion::Portion;
use crate::predicate::Predicate;
use crate::request::ListColumn;
use crate::splitmix::{STEP, fraction, mix};

/// Some neighbouring row groups of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSlice {
    /// The file's number in [`Source::files`](crate::Source::files).
    #[serde(rename = "table")]
    pub file: usize,
    pub groups: Range<usize>,
    /// The largest number of chosen rows; the first ones. None for all.
    pub limit: Option<u64>,
}

/// A share of the rows, drawn at random by file name and row number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowShare {
    /// 0 to 1.
    pub share: f64,
    pub seed: u64,
}

impl RowShare {
    /// Draws of the rows of one file.
    pub(crate) fn of_file(self, name: &str) -> impl Fn(u64) -> bool + use<> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(name.as_bytes());
        let key =
            u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"));
        move |row| {
            let drawn = mix(key.wrapping_add(row.wrapping_mul(STEP)));
            fraction(drawn) < self.share
        }
    }
}

/// What to do about rows that cannot be read or scored. Written `fail` or `null`, YAML's own null
/// too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// An error that names the place.
    #[default]
    Fail,
    /// Read the row without its document.
    Null,
}

impl<'de> Deserialize<'de> for OnError {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(from)?.as_deref() {
            Some("fail") => Ok(OnError::Fail),
            None | Some("null") => Ok(OnError::Null),
            Some(other) => Err(de::Error::unknown_variant(other, &["fail", "null"])),
        }
    }
}

/// Why a row that is not null has no document or no scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowError {
    /// The row group does not decode.
    Unreadable,
    /// The file lacks a column of documents or lists, or its type does not fit.
    NoColumn,
    /// Entropies or patch lengths do not fit the document.
    InvalidList,
    /// The loss or an entropy is not finite.
    NotFinite,
}

/// Which rows to read.
#[derive(Clone, Debug)]
pub struct RowRequest {
    pub portion: Portion,
    /// Columns of lists to read.
    pub lists: Vec<ListColumn>,
    /// The columns of the rows; None for all. Those that choose rows are read as well.
    pub columns: Option<Vec<String>>,
    pub slices: Vec<FileSlice>,
    /// Only rows for which it is true. Row groups whose statistics exclude it are not read.
    pub condition: Option<Predicate>,
    pub row_share: Option<RowShare>,
    pub on_error: OnError,
}

/// The rows of a row group that does not decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unreadable {
    /// The row group's number in its file.
    pub group: usize,
    /// By their numbers in the file: from the first that did not decode to the row group's last.
    pub rows: Range<u64>,
    /// Columns that are null from some row on.
    pub columns: Vec<String>,
    pub cause: String,
}
