//! Tiles of queries over blocks of keys, which of them see each other, and their products.

use crate::backend::fused::tile::{Into, Left, PANEL, Right, band, copy_rows};
use crate::simd::{LANES, Level, Simd, kernel};
use std::ops::Range;

/// Queries of a tile: three vectors, so that a microkernel of eight rows fills the registers.
pub(super) const QUERIES: usize = 48;

/// Keys of a group: each is one row of scores, and a vector of queries sees some of a group's keys,
/// all or none.
pub(super) const GROUP: usize = LANES;

/// Which heads there are. Their queries, keys and values lie in planes, `[heads + 2 *
/// kv_heads][n][head_dim]`: of the queries, then the keys, then the values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub window: Option<usize>,
}

impl Layout {
    pub fn planes(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    /// The first key that query i sees.
    pub(super) fn first_key(&self, i: usize) -> usize {
        self.window.map_or(0, |window| (i + 1).saturating_sub(window))
    }

    /// The query, key and value rows of head h in one span, each `[span.len(), head_dim]`.
    pub(super) fn rows<'a>(
        &self,
        planes: &'a [f32],
        h: usize,
        span: Range<usize>,
    ) -> [&'a [f32]; 3] {
        let kv = self.heads + h / (self.heads / self.kv_heads);
        let size = planes.len() / self.planes();
        [h, kv, kv + self.kv_heads].map(|plane| {
            &planes[plane * size..][span.start * self.head_dim..span.end * self.head_dim]
        })
    }
}

/// Shares of `len`, about equal and not much greater than `most`, a multiple of `of`.
pub(super) fn even_share(len: usize, most: usize, of: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(of).max(of)
}

/// A tile of queries, and which keys its vectors see. `start` and a block's first key are multiples
/// of [`GROUP`].
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) start: usize,
    /// Vectors of queries; lanes after the last query hold zeros.
    pub(super) vectors: usize,
    pub(super) window: Option<usize>,
}

impl Tile {
    pub(super) fn new(layout: &Layout, queries: &Range<usize>) -> Self {
        Self { start: queries.start, vectors: queries.len().div_ceil(LANES), window: layout.window }
    }

    /// The keys, in whole groups, that some query of vector v sees.
    pub(super) fn keys(&self, v: usize) -> Range<usize> {
        let first = self.start + v * LANES;
        let from = self.window.map_or(0, |window| (first + 1).saturating_sub(window));
        from / GROUP * GROUP..first + GROUP
    }

    /// Those of them in a block of `len` keys, in whole groups, counted from its start.
    pub(super) fn keys_in(&self, v: usize, block: usize, len: usize) -> Range<usize> {
        let (keys, end) = (self.keys(v), block + len.next_multiple_of(GROUP));
        keys.start.clamp(block, end) - block..keys.end.clamp(block, end) - block
    }

    /// Lanes of vector v that see the key.
    #[inline(always)]
    pub(super) fn mask(&self, v: usize, key: usize) -> u16 {
        // Query q sees the keys q - window + 1 ..= q.
        let first = (self.start + v * LANES) as isize;
        let low = key as isize - first;
        let high = self.window.map_or(LANES as isize, |window| low.saturating_add_unsigned(window));
        let bits = |bound: isize| (1u32 << bound.clamp(0, LANES as isize)) - 1;
        (bits(high) & !bits(low)) as u16
    }

    /// Whether every lane of vector v sees the whole group of keys from `key` on.
    #[inline(always)]
    pub(super) fn sees_all(&self, v: usize, key: usize) -> bool {
        let first = self.start + v * LANES;
        key + GROUP <= first + 1
            && self.window.is_none_or(|window| key.saturating_add(window) > first + LANES - 1)
    }

    /// Calls `f` with runs of a block's keys (from its start) and the vectors that see some key of
    /// each of their groups.
    pub(super) fn runs(
        &self,
        block: usize,
        len: usize,
        mut f: impl FnMut(Range<usize>, Range<usize>),
    ) {
        let whole = 0..len.next_multiple_of(GROUP);
        if (0..self.vectors).all(|v| self.keys_in(v, block, len) == whole) {
            return f(0..len, 0..self.vectors);
        }
        let seen = |group: usize| {
            let sees = |v: &usize| self.keys_in(*v, block, len).contains(&group);
            // Vectors see ascending ranges, so those that see a group are neighbours.
            let from = (0..self.vectors).find(sees).unwrap_or(0);
            from..(from..self.vectors).rfind(sees).map_or(from, |last| last + 1)
        };
        let mut from = 0;
        while from < len {
            let vectors = seen(from);
            let mut to = from + GROUP;
            while to < len && seen(to) == vectors {
                to += GROUP;
            }
            if !vectors.is_empty() {
                f(from..to.min(len), vectors);
            }
            from = to;
        }
    }
}

