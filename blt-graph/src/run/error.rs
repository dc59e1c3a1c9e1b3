//! [`RunError`]: why a run did not finish.

use std::fmt;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::error::{StepError, chain};
use crate::files::FileError;
use crate::plan::Plan;
use crate::spec::BASE_VARIANT;

/// Why a run did not finish.
#[derive(Debug)]
pub enum RunError {
    /// The pipeline has errors. Nothing was run.
    Document(Diagnostics),
    /// A step did not finish.
    Step {
        /// The variant.
        variant: String,
        /// The seed.
        seed: u64,
        /// The step's position in `run:`, from 0.
        index: usize,
        /// The step's name.
        step: String,
        /// The step's error.
        error: StepError,
    },
    /// All steps finished, and the results could not be written.
    Report(StepError),
    /// The run directory or the store could not be written.
    File(FileError),
}

impl RunError {
    /// The error of step `index` of `plan`.
    pub(super) fn of_step(plan: &Plan, index: usize, error: StepError) -> Self {
        let step = plan.steps()[index].entry.name.to_string();
        RunError::Step { variant: plan.variant.clone(), seed: plan.seed, index, step, error }
    }

    /// Whether the user stopped the run.
    pub fn interrupted(&self) -> bool {
        matches!(
            self,
            RunError::Step { error: StepError::Interrupted, .. }
                | RunError::Report(StepError::Interrupted)
        )
    }

    /// The error as the user reads it, in `rustc`'s form; in colour if `color`.
    pub fn render(&self, color: bool) -> String {
        match self {
            RunError::Document(diagnostics) => diagnostics.render(color),
            RunError::Step { error: StepError::Interrupted, .. } => self.to_string(),
            RunError::Step { error: StepError::Document(diagnostics), .. } => {
                let noted =
                    diagnostics.0.iter().map(|d| d.clone().note(self.to_string_without_cause()));
                Diagnostics(noted.collect()).render(color)
            }
            RunError::Step { error: StepError::Failed { error, help }, .. } => {
                Diagnostic::error(chain(error.as_ref()))
                    .note(self.to_string_without_cause())
                    .help(help.as_deref())
                    .render(color)
            }
            RunError::Report(error) => error.render(color),
            RunError::File(error) => Diagnostic::error(chain(error)).render(color),
        }
    }

    fn to_string_without_cause(&self) -> String {
        match self {
            RunError::Step { variant, seed, index, step, .. } => {
                let variant = if variant == BASE_VARIANT {
                    String::new()
                } else {
                    format!(" of the variant `{variant}`")
                };
                format!("step `run.{index}.{step}`{variant} did not finish (seed {seed})")
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Document(diagnostics) => diagnostics.fmt(f),
            RunError::Step { error, .. } => {
                write!(f, "{}: {error}", self.to_string_without_cause())
            }
            RunError::Report(error) => error.fmt(f),
            RunError::File(error) => f.write_str(&chain(error)),
        }
    }
}

impl std::error::Error for RunError {}

impl From<FileError> for RunError {
    fn from(error: FileError) -> Self {
        RunError::File(error)
    }
}

impl From<Diagnostics> for RunError {
    fn from(diagnostics: Diagnostics) -> Self {
        RunError::Document(diagnostics)
    }
}
