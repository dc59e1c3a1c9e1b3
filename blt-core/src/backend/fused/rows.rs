//! Operations on a few rows at a time, as decoding needs them: each weight is read once, where it
//! lies, and a row's bits depend neither on the rows beside it nor on the number of threads.

use super::cross::attend::{Heads, attend};
use super::embed::{gather_sum, hash_range};
use super::head;
use super::loops::exp;
use super::pool::pool_patch;
use super::rms_norm::norm_rows;
use super::rope::{Table, rotate};
use super::weight::{HostParam, Weight};
use crate::backend::{
    Backend, BackendError, BlockConfig, CrossConfig, HashConfig, ParamId, Pooling,
};
use crate::simd::{LANES, Level, Simd, kernel, multiversion};
use rayon::prelude::*;
use std::ops::Range;

/// Below this many multiply-adds a product is computed by the calling thread.
const PARALLEL_WORK: usize = 1 << 18;

/// A matrix to multiply rows with, `[out, cols]`.
pub(crate) struct Matrix {
    weight: Weight,
    out: usize,
    cols: usize,
}

impl Matrix {
    /// # Errors
    /// A device that failed.
    pub fn read(backend: &dyn Backend, id: ParamId) -> Result<Self, BackendError> {
        let mut param = backend.host_param(id)?;
        let [out, cols] = param.shape;
        Ok(Matrix { weight: param.weight(), out, cols })
    }

    /// `x @ W^T`, `[n, cols] -> [n, out]`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (level, cols) = (Level::best(), self.cols);
        let n = x.len() / cols;
        if n == 0 {
            return Vec::new();
        }
        // Columns of the outputs are the threads' shares, so they are computed as rows.
        let mut y = vec![0.0; self.out * n];
        if n * self.out * cols < PARALLEL_WORK {
            products(level, &self.weight, x, cols, &mut y);
        } else {
            let share = self.out.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(8);
            let weights = self.weight.par_chunks(share * cols);
            y.par_chunks_mut(share * n).zip(weights).for_each(|(y, w)| {
                products(level, w, x, cols, y);
            });
        }
        if n == 1 {
            return y;
        }
        let mut rows = vec![0.0; y.len()];
        for (r, row) in rows.chunks_exact_mut(self.out).enumerate() {
            row.iter_mut().zip(y[r..].iter().step_by(n)).for_each(|(to, from)| *to = *from);
        }
        rows
    }
}

