//! What is left of a unit that does not decode: its columns one by one, and nulls for those that are lost.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::error::DataError;
use super::format::{Batches, DataFile, Format, UnitReader, reader};

/// Rows of a batch, at most.
const BATCH_ROWS: u64 = 1024;
/// Bytes aimed at for a batch, by the unit's average.
const BATCH_BYTES: u64 = 4 << 20;

struct Column {
    /// Nullable, whatever the file says.
    field: Arc<Field>,
    /// None once it is lost.
    batches: Option<Batches>,
    rest: Option<ArrayRef>,
    /// Keeps the file open.
    _reader: Box<dyn UnitReader>,
}

impl Column {
    fn open(format: &dyn Format, file: &DataFile, unit: usize, field: &Field, rows: std::ops::Range<u64>) -> Self {
        let mut reader = reader(format, std::slice::from_ref(field.name()));
        let batches = reader.open(file, unit, std::slice::from_ref(&rows)).ok();
        Column { field: Arc::new(field.clone().with_nullable(true)), batches, rest: None, _reader: reader }
    }

    /// The next `n` values, or None if they cannot be read.
    fn read(&mut self, n: usize) -> Option<ArrayRef> {
        let (mut arrays, mut have) = (Vec::new(), 0);
        while have < n {
            let array = match self.rest.take() {
                Some(rest) => rest,
                None => self.batches.as_mut()?.next()?.ok()?.columns().first()?.clone(),
            };
            let taken = array.len().min(n - have);
            if taken < array.len() {
                self.rest = Some(array.slice(taken, array.len() - taken));
            }
            arrays.push(array.slice(0, taken));
            have += taken;
        }
        let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        concat(&arrays).ok().filter(|array| array.data_type() == self.field.data_type())
    }

    fn next(&mut self, n: usize) -> ArrayRef {
        let read = self.batches.is_some().then(|| self.read(n)).flatten();
        read.unwrap_or_else(|| {
            (self.batches, self.rest) = (None, None);
            new_null_array(self.field.data_type(), n)
        })
    }
}

/// The rest of a unit, from a row on.
pub(super) struct Salvage {
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Rows still to come.
    left: u64,
    batch_rows: u64,
}

impl Salvage {
    /// `columns`: those to read, of the file's.
    pub fn new(format: &dyn Format, file: &DataFile, unit: usize, columns: &[String], from: u64) -> Self {
        let at = &file.scan.units[unit];
        let fields = file.schema.fields().iter().filter(|f| columns.contains(f.name()));
        let columns: Vec<Column> = fields.map(|f| Column::open(format, file, unit, f, from..at.rows)).collect();
        let fields: Vec<_> = columns.iter().map(|c| c.field.clone()).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, file.schema.metadata().clone()));
        let batch_rows = (BATCH_BYTES / (at.bytes / at.rows.max(1)).max(1)).clamp(1, BATCH_ROWS);
        Salvage { columns, schema, left: at.rows - from, batch_rows }
    }

    /// The next rows, None at the unit's end.
    pub fn next(&mut self) -> Result<Option<RecordBatch>, DataError> {
        let n = self.left.min(self.batch_rows);
        if n == 0 {
            return Ok(None);
        }
        self.left -= n;
        let columns = self.columns.iter_mut().map(|c| c.next(n as usize)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(n as usize));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        batch.map(Some).map_err(|e| DataError::Config { what: e.to_string() })
    }

    /// The columns that could not be read to the end.
    pub fn lost(&self) -> Vec<String> {
        self.columns.iter().filter(|c| c.batches.is_none()).map(|c| c.field.name().clone()).collect()
    }
}
