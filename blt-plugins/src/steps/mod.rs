//! The built-in steps, a file each; they register themselves as nodes do.

mod evaluate;
mod train;

pub use evaluate::{Evaluate, Split};
pub use train::Train;
