//! A source of documents: files of rows in row groups, each of which is read by itself.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use parquet::schema::types::TypePtr;

use crate::error::DataError;
use crate::predicate::{ColumnStatistics, Predicate};
use crate::split::Split;
use crate::storage::Location;

/// Rows that are read as one: a row group of Parquet, a record batch of Arrow IPC, a text file or
/// some of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowGroup {
    pub rows: u64,
    /// Size of its values, decoded and not compressed; a dictionary counts once. Of Arrow IPC, the
    /// size in the file. 0 if unknown.
    pub bytes: u64,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct RowFile {
    pub path: Location,
    /// The name shown to users: relative to where the pipeline's paths start if the file is below
    /// that, with `/` between folders.
    pub name: String,
    /// The file's own columns, then those made of its folders' names (`lang=en/`).
    pub schema: SchemaRef,
    /// Of a Parquet file its own columns, by their Parquet types.
    pub types: Option<TypePtr>,
    /// Columns that cannot be read, because they are encrypted.
    pub encrypted: Vec<String>,
    pub groups: Vec<RowGroup>,
}

impl RowFile {
    /// A file that is not on a disk. `rows`: the number of rows of each row group.
    pub fn new(
        name: impl Into<String>,
        schema: SchemaRef,
        rows: impl IntoIterator<Item = u64>,
    ) -> Self {
        let name = name.into();
        let path = Location::Local(name.clone().into());
        let groups = rows.into_iter().map(|rows| RowGroup { rows, bytes: 0 }).collect();
        RowFile { path, name, schema, types: None, encrypted: Vec::new(), groups }
    }

    /// Rows in all row groups.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|g| g.rows).sum()
    }

    /// An upper bound of a document's bytes, as far as it is known without reading: of a
    /// compressed Arrow IPC file does not.
    pub fn document_bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.bytes).max().unwrap_or(0)
    }
}

/// The rows of a row group, in batches of limited size.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, DataError>> + Send>;

/// Documents that can be read any number of times.
///
/// A source lists files of rows and reads row groups of them. [`Reader`](crate::Reader) does the
/// rest on any source: portions, shuffling, epochs, limits, and continuing at a cursor. Three
/// methods suffice:
///
/// ```
/// use std::sync::Arc;
///
/// use arrow::array::{ArrayRef, RecordBatch, StringArray};
/// use arrow::datatypes::{DataType, Field, Schema};
/// use blt_data::{
///     BatchReader, DataError, GroupReader, Packer, Request, RowFile, Source, WholeGroups,
/// };
///
/// /// The documents `0`, `1`, ... up to `n`, a hundred in a row group.
/// struct Numbers {
///     n: u64,
/// }
///
/// impl Source for Numbers {
///     fn files(&self) -> Result<Arc<[RowFile]>, DataError> {
///         let schema = Schema::new(vec![Field::new("text", DataType::Utf8, false)]);
///         let rows = (0..self.n).step_by(100).map(|first| 100.min(self.n - first));
///         Ok([RowFile::new("numbers", schema.into(), rows)].into())
///     }
///
///     fn reader(&self, _columns: &[String]) -> Result<Box<dyn GroupReader>, DataError> {
///         let n = self.n;
///         Ok(Box::new(WholeGroups(move |_file, group: usize| {
///             let first = group as u64 * 100;
///             let text = (first..n.min(first + 100)).map(|i| i.to_string());
///             let text: ArrayRef = Arc::new(StringArray::from_iter_values(text));
///             RecordBatch::try_from_iter([("text", text)])
///                 .map_err(|e| DataError::Config { what: e.to_string() })
///         })))
///     }
///
///     fn fingerprint(&self) -> Result<String, DataError> {
///         Ok(format!("numbers up to {}", self.n))
///     }
/// }
///
/// let source = Arc::new(Numbers { n: 1000 });
/// let mut reader = BatchReader::new(source, Request::training(7, 50), Packer::new(64, 4096)?)?;
/// assert!(reader.next_batch()?.is_some());
/// # Ok::<(), DataError>(())
/// ```
pub trait Source: Send + Sync {
    /// The files in the order they are read, at least one. Reads no rows.
    fn files(&self) -> Result<Arc<[RowFile]>, DataError>;

    /// Starts a reader of row groups. Its batches hold at least these columns, those of them that
    /// the file has.
    fn reader(&self, columns: &[String]) -> Result<Box<dyn GroupReader>, DataError>;

    /// A digest of the data, by which a finished step is found again: it changes when the
    /// documents do. Reads no rows.
    fn fingerprint(&self) -> Result<String, DataError>;

    /// The column of text or binary that holds the documents.
    fn column(&self) -> &str {
        "text"
    }

    /// How documents are divided into portions; None if they are not.
    fn split(&self) -> Option<&Split> {
        None
    }

    /// Which rows are read: those for which it is true. Row numbers count all rows.
    fn condition(&self) -> Option<&Predicate> {
        None
    }

    /// What error messages call the source.
    fn name(&self) -> String {
        "the source".to_owned()
    }

