//! Errors as Python exceptions.

use blt_graph::StepError;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;

create_exception!(blt, Error, PyException, "What went wrong, where, and what to do about it.");

/// An error of a step. One that points into a pipeline shows the place.
pub fn step_error(error: &StepError) -> PyErr {
    match error {
        StepError::Interrupted => PyKeyboardInterrupt::new_err(()),
        StepError::Document(_) => message(&error.render(false)),
        StepError::Failed { .. } => Error::new_err(error.to_string()),
    }
}

/// A rendered diagnostic.
pub fn message(rendered: &str) -> PyErr {
    let text = rendered.trim_end();
    Error::new_err(text.strip_prefix("error: ").unwrap_or(text).to_owned())
}
