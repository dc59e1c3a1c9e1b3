//! Byte and hash n-gram embeddings: rolling hashes, a gather-sum forward, sorted segment sums
//! backward.

use super::buffer::Buffer;
use super::weight::Table;
use super::{Fused, Grads, Param, ParamGrad, adamw};
use crate::backend::{
    BackendError, HASH_PRIMES, HashConfig, ParamId, Parameters, Tape, Tensor, check,
};
use crate::simd::multiversion;
use rayon::prelude::*;
use std::ops::Range;

/// Ids hashed at once: their accumulators stay in registers and the first-level cache.
const BLOCK: usize = 256;
/// Rows of the output that one task gathers.
const TASK_ROWS: usize = 64;
/// Terms summed before a partial sum is added to the total, which keeps the rounding error of a
/// long sum small.
const PARTIAL: usize = 256;

/// `h mod divisor`, floored, without a division.
#[derive(Clone, Copy)]
struct FlooredModulo {
    divisor: u64,
    /// `floor((2^64 - 1) / divisor)`: the quotient it estimates is at most one too small.
    reciprocal: u64,
    /// What undoes the shift of `h` by 2^63 that makes it unsigned: `-2^63 mod divisor`.
    shift: u64,
}

impl FlooredModulo {
    fn new(divisor: usize) -> Self {
        let divisor = divisor as u64;
        FlooredModulo {
            divisor,
            reciprocal: u64::MAX / divisor,
            shift: (divisor - (1 << 63) % divisor) % divisor,
        }
    }

    #[inline(always)]
    fn of(self, h: u64) -> u32 {
        let unsigned = h ^ (1 << 63);
        // The upper half of unsigned * reciprocal by products of 32 bits, of which SIMD has several
        // at once, and of 64 none.
        let halves = |x: u64| (x >> 32, x & u32::MAX as u64);
        let ((high, low), (r_high, r_low)) = (halves(unsigned), halves(self.reciprocal));
        let (cross, middle) = (high * r_low, low * r_high + ((low * r_low) >> 32));
        // At most 2^64 - 1: (2^32 - 1)^2 + 2 (2^32 - 1).
        let middle = middle + (cross & u32::MAX as u64);
        let quotient = high * r_high + (cross >> 32) + (middle >> 32);
        // Below 2 * divisor, then below 3 * divisor; a subtraction that would wrap yields the
        // larger number.
        let r = unsigned.wrapping_sub(quotient.wrapping_mul(self.divisor)).wrapping_add(self.shift);
        let r = r.min(r.wrapping_sub(self.divisor));
        r.min(r.wrapping_sub(self.divisor)) as u32
    }
}

/// The rows that hash n-gram embedding reads, `[n, tables]`: the numbers of
/// [`crate::hash::hash_ids`], fast.
///
/// `h_(m+1)(i) = prime * h_m(i) + id[i - m]`, so every size costs one multiplication more than the
/// one before it, and no window is ever copied.
///
/// # Panics
/// If `config` has more functions than there are primes, an empty table, or more than 2^32 rows.
pub fn rolling_hash_ids(ids: &[u16], offsets: &[usize], config: &HashConfig) -> Vec<u32> {
    let mut rows = vec![0; ids.len() * config.functions * config.sizes.len()];
    hash_range(ids, offsets, 0..ids.len(), config, &mut rows);
    rows
}

/// [`rolling_hash_ids`] of the ids in `range` alone, `[range.len(), tables]`.
pub(super) fn hash_range(
    ids: &[u16],
    offsets: &[usize],
    range: Range<usize>,
    config: &HashConfig,
    rows: &mut [u32],
) {
    let tables = config.functions * config.sizes.len();
    let Some(&longest) = config.sizes.iter().max() else { return };
    let modulo = FlooredModulo::new(config.vocab);
    let mut start = range.start;
    let mut span = offsets.partition_point(|&o| o <= start).saturating_sub(1);
    while start < range.end {
        while offsets[span + 1] <= start {
            span += 1;
        }
        let (first, end) = (offsets[span], offsets[span + 1].min(range.end).min(start + BLOCK));
        let rows = &mut rows[(start - range.start) * tables..(end - range.start) * tables];
        for (function, &prime) in HASH_PRIMES[..config.functions].iter().enumerate() {
            let mut hashes = [0u64; BLOCK];
            let hashes = &mut hashes[..end - start];
            let mut found = [0; BLOCK];
            for size in 0..=longest {
                for (s, _) in config.sizes.iter().enumerate().filter(|&(_, &want)| want == size) {
                    let table = function * config.sizes.len() + s;
                    let base = (table * config.vocab) as u32;
                    let found = &mut found[..hashes.len()];
                    table_rows(hashes, modulo, base, found);
                    for (row, &found) in rows.chunks_exact_mut(tables).zip(found.iter()) {
                        row[table] = found;
                    }
                }
                if size == longest {
                    break;
                }
                // Ids before the span's first are 0.
                let padded = (first + size).clamp(start, end) - start;
                hashes[..padded].iter_mut().for_each(|h| *h = h.wrapping_mul(prime as u64));
                if padded < hashes.len() {
                    longer(&mut hashes[padded..], prime as u64, &ids[start + padded - size..]);
                }
            }
        }
        start = end;
    }
}

