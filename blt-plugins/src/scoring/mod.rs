//! Batch scoring: the rows of Parquet (Arrow, text) files, written back with what a model says of
//! their documents.
//!
//! A [`Job`] is what is scored, by what, and how. It is divided into [`Unit`]s: spans of input
//! (some row groups of one file), each with an output part whose name follows from the span. A
//! [`Scorer`], which holds the model, scores any of a job's units in any order and writes each part
//! under a temporary name that is exchanged for its own once it is whole on the disk. A part's
//! bytes depend on its unit alone, so that a unit may be scored twice, in another process or after
//! a kill.
//!
//! The parts are their own manifest: a part's footer holds its unit's key, a digest of the input
//! file, the model, the settings and the span, and the counts of its rows. [`Outputs::find`] tells
//! which units are done; `manifest.json` lists all that there are. So units may as well be scored
//! by other processes and machines: [`remote`](RemoteStep) is how they come to know of them.
//!
//! A [`BatchScorer`](crate::steps::BatchScorer) gives record batches that are in memory the same columns, to the bit.

mod columns;
mod job;
mod outputs;
mod part;
mod remote;
mod scorer;
mod summary;

pub use columns::{Columns, ColumnsTaken, RowScores, Scores};
pub use job::{Job, JobConfig, JobError, Manifest, Unit, Units};
pub use outputs::{MANIFEST, Outputs, refusal};
pub use part::{FOOTER_KEY, Footer};
pub use remote::{RemoteStep, Scheduler, UnitDone};
pub use scorer::{Scorer, Seen, Wires};
pub use summary::{GroupSummary, Summary};
