//! Batch scoring: the rows of Parquet, Arrow and text files, written with a model's scores of their
//! documents as more columns.
//!
//! A [`Job`] holds the input, the model's settings and the columns to write. It is divided into
//! [`Unit`]s: a unit is some row groups of one file, and the name of its output part depends on
//! these alone. A [`Scorer`] holds the model. It scores any units of a job in any order, and writes
//! each part under a temporary name, which it replaces by the part's own once the part is complete
//! on the disk. A part's bytes depend on its unit alone, so a unit may be scored twice, by another
//! process or after a kill.
//!
//! The parts need no list of what is done: a part's footer holds its unit's key (a digest of the
//! input file, the model, the settings and the row groups) and the counts of its rows.
//! [`Outputs::find`] reads which units are done; `manifest.json` lists all units. Other processes
//! and machines can score units too: [`RemoteStep`] passes the units to them.
//!
//! A [`BatchScorer`](crate::steps::BatchScorer) adds the same columns, to the bit, to record batches
//! in memory.

mod columns;
mod footer;
mod job;
mod outputs;
mod part;
mod part_names;
mod remote;
mod scorer;
mod summary;

pub use columns::{Columns, ColumnsTaken, FOOTER_KEY, RowScores, Scores};
pub use footer::Footer;
pub use job::{Job, JobConfig, JobError, Manifest, Unit, Units};
pub use outputs::{MANIFEST, Outputs, refusal};
pub use remote::{RemoteStep, Scheduler, UnitDone};
pub use scorer::{Scorer, Seen, Wires};
pub use summary::{GroupSummary, Summary};