multiversion! {
    /// Windows of one id more, the oldest one.
    fn longer(hashes: &mut [u64], prime: u64, ids: &[u16]) {
        for (h, &id) in hashes.iter_mut().zip(ids) {
            *h = h.wrapping_mul(prime).wrapping_add(id as u64);
        }
    }
}

multiversion! {
    fn table_rows(hashes: &[u64], modulo: FlooredModulo, base: u32, rows: &mut [u32]) {
        for (row, &h) in rows.iter_mut().zip(hashes) {
            *row = base + modulo.of(h);
        }
    }
}

pub(super) fn embed(
    fused: &Fused,
    ids: &[u16],
    offsets: &[usize],
    tokens: ParamId,
    hash: Option<(ParamId, &HashConfig)>,
) -> Result<Tensor, BackendError> {
    let tables = hash.map(|(table, _)| fused.param_shape(table));
    check::embed(fused.param_shape(tokens), tables, hash.map(|(_, config)| config))?;
    let (n, dim) = (ids.len(), fused.param_shape(tokens)[1]);
    let tables = hash.map_or(0, |(_, config)| config.functions * config.sizes.len());
    let mut hash_rows = vec![0u32; n * tables];
    if let Some((_, config)) = hash
        && tables > 0
    {
        hash_rows.par_chunks_mut(TASK_ROWS * tables).enumerate().for_each(|(task, rows)| {
            let start = task * TASK_ROWS;
            hash_range(ids, offsets, start..start + rows.len() / tables, config, rows);
        });
    }
    let token_rows: Vec<u32> = ids.iter().map(|&id| id as u32).collect();

    let mut params = fused.params.borrow_mut();
    adamw::catch_up_rows(&mut params[tokens.0], &token_rows);
    if let Some((table, _)) = hash {
        adamw::catch_up_rows(&mut params[table.0], &hash_rows);
    }
    let token_table = params[tokens.0].data.table();
    let hash_table = hash.map_or(Table::F32(&[]), |(table, _)| params[table.0].data.table());
    let mut y = Buffer::new(n * dim);
    let token_rows_of = token_rows.par_chunks(TASK_ROWS);
    y.par_chunks_mut((TASK_ROWS * dim).max(1)).zip(token_rows_of).enumerate().for_each(
        |(task, (y, token_rows))| {
            let hash_rows = &hash_rows[task * TASK_ROWS * tables..][..token_rows.len() * tables];
            gather_sum(token_table, token_rows, hash_table, hash_rows, dim, y);
        },
    );
    drop(params);

    let (y, out) = fused.output(n, dim, y);
    if fused.recording() {
        let table = hash.map(|(table, _)| table);
        fused.push(move |grads| {
            let Some(dy) = grads.take(out) else { return };
            add_gradient(grads, tokens, &token_rows, 1, &dy, dim);
            if let Some(table) = table {
                add_gradient(grads, table, &hash_rows, tables, &dy, dim);
            }
        });
    }
    Ok(y)
}

multiversion! {
    /// `y` `[n, dim]`: each id's token row, and its hash rows in the tables' order.
    pub(super) fn gather_sum(token_table: Table, token_rows: &[u32], hash_table: Table, hash_rows: &[u32], dim: usize, y: &mut [f32]) {
        let tables = hash_rows.len() / token_rows.len();
        for i in 0..token_rows.len() {
            let y = &mut y[i * dim..][..dim];
            token_table.copy_row(token_rows[i], y);
            for &row in &hash_rows[i * tables..][..tables] {
                hash_table.add_row(row, y);
            }
        }
    }
}

#[inline(always)]
fn add_into(sum: &mut [f32], x: &[f32]) {
    for (s, x) in sum.iter_mut().zip(x) {
        *s += x;
    }
}

