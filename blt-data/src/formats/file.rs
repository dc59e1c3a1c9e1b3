//! A file of a corpus: where it was found, and what is known of its rows before they are read.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use parquet::schema::types::TypePtr;

use crate::error::DataError;
use crate::storage::{Entry, Input, Location};

/// A file of a corpus, as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub path: Location,
    /// The name shown to users: its path relative to the base if it is below the base, with `/`
    /// between folders; or its URL.
    pub name: String,
    /// The part of its path below what the user named: a folder, or what comes before the first `*`
    /// of a glob.
    pub below: String,
    pub size: u64,
    /// Nanoseconds since 1970; 0 if unknown.
    pub modified: u128,
    /// The object store's tag of this version.
    pub tag: Option<String>,
}

impl Found {
    /// `base` is the folder that relative paths start at, and `named` the folder that the user
    /// named, or the one of the file.
    pub fn new(entry: Entry, base: &Path, named: &Location) -> Self {
        let Entry { location: path, size, modified, tag } = entry;
        let text = |path: &Path| path.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
        let name = match &path {
            Location::Local(path) => text(path.strip_prefix(base).unwrap_or(path)),
            Location::Remote(url) => url.to_string(),
        };
        let below = match (&path, named) {
            (Location::Local(path), Location::Local(named)) => {
                path.strip_prefix(named).map(text).unwrap_or_default()
            }
            (Location::Remote(url), Location::Remote(named)) => {
                url.key.strip_prefix(&named.key).unwrap_or_default().to_string()
            }
            _ => String::new(),
        };
        Found { path, name, below, size, modified, tag }
    }

    /// Opens it.
    ///
    /// # Errors
    /// If it cannot be opened, or has changed since it was found. An object store is asked for
    /// this version by its tag.
    pub fn open(&self) -> Result<Input, DataError> {
        if let Location::Local(path) = &self.path
            && let Ok(now) = path.metadata()
        {
            let Entry { size, modified, .. } = Entry::local(path.clone(), &now);
            if (size, modified) != (self.size, self.modified) {
                return Err(DataError::Changed { path: self.path.clone() });
            }
        }
        let (location, tag) = (self.path.clone(), self.tag.clone());
        Ok(Input::open(&Entry { location, size: self.size, modified: self.modified, tag })?)
    }

    /// Identifies this version without reading: the tag, or the time of modification.
    pub fn version(&self) -> String {
        self.tag.clone().unwrap_or_else(|| self.modified.to_string())
    }

    pub fn is_remote(&self) -> bool {
        matches!(self.path, Location::Remote(_))
    }
}

/// Where an IPC message is: `metadata` bytes (its length prefix included), then `body` bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Message {
    pub offset: u64,
    pub metadata: u32,
    pub body: u64,
}

/// Where a row group is in its file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Extent {
    RowGroup(usize),
    /// A record batch, and how many of the file's dictionary messages come before it.
    Batch {
        message: Message,
        n_dictionaries: usize,
    },
    /// Bytes of a text file, whole lines or all of it.
    Text(Range<u64>),
}

/// A row group: of Parquet a row group, of Arrow IPC a record batch, of text a file or some of its
/// lines.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub extent: Extent,
    pub rows: u64,
    /// As [`RowGroup::bytes`](crate::RowGroup::bytes).
    pub bytes: u64,
}

/// What is known of a file before its rows are read.
#[derive(Debug)]
pub(crate) struct Scan {
    pub schema: SchemaRef,
    pub groups: Vec<Group>,
    /// The IPC dictionary messages, in order.
    pub dictionaries: Vec<Message>,
    /// The columns' types in a Parquet file.
    pub types: Option<TypePtr>,
    /// The columns that are encrypted.
    pub encrypted: Vec<String>,
}

/// A column made of a folder's name (`lang=en/`), with the one value that all rows have.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub field: FieldRef,
    /// `[1]`
    pub value: ArrayRef,
}

/// A file with its scan.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub found: Found,
    pub scan: Scan,
    pub partitions: Vec<Partition>,
    /// The file's own columns, then those of its folders' names.
    pub schema: SchemaRef,
}

impl DataFile {
    pub fn new(found: Found, scan: Scan, partitions: Vec<Partition>) -> Self {
        let schema = match partitions.is_empty() {
            true => scan.schema.clone(),
            false => {
                let fields =
                    scan.schema.fields().iter().chain(partitions.iter().map(|p| &p.field)).cloned();
                Arc::new(Schema::new_with_metadata(
                    fields.collect::<Vec<_>>(),
                    scan.schema.metadata().clone(),
                ))
            }
        };
        DataFile { found, scan, partitions, schema }
    }

    /// The positions of the columns in this file, ascending; files of a corpus may order them
    /// differently.
    pub fn projection(&self, columns: &[String]) -> Vec<usize> {
        let fields = self.scan.schema.fields().iter().enumerate();
        fields.filter(|(_, field)| columns.contains(field.name())).map(|(at, _)| at).collect()
    }
}
