//! What is asked of a source of documents, and the documents that it gives.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::order::Order;
use crate::portion::Portion;

/// A document of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its row number: all rows of all files count, in order, those of nulls and of other portions
    /// too.
    pub row: u64,
    /// Its bytes as they are stored; there may be none.
    pub bytes: Vec<u8>,
    /// The requested scalar columns as text; None for null. Binary values that are not UTF-8 are
    /// hexadecimal.
    pub scalars: BTreeMap<String, Option<String>>,
    /// The requested list columns, checked against the document's length.
    pub lists: BTreeMap<String, Vec<f32>>,
}

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    Document(Document),
    /// The number of a row whose text is null.
    Null(u64),
}

/// What the elements of a list column are, which decides the types and lengths that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListKind {
    /// A finite number for each byte id, BOS first: `n_bytes + 1` floats. One more, for EOS, is
    /// accepted and not used.
    PerId,
    /// Patch lengths, the first of them that of BOS's own patch, which is 1: integers that sum to
    /// `n_bytes + 1`, or to one more with the next byte, which is not seen. Zeros are skipped.
    PatchLengths,
}

/// A list column to read beside the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListColumn {
    pub column: String,
    pub kind: ListKind,
}

/// Which documents to read, and in which order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    #[serde(rename = "part")]
    pub portion: Portion,
    /// Leave the calibration documents out of [`Portion::Train`], as the training of an entropy
    /// model does.
    pub exclude_calibration: bool,
    pub order: Order,
    /// The largest number of documents, empty ones included; None for all.
    pub limit: Option<u64>,
    /// How many times to read the portion; None for ever. Each epoch has a shuffled order of its
    /// own.
    pub epochs: Option<u64>,
    /// Columns of single values to read as text.
    pub scalars: Vec<String>,
    /// Columns of lists to read.
    pub lists: Vec<ListColumn>,
}

impl Request {
    /// Every document once, in order.
    pub fn all() -> Self {
        Request {
            portion: Portion::All,
            exclude_calibration: false,
            limit: None,
            order: Order::Sequential,
            epochs: Some(1),
            scalars: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// The documents of a portion once, in order.
    pub fn portion(portion: Portion) -> Self {
        Request { portion, ..Request::all() }
    }

    /// The training portion for ever, shuffled.
    pub fn training(seed: u64, buffer: usize) -> Self {
        Request {
            portion: Portion::Train,
            order: Order::Shuffled { seed, buffer },
            epochs: None,
            ..Request::all()
        }
    }
}