/// Adds `dy[i]` to the gradient of row `rows[i * tables + t]` for all i and t.
fn add_gradient(
    grads: &mut Grads,
    id: ParamId,
    rows: &[u32],
    tables: usize,
    dy: &[f32],
    dim: usize,
) {
    let (touched, sums) = segment_sums(rows, tables, dy, dim);
    let param: &Param = &grads.params[id.0];
    if param.by_rows && !matches!(param.grad, Some(ParamGrad::Dense(_))) {
        grads.add_rows(id, touched, sums);
    } else {
        let dense = grads.dense(id);
        for (&row, sum) in touched.iter().zip(sums.chunks_exact(dim)) {
            add_into(&mut dense[row as usize * dim..][..dim], sum);
        }
    }
}

/// Sums `dy` by row: the rows that occur, ascending, and for each the sum of `dy[i]` over the ids
/// that read it, in the order of i. No atomics: (row, i) pairs are sorted, and each row's run is
/// summed by one task.
fn segment_sums(rows: &[u32], tables: usize, dy: &[f32], dim: usize) -> (Vec<u32>, Buffer) {
    let mut pairs: Vec<u64> = rows
        .par_iter()
        .enumerate()
        .map(|(at, &row)| (row as u64) << 32 | (at / tables) as u64)
        .collect();
    pairs.par_sort_unstable();
    let row_of = |pair: u64| (pair >> 32) as u32;
    let segments: Vec<&[u64]> = pairs.chunk_by(|&a, &b| row_of(a) == row_of(b)).collect();
    let touched = segments.iter().map(|segment| row_of(segment[0])).collect();
    let mut sums = Buffer::zeros(segments.len() * dim);
    sums.par_chunks_mut(dim.max(1)).zip(&segments).with_min_len(16).for_each(|(sum, segment)| {
        sum_rows(segment, dy, sum);
    });
    (touched, sums)
}

multiversion! {
    /// Adds the rows of `dy` that `pairs` name into `sum`, zeros so far.
    fn sum_rows(pairs: &[u64], dy: &[f32], sum: &mut [f32]) {
        let dim = sum.len();
        if pairs.len() <= PARTIAL {
            for &pair in pairs {
                add_into(sum, &dy[pair as u32 as usize * dim..][..dim]);
            }
            return;
        }
        let mut partial = vec![0.0; dim];
        for part in pairs.chunks(PARTIAL) {
            partial.fill(0.0);
            for &pair in part {
                add_into(&mut partial, &dy[pair as u32 as usize * dim..][..dim]);
            }
            add_into(sum, &partial);
        }
    }
}

