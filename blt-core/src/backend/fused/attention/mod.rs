//! Windowed causal attention within spans, grouped heads, forward and backward, without a score
//! matrix.
//!
//! A task takes one head and some rows of one span, and walks tiles of queries over blocks of the
//! keys that they see: an online softmax forward; backward, the probabilities again from the saved
//! log-sum-exp. Scores stand transposed, `[keys][QUERIES]`: a vector holds a key's scores of
//! sixteen queries, so that greatest scores, sums and scales are vectors too, and nothing is summed
//! across one. Sixteen keys are a group, and a vector of queries passes over the groups that none
//! of its queries sees: of a window of 512, one pair in 33 is computed for nothing.
//!
//! Tiles, blocks and groups are counted from the start of the span, so a span's numbers do not
//! depend on what it is batched with, and a row's not on later rows (as long as those are finite: a
//! later key's weight is zero, not absent).
//!
//! Scores are in units of log2: queries come scaled by `head_dim^-0.5 * log2(e)`.

mod backward;
mod forward;
#[cfg(test)]
mod tests;
mod tiles;

pub(crate) use backward::{Gradients, Outputs, backward};
pub(crate) use forward::forward;
pub(crate) use tiles::Layout;
