//! Running a pipeline: the steps of every variant, through the store, into a run directory.

mod live;
mod rundir;
mod runner;
pub mod store;

pub use live::{Live, NodeObserver, Outputs, RunFailed};
pub use rundir::{RunDir, State, Status, utc};
pub use runner::{
    PlanRun, Resume, RunError, RunOptions, RunReport, Runner, StepRun, choose_variants,
    cpu_features,
};
