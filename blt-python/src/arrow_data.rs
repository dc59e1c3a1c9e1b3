//! Arrow data from and to Python by the C data interface: pointers in capsules, no copies,
//! whichever library is on the other side.

use crate::error::Error;
use arrow::array::{Array, RecordBatch, RecordBatchIterator, RecordBatchOptions, StructArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow::ffi_stream::{FFI_ArrowArrayStream, RecordBatchStreamReader};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};
use std::ffi::CStr;
use std::sync::Arc;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const STREAM: &CStr = c"arrow_array_stream";

fn arrow_error(error: &ArrowError) -> PyErr {
    Error::new_err(error.to_string())
}

/// The record batches of an object with `__arrow_c_array__` (a record batch) or
/// `__arrow_c_stream__` (a table, a data frame, a reader).
///
/// # Errors
/// `TypeError` if it has neither, `ValueError` if what it gives is no record batch.
pub fn import(data: &Bound<'_, PyAny>) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    if data.hasattr("__arrow_c_array__")? {
        let capsules = data.call_method0("__arrow_c_array__")?;
        let (schema, array) = capsules.extract::<(Bound<'_, PyCapsule>, Bound<'_, PyCapsule>)>()?;
        let batch = import_array(&schema, &array)?;
        return Ok((batch.schema(), vec![batch]));
    }
    if data.hasattr("__arrow_c_stream__")? {
        let stream = data.call_method0("__arrow_c_stream__")?.extract::<Bound<'_, PyCapsule>>()?;
        return import_stream(&stream);
    }
    let kind = data.get_type().fully_qualified_name()?;
    Err(PyTypeError::new_err(format!(
        "Arrow data is expected (an object with `__arrow_c_array__` or `__arrow_c_stream__`: a record batch or table of pyarrow, a data \
         frame of Polars, ...), not {kind}"
    )))
}

fn import_array(
    schema: &Bound<'_, PyCapsule>,
    array: &Bound<'_, PyCapsule>,
) -> PyResult<RecordBatch> {
    let schema = schema.pointer_checked(Some(SCHEMA))?.cast::<FFI_ArrowSchema>();
    let array = array.pointer_checked(Some(ARRAY))?.cast::<FFI_ArrowArray>();
    // SAFETY: A capsule of this name holds an `ArrowSchema` by the Arrow PyCapsule interface. It is
    // moved out, and what is left is marked as released, so that the capsule, which lives as
    // long as this call, does not release it again.
    let schema = unsafe { FFI_ArrowSchema::from_raw(schema.as_ptr()) };
    // SAFETY: As above, with an `ArrowArray`.
    let array = unsafe { FFI_ArrowArray::from_raw(array.as_ptr()) };
    let fields = Schema::try_from(&schema).map_err(|e| {
        PyValueError::new_err(format!(
            "a record batch is expected, which as an Arrow array is a struct: {e}"
        ))
    })?;
    // SAFETY: The two were exported together, so the array is of the schema's type.
    let data = unsafe { from_ffi(array, &schema) }.map_err(|e| arrow_error(&e))?;
    let rows = StructArray::from(data);
    if rows.null_count() > 0 {
        return Err(PyValueError::new_err(
            "a record batch is expected, and this struct array has nulls of its own",
        ));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let (_, columns, _) = rows.into_parts();
    RecordBatch::try_new_with_options(Arc::new(fields), columns, &options)
        .map_err(|e| arrow_error(&e))
}

fn import_stream(stream: &Bound<'_, PyCapsule>) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let pointer = stream.pointer_checked(Some(STREAM))?.cast::<FFI_ArrowArrayStream>();
    // SAFETY: A capsule of this name holds an `ArrowArrayStream` by the Arrow PyCapsule interface;
    // it is moved out as above.
    let stream_of_capsule = unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr()) };
    let read = move || {
        let reader = RecordBatchStreamReader::try_new(stream_of_capsule)?;
        let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
        Ok((schema, reader.collect::<Result<Vec<_>, _>>()?))
    };
    // A stream may read files, or take the interpreter itself.
    stream.py().detach(read).map_err(|e: ArrowError| arrow_error(&e))
}

/// Rows with their scores: Arrow data, which any library takes that knows the Arrow PyCapsule
/// interface, without a copy.
///
/// `pyarrow.record_batch(scored)`, `pyarrow.table(scored)`, `polars.DataFrame(scored)`,
/// `pandas.DataFrame.from_arrow(scored)`.
#[pyclass(module = "blt", frozen)]
pub struct Scored {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Scored {
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Scored { schema, batches }
    }

    fn schema_capsule<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema =
            FFI_ArrowSchema::try_from(self.schema.as_ref()).map_err(|e| arrow_error(&e))?;
        PyCapsule::new_with_value(py, schema, SCHEMA)
    }
}

#[pymethods]
impl Scored {
    /// Columns of the rows, then those of the scores.
    #[getter]
    fn column_names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Rows.
    #[getter]
    fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    fn __len__(&self) -> usize {
        self.num_rows()
    }

    fn __repr__(&self) -> String {
        format!("<blt.Scored: {} rows of {}>", self.num_rows(), self.column_names().join(", "))
    }

    /// The schema, as an `ArrowSchema` in a capsule.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        self.schema_capsule(py)
    }

    /// The rows as one record batch: an `ArrowSchema` and an `ArrowArray` in capsules. Those of
    /// several batches are copied into one.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // The interface leaves it to who exports whether another type is given.
        let _ = requested_schema;
        let batch = match self.batches.as_slice() {
            [one] => one.clone(),
            several => concat_batches(&self.schema, several).map_err(|e| arrow_error(&e))?,
        };
        let array = FFI_ArrowArray::new(&StructArray::from(batch).to_data());
        Ok((self.schema_capsule(py)?, PyCapsule::new_with_value(py, array, ARRAY)?))
    }

    /// The rows, batch by batch as they came: an `ArrowArrayStream` in a capsule.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let batches: Vec<_> = self.batches.iter().cloned().map(Ok).collect();
        let stream = FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(
            batches,
            self.schema.clone(),
        )));
        PyCapsule::new_with_value(py, stream, STREAM)
    }
}
