//! The built-in steps, a file each; they register themselves as nodes do.

mod bench;
mod certify;
mod evaluate;
mod export;
mod generate;
mod score;
mod score_batches;
mod score_worker;
mod train;

pub use crate::probe::Probe;
pub use crate::split::Split;
pub use bench::Bench;
pub use certify::Certify;
pub use evaluate::Evaluate;
pub use export::Export;
pub use generate::Generate;
pub use score::{Emit, Score};
pub use score_batches::{BatchOptions, BatchScorer};
pub use score_worker::Worker;
pub use train::{Average, HeldOut, Train};