/// The sum of two gradients by rows, each ascending and without repeats; so is the result.
pub(super) fn merge_rows(
    rows_a: Vec<u32>,
    a: Buffer,
    rows_b: Vec<u32>,
    b: Buffer,
    cols: usize,
) -> ParamGrad {
    let mut rows = Vec::with_capacity(rows_a.len() + rows_b.len());
    let mut sum = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < rows_a.len() || j < rows_b.len() {
        let take_a = j == rows_b.len() || i < rows_a.len() && rows_a[i] <= rows_b[j];
        let take_b = i == rows_a.len() || j < rows_b.len() && rows_b[j] <= rows_a[i];
        let (x, y) = (a.get(i * cols..(i + 1) * cols), b.get(j * cols..(j + 1) * cols));
        match (take_a, take_b) {
            (true, true) => sum.extend(
                x.unwrap_or_default().iter().zip(y.unwrap_or_default()).map(|(x, y)| x + y),
            ),
            (true, false) => sum.extend_from_slice(x.unwrap_or_default()),
            _ => sum.extend_from_slice(y.unwrap_or_default()),
        }
        rows.push(if take_a { rows_a[i] } else { rows_b[j] });
        i += take_a as usize;
        j += take_b as usize;
    }
    ParamGrad::Rows(rows, sum.into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Matrix, bits, check, matrix};
    use super::*;
    use crate::backend::Operations;
    use crate::hash::hash_ids;
    use proptest::prelude::*;

    /// Span lengths, and ids to fill them.
    fn spans() -> impl Strategy<Value = (Vec<usize>, Vec<u16>)> {
        prop::collection::vec(prop_oneof![Just(1usize), 1usize..9, 60usize..200], 0..5)
            .prop_flat_map(|lengths| {
                let mut offsets = vec![0];
                lengths.iter().for_each(|len| offsets.push(offsets[offsets.len() - 1] + len));
                let n = offsets[offsets.len() - 1];
                (Just(offsets), prop::collection::vec(0u16..260, n..=n))
            })
    }

    proptest! {
        #[test]
        fn hashes_are_those_of_the_definition(
            (offsets, ids) in spans(),
            sizes in prop::collection::vec(1usize..21, 0..5),
            functions in 0usize..12,
            vocab in prop_oneof![Just(1usize), Just(2), Just(1 << 16), 1usize..1000, 1usize..10_000_000],
        ) {
            let config = HashConfig { sizes, functions, vocab };
            prop_assert_eq!(rolling_hash_ids(&ids, &offsets, &config), hash_ids(&ids, &offsets, &config));
        }

        #[test]
        fn modulo_is_floored(h: i64, divisor in prop_oneof![1usize..4, 1usize..(1 << 32), (0u32..32).prop_map(|s| 1usize << s)]) {
            for h in [h, 0, -1, 1, i64::MIN, i64::MAX, divisor as i64, -(divisor as i64)] {
                prop_assert_eq!(FlooredModulo::new(divisor).of(h as u64) as i64, h.rem_euclid(divisor as i64));
            }
        }

        #[test]
        fn merged_rows_are_sorted_sums(
            a in prop::collection::btree_map(0u32..40, -9i8..9, 0..20),
            b in prop::collection::btree_map(0u32..40, -9i8..9, 0..20),
        ) {
            let lists = |m: &std::collections::BTreeMap<u32, i8>| {
                (m.keys().copied().collect::<Vec<_>>(), m.values().flat_map(|&v| [v as f32, 1.0]).collect::<Vec<_>>())
            };
            let ((ra, ga), (rb, gb)) = (lists(&a), lists(&b));
            let mut sums = std::collections::BTreeMap::new();
            for (&row, &v) in a.iter().chain(&b) {
                let sum = sums.entry(row).or_insert([0.0f32; 2]);
                *sum = [sum[0] + v as f32, sum[1] + 1.0];
            }
            let ParamGrad::Rows(rows, grad) = merge_rows(ra, ga.into(), rb, gb.into(), 2) else { panic!("rows stay rows") };
            prop_assert_eq!(rows, sums.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(grad.to_vec(), sums.values().flatten().copied().collect::<Vec<_>>());
        }
    }

    fn meaning(
        ids: &[u16],
        offsets: &[usize],
        config: &HashConfig,
        dim: usize,
        at: &[Vec<f64>],
    ) -> Vec<f64> {
        let rows = hash_ids(ids, offsets, config);
        let tables = config.functions * config.sizes.len();
        let mut y = vec![0.0; ids.len() * dim];
        for i in 0..ids.len() {
            for c in 0..dim {
                y[i * dim + c] = at[0][ids[i] as usize * dim + c]
                    + (0..tables)
                        .map(|t| at[1][rows[i * tables + t] as usize * dim + c])
                        .sum::<f64>();
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_plain_loops((offsets, ids) in spans(), tokens_by_rows: bool, table_by_rows: bool, functions in 1usize..3, seed in 0u64..99) {
            let (dim, config) = (5, HashConfig { sizes: vec![3, 2, 5], functions, vocab: 7 });
            let params = [
                Matrix { by_rows: tokens_by_rows, ..matrix(260, dim, seed) },
                Matrix { by_rows: table_by_rows, ..matrix(7 * 3 * functions, dim, seed + 1) },
            ];
            check(
                |fused, _, p| embed(fused, &ids, &offsets, p[0], Some((p[1], &config))).unwrap(),
                &[],
                &params,
                |at| meaning(&ids, &offsets, &config, dim, at),
            );
        }
    }

    #[test]
    fn without_hash_tables_only_tokens_are_summed() {
        let ids = [1, 70, 70, 259];
        check(
            |fused, _, p| embed(fused, &ids, &[0, 4], p[0], None).unwrap(),
            &[],
            &[matrix(260, 3, 0)],
            |at| ids.iter().flat_map(|&id| &at[0][id as usize * 3..][..3]).copied().collect(),
        );
    }

    #[test]
    fn a_span_alone_has_the_bits_it_has_in_a_batch() {
        let ids: Vec<u16> = (0..300).map(|i| (i * i % 250) as u16).collect();
        let config = HashConfig { sizes: vec![3, 8], functions: 2, vocab: 1000 };
        let fused = Fused::new();
        let (tokens, table) = (matrix(260, 24, 0), matrix(4000, 24, 1));
        let tokens = fused.add_param(tokens.shape, tokens.data, true).unwrap();
        let table = fused.add_param(table.shape, table.data, true).unwrap();
        let run = |ids: &[u16], offsets: &[usize]| {
            fused
                .to_host(&embed(&fused, ids, offsets, tokens, Some((table, &config))).unwrap())
                .unwrap()
        };
        let all = run(&ids, &[0, 1, 130, 300]);
        for span in [0..1, 1..130, 130..300] {
            assert_eq!(
                bits(&run(&ids[span.clone()], &[0, span.len()])),
                bits(&all[span.start * 24..span.end * 24])
            );
        }
    }
}
