//! What can be asked for of whole rows: tables, spans of them, and which of their rows.

use std::ops::Range;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::columns::ListColumn;
use crate::error::DataError;
use crate::formats::DataFile;
use crate::predicate::Predicate;
use crate::split::Part;
use crate::storage::Location;

/// What is read as one: a row group, a record batch, a text file or some of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub rows: u64,
    /// Decoded and not compressed (of Arrow batches, as they lie in the file); dictionaries count
    /// once.
    pub bytes: u64,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub path: Location,
    /// As shown to users: relative to where the pipeline's paths start if it lies below, `/`
    /// between the parts.
    pub name: String,
    /// The file's own columns, then those of its folders (`lang=en/`).
    pub schema: SchemaRef,
    pub groups: Vec<Group>,
    /// A digest of name, size, time of modification and table of contents; of an object, of its
    /// URL, size, and the store's mark of its version, or the time of its modification where
    /// there is none.
    pub fingerprint: String,
}

impl Table {
    pub(crate) fn of(file: &DataFile, contents: Option<blake3::Hash>) -> Result<Self, DataError> {
        let found = &file.found;
        let contents = contents.map(|c| c.to_hex().to_string());
        let identity = serde_json::to_vec(&(&found.name, found.size, found.version(), contents));
        let identity = identity.map_err(|e| DataError::read(&found.path, e))?;
        Ok(Table {
            path: found.path.clone(),
            name: found.name.clone(),
            schema: file.schema.clone(),
            groups: file
                .scan
                .units
                .iter()
                .map(|u| Group { rows: u.rows, bytes: u.bytes })
                .collect(),
            fingerprint: blake3::hash(&identity).to_hex()[..32].to_string(),
        })
    }

    /// Of all parts.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|g| g.rows).sum()
    }

    /// No document has more bytes than this, as far as the file tells without being read (a
    /// compressed Arrow file does not).
    pub fn document_bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.bytes).max().unwrap_or(0)
    }
}

/// Some neighbouring groups of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSpan {
    /// In [`Source::tables`](crate::Source::tables).
    pub table: usize,
    pub groups: Range<usize>,
    /// The first so many rows alone of those that are chosen.
    pub limit: Option<u64>,
}

/// A share of the rows, drawn by file name and row number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// 0 to 1.
    pub share: f64,
    pub seed: u64,
}

impl Sample {
    /// Draws of the rows of one file.
    pub(crate) fn of_file(self, name: &str) -> impl Fn(u64) -> bool + use<> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(name.as_bytes());
        let key =
            u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"));
        move |row| {
            // splitmix64
            let mut z = key.wrapping_add(row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64) < self.share
        }
    }
}

/// What to do about rows that cannot be read. Written `fail` or `null`, YAML's own null too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// An error that says where.
    #[default]
    Fail,
    /// The row comes without its document.
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

/// Why a row that is not null has no document, or no scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowError {
    /// Its row group does not decode.
    Unreadable,
    /// Its file has no such column of documents or lists, or not one of a type that serves.
    NoColumn,
    /// Its entropies or patch lengths do not fit its document.
    InvalidList,
    /// Its loss, or an entropy, is not finite.
    NotFinite,
}

/// Which rows to read.
#[derive(Clone, Debug)]
pub struct RowRequest {
    pub part: Part,
    /// Columns of lists to bring along.
    pub lists: Vec<ListColumn>,
    pub spans: Vec<RowSpan>,
    /// Rows for which it is true; row groups are left out whose statistics say that they have
    /// none.
    pub condition: Option<Predicate>,
    pub sample: Option<Sample>,
    pub on_error: OnError,
}

/// Rows of a group that does not decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unreadable {
    /// In its file.
    pub group: usize,
    /// In its file; from the first that did not decode to the group's last.
    pub rows: Range<u64>,
    /// Columns that are lost, null from some row on.
    pub columns: Vec<String>,
    pub cause: String,
}