    /// The schema that all files share, and the file it was read from.
    ///
    /// # Errors
    /// If two files have different columns.
    fn schema(&self) -> Result<(SchemaRef, Location), DataError> {
        shared_schema(&self.files()?)
    }

    /// A digest of each file, by which a scored part is found again.
    fn file_fingerprints(&self) -> Result<Vec<String>, DataError> {
        let whole = self.fingerprint()?;
        Ok(self.files()?.iter().map(|file| format!("{whole} {}", file.name)).collect())
    }

    /// Statistics of these columns of a file, an element for each of its row groups. Columns of
    /// which nothing is known are left out.
    fn statistics(
        &self,
        file: usize,
        columns: &[String],
    ) -> Result<BTreeMap<String, ColumnStatistics>, DataError> {
        let _ = (file, columns);
        Ok(BTreeMap::new())
    }
}

/// Checks the source's own condition against the columns of all files.
pub(crate) fn check_condition<S: Source + ?Sized>(source: &S) -> Result<(), DataError> {
    let Some(condition) = source.condition() else { return Ok(()) };
    let files = source.files()?;
    condition.check(files.iter().map(|file| file.schema.as_ref())).map_err(|(at, error)| {
        DataError::Parameter { parameter: "where", what: format!("{}: {error}", files[at].path) }
    })
}

/// Reads row groups of a source.
pub trait GroupReader: Send {
    /// Reads the rows of `rows` (ascending ranges within the row group). `file` counts the
    /// source's files, `group` the file's row groups.
    fn open(
        &mut self,
        file: usize,
        group: usize,
        rows: &[Range<u64>],
    ) -> Result<Batches, DataError>;

    /// Starts fetching the row group that is opened next, which is of the file that is open.
    fn will_open(&mut self, file: usize, group: usize) {
        let _ = (file, group);
    }
}

/// A [`GroupReader`] by a function of file and row group that gives the whole row group.
pub struct WholeGroups<F>(pub F);

impl<F: FnMut(usize, usize) -> Result<RecordBatch, DataError> + Send> GroupReader
    for WholeGroups<F>
{
    fn open(
        &mut self,
        file: usize,
        group: usize,
        rows: &[Range<u64>],
    ) -> Result<Batches, DataError> {
        let batch = (self.0)(file, group)?;
        // Rows that are not there are the reader's to report.
        let n = batch.num_rows();
        let within = |rows: &Range<u64>| (rows.start as usize).min(n)..(rows.end as usize).min(n);
        let slices: Vec<RecordBatch> = rows
            .iter()
            .map(within)
            .filter(|rows| !rows.is_empty())
            .map(|rows| batch.slice(rows.start, rows.len()))
            .collect();
        Ok(Box::new(slices.into_iter().map(Ok)))
    }
}

/// See [`Source::schema`].
pub(crate) fn shared_schema(files: &[RowFile]) -> Result<(SchemaRef, Location), DataError> {
    let Some((first, others)) = files.split_first() else {
        return Err(DataError::Config { what: "the source has no files".into() });
    };
    others.iter().try_for_each(|file| same_schema(first, file))?;
    // A column that is null in all rows of a file has no type there.
    let typed = |field: &FieldRef| {
        let of = files.iter().filter_map(|file| file.schema.field_with_name(field.name()).ok());
        let typed = of.map(|f| f.data_type()).find(|t| **t != DataType::Null);
        match typed.filter(|_| field.data_type() == &DataType::Null) {
            Some(of) => Arc::new(field.as_ref().clone().with_data_type(of.clone())),
            None => field.clone(),
        }
    };
    let schema = &first.schema;
    let fields: Vec<FieldRef> = schema.fields().iter().map(typed).collect();
    let schema = match fields[..] == schema.fields()[..] {
        true => schema.clone(),
        false => Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())),
    };
    Ok((schema, first.path.clone()))
}

/// Names and types of columns must agree; order, nullability and metadata need not.
fn same_schema(first: &RowFile, file: &RowFile) -> Result<(), DataError> {
    let (expected, schema) = (&first.schema, &file.schema);
    if Arc::ptr_eq(expected, schema) {
        return Ok(());
    }
    let names = expected.fields().iter().chain(schema.fields()).map(|f| f.name());
    for column in names {
        let of =
            |schema: &SchemaRef| schema.field_with_name(column).ok().map(|f| f.data_type().clone());
        let (a, b) = (of(expected), of(schema));
        let agree = |a: &DataType, b: &DataType| {
            a.equals_datatype(b) || *a == DataType::Null || *b == DataType::Null
        };
        if !matches!((&a, &b), (Some(a), Some(b)) if agree(a, b)) {
            let show = |t: Option<DataType>| t.map_or("missing".to_string(), |t| t.to_string());
            return Err(DataError::SchemaDiffers {
                path: file.path.clone(),
                first: first.path.clone(),
                column: column.clone(),
                found: show(b),
                expected: show(a),
            });
        }
    }
    Ok(())
}
