//! Matrix products of tiles that sit in the caches: the inner loops of the block.
//!
//! A tile is [`ROWS`] rows of an activation, its columns in panels of [`PANEL`],
//! `[panel][ROWS][PANEL]`, and a weight is packed once per call in panels of output columns,
//! `[panel][k][PANEL]`, so that a microkernel reads both in runs and no product packs anything
//! again. (At the model's shapes, tiles of 96 rows, one thread: 225 to 260 GFLOP/s; the `gemm`
//! crate, which packs its operands in every call, 130 to 240.)
//!
//! Each element is one chain of multiply-adds over k ascending: its bits do not depend on the shape
//! around it.

#[cfg(test)]
mod tests;

use super::buffer::{Buffer, Scratch};
use crate::simd::{LANES, Level, Simd, kernel};
use rayon::prelude::*;
use std::iter;

/// Rows of a tile: a multiple of the microkernels' 6 and 12 rows, small enough that a tile's
/// activations stay in L2.
pub(crate) const ROWS: usize = 96;

/// Columns of a panel.
pub(crate) const PANEL: usize = 64;

/// Elements of one panel of a tile.
pub(crate) const BLOCK: usize = ROWS * PANEL;

/// Depth of a weight panel's part that stays in L1 while the rows of a tile pass by; a multiple of
/// [`PANEL`]. A part takes half of an L1 of 32 KiB.
const DEPTH: usize = 64;

/// A line of [`Right::next`] is fetched every so many steps of k: a tile of 96 rows fetches a part
/// of [`DEPTH`] while it uses another.
const FETCH: usize = 4;

/// Panels of `cols` columns.
pub(crate) fn panels(cols: usize) -> usize {
    cols.div_ceil(PANEL)
}

/// Columns of each of them, up to whole vectors.
fn widths(cols: usize) -> impl Iterator<Item = usize> {
    (0..cols).step_by(PANEL).map(move |first| PANEL.min((cols - first).next_multiple_of(LANES)))
}

/// The left operand of a product: element (row, k) is
/// `data[row * row_stride + (k / PANEL) * panel_stride + (k % PANEL) * k_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub k_stride: usize,
    pub panel_stride: usize,
}

impl<'a> Left<'a> {
    /// A tile in panels.
    pub fn tile(data: &'a [f32]) -> Self {
        Self { data, row_stride: PANEL, k_stride: 1, panel_stride: BLOCK }
    }

    /// Element (row, k) at `row * row_stride + k * k_stride`.
    pub fn strided(data: &'a [f32], row_stride: usize, k_stride: usize) -> Self {
        Self { data, row_stride, k_stride, panel_stride: PANEL * k_stride }
    }
}

/// The right operand of a product: element (k, column) is `data[k * stride + column]`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    data: &'a [f32],
    stride: usize,
    /// What a product after this one reads: fetched to the caches beside it. Changes no number.
    next: &'a [f32],
}

impl<'a> Right<'a> {
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride, next: &[] }
    }

    /// Fetches `next`, which the product after this one reads, beside this one.
    pub fn fetching(self, next: &'a [f32]) -> Self {
        Self { next, ..self }
    }
}

/// What becomes of c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// The product replaces it.
    Set,
    /// The chain of multiply-adds starts from it, so that cutting k anywhere gives the same bits.
    Chain,
    /// The product is summed on its own, then added.
    Add,
}