/// `y[r * n + d] = w_r . x_d` for R rows of w from the first and D rows of x: one sum a pair, so
/// that the shape of a block does not show in the bits.
#[inline(always)]
fn block<S: Simd, const R: usize, const D: usize>(
    s: S,
    w: &[f32],
    x: &[f32],
    cols: usize,
    y: &mut [f32],
    n: usize,
) {
    let mut sums = [[s.splat(0.0); D]; R];
    for at in (0..cols).step_by(LANES) {
        let end = (at + LANES).min(cols);
        let mut xs = [s.splat(0.0); D];
        for (d, xs) in xs.iter_mut().enumerate() {
            *xs = s.load_part(&x[d * cols + at..d * cols + end]);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let w = s.load_part(&w[r * cols + at..r * cols + end]);
            for (sum, x) in sums.iter_mut().zip(xs) {
                *sum = s.mul_add(w, x, *sum);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (d, sum) in sums.into_iter().enumerate() {
            y[r * n + d] = s.sum(sum);
        }
    }
}

#[inline(always)]
fn products_body<S: Simd>(s: S, w: &[f32], x: &[f32], cols: usize, y: &mut [f32]) {
    let n = x.len() / cols;
    let mut groups = w.chunks_exact(4 * cols).zip(y.chunks_exact_mut(4 * n));
    for (w, y) in &mut groups {
        let mut d = 0;
        while d + 4 <= n {
            block::<S, 4, 4>(s, w, &x[d * cols..], cols, &mut y[d..], n);
            d += 4;
        }
        while d < n {
            block::<S, 4, 1>(s, w, &x[d * cols..], cols, &mut y[d..], n);
            d += 1;
        }
    }
    let done = w.len() / (4 * cols) * 4;
    let (w, y) = (&w[done * cols..], &mut y[done * n..]);
    for (w, y) in w.chunks_exact(cols).zip(y.chunks_exact_mut(n)) {
        for d in 0..n {
            block::<S, 1, 1>(s, w, &x[d * cols..], cols, &mut y[d..], n);
        }
    }
}

kernel!(
    /// `w @ x^T` for `w` `[out, cols]` and `x` `[n, cols]`, `[out, n]`.
    fn products(w: &[f32], x: &[f32], cols: usize, y: &mut [f32]) = products_body
);

/// RMSNorm of rows.
pub(crate) struct Norm {
    weight: Weight,
    eps: f64,
}

impl Norm {
    /// # Errors
    /// A device that failed.
    pub fn read(backend: &dyn Backend, id: ParamId, eps: f64) -> Result<Self, BackendError> {
        Ok(Norm { weight: backend.host_param(id)?.weight(), eps })
    }

    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (mut y, mut inverse) = (vec![0.0; x.len()], vec![0.0; x.len() / self.weight.len()]);
        norm_rows(x, &self.weight, self.eps, &mut y, &mut inverse);
        y
    }
}

/// Heads whose keys and values lie side by side in a row of memory, `[keys | values]`.
#[derive(Clone)]
pub(crate) struct Attention {
    heads: Heads,
    theta: f64,
}

impl Attention {
    pub fn of_block(c: &BlockConfig) -> Self {
        Self::new(c.heads, c.kv_heads, c.head_dim, c.rope_theta)
    }

    pub fn of_cross(c: &CrossConfig) -> Self {
        Self::new(c.heads, c.kv_heads, c.head_dim, 1.0)
    }

    fn new(heads: usize, kv_heads: usize, head_dim: usize, theta: f64) -> Self {
        let kv_width = kv_heads * head_dim;
        let heads = Heads { heads, kv_heads, head_dim, kv_stride: 2 * kv_width, values: kv_width };
        Attention { heads, theta }
    }

    /// Width of a row of memory.
    pub fn memory_width(&self) -> usize {
        self.heads.kv_stride
    }

    /// Rotates all heads of rows by their positions.
    pub fn rotate(&self, x: &mut [f32], width: usize, positions: impl Iterator<Item = usize>) {
        let (level, head_dim) = (Level::best(), self.heads.head_dim);
        let mut from = vec![0.0; width];
        for (row, position) in x.chunks_exact_mut(width).zip(positions) {
            from.copy_from_slice(row);
            let table = Table::get(self.theta, head_dim, position + 1);
            let at = vec![position; width / head_dim];
            rotate(level, &table, &at, (&from, head_dim), row, 1.0, 1.0);
        }
    }

    /// Rows of memory of keys and values `[n, kv_width]` each.
    pub fn memory(&self, keys: &[f32], values: &[f32]) -> Vec<f32> {
        let width = self.heads.values;
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        rows.flat_map(|(k, v)| k.iter().chain(v).copied()).collect()
    }

    /// Each query row `[heads * head_dim]` attends to its own rows of memory.
    pub fn attend<'a>(&self, q: &[f32], memory: impl Fn(usize) -> &'a [f32] + Sync) -> Vec<f32> {
        let width = self.heads.width();
        let mut out = vec![0.0; q.len()];
        let one = |(r, (q, out)): (usize, (&[f32], &mut [f32]))| {
            attend(q, memory(r), &self.heads, out, &mut Vec::new());
        };
        let work: usize = (0..q.len() / width).map(|r| memory(r).len()).sum();
        match work < PARALLEL_WORK / 4 {
            true => {
                q.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate().for_each(one)
            }
            false => q
                .par_chunks_exact(width)
                .zip(out.par_chunks_exact_mut(width))
                .enumerate()
                .for_each(one),
        }
        out
    }
}