/// Copies rows of `head_dim` elements, `stride` apart, to rows of `width`, zeros after them.
pub(super) fn pack_rows(
    level: Level,
    from: &[f32],
    stride: usize,
    head_dim: usize,
    to: &mut [f32],
    width: usize,
) {
    let rows = from.len().div_ceil(stride);
    copy_rows(level, (rows, head_dim), (from, stride), (to, width));
    if head_dim < width {
        to.chunks_exact_mut(width).take(rows).for_each(|row| row[head_dim..].fill(0.0));
    }
}

/// `scores = keys @ queries` of a block's runs: `keys` `[keys][head_dim]` from the block's first
/// on, `queries` `[head_dim][PANEL]`.
pub(super) fn score(
    level: Level,
    tile: &Tile,
    block: usize,
    len: usize,
    keys: &[f32],
    queries: &[f32],
    scores: &mut [f32],
) {
    let head_dim = queries.len() / PANEL;
    tile.runs(block, len, |run, vectors| {
        let column = vectors.start * LANES;
        let shape = (run.len(), vectors.len() * LANES, head_dim);
        let keys = Left::strided(&keys[run.start * head_dim..], head_dim, 1);
        let to = &mut scores[run.start * QUERIES + column..];
        band(level, shape, keys, Right::new(&queries[column..], PANEL), to, QUERIES, Into::Set);
    });
}

/// `sums [head_dim][QUERIES] += rows^T @ weights` of a block's runs: `rows` `[keys][head_dim]` from
/// the block's first on, `weights` `[keys][QUERIES]`.
pub(super) fn gather(
    level: Level,
    tile: &Tile,
    block: usize,
    len: usize,
    rows: &[f32],
    weights: &[f32],
    sums: &mut [f32],
) {
    let head_dim = sums.len() / QUERIES;
    tile.runs(block, len, |run, vectors| {
        let column = vectors.start * LANES;
        let shape = (head_dim, vectors.len() * LANES, run.len());
        let rows = Left::strided(&rows[run.start * head_dim..], 1, head_dim);
        let weights = Right::new(&weights[run.start * QUERIES + column..], QUERIES);
        band(level, shape, rows, weights, &mut sums[column..], QUERIES, Into::Chain);
    });
}

/// Vector v of a row of [`QUERIES`].
#[inline(always)]
pub(super) fn lanes_of(row: &[f32], v: usize) -> &[f32; LANES] {
    &row.as_chunks().0[v]
}

#[inline(always)]
pub(super) fn lanes_of_mut(row: &mut [f32], v: usize) -> &mut [f32; LANES] {
    &mut row.as_chunks_mut().0[v]
}

#[inline(always)]
fn turn_body<S: Simd>(s: S, columns: &[f32], scale: &[f32], rows: &mut [f32]) {
    let head_dim = columns.len() / QUERIES;
    for (r, rows) in rows.chunks_mut(LANES * head_dim).enumerate() {
        let scale = s.load(lanes_of(scale, r));
        for (c, columns) in columns.chunks(LANES * QUERIES).enumerate() {
            let mut block = [s.splat(0.0); LANES];
            for (v, column) in block.iter_mut().zip(columns.chunks_exact(QUERIES)) {
                *v = s.mul(s.load(lanes_of(column, r)), scale);
            }
            for (row, v) in rows.chunks_exact_mut(head_dim).zip(s.transpose(block)) {
                let to = &mut row[c * LANES..];
                let width = to.len().min(LANES);
                s.store_part(&mut to[..width], v);
            }
        }
    }
}

kernel!(
    /// `rows [queries, head_dim] = columns^T * scale`, of `columns` `[head_dim, QUERIES]` and `scale`
    /// `[QUERIES]`.
    pub(super) fn turn(columns: &[f32], scale: &[f32], rows: &mut [f32]) = turn_body
);
