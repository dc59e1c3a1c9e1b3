//! What a file format gives: its schema, its units (what is read and shuffled as one), and record
//! batches from them.

pub(crate) mod arrow_ipc;
pub(crate) mod parquet;
pub(crate) mod text;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};

use crate::corpus::files::Found;
use crate::error::DataError;
use crate::predicate::ColumnStatistics;
use crate::storage::Location;

/// Where an IPC message lies: its metadata (prefix included), then its body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Message {
    pub offset: u64,
    pub metadata: u32,
    pub body: u64,
}

/// Where a unit lies in its file.
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

/// A row group, a record batch, a text file or some lines of one.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub extent: Extent,
    pub rows: u64,
    /// Decoded and not compressed (of Arrow batches, as they lie in the file); dictionaries count
    /// once.
    pub bytes: u64,
}

/// What is known of a file before its rows are read.
#[derive(Debug)]
pub(crate) struct Scan {
    pub schema: SchemaRef,
    pub units: Vec<Unit>,
    /// IPC dictionary messages in order.
    pub dictionaries: Vec<Message>,
}

/// A column that a file's folders stand for, with its one value.
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
    /// The file's own columns, then those of its folders.
    pub schema: SchemaRef,
}

pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, DataError>> + Send>;

pub(crate) trait Format: Send + Sync {
    /// The schema, where it is the same for every file and needs no reading.
    fn fixed_schema(&self) -> Option<SchemaRef> {
        None
    }

    /// Reads what tells where rows are; no values.
    fn scan(&self, file: &Found) -> Result<Scan, DataError>;

    /// A digest of the file's own table of contents (Parquet or IPC footer), where it has one.
    fn contents(&self, file: &Found) -> Result<Option<blake3::Hash>, DataError>;

    /// What the file tells of these columns' values, an element for each of its units; columns of
    /// which it tells nothing are left out.
    fn statistics(
        &self,
        file: &DataFile,
        columns: &[String],
    ) -> Result<BTreeMap<String, ColumnStatistics>, DataError> {
        let _ = (file, columns);
        Ok(BTreeMap::new())
    }

    /// A reader of these columns, as far as they are in the files themselves.
    fn reader(&self, columns: &[String]) -> Box<dyn UnitReader>;
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

    /// Where the columns stand in this file (files of a corpus may order them differently),
    /// ascending.
    pub fn projection(&self, columns: &[String]) -> Vec<usize> {
        let fields = self.scan.schema.fields().iter().enumerate();
        fields.filter(|(_, field)| columns.contains(field.name())).map(|(at, _)| at).collect()
    }
}

/// Reads units, keeping the last file open.
pub(crate) trait UnitReader: Send {
    /// The rows of `ranges` (ascending, within the unit), in batches of limited size.
    fn open(
        &mut self,
        file: &DataFile,
        unit: usize,
        ranges: &[Range<u64>],
    ) -> Result<Batches, DataError>;

    /// Told which unit comes next, of the file that is open, so that what takes long to come may be
    /// on its way meanwhile.
    fn will_open(&mut self, file: &DataFile, unit: usize) {
        let _ = (file, unit);
    }
}

/// A reader of these columns, those of folders included.
pub(crate) fn reader(format: &dyn Format, columns: &[String]) -> Box<dyn UnitReader> {
    Box::new(WithPartitions { inner: format.reader(columns), columns: columns.to_vec() })
}

struct WithPartitions {
    inner: Box<dyn UnitReader>,
    columns: Vec<String>,
}

impl UnitReader for WithPartitions {
    fn open(
        &mut self,
        file: &DataFile,
        unit: usize,
        ranges: &[Range<u64>],
    ) -> Result<Batches, DataError> {
        let batches = self.inner.open(file, unit, ranges)?;
        let wanted = file.partitions.iter().filter(|p| self.columns.contains(p.field.name()));
        let partitions: Vec<Partition> = wanted.cloned().collect();
        if partitions.is_empty() {
            return Ok(batches);
        }
        let path = file.found.path.clone();
        Ok(Box::new(batches.map(move |batch| {
            let batch = batch?;
            let rows = UInt32Array::from(vec![0; batch.num_rows()]);
            let mut fields: Vec<FieldRef> = batch.schema().fields().iter().cloned().collect();
            let mut columns = batch.columns().to_vec();
            for partition in &partitions {
                fields.push(partition.field.clone());
                columns.push(
                    take(&partition.value, &rows, None).map_err(|e| DataError::read(&path, e))?,
                );
            }
            let schema = Schema::new_with_metadata(fields, batch.schema().metadata().clone());
            RecordBatch::try_new(Arc::new(schema), columns).map_err(|e| DataError::read(&path, e))
        })))
    }

    fn will_open(&mut self, file: &DataFile, unit: usize) {
        self.inner.will_open(file, unit);
    }
}

thread_local! {
    /// A panic of this thread is caught, and told as an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder over bytes that may be damaged; some checks in the decoding crates panic instead
/// of returning.
///
/// What the panic would print is left out, for its text is in the error.
pub(crate) fn guard<T>(
    path: &Location,
    place: &dyn Fn() -> String,
    decode: impl FnOnce() -> Result<T, String>,
) -> Result<T, DataError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let nested = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(nested);
    let cause = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(cause)) => cause,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
                .unwrap_or_else(|| "it cannot be decoded".into())
        }
    };
    Err(DataError::Corrupt { path: path.clone(), place: place(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_decoder_is_an_error() {
        let place = || "footer".to_string();
        let fails = |decode: fn() -> Result<(), String>| {
            guard(&Location::Local("a.parquet".into()), &place, decode).unwrap_err().to_string()
        };
        assert!(
            fails(|| panic!("offset {} out of range", 3))
                .contains("a.parquet is damaged in its footer: offset 3")
        );
        assert!(fails(|| Err("short".into())).contains("footer: short"));
        assert!(!GUARDED.get());
    }
}
