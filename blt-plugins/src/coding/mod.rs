//! Text as a file of the size that a model predicts: arithmetic coding with its probabilities.

mod file;
pub mod predictor;
pub mod stream;
mod table;

pub use file::{compress, decompress};
