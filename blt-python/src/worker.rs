//! `blt._blt.Worker`: scores units of a step that another process divided.

use crate::error::{Error, step_error};
use crate::owner::Owner;
use crate::scorer::forked;
use blt_graph::StepError;
use blt_plugins::scoring::{RemoteStep, Unit};
use blt_plugins::steps;
use pyo3::prelude::*;

/// Scores units of one `score` step, in whatever process. `step`: what the driver gave, JSON.
#[pyclass(module = "blt._blt", frozen)]
pub struct Worker {
    owner: Owner<steps::Worker>,
}

fn damaged(error: &serde_json::Error) -> PyErr {
    Error::new_err(format!(
        "what the driver sent cannot be read ({error}): install the same version on all machines"
    ))
}

#[pymethods]
impl Worker {
    #[new]
    fn new(py: Python<'_>, step: &str, threads: usize) -> PyResult<Self> {
        let step: RemoteStep = serde_json::from_str(step).map_err(|e| damaged(&e))?;
        let build = move || steps::Worker::open(step, threads);
        let owner = py.detach(|| Owner::start(threads.max(1), build, StepError::other));
        Ok(Worker { owner: owner.map_err(|e| step_error(&e))? })
    }

    /// Scores a unit (JSON) and writes its part; the answer is for the driver.
    fn score(&self, py: Python<'_>, unit: &str) -> PyResult<String> {
        let unit: Unit = serde_json::from_str(unit).map_err(|e| damaged(&e))?;
        let done = py
            .detach(|| self.owner.call(move |worker| worker.score(&unit)))
            .map_err(|_| forked())?;
        let done = done.map_err(|e| step_error(&e))?;
        serde_json::to_string(&done).map_err(|e| damaged(&e))
    }
}