/// # Safety
/// Row r < MR and k' < k of a, row k' < k and NV vectors of b, and row r < MR and NV vectors of c
/// lie in their buffers; c overlaps neither operand.
#[inline(always)]
unsafe fn micro<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    k: usize,
    (a, a_row, a_k, a_panel): (*const f32, usize, usize, usize),
    (b, ldb): (*const f32, usize),
    mut next: &[f32],
    (c, ldc): (*mut f32, usize),
    into: Into,
) {
    // SAFETY: by the contract above; a pointer to sixteen floats of a buffer is one to an array of
    // them.
    unsafe {
        let mut acc = [[s.splat(0.0); NV]; MR];
        if into == Into::Chain {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = s.load(&*c.add(r * ldc + v * LANES).cast());
                }
            }
        }
        let (mut a, mut b, mut left) = (a, b, k);
        while left > 0 {
            let depth = left.min(PANEL);
            for kk in 0..depth {
                if kk % FETCH == 0
                    && let Some((line, rest)) = next.split_first_chunk()
                {
                    s.fetch(line);
                    next = rest;
                }
                let mut bv = [s.splat(0.0); NV];
                for (v, bv) in bv.iter_mut().enumerate() {
                    *bv = s.load(&*b.add(kk * ldb + v * LANES).cast());
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let av = s.splat(*a.add(r * a_row + kk * a_k));
                    for (acc, bv) in acc.iter_mut().zip(bv) {
                        *acc = s.mul_add(av, bv, *acc);
                    }
                }
            }
            left -= depth;
            a = a.wrapping_add(a_panel);
            b = b.wrapping_add(depth * ldb);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                let to = &mut *c.add(r * ldc + v * LANES).cast();
                let sum = if into == Into::Add { s.add(s.load(to), acc) } else { acc };
                s.store(to, sum);
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn band_body<S: Simd>(
    s: S,
    (rows, cols, k): (usize, usize, usize),
    a: Left,
    Right { data: b, stride: ldb, mut next }: Right,
    c: &mut [f32],
    ldc: usize,
    into: Into,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(
        cols.is_multiple_of(LANES) && c.len() >= (rows - 1) * ldc + cols,
        "c holds {rows} rows of {cols} columns"
    );
    if k > 0 {
        assert!(b.len() >= (k - 1) * ldb + cols, "b holds {k} rows of {cols} columns");
        let panel_end = |p: usize| p * a.panel_stride + (PANEL.min(k - p * PANEL) - 1) * a.k_stride;
        let last = panel_end(0)
            .max(panel_end((k - 1) / PANEL))
            .max(panel_end(((k - 1) / PANEL).saturating_sub(1)));
        assert!(
            a.data.len() > (rows - 1) * a.row_stride + last,
            "a holds {rows} rows of {k} columns"
        );
    }
    macro_rules! rows_of {
        ($nv:literal, $col:expr, [$($mr:literal),*]) => {{
            let mut row = 0;
            $(
                while rows - row >= $mr {
                    let fetched = next.split_off(..(k.div_ceil(FETCH) * LANES).min(next.len())).unwrap_or_default();
                    // SAFETY: the asserts above; row + MR <= rows and col + NV * LANES <= cols.
                    unsafe {
                        let a = (a.data.as_ptr().add(row * a.row_stride), a.row_stride, a.k_stride, a.panel_stride);
                        let c = (c.as_mut_ptr().add(row * ldc + $col), ldc);
                        micro::<S, $mr, $nv>(s, k, a, (b.as_ptr().add($col), ldb), fetched, c, into);
                    }
                    row += $mr;
                }
            )*
            debug_assert_eq!(row, rows);
        }};
    }
    let mut col = 0;
    while col < cols {
        let left = (cols - col) / LANES;
        if S::WIDE && left >= 4 {
            rows_of!(4, col, [6, 4, 2, 1]);
            col += 4 * LANES;
        } else if S::WIDE && left >= 3 {
            rows_of!(3, col, [8, 4, 2, 1]);
            col += 3 * LANES;
        } else if left >= 2 {
            if S::WIDE {
                rows_of!(2, col, [12, 4, 1]);
            } else {
                rows_of!(2, col, [3, 1]);
            }
            col += 2 * LANES;
        } else {
            if S::WIDE {
                rows_of!(1, col, [16, 4, 1]);
            } else {
                rows_of!(1, col, [6, 1]);
            }
            col += LANES;
        }
    }
}

kernel!(
    /// `c (=|+=) a @ b`, `shape` (rows, cols, k): b `[k, cols]`, c `[rows, cols]` with rows `ldc` apart, cols a multiple of
    /// [`LANES`].
    pub(crate) fn band(shape: (usize, usize, usize), a: Left, b: Right, c: &mut [f32], ldc: usize, into: Into) = band_body
);

#[inline(always)]
fn pack_columns_body<S: Simd>(
    s: S,
    from: &[f32],
    stride: usize,
    rows: usize,
    cols: usize,
    to: &mut [f32],
) {
    for (p, panel) in
        to.chunks_exact_mut((PANEL * cols).max(1)).take(rows.div_ceil(PANEL)).enumerate()
    {
        for first in (0..PANEL).step_by(LANES) {
            let (row, count) =
                (p * PANEL + first, rows.saturating_sub(p * PANEL + first).min(LANES));
            for col in (0..cols).step_by(LANES) {
                let width = LANES.min(cols - col);
                let to = &mut panel[col * PANEL + first..];
                if count == LANES && width == LANES {
                    let mut block = [s.splat(0.0); LANES];
                    for (r, v) in block.iter_mut().enumerate() {
                        if let Some(row) = from[(row + r) * stride + col..].first_chunk() {
                            *v = s.load(row);
                        }
                    }
                    for (c, v) in s.transpose(block).into_iter().enumerate() {
                        if let Some(to) = to[c * PANEL..].first_chunk_mut() {
                            s.store(to, v);
                        }
                    }
                } else {
                    for c in 0..width {
                        let to = &mut to[c * PANEL..][..LANES];
                        for (r, x) in to.iter_mut().enumerate() {
                            *x = if r < count { from[(row + r) * stride + col + c] } else { 0.0 };
                        }
                    }
                }
            }
        }
    }
}

kernel!(
    /// Transposes `rows` rows of `cols` elements, `stride` apart, to panels `[cols][PANEL]` of 64 rows each, zeros after the
    /// last row.
    pub(crate) fn pack_columns(from: &[f32], stride: usize, rows: usize, cols: usize, to: &mut [f32]) = pack_columns_body
);

/// A weight as the right operand of products, in panels of output columns. Weights start on panels
/// of their own; the columns and rows that this adds are zero, and whole vectors and rows of them
/// are passed over.
pub(crate) struct Panels {
    data: Buffer,
    k: usize,
    /// Columns of each panel that a product computes, in whole vectors.
    widths: Vec<usize>,
    /// Where the parts of k that are multiplied at a time begin, and how deep they are.
    parts: Vec<(usize, usize)>,
}

/// Parts of weights of so many rows each, which begin on multiples of [`PANEL`].
fn parts(rows: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut first = 0;
    let of_weight = |rows: usize| {
        let start = first;
        first += panels(rows) * PANEL;
        (0..rows).step_by(DEPTH).map(move |at| (start + at, DEPTH.min(rows - at)))
    };
    rows.flat_map(of_weight).collect()
}

impl Panels {
    /// For `x @ W^T`: weights `[out, k]`, their outputs side by side.
    pub fn transposed(level: Level, weights: &[(&[f32], usize)], k: usize) -> Self {
        let count: usize = weights.iter().map(|(_, out)| panels(*out)).sum();
        let mut data = Buffer::new(count * k * PANEL);
        let sources: Vec<&[f32]> =
            weights.iter().flat_map(|(w, out)| w[..out * k].chunks((PANEL * k).max(1))).collect();
        data.par_chunks_mut((k * PANEL).max(1)).zip(sources).for_each(|(panel, rows)| {
            pack_columns(level, rows, k, rows.len() / k, k, panel);
        });
        let widths = weights.iter().flat_map(|(_, out)| widths(*out)).collect();
        Self { data, k, widths, parts: parts(iter::once(k)) }
    }

    /// For `y @ W`: weights `[out, cols]`, one below the other, so k is the sum of their outputs,
    /// each rounded up to panels.
    pub fn stacked(weights: &[(&[f32], usize)], cols: usize) -> Self {
        let k: usize = weights.iter().map(|(_, out)| panels(*out) * PANEL).sum();
        let mut data = Buffer::new(panels(cols) * k * PANEL);
        data.par_chunks_mut((k * PANEL).max(1)).enumerate().for_each(|(p, panel)| {
            let width = PANEL.min(cols - p * PANEL);
            let mut to = panel.as_chunks_mut::<PANEL>().0.iter_mut();
            for (w, out) in weights {
                let rows =
                    w[..out * cols].chunks_exact(cols).map(Some).chain(std::iter::repeat(None));
                for (row, to) in rows.zip(to.by_ref().take(panels(*out) * PANEL)) {
                    match row {
                        Some(row) => {
                            to[..width].copy_from_slice(&row[p * PANEL..][..width]);
                            to[width..].fill(0.0);
                        }
                        None => to.fill(0.0),
                    }
                }
            }
        });
        Self {
            data,
            k,
            widths: widths(cols).collect(),
            parts: parts(weights.iter().map(|(_, out)| *out)),
        }
    }

    /// `c = a @ self`, or the chains start from c; a has `k` columns. Panel p of c starts at `p *
    /// panel_stride`, its rows are `row_stride` apart.
    pub fn apply(
        &self,
        level: Level,
        rows: usize,
        a: Left,
        c: &mut [f32],
        (row_stride, panel_stride): (usize, usize),
        into: Into,
    ) {
        for (p, &width) in self.widths.iter().enumerate() {
            let c = &mut c[p * panel_stride..];
            for (i, &(start, depth)) in self.parts.iter().enumerate() {
                let part = if i == 0 { into } else { Into::Chain };
                let a = Left { data: &a.data[start / PANEL * a.panel_stride..], ..a };
                let at = (p * self.k + start) * PANEL;
                // After the last part of a panel the first one of the next, and after the last
                // panel the first, of the tile after this.
                let next = match self.parts.get(i + 1) {
                    Some((start, _)) => (p * self.k + start) * PANEL,
                    None if p + 1 < self.widths.len() => (p + 1) * self.k * PANEL,
                    None => 0,
                };
                let next = &self.data[next..];
                let next = &next[..next.len().min(DEPTH * PANEL)];
                let b = Right::new(&self.data[at..][..depth * PANEL], PANEL).fetching(next);
                band(level, (rows, width, depth), a, b, c, row_stride, part);
            }
            if into == Into::Set && width < PANEL {
                c.chunks_mut(row_stride).take(rows).for_each(|row| row[width..PANEL].fill(0.0));
            }
        }
    }

    /// Adds `tile @ self` to rows `[rows, cols]`: the chains start from them.
    pub fn apply_to_rows(&self, level: Level, tile: &[f32], rows: &mut [f32], cols: usize) {
        let count = rows.len() / cols;
        if cols.is_multiple_of(PANEL) {
            return self.apply(level, count, Left::tile(tile), rows, (cols, PANEL), Into::Chain);
        }
        let mut sum = Scratch::new(panels(cols) * BLOCK);
        to_tile(rows, cols, &mut sum);
        self.apply_tile(level, count, tile, &mut sum, Into::Chain);
        from_tile(&sum, cols, rows);
    }

    /// [`Panels::apply`] to tiles in panels.
    pub fn apply_tile(&self, level: Level, rows: usize, a: &[f32], c: &mut [f32], into: Into) {
        self.apply(level, rows, Left::tile(a), c, (PANEL, BLOCK), into);
    }
}

#[inline(always)]
fn copy_rows_body<S: Simd>(
    s: S,
    (rows, width): (usize, usize),
    (from, from_stride): (&[f32], usize),
    (to, to_stride): (&mut [f32], usize),
) {
    for r in 0..rows {
        let (from, to) = (&from[r * from_stride..][..width], &mut to[r * to_stride..][..width]);
        for (to, from) in to.chunks_mut(LANES).zip(from.chunks(LANES)) {
            s.store_part(to, s.load_part(from));
        }
    }
}

kernel!(
    /// Copies `shape` (rows, width) elements between rows of any strides: a head's rows are short, and a call of the C library for each
    /// costs more than the copying.
    pub(crate) fn copy_rows(shape: (usize, usize), from: (&[f32], usize), to: (&mut [f32], usize)) = copy_rows_body
);

/// Copies `rows` rows `[rows, width]`, contiguous, to columns `column ..` of a tile.
pub(crate) fn put_rows(level: Level, rows: usize, from: &[f32], column: usize, tile: &mut [f32]) {
    let width = from.len() / rows.max(1);
    let mut at = 0;
    while at < width {
        let (panel, first) = ((column + at) / PANEL, (column + at) % PANEL);
        let part = (width - at).min(PANEL - first);
        copy_rows(
            level,
            (rows, part),
            (&from[at..], width),
            (&mut tile[panel * BLOCK + first..], PANEL),
        );
        at += part;
    }
}

/// Copies rows of `cols` contiguous elements into a tile; the columns added to the last panel
/// become zero.
pub(crate) fn to_tile(rows: &[f32], cols: usize, tile: &mut [f32]) {
    let count = rows.len() / cols;
    put_rows(Level::best(), count, &rows[..count * cols], 0, tile);
    if !cols.is_multiple_of(PANEL) {
        let last = &mut tile[cols / PANEL * BLOCK..][..count * PANEL];
        last.chunks_exact_mut(PANEL).for_each(|row| row[cols % PANEL..].fill(0.0));
    }
}

/// Rows `[rows, dim]` as a left operand of whole panels: as they are, or else copied into `tile`.
pub(crate) fn rows_left<'a>(rows: &'a [f32], dim: usize, tile: &'a mut [f32]) -> Left<'a> {
    if dim.is_multiple_of(PANEL) {
        return Left::strided(rows, dim, 1);
    }
    to_tile(rows, dim, tile);
    Left::tile(tile)
}

/// Copies a tile out to rows of `cols` contiguous elements.
pub(crate) fn from_tile(tile: &[f32], cols: usize, rows: &mut [f32]) {
    let count = rows.len() / cols;
    for first in (0..cols).step_by(PANEL) {
        let from = (&tile[first / PANEL * BLOCK..], PANEL);
        copy_rows(
            Level::best(),
            (count, PANEL.min(cols - first)),
            from,
            (&mut rows[first..], cols),
        );
    }
}
