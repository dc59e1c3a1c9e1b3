//! Running a pipeline: the steps of every variant, through the store, into a run directory.

mod error;
mod jobs;
mod keys;
mod live;
mod options;
mod publish;
mod report;
mod rundir;
mod runner;
pub mod store;
mod time;

pub use error::RunError;
pub use live::{Live, NodeObserver, Outputs, RunFailed};
pub use options::{Resume, RunOptions, choose_variants, cpu_features};
pub use report::{PlanRun, RunReport, StepRun};
pub use rundir::{RunDir, State, Status};
pub use runner::Runner;
pub use time::utc;
