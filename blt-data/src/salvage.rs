//! Reading a row group that does not decode: its columns one by one, with nulls for those that are
//! lost.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::error::DataError;
use crate::source::{Batches, GroupReader, RowFile, Source};

/// Rows of a batch, at most.
const BATCH_ROWS: u64 = 1024;
/// Bytes aimed at for a batch, by the row group's average.
const BATCH_BYTES: u64 = 4 << 20;

struct Column {
    /// Nullable, even if the file's is not.
    field: Arc<Field>,
    /// None once it is lost.
    batches: Option<Batches>,
    rest: Option<ArrayRef>,
    /// Keeps the file open.
    _reader: Box<dyn GroupReader>,
}

impl Column {
    fn open(
        source: &dyn Source,
        (file, group): (usize, usize),
        field: &Field,
        rows: std::ops::Range<u64>,
    ) -> Result<Self, DataError> {
        let mut reader = source.reader(std::slice::from_ref(field.name()))?;
        let batches = decoded(reader.open(file, group, std::slice::from_ref(&rows)))?;
        Ok(Column {
            field: Arc::new(field.clone().with_nullable(true)),
            batches,
            rest: None,
            _reader: reader,
        })
    }

    /// The next `n` values, or None if they do not decode.
    fn read(&mut self, n: usize) -> Result<Option<ArrayRef>, DataError> {
        let (mut arrays, mut have) = (Vec::new(), 0);
        while have < n {
            let array = match self.rest.take() {
                Some(rest) => rest,
                None => {
                    let Some(next) = self.batches.as_mut().and_then(Iterator::next) else {
                        return Ok(None);
                    };
                    let Some(batch) = decoded(next)? else { return Ok(None) };
                    let Some(array) = batch.columns().first() else { return Ok(None) };
                    array.clone()
                }
            };
            let taken = array.len().min(n - have);
            if taken < array.len() {
                self.rest = Some(array.slice(taken, array.len() - taken));
            }
            arrays.push(array.slice(0, taken));
            have += taken;
        }
        let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        Ok(concat(&arrays).ok().filter(|array| array.data_type() == self.field.data_type()))
    }

    fn next(&mut self, n: usize) -> Result<ArrayRef, DataError> {
        let read = if self.batches.is_some() { self.read(n)? } else { None };
        Ok(read.unwrap_or_else(|| {
            (self.batches, self.rest) = (None, None);
            new_null_array(self.field.data_type(), n)
        }))
    }
}

/// None for what does not decode. That a file cannot be read (a network that is cut, a disk that
/// fails) is no damage of it, and stays an error.
fn decoded<T>(read: Result<T, DataError>) -> Result<Option<T>, DataError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(DataError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The rest of a row group, from a row on.
pub(crate) struct Salvage {
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Rows still to come.
    left: u64,
    batch_rows: u64,
}

impl Salvage {
    /// `at`: the file's number in the source, and the row group's number in the file. `columns`:
    /// those of the file to read.
    pub fn new(
        source: &dyn Source,
        file: &RowFile,
        at: (usize, usize),
        columns: &[String],
        from: u64,
    ) -> Result<Self, DataError> {
        let group = file.groups[at.1];
        let fields = file.schema.fields().iter().filter(|f| columns.contains(f.name()));
        let columns = fields.map(|f| Column::open(source, at, f, from..group.rows));
        let columns = columns.collect::<Result<Vec<Column>, _>>()?;
        let fields: Vec<_> = columns.iter().map(|c| c.field.clone()).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, file.schema.metadata().clone()));
        let batch_rows =
            (BATCH_BYTES / (group.bytes / group.rows.max(1)).max(1)).clamp(1, BATCH_ROWS);
        // Damage can make rows, too.
        let left = group.rows.saturating_sub(from);
        Ok(Salvage { columns, schema, left, batch_rows })
    }

    /// The next rows, None at the end of the row group.
    pub fn next(&mut self) -> Result<Option<RecordBatch>, DataError> {
        let n = self.left.min(self.batch_rows);
        if n == 0 {
            return Ok(None);
        }
        self.left -= n;
        let columns =
            self.columns.iter_mut().map(|c| c.next(n as usize)).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(n as usize));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        batch.map(Some).map_err(|e| DataError::Config { what: e.to_string() })
    }

    /// The columns that could not be read to the end.
    pub fn lost(&self) -> Vec<String> {
        self.columns
            .iter()
            .filter(|c| c.batches.is_none())
            .map(|c| c.field.name().clone())
            .collect()
    }
}
