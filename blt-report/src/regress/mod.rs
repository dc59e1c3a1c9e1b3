//! Regression runs: are a run's numbers those of a baseline?
//!
//! [`Measured`] has every number of every variant of a run, and the [`Fingerprint`] of the inputs
//! that made it. A [`Baseline`] is the same in a small text file, with tolerances that a maintainer
//! wrote into it. A [`Comparison`] compares the two number by number; a number that only one side
//! has fails. It is printed as a table, as JUnit XML, as Markdown and as JSON.

mod baseline;
mod compare;
mod fingerprint;
mod measure;
mod render;

pub use baseline::{Baseline, BaselineError, Better, Rule, Tolerance};
pub use compare::{Comparison, Row, Verdict};
pub use fingerprint::{Case, Difference, Fingerprint, short_digest};
pub use measure::{Measured, Number, Numbers};
pub use render::{advice, failed_junit, failed_markdown, junit, markdown, table};
