//! Files of one format as a [`Source`].

mod files;
mod folders;
mod scans;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use self::scans::Scans;
use crate::error::DataError;
use crate::formats::file::{DataFile, Found, Partition, Scan};
use crate::formats::{self, Format, FormatReader};
use crate::predicate::{ColumnStatistics, Predicate};
use crate::source::{Batches, GroupReader, RowFile, RowGroup, Source, shared_schema};
use crate::split::Split;
use crate::storage::Location;

/// The format of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// In a folder: `.parquet`, `.pq`.
    Parquet,
    /// Arrow IPC, the file form or the stream form, compressed or not. In a folder: `.arrow`,
    /// `.arrows`, `.ipc`, `.feather`.
    ArrowIpc,
    /// Columns `text` and `path`. A document is a file, or with `lines` each line without its
    /// `\n` or `\r\n`; a newline at the end of the file starts no further line. In a folder: `.txt`.
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

/// Where a corpus is and how it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    pub kind: SourceKind,
    /// Files, folders (searched to the bottom, sorted by path) and globs, read in this order.
    pub paths: Vec<String>,
    /// The folder that relative paths start at.
    pub base_dir: PathBuf,
    /// The column of text or binary that holds the documents.
    pub column: String,
    pub split: Option<Split>,
    /// Which rows are read; None for all.
    pub condition: Option<Predicate>,
    /// The endings of a folder's files that are read; None for the format's own.
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
            condition: None,
            extensions: None,
        }
    }
}

/// Files of one format as a [`Source`].
pub struct Corpus {
    config: SourceConfig,
    format: Arc<dyn Format>,
    index: Mutex<Option<Arc<Index>>>,
}

/// All files with their scans.
pub(crate) struct Index {
    pub files: Vec<DataFile>,
    row_files: Arc<[RowFile]>,
}

/// A row group of so many rows is no row group: their numbers could not be counted.
const MOST_ROWS: u64 = 1 << 40;

/// Checks what no format does: that rows can be counted, and columns asked for by their names.
fn check(found: &Found, scan: &Scan) -> Result<(), DataError> {
    if let Some(at) = scan.groups.iter().position(|group| group.rows > MOST_ROWS) {
        return Err(DataError::Corrupt {
            path: found.path.clone(),
            place: format!("row group {at}"),
            cause: format!("it claims to have {} rows", scan.groups[at].rows),
        });
    }
    let mut names = HashSet::new();
    match scan.schema.fields().iter().find(|field| !names.insert(field.name())) {
        Some(twice) => Err(DataError::Unsupported {
            path: found.path.clone(),
            what: format!("it has two columns `{}`", twice.name()),
            help: "give each a name of its own",
        }),
        None => Ok(()),
    }
}

impl Corpus {
    /// Checks the settings; opens no file.
    pub fn new(config: SourceConfig) -> Result<Self, DataError> {
        if let Some(split) = &config.split {
            split.check()?;
        }
        let format: Arc<dyn Format> = match config.kind {
            SourceKind::Parquet => Arc::new(formats::parquet::Parquet),
            SourceKind::ArrowIpc => Arc::new(formats::arrow_ipc::ArrowIpc),
            SourceKind::Text { lines } => Arc::new(formats::text::Text { lines }),
        };
        Ok(Corpus { config, format, index: Mutex::new(None) })
    }

    fn find(&self) -> Result<Vec<Found>, DataError> {
        let own = self.config.kind.extensions();
        files::find(
            &self.config.paths,
            &self.config.base_dir,
            self.config.extensions.as_ref().unwrap_or(&own),
        )
    }

    /// A digest of a file's table of contents. None of an object, whose version is known without
    /// reading.
    fn contents(&self, found: &Found) -> Result<Option<blake3::Hash>, DataError> {
        if found.is_remote() { Ok(None) } else { self.format.contents(found) }
    }

    /// Finds and scans the files, once.
    pub(crate) fn index(&self) -> Result<Arc<Index>, DataError> {
        let mut cached = self.index.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(index) = &*cached {
            return Ok(index.clone());
        }
        let found = self.find()?;
        let partitions = match self.format.fixed_schema() {
            // A column has the path.
            Some(_) => vec![Vec::new(); found.len()],
            None => folders::partitions(&found),
        };
        let mut scans = Scans::new(&*self.format, &found);
        let mut files = Vec::with_capacity(found.len());
        for (at, (found, mut partitions)) in found.iter().cloned().zip(partitions).enumerate() {
            let scan = scans.next(at)?;
            check(&found, &scan)?;
            partitions.retain(|p| scan.schema.index_of(p.field.name()).is_err());
            files.push(DataFile::new(found, scan, partitions));
        }
        let row_file = |file: &DataFile| RowFile {
            path: file.found.path.clone(),
            name: file.found.name.clone(),
            schema: file.schema.clone(),
            types: file.scan.types.clone(),
            encrypted: file.scan.encrypted.clone(),
            groups: (file.scan.groups.iter())
                .map(|g| RowGroup { rows: g.rows, bytes: g.bytes })
                .collect(),
        };
        let row_files = files.iter().map(row_file).collect();
        let index = Arc::new(Index { files, row_files });
        *cached = Some(index.clone());
        Ok(index)
    }
}

