//! Matrix products over row-major `f32` slices: a checked wrapper of the `gemm` crate whose bits
//! are reproducible.
//!
//! `c = alpha * a @ b` or `c += alpha * a @ b`, where a transposed operand is a [`Mat::t`] view, so
//! `A @ B^T` is `serial(1.0, a, b.t(), c, Write::Set)` and `A^T @ B` is `serial(1.0, a.t(), b, c,
//! Write::Set)`.
//!
//! Every element of `c` is the sum over k in ascending order, in chunks of [`K_CHUNK`]: the bits of
//! a row do not depend on how many rows there are, on the tile it falls into, or on the number of
//! threads. The crate alone does not promise that (a product with few rows takes a dot-product
//! kernel, and the depth of its blocks depends on the shape), so narrow products are padded and
//! deep ones cut here; the tests hold it.

use super::buffer::Buffer;
use super::tile::copy_rows;
use crate::simd::Level;
use rayon::prelude::*;

/// Rows of `c` that one task of [`parallel`] computes: enough to reuse the packed other operand,
/// few enough to share out.
pub(crate) const ROW_TILE: usize = 128;

/// Products with fewer rows or columns are padded to these: where `c` has at most 256 elements the
/// crate sums by dot products, and a single row or column is a matrix-vector product, both with
/// other bits.
const MIN_ROWS: usize = 16;
const MIN_COLS: usize = 17;

/// Depth summed in one go. At most 512, where the crate's own blocking would begin to depend on the
/// shape.
const K_CHUNK: usize = 512;

/// Below this many multiply-adds a product is computed by one thread.
const PARALLEL_WORK: usize = 1 << 18;

/// Whether a product replaces `c` or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Set,
    Add,
}

/// A matrix read from a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A row-major matrix written to a slice: element (i, j) is `data[i * stride + j]`.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// Slice length that a matrix needs.
fn extent(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols }
}

impl<'a> Mat<'a> {
    /// A contiguous row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `stride` elements apart (a band of columns of a wider
    /// matrix).
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(stride >= cols, "rows of {cols} columns do not fit a stride of {stride}");
        let need = extent(rows, cols, stride);
        assert!(
            data.len() >= need,
            "a {rows} x {cols} matrix of stride {stride} needs {need} elements, got {}",
            data.len()
        );
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `start .. start + count`.
    fn row_band(self, start: usize, count: usize) -> Self {
        debug_assert!(start + count <= self.rows);
        Self {
            data: &self.data[(start * self.row_stride).min(self.data.len())..],
            rows: count,
            ..self
        }
    }

    /// Columns `start .. start + count`.
    fn col_band(self, start: usize, count: usize) -> Self {
        self.t().row_band(start, count).t()
    }

    /// A contiguous row-major copy, widened with zeros to `rows` x `cols`.
    fn packed(self, rows: usize, cols: usize) -> Vec<f32> {
        let mut copy = vec![0.0; rows * cols];
        for i in 0..self.rows {
            for j in 0..self.cols {
                copy[i * cols + j] = self.data[i * self.row_stride + j * self.col_stride];
            }
        }
        copy
    }
}

impl<'a> MatMut<'a> {
    /// A contiguous row-major matrix.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `stride` elements apart.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(stride >= cols, "rows of {cols} columns do not fit a stride of {stride}");
        let need = extent(rows, cols, stride);
        assert!(
            data.len() >= need,
            "a {rows} x {cols} matrix of stride {stride} needs {need} elements, got {}",
            data.len()
        );
        Self { data, rows, cols, stride }
    }

    fn reborrow(&mut self) -> MatMut<'_> {
        MatMut { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }
}

fn check(a: &Mat, b: &Mat, c: &MatMut) {
    assert!(
        a.rows == c.rows && a.cols == b.rows && b.cols == c.cols,
        "[{}, {}] @ [{}, {}] is not [{}, {}]",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        c.rows,
        c.cols
    );
}

/// `c = alpha * a @ b` (or `c +=`) on the calling thread.
pub(crate) fn serial(alpha: f32, a: Mat, b: Mat, mut c: MatMut, write: Write) {
    check(&a, &b, &c);
    let (rows, cols) = (c.rows.max(MIN_ROWS), c.cols.max(MIN_COLS));
    if c.rows == 0 || c.cols == 0 || (rows, cols) == (c.rows, c.cols) {
        return chunked(alpha, a, b, c, write);
    }
    let (wide_a, wide_b);
    let a = if rows > a.rows {
        wide_a = a.packed(rows, a.cols);
        Mat::new(&wide_a, rows, a.cols)
    } else {
        a
    };
    let b = if cols > b.cols {
        wide_b = b.packed(b.rows, cols);
        Mat::new(&wide_b, b.rows, cols)
    } else {
        b
    };
    let mut wide_c = vec![0.0; rows * cols];
    if write == Write::Add {
        copy_rows(Level::best(), (c.rows, c.cols), (c.data, c.stride), (&mut wide_c, cols));
    }
    chunked(alpha, a, b, MatMut::new(&mut wide_c, rows, cols), write);
    let c = c.reborrow();
    copy_rows(Level::best(), (c.rows, c.cols), (&wide_c, cols), (c.data, c.stride));
}

