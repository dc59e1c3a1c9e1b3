//! What a count-based model is made with, and why it cannot be made.

use serde::{Deserialize, Serialize};

/// The longest context, in bytes.
pub const MAX_ORDER: usize = 8;
/// The smallest memory bound, in bytes.
pub const MIN_MEMORY: usize = 1 << 20;

/// Sizes of a count-based model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CountsConfig {
    /// Bytes of the longest context, 1 to [`MAX_ORDER`].
    pub order: usize,
    /// Most bytes that the model takes, at least [`MIN_MEMORY`].
    pub memory: usize,
}

/// Why there are no counts.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum CountsError {
    /// The order is 0 or too large.
    #[error("the longest context is {found} bytes; it must be 1 to {MAX_ORDER}")]
    Order {
        /// As given.
        found: usize,
    },
    /// The memory bound is too small.
    #[error("{found} bytes of memory are too few for counts; they need {MIN_MEMORY} or more")]
    Memory {
        /// As given.
        found: usize,
    },
    /// No span was long enough.
    #[error(
        "the training documents have no span of more than {} bytes, so there is nothing to count",
        super::held_out::HEADS[0]
    )]
    Empty,
    /// A file is not what [`Counts::to_bytes`](super::Counts::to_bytes) wrote.
    #[error("the file of counts is damaged: {0}")]
    Damaged(&'static str),
}

impl CountsConfig {
    /// # Errors
    /// An order or a memory bound out of range.
    pub fn check(&self) -> Result<(), CountsError> {
        if !(1..=MAX_ORDER).contains(&self.order) {
            return Err(CountsError::Order { found: self.order });
        }
        if self.memory < MIN_MEMORY {
            return Err(CountsError::Memory { found: self.memory });
        }
        Ok(())
    }
}