multiversion! {
    /// `gate = silu(gate) * up`
    pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }
}

/// Pools the rows of a patch, `[len, dim] -> [dim]`.
pub(crate) fn pool(h: &[f32], dim: usize, pooling: Pooling) -> Vec<f32> {
    let mut y = vec![0.0; dim];
    pool_patch(h, pooling, &mut y, &mut vec![0.0; dim]);
    y
}

/// Entropy in nats of the softmax of each row of logits, `[n, vocab] -> [n]`.
pub(crate) fn entropies(logits: &[f32], vocab: usize) -> Vec<f32> {
    logits.chunks_exact(vocab).map(head::entropy).collect()
}

/// Byte embeddings and hash n-gram tables.
pub(crate) struct Embedding {
    tokens: HostParam,
    hash: Option<(HostParam, HashConfig)>,
}

impl Embedding {
    /// # Errors
    /// A device that failed.
    pub fn read(
        backend: &dyn Backend,
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Result<Self, BackendError> {
        let tokens = backend.host_param(tokens)?;
        let hash = hash.map(|(id, c)| Ok::<_, BackendError>((backend.host_param(id)?, c.clone())));
        Ok(Embedding { tokens, hash: hash.transpose()? })
    }

    /// Ids before an id that its n-grams reach to.
    pub fn look_back(&self) -> usize {
        let sizes = self.hash.iter().flat_map(|(_, config)| &config.sizes);
        sizes.max().map_or(0, |longest| longest - 1)
    }

    /// Width of the states.
    pub fn dim(&self) -> usize {
        self.tokens.shape[1]
    }

    /// States of the ids in `range`, `[range.len(), dim]`. Before them in `ids` stand
    /// [`look_back`](Self::look_back) ids, or as many as there are.
    pub fn states(&self, ids: &[u16], range: Range<usize>) -> Vec<f32> {
        let mut y = vec![0.0; range.len() * self.dim()];
        let token_rows: Vec<u32> = ids[range.clone()].iter().map(|&id| id as u32).collect();
        let tables = self.hash.as_ref().map_or(0, |(_, c)| c.functions * c.sizes.len());
        let mut rows = vec![0; range.len() * tables];
        if let Some((_, config)) = &self.hash {
            hash_range(ids, &[0, ids.len()], range, config, &mut rows);
        }
        let table = self.hash.as_ref().map_or(self.tokens.table(), |(table, _)| table.table());
        if !token_rows.is_empty() {
            gather_sum(self.tokens.table(), &token_rows, table, &rows, self.dim(), &mut y);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::matrix;
    use super::*;
    use crate::backend::Parameters;
    use crate::backend::fused::Fused;

    #[test]
    fn products_match_plain_sums_and_a_row_has_its_bits_among_any_others() {
        for (out, cols) in [(1, 1), (4, 16), (7, 33), (260, 64), (704, 400)] {
            let fused = Fused::new();
            let w = matrix(out, cols, 1);
            let id = fused.add_param([out, cols], w.data.clone(), false).unwrap();
            let weight = Matrix::read(&fused, id).unwrap();
            let x = matrix(9, cols, 2).data;
            let y = weight.apply(&x);
            for (r, x) in x.chunks_exact(cols).enumerate() {
                let y = &y[r * out..][..out];
                assert_eq!(weight.apply(x), y, "{out} {cols}");
                for (w, y) in w.data.chunks_exact(cols).zip(y) {
                    let want: f64 = w.iter().zip(x).map(|(w, x)| *w as f64 * *x as f64).sum();
                    assert!((want - *y as f64).abs() < 1e-6 * cols as f64, "{out} {cols}");
                }
            }
        }
    }
}
