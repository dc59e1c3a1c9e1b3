//! [`RunReport`]: what a run did.

use std::path::PathBuf;

use crate::plan::Plan;
use crate::run::rundir::RunDir;
use crate::run::store::Finished;

/// A step of a finished run.
#[derive(Debug)]
pub struct StepRun {
    /// The position in `run:`, from 0.
    pub index: usize,
    /// [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// The step's goals.
    pub goals: Vec<String>,
    /// The step's key.
    pub key: String,
    /// The step's finished directory in the store, which is not removed while this value lives.
    pub dir: PathBuf,
    /// Whether the step was found in the store.
    pub reused: bool,
    pub(super) _held: Finished,
}

/// A variant with one seed, of a finished run.
pub struct PlanRun {
    /// The variant.
    pub plan: Plan,
    /// The steps, in order.
    pub steps: Vec<StepRun>,
}

/// What a run did.
pub struct RunReport {
    /// The run directory.
    pub dir: RunDir,
    /// When the run began, UTC.
    pub started: String,
    /// Variant by variant, and within a variant seed by seed.
    pub plans: Vec<PlanRun>,
}