fn chunked(alpha: f32, a: Mat, b: Mat, mut c: MatMut, write: Write) {
    let k = a.cols;
    if k == 0 && write == Write::Set {
        for i in 0..c.rows {
            c.data[i * c.stride..][..c.cols].fill(0.0);
        }
    }
    let mut add = write == Write::Add;
    for start in (0..k).step_by(K_CHUNK) {
        let depth = K_CHUNK.min(k - start);
        product(alpha, a.col_band(start, depth), b.row_band(start, depth), c.reborrow(), add);
        add = true;
    }
}

fn product(alpha: f32, a: Mat, b: Mat, c: MatMut, add: bool) {
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    // SAFETY: the constructors of `Mat` and `MatMut` checked that every (row, column) lies in its
    // slice, `check` that the shapes agree, and c is borrowed mutably, so it overlaps neither
    // operand.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            1,
            c.stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// As [`serial`], row tiles of c shared out to rayon's threads. The bits are those of [`serial`].
pub(crate) fn parallel(alpha: f32, a: Mat, b: Mat, c: MatMut, write: Write) {
    check(&a, &b, &c);
    let (rows, cols, stride) = (c.rows, c.cols, c.stride);
    if rows * cols * a.cols < PARALLEL_WORK || rows <= 1 {
        return serial(alpha, a, b, c, write);
    }
    // A product with few rows (a weight's gradient) is still cut in several tiles.
    let tile = ROW_TILE.min(rows.div_ceil(4).next_multiple_of(MIN_ROWS));
    let need = extent(rows, cols, stride);
    c.data[..need].par_chunks_mut(tile * stride).enumerate().for_each(|(t, band)| {
        let count = tile.min(rows - t * tile);
        serial(
            alpha,
            a.row_band(t * tile, count),
            b,
            MatMut::strided(band, count, cols, stride),
            write,
        );
    });
}

/// The best rate of large `f32` products that this machine was seen to reach now, on rayon's
/// threads, in FLOP/s: what shares of the machine are measured against. Takes about a second.
pub(crate) fn machine_rate() -> f64 {
    let rate = |n: usize| {
        let filled = |value| {
            let mut data = Buffer::new(n * n);
            data.fill(value);
            data
        };
        let (a, b, mut c) = (filled(1.0), filled(0.5), filled(0.0));
        let mut best = 0.0f64;
        for _ in 0..8 {
            let started = std::time::Instant::now();
            parallel(
                1.0,
                Mat::new(&a, n, n),
                Mat::new(&b, n, n),
                MatMut::new(&mut c, n, n),
                Write::Set,
            );
            best = best.max(2.0 * (n as f64).powi(3) / started.elapsed().as_secs_f64());
        }
        std::hint::black_box(c);
        best
    };
    rate(1024).max(rate(2048))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn naive(alpha: f64, a: &Mat, b: &Mat, c: &[f32], write: Write) -> Vec<f64> {
        let mut out = vec![0.0; a.rows * b.cols];
        for i in 0..a.rows {
            for j in 0..b.cols {
                let mut sum = 0.0;
                for k in 0..a.cols {
                    sum += a.data[i * a.row_stride + k * a.col_stride] as f64
                        * b.data[k * b.row_stride + j * b.col_stride] as f64;
                }
                out[i * b.cols + j] =
                    alpha * sum + if write == Write::Add { c[i * b.cols + j] as f64 } else { 0.0 };
            }
        }
        out
    }

    const SHAPES: [(usize, usize, usize); 12] = [
        (0, 8, 8),
        (3, 0, 5),
        (4, 5, 0),
        (1, 1, 1),
        (1, 64, 64),
        (5, 16, 32),
        (17, 3, 2),
        (130, 33, 65),
        (16, 16, 700),
        (64, 64, 1100),
        (300, 96, 129),
        (257, 128, 513),
    ];

    #[test]
    fn products_match_a_plain_loop() {
        for (m, n, k) in SHAPES {
            let (a, b, start) = (noise(m * k, 1), noise(k * n, 2), noise(m * n, 3));
            let a_views = [Mat::new(&a, m, k), Mat::new(&a, k, m).t()];
            let b_views = [Mat::new(&b, k, n), Mat::new(&b, n, k).t()];
            for (a, b) in a_views.iter().flat_map(|a| b_views.iter().map(move |b| (a, b))) {
                for (alpha, write) in [(1.0, Write::Set), (0.5, Write::Add)] {
                    let want = naive(alpha as f64, a, b, &start, write);
                    for run in [serial, parallel] {
                        let mut c = start.clone();
                        run(alpha, *a, *b, MatMut::new(&mut c, m, n), write);
                        let bound = 1e-6 * (k as f64 + 1.0);
                        assert!(
                            c.iter().zip(&want).all(|(c, w)| (*c as f64 - w).abs() < bound),
                            "{m} {n} {k} {write:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn strides_leave_the_gaps_alone() {
        let (a, b) = (noise(20 * 10, 1), noise(30 * 12, 2));
        let mut c = vec![7.0; 20 * 40];
        parallel(
            1.0,
            Mat::strided(&a, 20, 8, 10),
            Mat::strided(&b, 30, 8, 12).t(),
            MatMut::strided(&mut c, 20, 30, 40),
            Write::Set,
        );
        for i in 0..20 {
            for j in 0..40 {
                let want: f64 = (0..8)
                    .map(|k| a[i * 10 + k] as f64 * b.get(j * 12 + k).map_or(0.0, |x| *x as f64))
                    .sum();
                assert!((c[i * 40 + j] as f64 - if j < 30 { want } else { 7.0 }).abs() < 1e-5);
            }
        }
    }

    /// A row alone, among few, at any place of a tile, and among many: the same bits.
    #[test]
    fn bits_of_a_row_do_not_depend_on_the_others() {
        let many = 300;
        for (n, k) in [
            (1, 64),
            (5, 3),
            (8, 2),
            (16, 64),
            (32, 600),
            (64, 64),
            (64, 1536),
            (128, 384),
            (704, 256),
            (260, 1408),
            (1536, 512),
        ] {
            let (a, b, start) = (noise(many * k, 4), noise(n * k, 5), noise(many * n, 6));
            for b in [Mat::new(&b, n, k).t(), Mat::new(&b, k, n)] {
                let mut all = start.clone();
                serial(1.0, Mat::new(&a, many, k), b, MatMut::new(&mut all, many, n), Write::Add);
                for (first, count) in [
                    (0, 1),
                    (299, 1),
                    (7, 2),
                    (3, 4),
                    (11, 5),
                    (16, 8),
                    (100, 15),
                    (31, 16),
                    (5, 17),
                    (60, 33),
                    (1, 129),
                    (0, 299),
                ] {
                    let mut few = start[first * n..][..count * n].to_vec();
                    serial(
                        1.0,
                        Mat::new(&a[first * k..], count, k),
                        b,
                        MatMut::new(&mut few, count, n),
                        Write::Add,
                    );
                    assert!(
                        few.iter().zip(&all[first * n..]).all(|(x, y)| x.to_bits() == y.to_bits()),
                        "{count} rows at {first}, n {n} k {k}"
                    );
                }
            }
        }
    }

    /// Forward shapes, and a weight's gradient with its deep k.
    #[test]
    fn bits_do_not_depend_on_threads() {
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (one, three) = (pool(1), pool(3));
        for (m, n, k, weight) in [
            (700, 384, 128, false),
            (1000, 64, 1536, false),
            (384, 128, 4100, true),
            (64, 64, 999, true),
            (37, 300, 700, true),
        ] {
            let (a, b) = (noise(m * k, 7), noise(n * k, 8));
            let run = || {
                let mut c = vec![0.0; m * n];
                let (a, b) = if weight {
                    (Mat::new(&a, k, m).t(), Mat::new(&b, k, n))
                } else {
                    (Mat::new(&a, m, k), Mat::new(&b, n, k).t())
                };
                parallel(1.0, a, b, MatMut::new(&mut c, m, n), Write::Set);
                let mut alone = vec![0.0; m * n];
                serial(1.0, a, b, MatMut::new(&mut alone, m, n), Write::Set);
                assert_eq!(c, alone);
                c
            };
            assert_eq!(one.install(run), three.install(run));
        }
    }

    #[test]
    #[should_panic(expected = "[2, 3] @ [4, 5] is not [2, 5]")]
    fn shapes_are_checked() {
        serial(
            1.0,
            Mat::new(&[0.0; 6], 2, 3),
            Mat::new(&[0.0; 20], 4, 5),
            MatMut::new(&mut [0.0; 10], 2, 5),
            Write::Set,
        );
    }

    #[test]
    #[should_panic(expected = "needs 6 elements, got 5")]
    fn slices_are_checked() {
        Mat::new(&[0.0; 5], 2, 3);
    }
}
