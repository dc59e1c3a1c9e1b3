//! `blt.Scorer`.

use crate::arrow_data::{Scored, import};
use crate::error::{Error, step_error};
use crate::owner::Owner;
use blt_graph::StepError;
use blt_plugins::steps::{BatchOptions, BatchScorer};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde_json::Value;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// A model that scores documents: bits per byte, patches, entropies.
///
/// `checkpoint` is a Hugging Face BLT directory, a checkpoint of a run
/// (`RUN/checkpoints/1-train/final`), or the YAML file of a pipeline that scores with nothing to
/// train before. What is not given is as the pipeline says, or at its default.
///
/// - `column`: the column of text or binary that holds the documents (`"text"`).
/// - `emit`: lists to add: `"log_probs"`, `"entropies"`, `"patch_lengths"`.
/// - `on_error`: `"fail"`, or `"null"`, which gives a row that cannot be scored null scores.
/// - `span_bytes`, `context_bytes`: longer documents are scored in spans of so many bytes (8192),
///   each of which sees so many before it (0).
/// - `threads`: how many it computes on, all processors if not given. It changes no bit.
///
/// It may be used by several threads, which take turns, and is pickled as its arguments: another
/// process builds the model again.
///
/// >>> import blt
/// >>> scorer = blt.Scorer("model", emit=["patch_lengths"], threads=1)
/// >>> scorer
/// blt.Scorer('model', emit=['patch_lengths'], threads=1)
#[pyclass(module = "blt", frozen)]
pub struct Scorer {
    owner: Owner<BatchScorer>,
    checkpoint: PathBuf,
    column: Option<String>,
    emit: Option<Vec<String>>,
    on_error: Option<String>,
    span_bytes: Option<usize>,
    context_bytes: Option<usize>,
    threads: Option<NonZeroUsize>,
}

/// A word among those that a setting knows.
fn known<T: serde::de::DeserializeOwned>(name: &str, word: &str, all: &[&str]) -> PyResult<T> {
    let value =
        all.contains(&word).then(|| serde_json::from_value(Value::from(word)).ok()).flatten();
    value.ok_or_else(|| {
        let all = all.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", ");
        PyValueError::new_err(format!("{name} is {word:?}; expected {all}"))
    })
}

/// How many threads compute if nobody says.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[pymethods]
impl Scorer {
    #[new]
    #[pyo3(signature = (checkpoint, *, column=None, emit=None, on_error=None, span_bytes=None, context_bytes=None, threads=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        checkpoint: PathBuf,
        column: Option<String>,
        emit: Option<Vec<String>>,
        on_error: Option<String>,
        span_bytes: Option<usize>,
        context_bytes: Option<usize>,
        threads: Option<NonZeroUsize>,
    ) -> PyResult<Self> {
        let lists =
            |list: &String| known("emit", list, &["log_probs", "entropies", "patch_lengths"]);
        let options = BatchOptions {
            checkpoint: checkpoint.clone(),
            column: column.clone(),
            emit: emit.as_ref().map(|emit| emit.iter().map(lists).collect()).transpose()?,
            on_error: on_error
                .as_ref()
                .map(|word| known("on_error", word, &["fail", "null"]))
                .transpose()?,
            span_bytes,
            context_bytes,
        };
        let n = threads.map_or_else(all_threads, NonZeroUsize::get);
        let build = move || BatchScorer::open(&options, n);
        let owner =
            py.detach(|| Owner::start(n, build, StepError::other)).map_err(|e| step_error(&e))?;
        Ok(Scorer { owner, checkpoint, column, emit, on_error, span_bytes, context_bytes, threads })
    }

    /// Scores the documents of Arrow data.
    ///
    /// `data` has `__arrow_c_array__` (a record batch) or `__arrow_c_stream__` (a table, a data
    /// frame, a reader of batches). The answer has the same rows in the same order with all
    /// their columns, and after these `n_bytes`, `n_patches`, `nats`, `bits_per_byte` and the lists
    /// that were asked for: what a `score` step writes, to the bit. Nothing is copied on the way in
    /// or out, and other Python threads run meanwhile.
    ///
    /// >>> import blt, pyarrow as pa
    /// >>> scorer = blt.Scorer("model")
    /// >>> rows = pa.record_batch({"id": [7, 8, 9], "text": ["the cat sat on the mat", None, ""]})
    /// >>> scored = pa.record_batch(scorer.score(rows))
    /// >>> scored.schema.names
    /// ['id', 'text', 'n_bytes', 'n_patches', 'nats', 'bits_per_byte']
    /// >>> scored.column("id").to_pylist(), scored.column("n_bytes").to_pylist()
    /// ([7, 8, 9], [22, None, 0])
    ///
    /// Any library that knows the interface will do:
    ///
    /// >>> import polars as pl
    /// >>> pl.DataFrame(scorer.score(pl.DataFrame({"text": ["one", "two"]})))["n_bytes"].to_list()
    /// [3, 3]
    fn score(&self, data: &Bound<'_, PyAny>) -> PyResult<Scored> {
        let (schema, batches) = import(data)?;
        let scored =
            data.py().detach(|| self.owner.call(move |scorer| scorer.score(&schema, &batches)));
        let scored = scored.map_err(|_| {
            PyRuntimeError::new_err(
                "this Scorer was made before the process was forked, and its threads did not come along; make it in the child, or start \
                 processes by `spawn`",
            )
        })?;
        let (schema, batches) = scored.map_err(|e| step_error(&e))?;
        Ok(Scored::new(schema, batches))
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        Ok((PyTuple::new(py, [self.checkpoint.clone()])?, self.given(py)?))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut text =
            format!("blt.Scorer({}", self.checkpoint.to_string_lossy().into_pyobject(py)?.repr()?);
        for (name, value) in self.given(py)? {
            text += &format!(", {name}={}", value.repr()?);
        }
        Ok(text + ")")
    }
}

impl Scorer {
    /// The keywords that were given.
    fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let given = PyDict::new(py);
        let Scorer { column, emit, on_error, span_bytes, context_bytes, threads, .. } = self;
        for (name, value) in [("column", column), ("on_error", on_error)] {
            value.as_ref().map(|value| given.set_item(name, value)).transpose()?;
        }
        emit.as_ref().map(|emit| given.set_item("emit", emit)).transpose()?;
        let threads = threads.map(NonZeroUsize::get);
        for (name, value) in
            [("span_bytes", *span_bytes), ("context_bytes", *context_bytes), ("threads", threads)]
        {
            value.map(|value| given.set_item(name, value)).transpose()?;
        }
        Ok(given)
    }
}

/// A worker of another process that was forked off cannot score either.
pub fn forked() -> PyErr {
    Error::new_err("the process was forked after its worker was made")
}
