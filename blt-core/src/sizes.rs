//! What sizes may be, and products of sizes that may be any number.
//!
//! The bounds are far beyond what can be trained, and so small that hardly a product of two of
//! them leaves 64 bits. A pipeline's parameters and a `config.json` are held to them before any
//! memory is asked for.

/// Widest states; also most attention heads.
pub const MAX_DIM: usize = 1 << 20;
/// Widest feed-forward layer.
pub const MAX_FFN: usize = 1 << 24;
/// Most layers of a stack.
pub const MAX_LAYERS: usize = 10_000;
/// Most query rows of a patch.
pub const MAX_ROWS: usize = 4096;
/// Most bytes that an n-gram may have.
pub const MAX_NGRAM: usize = 256;
/// Most rows of all hash tables together: rows are numbered in 32 bits.
pub const MAX_TABLE: usize = u32::MAX as usize;
/// Longest patch, span, window, and batch in bytes.
pub const MAX_BYTES: usize = i32::MAX as usize;
/// Most documents in a buffer.
pub const MAX_BUFFER: usize = 1 << 24;
/// Most of what is counted one after the other, as optimiser steps, documents and bytes of a
/// corpus: 10^15.
pub const MAX_COUNT: u64 = 1_000_000_000_000_000;

/// The product of `factors`; None where it leaves 64 bits.
pub fn product(factors: &[usize]) -> Option<u64> {
    factors.iter().try_fold(1u64, |product, &factor| product.checked_mul(factor as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_that_leaves_64_bits_is_none() {
        assert_eq!(product(&[]), Some(1));
        assert_eq!(product(&[usize::MAX, 0]), Some(0));
        assert_eq!(product(&[MAX_FFN, MAX_DIM, 16]), Some(1 << 48));
        assert_eq!(product(&[MAX_TABLE, MAX_DIM, 16]), Some(((1 << 32) - 1) << 24));
        assert_eq!(product(&[1 << 40, 1 << 30]), None);
    }
}
