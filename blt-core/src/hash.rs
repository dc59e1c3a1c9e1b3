//! Hash n-gram rows: which rows of the hash tables each id reads. This is the definition, which the
//! reference path runs; the fused path has its own loop (`rolling_hash_ids`).

use crate::backend::{HASH_PRIMES, HashConfig};
use crate::planted::{Bug, planted};

/// Rows of the fused hash table that each id reads, `[n, functions * sizes]`: `table * vocab +
/// hash`, with table `t = function * sizes.len() + size_index`.
///
/// The window of size m is the last m ids ending at i, left-padded with id 0 where it would reach
/// before its span; `h = sum_j id[i-m+1+j] * prime^j` in wrapping i64 (the oldest id has power 0),
/// floored modulo `vocab`. This is the definition, written for reading: it costs the sum of the
/// sizes per id and function.
///
/// Panics if there are more functions than [`HASH_PRIMES`] or more rows than a u32 counts.
pub fn hash_ids(ids: &[u16], offsets: &[usize], config: &HashConfig) -> Vec<u32> {
    let n_tables = config.functions * config.sizes.len();
    assert!(
        config.functions <= HASH_PRIMES.len(),
        "{} hash functions, at most {}",
        config.functions,
        HASH_PRIMES.len()
    );
    assert!(
        n_tables * config.vocab <= u32::MAX as usize,
        "{n_tables} tables of {} rows",
        config.vocab
    );
    let reversed = planted(Bug::HashWindow);
    let mut rows = Vec::with_capacity(ids.len() * n_tables);
    for span in offsets.windows(2) {
        let span = &ids[span[0]..span[1]];
        for i in 0..span.len() {
            for (function, &prime) in HASH_PRIMES[..config.functions].iter().enumerate() {
                for (s, &size) in config.sizes.iter().enumerate() {
                    let (mut hash, mut power) = (0i64, 1i64);
                    for j in 0..size {
                        let at =
                            if reversed { i.checked_sub(j) } else { (i + 1 + j).checked_sub(size) };
                        let id = at.map_or(0, |at| span[at]);
                        hash = hash.wrapping_add((id as i64).wrapping_mul(power));
                        power = power.wrapping_mul(prime);
                    }
                    let table = function * config.sizes.len() + s;
                    rows.push(
                        (table * config.vocab) as u32 + hash.rem_euclid(config.vocab as i64) as u32,
                    );
                }
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_padded_at_its_span_and_the_oldest_id_has_power_zero() {
        let config = HashConfig { sizes: vec![2, 3], functions: 1, vocab: 500 };
        let p = 1000000007i64;
        let row = |table: i64, h: i64| (table * 500 + h.rem_euclid(500)) as u32;
        let rows = hash_ids(&[5, 70, 9], &[0, 2, 3], &config);
        let pp = p.wrapping_mul(p);
        let expected = [
            row(0, 5 * p),
            row(1, 5i64.wrapping_mul(pp)),
            row(0, 5 + 70 * p),
            row(1, 5 * p + 70i64.wrapping_mul(pp)),
            row(0, 9 * p),
            row(1, 9i64.wrapping_mul(pp)),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn powers_wrap_and_the_modulo_is_floored() {
        let config = HashConfig { sizes: vec![4], functions: 11, vocab: 1009 };
        // sum of id * prime^j reduced to 64 bits two's complement, in 128-bit arithmetic here.
        let ids = [200u16, 259, 31, 7];
        let mut negative = 0;
        for (function, &prime) in HASH_PRIMES.iter().enumerate() {
            let modulus = 1i128 << 64;
            let (mut h, mut power) = (0i128, 1i128);
            for &id in &ids {
                h = (h + id as i128 * power).rem_euclid(modulus);
                power = (power * prime as i128).rem_euclid(modulus);
            }
            let signed = if h >= 1i128 << 63 { h - modulus } else { h };
            negative += (signed < 0) as usize;
            let expected = function as i128 * 1009 + signed.rem_euclid(1009);
            assert_eq!(hash_ids(&ids, &[0, 4], &config)[3 * 11 + function] as i128, expected);
        }
        assert!(negative > 0, "the sample must reach a negative hash");
    }
}
