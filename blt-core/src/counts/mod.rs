//! A byte model made of counts: how often each byte followed each of the contexts before it.
//!
//! Contexts are the last `order` bytes of a span and all shorter ones. Probabilities interpolate
//! all orders by modified Kneser-Ney discounting (Chen and Goodman 1998, equation 24; lower orders
//! count distinct continuations). One pass over the training documents fits it ([`Fit`]); the
//! entropy of every context is then stored, so that reading text is a look-up a byte.
//!
//! A document that was fitted must not be predicted from itself: its entropies would be those of
//! text that the model knows by heart, and a threshold found on unseen text would then cut it into
//! other patches. Every count therefore remembers in which of [`FOLDS`](held_out::FOLDS) folds it
//! was seen. The fold of a document follows from its first bytes. A span that begins as a fitted
//! one is read from the counts of the other folds ([`held_out`]).

mod config;
mod entries;
mod file;
mod fit;
pub mod held_out;
mod lanes;
mod levels;
mod others;
mod read;
mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use config::{CountsConfig, CountsError, MAX_ORDER, MIN_MEMORY};
pub use fit::Fit;
pub(crate) use read::NO_BYTE;
pub use stream::CountsStream;
pub use table::Counts;
