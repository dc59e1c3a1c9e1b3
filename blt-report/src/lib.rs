//! What a run leaves for its readers: results.json, the report and closing table, progress on a
//! terminal, and the comparison with a baseline.
//!
//! This crate knows graphs and steps ([`blt_graph`]) and no model: it reads what steps wrote into
//! their directories.

mod escape;
mod finish;
pub mod html;
mod options;
pub mod progress;
pub mod regress;
pub mod results;
mod stats;

pub use finish::{Finished, finish, write_report};
pub use options::{ReportOptions, check_report, report_schema};
