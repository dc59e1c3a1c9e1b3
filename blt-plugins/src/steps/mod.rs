//! The built-in steps, a file each; they register themselves as nodes do.

mod bench;
mod evaluate;
mod export;
mod score;
mod train;

pub use bench::Bench;
pub use evaluate::{Evaluate, Split};
pub use export::Export;
pub use score::{BatchOptions, BatchScorer, Emit, Score, Worker};
pub use train::Train;
