//! Byte corpora: Parquet, Arrow IPC and text files as a stream of documents, and documents as
//! packed batches.
//!
//! A [`Corpus`] is files in one of three formats. It is divided into *units* (row groups, record
//! batches, text files), and one unit at a time is read, in its needed columns only, so that memory
//! does not grow with the corpus: it is a few MiB of a Parquet row group (with its dictionary
//! pages), one IPC record batch or one text file, and the shuffle buffer. A [`DocumentReader`]
//! gives the documents of a [`Part`] in an [`Order`]; its [`Cursor`] is where it stands, small, and
//! enough to continue with the very same sequence. A [`BatchReader`] packs documents into batches;
//! [`RowBatches`] does, and brings the whole rows along, for who writes them back: a [`RowSpan`] at
//! a time, as a [`RowRequest`] chooses them.
//!
//! ```
//! use blt_plugins::data::{BatchReader, Corpus, Packer, Request, Source, SourceConfig, SourceKind};
//! # let dir = tempfile::tempdir()?;
//! # std::fs::write(dir.path().join("a.txt"), "one document")?;
//! let config = SourceConfig::new(SourceKind::Text { lines: false }, "*.txt", dir.path());
//! let corpus = std::sync::Arc::new(Corpus::new(config)?);
//! println!("{}", corpus.describe()?);
//! let packer = Packer::new(512, 4096)?;
//! let mut batches = BatchReader::new(corpus, Request::all(), packer)?;
//! while let Some(batch) = batches.next_batch()? {
//!     assert_eq!(batch.n_counted_bytes(), 12);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arrow_ipc;
mod columns;
mod error;
mod files;
mod format;
mod memory;
mod pack;
mod parquet_file;
mod raw;
mod reader;
mod row_batches;
mod rows;
mod salvage;
mod scans;
mod shuffle;
mod split;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use serde::{Deserialize, Serialize};

pub use self::columns::{ListColumn, ListKind, is_text};
pub use self::error::DataError;
pub use self::memory::{MemoryRows, in_memory};
pub use self::pack::{BatchReader, BatchState, Packer, Pending};
pub(crate) use self::raw::size_of;
pub use self::raw::{RawRow, RawRows, RowReader};
pub use self::reader::{Counts, Cursor};
pub use self::row_batches::{RawEvent, RowBatches, RowState, Rows};
pub use self::rows::{Group, OnError, RowError, RowRequest, RowSpan, Sample, Table, Unreadable};
pub use self::shuffle::Order;
pub use self::split::{BY_CONTENT, Part, Split};

