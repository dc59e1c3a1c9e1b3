//! What a source is, what is asked of it, and what it gives.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use crate::columns::ListColumn;
use crate::error::DataError;
use crate::order::Order;
use crate::raw::RowReader;
use crate::reader::{Counts, Cursor};
use crate::rows::{RowRequest, Table};
use crate::split::{Part, Split};

/// A document of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its row, counted over all rows of all files in order (nulls and other parts included).
    pub row: u64,
    /// Its bytes, as stored; maybe none.
    pub bytes: Vec<u8>,
    /// The requested scalar columns as text; None for null. Binary that is no UTF-8 comes as
    /// hexadecimal.
    pub scalars: BTreeMap<String, Option<String>>,
    /// The requested list columns, checked against the document's length.
    pub lists: BTreeMap<String, Vec<f32>>,
}

/// What stands in a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    Document(Document),
    /// A row (by its number) whose text is null.
    Null(u64),
}

/// The format of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A unit is a row group. In a folder: `.parquet`, `.pq`.
    Parquet,
    /// Arrow IPC, file or stream form, compressed or not; a unit is a record batch. In a folder:
    /// `.arrow`, `.arrows`, `.ipc`, `.feather`.
    ArrowIpc,
    /// Columns `text` and `path`; a document is a file, or with `lines` each line (its `\n` left
    /// out; what ends in a newline has no empty line after it). In a folder: `.txt`.
    Text { lines: bool },
}

impl SourceKind {
    pub(crate) fn extensions(&self) -> Vec<String> {
        let extensions: &[&str] = match self {
            SourceKind::Parquet => &[".parquet", ".pq"],
            SourceKind::ArrowIpc => &[".arrow", ".arrows", ".ipc", ".feather"],
            SourceKind::Text { .. } => &[".txt"],
        };
        extensions.iter().map(|e| e.to_string()).collect()
    }
}

/// Where a corpus lies and how it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceConfig {
    pub kind: SourceKind,
    /// Files, folders (searched to the bottom, sorted by path) and globs, read in this order.
    pub paths: Vec<String>,
    /// What relative paths start at.
    pub base_dir: PathBuf,
    /// The column of text or binary that holds the documents.
    pub column: String,
    pub split: Option<Split>,
    /// Which files of a folder belong, by how their names end; None for the format's own.
    pub extensions: Option<Vec<String>>,
}

impl SourceConfig {
    /// One path, column `text`, no split.
    pub fn new(kind: SourceKind, path: impl Into<String>, base_dir: impl Into<PathBuf>) -> Self {
        SourceConfig {
            kind,
            paths: vec![path.into()],
            base_dir: base_dir.into(),
            column: "text".into(),
            split: None,
            extensions: None,
        }
    }
}

/// What to read of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub part: Part,
    /// Leave the calibration documents out of [`Part::Train`]: what trains the entropy model says
    /// so.
    pub exclude_calibration: bool,
    pub order: Order,
    /// At most this many documents, the empty ones included; None for all.
    pub limit: Option<u64>,
    /// How often to go through the part; None for ever. A shuffled order is drawn anew for each
    /// epoch.
    pub epochs: Option<u64>,
    /// Columns of single values to bring along as text.
    pub scalars: Vec<String>,
    /// Columns of lists to bring along.
    pub lists: Vec<ListColumn>,
}

impl Request {
    /// Every document once, in order.
    pub fn all() -> Self {
        Request {
            part: Part::All,
            exclude_calibration: false,
            limit: None,
            order: Order::Sequential,
            epochs: Some(1),
            scalars: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// The documents of a part once, in order.
    pub fn part(part: Part) -> Self {
        Request { part, ..Request::all() }
    }

    /// The training part for ever, shuffled.
    pub fn training(seed: u64, buffer: usize) -> Self {
        Request {
            part: Part::Train,
            order: Order::Shuffled { seed, buffer },
            epochs: None,
            ..Request::all()
        }
    }
}

/// A column of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
}

/// A source in numbers; its `Display` is a line for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The paths as configured.
    pub paths: String,
    pub column: String,
    pub column_type: String,
    pub files: usize,
    /// Row groups, record batches, text files or pieces of them.
    pub units: usize,
    /// Rows in all, of all parts, nulls included.
    pub rows: u64,
    /// Size of the files, in bytes.
    pub file_bytes: u64,
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let Description { paths, column, column_type, files, units, rows, file_bytes } = self;
        write!(
            f,
            "{paths}: {rows} rows in {files} file{} ({file_bytes} bytes, {units} unit{}), ",
            plural(*files),
            plural(*units)
        )?;
        write!(f, "documents in `{column}` ({column_type})")
    }
}

/// Documents that can be read in parts and orders, any number of times.
pub trait Source: Send + Sync {
    /// Starts reading.
    fn open(&self, request: &Request) -> Result<Box<dyn DocumentReader>, DataError>;

    /// Continues where `cursor` was taken, with the very same sequence.
    fn resume(
        &self,
        request: &Request,
        cursor: &Cursor,
    ) -> Result<Box<dyn DocumentReader>, DataError>;

    /// Single rows by their numbers, in the order asked for. A row that is not in the request's
    /// part is an error.
    fn fetch(&self, request: &Request, rows: &[u64]) -> Result<Vec<Row>, DataError>;

    /// A digest of the data: names, sizes, modification times and tables of contents of all files.
    /// It reads no rows.
    fn fingerprint(&self) -> Result<String, DataError>;

    /// What the source holds.
    fn describe(&self) -> Result<Description, DataError>;

    /// The columns there are. Reads no rows.
    fn columns(&self) -> Result<Vec<Column>, DataError>;

    /// Checks a request against files and columns, as [`Source::open`] does. Reads no rows.
    fn check(&self, request: &Request) -> Result<(), DataError>;

    /// The files in the order they are read, for who writes their rows back with columns of its
    /// own. Reads no rows.
    ///
    /// # Errors
    /// Also if the source has no files of rows, which is what a source says that does not implement
    /// this.
    fn tables(&self) -> Result<Vec<Table>, DataError> {
        Err(DataError::NoTables)
    }

    /// Starts reading whole rows, all columns, of spans of [`Source::tables`].
    ///
    /// # Errors
    /// If the request does not fit the files' columns. Reads no rows.
    fn open_rows(&self, request: &RowRequest) -> Result<Box<dyn RowReader>, DataError> {
        let _ = request;
        Err(DataError::NoTables)
    }

    /// How many rows [`Source::open_rows`] gives of each span, as far as the first ones that have
    /// `at_most` in all: what lies behind them is not looked at, and counts 0. Of the columns,
    /// those are read that the request depends on.
    fn count_rows(&self, request: &RowRequest, at_most: u64) -> Result<Vec<u64>, DataError> {
        let _ = (request, at_most);
        Err(DataError::NoTables)
    }
}

/// A stream of documents.
pub trait DocumentReader: Send {
    /// The next row of the part, or None at the end of the last epoch. After an error, the same
    /// error.
    #[allow(clippy::should_implement_trait)]
    fn next(&mut self) -> Result<Option<Row>, DataError>;

    /// Where the reader stands: after the row last given.
    fn cursor(&self) -> Cursor;

    /// What was given so far, over all epochs.
    fn counts(&self) -> Counts;
}
