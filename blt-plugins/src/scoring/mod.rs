//! Batch scoring: writes the rows of Parquet (or Arrow, or text) files with a model's scores of
//! their documents.
//!
//! A [`Job`] is the input, the model and the settings. It is divided into [`Unit`]s: ranges of row
//! groups of one file, each with an output part that is named after them. A [`Scorer`], which holds
//! the model, scores any units of a job in any order. It writes each part under a temporary name,
//! and renames it once all of it is on disk. The bytes of a part depend on its unit alone, so a
//! unit may be scored again, by another process or after a kill.
//!
//! The footer of a part holds the key of its unit (a digest of the input file, the model, the
//! settings and the row groups) and counts of its rows. So the parts that exist record which units
//! are done ([`Outputs::find`]), and `manifest.json` lists all units. Other processes and machines
//! can score units too: see [`RemoteStep`].
//!
//! A [`BatchScorer`](crate::steps::BatchScorer) adds the same columns, bit for bit, to record
//! batches in memory.

mod columns;
mod footer;
mod job;
mod kept;
mod outputs;
mod part;
mod part_names;
mod remote;
mod scorer;
mod summary;
mod units;
mod writing;

pub use columns::{Columns, ColumnsTaken, RowScores, Scores};
pub use footer::Footer;
pub use job::{Job, JobConfig, JobError};
pub use kept::{KeptColumns, Unkept};
pub use outputs::{MANIFEST, Outputs, refusal};
pub use remote::{RemoteStep, Scheduler, UnitDone};
pub use scorer::{Scorer, Seen, Wires};
pub use summary::{GroupSummary, Summary};
pub use units::{FOOTER_KEY, Manifest, Unit, Units};
pub(crate) use writing::Writer;
pub use writing::Writes;