impl Source for Corpus {
    fn files(&self) -> Result<Arc<[RowFile]>, DataError> {
        Ok(self.index()?.row_files.clone())
    }

    fn reader(&self, columns: &[String]) -> Result<Box<dyn GroupReader>, DataError> {
        let (index, columns) = (self.index()?, columns.to_vec());
        Ok(Box::new(CorpusReader { index, inner: self.format.reader(&columns), columns }))
    }

    /// Of names, sizes, times of modification and tables of contents of all files.
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

    fn column(&self) -> &str {
        &self.config.column
    }

    fn split(&self) -> Option<&Split> {
        self.config.split.as_ref()
    }

    fn condition(&self) -> Option<&Predicate> {
        self.config.condition.as_ref()
    }

    fn name(&self) -> String {
        self.config.paths.join(", ")
    }

    fn schema(&self) -> Result<(SchemaRef, Location), DataError> {
        let scanned = self.index.lock().unwrap_or_else(|e| e.into_inner()).is_some();
        match self.format.fixed_schema() {
            // Finding where lines end is reading all of a file.
            Some(schema) if !scanned => Ok((schema, self.find()?.swap_remove(0).path)),
            _ => shared_schema(&self.files()?),
        }
    }

    /// Of name, size, time of modification and table of contents. Of an object: of its URL, size
    /// and version, by the store's tag or else the time of modification.
    fn file_fingerprints(&self) -> Result<Vec<String>, DataError> {
        let digest = |file: &DataFile| {
            let found = &file.found;
            let contents = self.contents(found)?.map(|c| c.to_hex().to_string());
            let identity =
                serde_json::to_vec(&(&found.name, found.size, found.version(), contents));
            let identity = identity.map_err(|e| DataError::read(&found.path, e))?;
            Ok(blake3::hash(&identity).to_hex()[..32].to_string())
        };
        self.index()?.files.iter().map(digest).collect()
    }

    fn statistics(
        &self,
        file: usize,
        columns: &[String],
    ) -> Result<BTreeMap<String, ColumnStatistics>, DataError> {
        let index = self.index()?;
        let file = &index.files[file];
        let mut found = self.format.statistics(file, columns)?;
        for partition in file.partitions.iter().filter(|p| columns.contains(p.field.name())) {
            let groups = &file.scan.groups;
            let first = UInt32Array::from(vec![0; groups.len()]);
            let Ok(value) = take(&partition.value, &first, None) else { continue };
            let nulls = partition.value.null_count() as u64;
            let nulls = groups.iter().map(|g| (Some(nulls * g.rows), g.rows)).collect();
            let statistics = ColumnStatistics { min: value.clone(), max: value, nulls };
            found.insert(partition.field.name().clone(), statistics);
        }
        Ok(found)
    }
}

/// Reads row groups of a corpus, with the columns made of folders' names.
struct CorpusReader {
    index: Arc<Index>,
    columns: Vec<String>,
    inner: Box<dyn FormatReader>,
}

impl GroupReader for CorpusReader {
    fn open(
        &mut self,
        file: usize,
        group: usize,
        rows: &[Range<u64>],
    ) -> Result<Batches, DataError> {
        let file = &self.index.files[file];
        let batches = self.inner.open(file, group, rows)?;
        let wanted = file.partitions.iter().filter(|p| self.columns.contains(p.field.name()));
        let partitions: Vec<Partition> = wanted.cloned().collect();
        if partitions.is_empty() {
            return Ok(batches);
        }
        let path = file.found.path.clone();
        Ok(Box::new(batches.map(move |batch| with_partitions(&batch?, &partitions, &path))))
    }

    fn will_open(&mut self, file: usize, group: usize) {
        self.inner.will_open(&self.index.files[file], group);
    }
}

fn with_partitions(
    batch: &RecordBatch,
    partitions: &[Partition],
    path: &Location,
) -> Result<RecordBatch, DataError> {
    let first = UInt32Array::from(vec![0; batch.num_rows()]);
    let mut fields: Vec<FieldRef> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    for partition in partitions {
        fields.push(partition.field.clone());
        columns.push(take(&partition.value, &first, None).map_err(|e| DataError::read(path, e))?);
    }
    let schema = Schema::new_with_metadata(fields, batch.schema().metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|e| DataError::read(path, e))
}