use self::columns::{Wanted, position};
use self::files::Found;
use self::format::{DataFile, Format, Partition};
use self::scans::Scans;
use self::split::Filter;
use crate::storage::Location;

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
    fn extensions(&self) -> Vec<String> {
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

/// Files of one format as a [`Source`].
pub struct Corpus {
    config: SourceConfig,
    format: Arc<dyn Format>,
    index: Mutex<Option<Arc<Index>>>,
}

/// All files and units, in order.
pub(crate) struct Index {
    files: Vec<DataFile>,
    units: Vec<UnitAt>,
    rows: u64,
    /// The first file whose columns are not those of the first.
    differs: Option<DataError>,
}

struct UnitAt {
    file: usize,
    /// In its file.
    unit: usize,
    rows: u64,
    /// In the corpus.
    first_row: u64,
    /// In its file.
    first_file_row: u64,
}

impl Corpus {
    /// Checks the settings; opens no file.
    pub fn new(config: SourceConfig) -> Result<Self, DataError> {
        if let Some(split) = &config.split {
            split.check()?;
        }
        let format: Arc<dyn Format> = match config.kind {
            SourceKind::Parquet => Arc::new(parquet_file::Parquet),
            SourceKind::ArrowIpc => Arc::new(arrow_ipc::ArrowIpc),
            SourceKind::Text { lines } => Arc::new(text::Text { lines }),
        };
        Ok(Corpus { config, format, index: Mutex::new(None) })
    }

    pub fn config(&self) -> &SourceConfig {
        &self.config
    }

    /// The files in the order they are read.
    pub fn files(&self) -> Result<Vec<Location>, DataError> {
        Ok(self.find()?.into_iter().map(|f| f.path).collect())
    }

    fn find(&self) -> Result<Vec<Found>, DataError> {
        let own = self.config.kind.extensions();
        files::find(
            &self.config.paths,
            &self.config.base_dir,
            self.config.extensions.as_ref().unwrap_or(&own),
        )
    }

    /// A digest of a file's table of contents. Of an object, its version is known without reading.
    fn contents(&self, found: &Found) -> Result<Option<blake3::Hash>, DataError> {
        if found.is_remote() { Ok(None) } else { self.format.contents(found) }
    }

    /// The schema that all files share, and the file it was read from.
    fn schema(&self) -> Result<(SchemaRef, Location), DataError> {
        let known = self.index.lock().unwrap_or_else(|e| e.into_inner()).is_some();
        if let Some(schema) = self.format.fixed_schema()
            && !known
        {
            let first = self.find()?.swap_remove(0);
            return Ok((schema, first.path));
        }
        let index = self.index()?;
        match &index.differs {
            Some(error) => Err(error.clone()),
            None => Ok((index.files[0].schema.clone(), index.files[0].found.path.clone())),
        }
    }

    /// Finds and scans the files, once.
    fn index(&self) -> Result<Arc<Index>, DataError> {
        let mut cached = self.index.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(index) = &*cached {
            return Ok(index.clone());
        }
        let (mut files, mut units, mut rows) = (Vec::<DataFile>::new(), Vec::new(), 0);
        let (found, mut differs) = (self.find()?, None);
        let partitions = match self.format.fixed_schema() {
            // A column has the path.
            Some(_) => vec![Vec::new(); found.len()],
            None => partitions(&found),
        };
        let mut scans = Scans::new(&*self.format, &found);
        for (at, (found, mut partitions)) in found.iter().cloned().zip(partitions).enumerate() {
            let scan = scans.next(at)?;
            partitions.retain(|p| scan.schema.index_of(p.field.name()).is_err());
            let file = DataFile::new(found, scan, partitions);
            if let Some(first) = files.first()
                && differs.is_none()
            {
                differs = same_schema(first, &file).err();
            }
            let scan = &file.scan;
            let mut first_file_row = 0;
            for (unit, u) in scan.units.iter().enumerate() {
                units.push(UnitAt {
                    file: files.len(),
                    unit,
                    rows: u.rows,
                    first_row: rows,
                    first_file_row,
                });
                rows += u.rows;
                first_file_row += u.rows;
            }
            files.push(file);
        }
        if u32::try_from(units.len()).is_err() {
            return Err(DataError::Config {
                what: format!("{} row groups or files are more than can be read", units.len()),
            });
        }
        let index = Arc::new(Index { files, units, rows, differs });
        *cached = Some(index.clone());
        Ok(index)
    }

    fn wanted(&self, request: &Request) -> Result<Wanted, DataError> {
        let config = |what: &str| Err(DataError::Config { what: what.into() });
        if request.epochs == Some(0) {
            return config("epochs is 0; expected 1 or more, or none for ever");
        }
        if matches!(request.order, Order::Shuffled { buffer: 0, .. }) {
            return config("the shuffle buffer holds 0 documents; expected 1 or more");
        }
        let filter =
            Filter::new(self.config.split.as_ref(), request.part, request.exclude_calibration)?;
        let (schema, path) = self.schema()?;
        // A split column that is mistyped shows whichever part is read.
        if let Some(column) = self.config.split.as_ref().and_then(Split::column) {
            position(&schema, column, &path)?;
        }
        Wanted::resolve(&schema, &path, &self.config.column, filter, request)
    }

    fn plan(&self, request: &Request) -> Result<reader::Plan, DataError> {
        let wanted = self.wanted(request)?;
        let index = self.index()?;
        let mut hasher = blake3::Hasher::new();
        let settings = serde_json::to_vec(&(&self.config.column, &self.config.split, request));
        hasher.update(&settings.map_err(|e| DataError::Config { what: e.to_string() })?);
        for unit in &index.units {
            hasher.update(&(unit.file as u64).to_le_bytes()).update(&unit.rows.to_le_bytes());
        }
        Ok(reader::Plan {
            format: self.format.clone(),
            index,
            wanted,
            request: request.clone(),
            corpus: self.config.paths.join(", "),
            layout: hasher.finalize().to_hex()[..16].to_string(),
        })
    }
}

impl Corpus {
    /// A request for rows, held against the schema of each table that it reads.
    fn row_plan(&self, request: &RowRequest) -> Result<raw::RowPlan, DataError> {
        let index = self.index()?;
        raw::RowPlan::new(self.format.clone(), index, &self.config, request.clone())
    }
}

impl Source for Corpus {
    fn open(&self, request: &Request) -> Result<Box<dyn DocumentReader>, DataError> {
        Ok(Box::new(reader::Reader::new(self.plan(request)?)))
    }

    fn resume(
        &self,
        request: &Request,
        cursor: &Cursor,
    ) -> Result<Box<dyn DocumentReader>, DataError> {
        Ok(Box::new(reader::Reader::resume(self.plan(request)?, cursor)?))
    }

    fn fetch(&self, request: &Request, rows: &[u64]) -> Result<Vec<Row>, DataError> {
        reader::fetch(&self.plan(request)?, rows)
    }

    fn fingerprint(&self) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        for found in self.find()? {
            hasher.update(&(found.name.len() as u64).to_le_bytes()).update(found.name.as_bytes());
            hasher.update(&found.size.to_le_bytes()).update(found.version().as_bytes());
            if let Some(contents) = self.contents(&found)? {
                hasher.update(contents.as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn describe(&self) -> Result<Description, DataError> {
        let wanted = self.schema()?;
        let at = position(&wanted.0, &self.config.column, &wanted.1)?;
        let index = self.index()?;
        Ok(Description {
            paths: self.config.paths.join(", "),
            column: self.config.column.clone(),
            column_type: wanted.0.field(at).data_type().to_string(),
            files: index.files.len(),
            units: index.units.len(),
            rows: index.rows,
            file_bytes: index.files.iter().map(|f| f.found.size).sum(),
        })
    }

    fn columns(&self) -> Result<Vec<Column>, DataError> {
        let (schema, _) = self.schema()?;
        let column = |f: &Arc<arrow::datatypes::Field>| Column {
            name: f.name().clone(),
            data_type: f.data_type().clone(),
        };
        Ok(schema.fields().iter().map(column).collect())
    }

    fn check(&self, request: &Request) -> Result<(), DataError> {
        self.wanted(request).map(|_| ())
    }

    fn tables(&self) -> Result<Vec<Table>, DataError> {
        self.index()?
            .files
            .iter()
            .map(|file| Table::of(file, self.contents(&file.found)?))
            .collect()
    }

    fn open_rows(&self, request: &RowRequest) -> Result<Box<dyn RowReader>, DataError> {
        Ok(Box::new(raw::Reader::new(self.row_plan(request)?, false)))
    }

    fn count_rows(&self, request: &RowRequest, at_most: u64) -> Result<Vec<u64>, DataError> {
        raw::count(self.row_plan(request)?, at_most)
    }
}

/// The columns that the files' folders stand for, file by file: integers where all values are, else
/// text; all that one file has, each has.
fn partitions(found: &[Found]) -> Vec<Vec<Partition>> {
    let of_files: Vec<Vec<(String, Option<String>)>> =
        found.iter().map(|f| files::partitions(&f.name)).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (key, _) in of_files.iter().flatten() {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    // `007` is a name, not a number.
    let integer = |text: &str| text.parse::<i64>().ok().filter(|n| n.to_string() == text);
    let numbers = |column: &String| {
        let mut values = of_files
            .iter()
            .flatten()
            .filter(|(key, _)| key == column)
            .filter_map(|(_, v)| v.as_deref());
        values.all(|v| integer(v).is_some())
    };
    let columns: Vec<(&String, bool)> =
        columns.into_iter().map(|column| (column, numbers(column))).collect();
    let of_file = |pairs: &Vec<(String, Option<String>)>| {
        let partition = |(column, numbers): &(&String, bool)| {
            let value = pairs
                .iter()
                .rev()
                .find(|(key, _)| key == *column)
                .and_then(|(_, value)| value.as_deref());
            let value: ArrayRef = match numbers {
                true => Arc::new(Int64Array::from(vec![value.and_then(integer)])),
                false => Arc::new(StringArray::from(vec![value])),
            };
            Partition {
                field: Arc::new(Field::new(*column, value.data_type().clone(), true)),
                value,
            }
        };
        columns.iter().map(partition).collect()
    };
    of_files.iter().map(of_file).collect()
}

/// Names and types of columns must agree; order, nullability and metadata need not.
fn same_schema(first: &DataFile, file: &DataFile) -> Result<(), DataError> {
    let (expected, schema) = (&first.schema, &file.schema);
    let names = expected.fields().iter().chain(schema.fields()).map(|f| f.name());
    for column in names {
        let of =
            |schema: &SchemaRef| schema.field_with_name(column).ok().map(|f| f.data_type().clone());
        let (a, b) = (of(expected), of(schema));
        if !matches!((&a, &b), (Some(a), Some(b)) if a.equals_datatype(b)) {
            let show = |t: Option<DataType>| t.map_or("missing".to_string(), |t| t.to_string());
            return Err(DataError::SchemaDiffers {
                path: file.found.path.clone(),
                first: first.found.path.clone(),
                column: column.clone(),
                found: show(b),
                expected: show(a),
            });
        }
    }
    Ok(())
}
