//! Windowed causal attention within spans, grouped heads, forward and backward, without a score matrix.
//!
//! A task takes one head and some rows of one span, packs the keys and values that they see, and walks tiles of queries
//! over blocks of keys: an online softmax forward; backward, the probabilities again from the saved log-sum-exp. Tiles
//! and blocks are counted from the start of the span, so a span's numbers do not depend on what it is batched with, and
//! a row's not on later rows. Blocks that no row of a tile sees are skipped.
//!
//! Scores are in units of log2: queries come scaled by `head_dim^-0.5 * log2(e)`.

use super::buffer::{Buffer, Scratch};
use super::simd::{LANES, Level, Simd, kernel};
use super::tile::{Into, Left, PANEL, band, pack_columns};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile of queries: a multiple of the microkernels' 6 and 12, few, so that little of a partly visible block is wasted.
const QUERIES: usize = 24;

/// Keys of a block, forward: a tile's scores stay in L1.
const KEYS: usize = 128;

/// Rows of a tile of queries, backward: the depth of the products that make the keys' gradients.
const QUERIES_BACKWARD: usize = 48;

/// Keys of a block, backward.
const KEYS_BACKWARD: usize = 64;

/// Queries of a forward task, at least: fewer would pack too many keys for too few queries.
const TASK_QUERIES: usize = 480;

/// Keys of a backward task, about; without a window, at most a quarter of a longer span.
const TASK_KEYS: usize = 1152;

/// Stands for minus infinity where infinity would give NaN.
const NEVER: f32 = -1e30;

/// How packed rows `[n, stride]` hold queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub window: Option<usize>,
    /// Elements from row to row. Head h's query starts at column `h * head_dim`.
    pub stride: usize,
    pub k_column: usize,
    pub v_column: usize,
}

impl Layout {
    /// The first key that query i sees.
    fn first_key(&self, i: usize) -> usize {
        self.window.map_or(0, |window| (i + 1).saturating_sub(window))
    }

    /// Columns of head h's query, key and value.
    fn columns(&self, h: usize) -> [usize; 3] {
        let kv = h / (self.heads / self.kv_heads) * self.head_dim;
        [h * self.head_dim, self.k_column + kv, self.v_column + kv]
    }

    /// Columns `from .. to` of the block of keys at `block` that some query of `tile` sees, in whole vectors, and, where
    /// some query does not see all of them, the bounds of the first query's columns, which move by one with each query.
    fn seen(&self, tile: &Range<usize>, block: usize, keys: usize) -> (Range<usize>, Option<(isize, isize)>) {
        let from = self.first_key(tile.start).saturating_sub(block) / LANES * LANES;
        let to = (tile.end - block).min(keys).next_multiple_of(LANES);
        let whole = self.first_key(tile.end - 1) <= block + from && tile.start + 1 >= block + to;
        let low =
            self.window.map_or(isize::MIN / 2, |window| tile.start as isize + 1 - window as isize - block as isize);
        let high = tile.start as isize + 1 - block as isize;
        (from..to, (!whole).then_some((low, high)))
    }
}

/// Shares of `len`, about equal and not much greater than `most`, a multiple of `of`.
fn even_share(len: usize, most: usize, of: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(of).max(of)
}

const fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// Lanes of the vector at `column` within `low .. high`.
#[inline(always)]
fn lane_mask(column: usize, low: isize, high: isize) -> u16 {
    let bits = |bound: isize| (1u32 << (bound - column as isize).clamp(0, LANES as isize)) - 1;
    (bits(high) & !bits(low)) as u16
}

/// Copies `rows` rows of `head_dim` elements, `stride` apart, to rows of `width`, zeros after them and in the rows up to
/// `padded`.
fn pack_rows(from: &[f32], stride: usize, rows: usize, head_dim: usize, to: &mut [f32], width: usize, padded: usize) {
    for (r, to) in to.chunks_exact_mut(width).take(padded).enumerate() {
        if r < rows {
            to[..head_dim].copy_from_slice(&from[r * stride..][..head_dim]);
            to[head_dim..].fill(0.0);
        } else {
            to.fill(0.0);
        }
    }
}

/// `scores[.., columns] = left @ packed columns`, `left` `[rows, head_dim]` with rows `width` apart.
#[allow(clippy::too_many_arguments)]
fn score(
    level: Level,
    left: &[f32],
    width: usize,
    rows: usize,
    head_dim: usize,
    panels: &[f32],
    first: usize,
    columns: &Range<usize>,
    scores: &mut [f32],
    stride: usize,
) {
    let mut c = columns.start;
    while c < columns.end {
        let key = first + c;
        let cols = (PANEL - key % PANEL).min(columns.end - c);
        let panel = &panels[key / PANEL * PANEL * head_dim + key % PANEL..];
        band(
            level,
            (rows, cols, head_dim),
            Left::strided(left, width, 1),
            panel,
            PANEL,
            &mut scores[c..],
            stride,
            Into::Set,
        );
        c += cols;
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn soften_body<S: Simd>(
    s: S,
    rows: usize,
    columns: Range<usize>,
    bounds: Option<(isize, isize)>,
    scores: &mut [f32],
    greatest: &mut [f32],
    sums: &mut [f32],
    out: &mut [f32],
) {
    let width = out.len() / rows;
    for r in 0..rows {
        let row = scores[r * KEYS..][columns.clone()].as_chunks_mut::<LANES>().0;
        let mut top = s.splat(NEVER);
        match bounds {
            None => {
                for x in row.iter() {
                    top = s.max(s.load(x), top);
                }
            }
            Some((low, high)) => {
                for (i, x) in row.iter_mut().enumerate() {
                    let mask = lane_mask(columns.start + i * LANES, low + r as isize, high + r as isize);
                    let v = s.select(mask, s.load(x), s.splat(NEVER));
                    s.store(x, v);
                    top = s.max(v, top);
                }
            }
        }
        let (before, now) = (greatest[r], s.greatest(top).max(greatest[r]));
        let sum = &mut sums[r * LANES..].as_chunks_mut::<LANES>().0[0];
        let mut total = s.load(sum);
        if now > before {
            let factor = s.exp2_finite(s.splat(before - now));
            total = s.mul(total, factor);
            for x in out[r * width..][..width].as_chunks_mut::<LANES>().0 {
                let scaled = s.mul(s.load(x), factor);
                s.store(x, scaled);
            }
            greatest[r] = now;
        }
        // A row that has seen no key yet: the powers below are 0, not 1.
        let base = s.splat(if now == NEVER { 0.0 } else { now });
        for x in row.iter_mut() {
            let p = s.exp2_finite(s.sub(s.load(x), base));
            s.store(x, p);
            total = s.add(total, p);
        }
        s.store(sum, total);
    }
}

kernel!(
    /// One step of the online softmax over a tile of scores `[rows, KEYS]`: turns `columns` into powers relative to the rows'
    /// greatest scores so far, and brings `sums` (`[rows, LANES]`) and `out` (`[rows, width]`) to the same scale.
    fn soften(
        rows: usize,
        columns: Range<usize>,
        bounds: Option<(isize, isize)>,
        scores: &mut [f32],
        greatest: &mut [f32],
        sums: &mut [f32],
        out: &mut [f32],
    ) = soften_body
);

#[inline(always)]
fn finish_body<S: Simd>(
    s: S,
    greatest: &[f32],
    sums: &[f32],
    tile: &[f32],
    head_dim: usize,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let width = tile.len() / greatest.len();
    for (r, out) in out.chunks_exact_mut(head_dim).enumerate() {
        let sum = s.sum(s.load(&sums.as_chunks::<LANES>().0[r]));
        let factor = 1.0 / sum;
        for (to, x) in out.iter_mut().zip(&tile[r * width..]) {
            *to = x * factor;
        }
        lse[r] = greatest[r] + sum.log2();
    }
}

kernel!(
    /// Divides a tile's outputs by their sums.
    fn finish(greatest: &[f32], sums: &[f32], tile: &[f32], head_dim: usize, out: &mut [f32], lse: &mut [f32]) = finish_body
);

/// Attention over rows `qkv` `[n, stride]`: outputs `[heads, n, head_dim]` and log2-sum-exps `[heads, n]`.
pub(crate) fn forward(level: Level, qkv: &[f32], offsets: &[usize], layout: &Layout) -> (Buffer, Buffer) {
    struct Task<'a> {
        head: usize,
        span: usize,
        queries: Range<usize>,
        out: &'a mut [f32],
        lse: &'a mut [f32],
    }
    let n = offsets.last().copied().unwrap_or(0);
    let mut out = Buffer::new(layout.heads * n * layout.head_dim);
    let mut lse = Buffer::new(layout.heads * n);
    let (mut tasks, mut rest) = (Vec::new(), (&mut *out, &mut *lse));
    // How the queries are shared out does not show in the results.
    let share = (layout.heads * n / (8 * rayon::current_num_threads())).max(TASK_QUERIES);
    for head in 0..layout.heads {
        for span in offsets.windows(2) {
            let len = span[1] - span[0];
            let size = even_share(len, share, QUERIES);
            for start in (0..len).step_by(size) {
                let queries = start..len.min(start + size);
                let (out, out_rest) = rest.0.split_at_mut(queries.len() * layout.head_dim);
                let (lse, lse_rest) = rest.1.split_at_mut(queries.len());
                rest = (out_rest, lse_rest);
                tasks.push(Task { head, span: span[0], queries, out, lse });
            }
        }
    }
    tasks.into_par_iter().for_each(|task| {
        forward_task(level, &qkv[task.span * layout.stride..], layout, task.head, task.queries, task.out, task.lse);
    });
    (out, lse)
}

/// Attention of some queries of one head; `qkv` starts at the span.
fn forward_task(
    level: Level,
    qkv: &[f32],
    layout: &Layout,
    head: usize,
    queries: Range<usize>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (head_dim, stride) = (layout.head_dim, layout.stride);
    let width = head_dim.next_multiple_of(LANES);
    let [q_column, k_column, v_column] = layout.columns(head);
    let first = layout.first_key(queries.start) / KEYS * KEYS;
    let keys = queries.end - first;
    let padded = keys.next_multiple_of(PANEL);
    let mut buffer = Scratch::new(padded * head_dim + padded * width + QUERIES * (head_dim + width + KEYS + LANES + 1));
    let (k, buffer) = buffer.split_at_mut(padded * head_dim);
    let (v, buffer) = buffer.split_at_mut(padded * width);
    let (q, buffer) = buffer.split_at_mut(QUERIES * head_dim);
    let (o, buffer) = buffer.split_at_mut(QUERIES * width);
    let (scores, buffer) = buffer.split_at_mut(QUERIES * KEYS);
    let (sums, greatest) = buffer.split_at_mut(QUERIES * LANES);
    pack_columns(level, &qkv[first * stride + k_column..], stride, keys, head_dim, k);
    pack_rows(&qkv[first * stride + v_column..], stride, keys, head_dim, v, width, padded);
    for start in queries.clone().step_by(QUERIES) {
        let tile = start..queries.end.min(start + QUERIES);
        let rows = tile.len();
        pack_rows(&qkv[start * stride + q_column..], stride, rows, head_dim, q, head_dim, rows);
        let (o, greatest, sums) = (&mut o[..rows * width], &mut greatest[..rows], &mut sums[..rows * LANES]);
        o.fill(0.0);
        sums.fill(0.0);
        greatest.fill(NEVER);
        for block in (layout.first_key(start) / KEYS * KEYS..tile.end).step_by(KEYS) {
            let (columns, bounds) = layout.seen(&tile, block, KEYS);
            score(level, q, head_dim, rows, head_dim, k, block - first, &columns, scores, KEYS);
            soften(level, rows, columns.clone(), bounds, scores, greatest, sums, o);
            let v = &v[(block - first + columns.start) * width..];
            let powers = Left::strided(&scores[columns.start..], KEYS, 1);
            band(level, (rows, width, columns.len()), powers, v, width, o, width, Into::Chain);
        }
        let at = start - queries.start;
        finish(
            level,
            greatest,
            sums,
            o,
            head_dim,
            &mut out[at * head_dim..][..rows * head_dim],
            &mut lse[at..][..rows],
        );
    }
}

/// Gradients of one head over some keys of a span: of those keys and values, and these keys' part of the gradients of the
/// queries that see them. Positions count from the start of the span.
struct Part {
    keys: Range<usize>,
    queries: Range<usize>,
    /// `[queries, head_dim]`
    dq: Buffer,
    /// `[keys, head_dim]`
    dk: Buffer,
    /// `[keys, head_dim]`
    dv: Buffer,
}

/// Gradients of queries, keys and values, before they are put together row by row.
pub(crate) struct Gradients {
    layout: Layout,
    offsets: Vec<usize>,
    /// For (head, span), head-major.
    parts: Vec<Vec<Part>>,
}

/// What [`backward`] reads beside the packed rows.
pub(crate) struct Outputs<'a> {
    /// `[heads, n, head_dim]`
    pub out: &'a [f32],
    /// `[heads, n]`
    pub lse: &'a [f32],
    /// Gradient of the outputs, `[n, stride]`, head h at column `h * head_dim`.
    pub grad: &'a [f32],
    pub grad_stride: usize,
}

/// The gradients of attention.
pub(crate) fn backward(level: Level, qkv: &[f32], offsets: &[usize], layout: &Layout, outputs: &Outputs) -> Gradients {
    let spans = offsets.len() - 1;
    let mut tasks = Vec::new();
    for slot in 0..layout.heads * spans {
        let len = offsets[slot % spans + 1] - offsets[slot % spans];
        // With a window a task's queries reach at most a window past its keys; without one at most four tasks share a span,
        // so that the parts of dq stay within a small multiple of dq. The shares show in how dq is summed, so they follow
        // from the span alone.
        let share = layout.window.unwrap_or(len.div_ceil(4)).max(TASK_KEYS);
        let size = even_share(len, share, lcm(QUERIES_BACKWARD, KEYS_BACKWARD));
        for start in (0..len).step_by(size) {
            let keys = start..len.min(start + size);
            let queries = start..layout.window.map_or(len, |window| len.min((keys.end - 1).saturating_add(window)));
            tasks.push((slot, keys, queries));
        }
    }
    let done: Vec<(usize, Part)> = tasks
        .into_par_iter()
        .map(|(slot, keys, queries)| {
            (slot, backward_task(level, qkv, layout, outputs, slot / spans, offsets, slot % spans, keys, queries))
        })
        .collect();
    let mut parts: Vec<Vec<Part>> = (0..layout.heads * spans).map(|_| Vec::new()).collect();
    for (slot, part) in done {
        parts[slot].push(part);
    }
    Gradients { layout: *layout, offsets: offsets.to_vec(), parts }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn unsoften_body<S: Simd>(
    s: S,
    rows: usize,
    columns: Range<usize>,
    bounds: Option<(isize, isize)>,
    scores: &mut [f32],
    grads: &mut [f32],
    lse: &[f32],
    deltas: &[f32],
) {
    for r in 0..rows {
        let scores = scores[r * KEYS_BACKWARD..][columns.clone()].as_chunks_mut::<LANES>().0;
        let grads = grads[r * KEYS_BACKWARD..][columns.clone()].as_chunks_mut::<LANES>().0;
        let (lse, delta) = (s.splat(lse[r]), s.splat(deltas[r]));
        for (i, (x, g)) in scores.iter_mut().zip(grads).enumerate() {
            let mut p = s.exp2_finite(s.sub(s.load(x), lse));
            if let Some((low, high)) = bounds {
                let mask = lane_mask(columns.start + i * LANES, low + r as isize, high + r as isize);
                p = s.select(mask, p, s.splat(0.0));
            }
            s.store(x, p);
            let grad = s.mul(p, s.sub(s.load(g), delta));
            s.store(g, grad);
        }
    }
}

kernel!(
    /// Turns scores into probabilities, and the probabilities' gradients into the scores'.
    fn unsoften(
        rows: usize,
        columns: Range<usize>,
        bounds: Option<(isize, isize)>,
        scores: &mut [f32],
        grads: &mut [f32],
        lse: &[f32],
        deltas: &[f32],
    ) = unsoften_body
);

#[allow(clippy::too_many_arguments)]
fn backward_task(
    level: Level,
    qkv: &[f32],
    layout: &Layout,
    outputs: &Outputs,
    head: usize,
    offsets: &[usize],
    span: usize,
    keys: Range<usize>,
    queries: Range<usize>,
) -> Part {
    let n = offsets[offsets.len() - 1];
    let (head_dim, stride, span) = (layout.head_dim, layout.stride, offsets[span]);
    let width = head_dim.next_multiple_of(LANES);
    let [q_column, k_column, v_column] = layout.columns(head);
    let (first, padded) = (keys.start, keys.len().next_multiple_of(PANEL));
    let qkv = &qkv[span * stride..];
    let tile_len = QUERIES_BACKWARD * width;
    let mut buffer = Scratch::new(
        padded * (2 * head_dim + 3 * width) + 3 * tile_len + 2 * QUERIES_BACKWARD * KEYS_BACKWARD + QUERIES_BACKWARD,
    );
    let (kt, buffer) = buffer.split_at_mut(padded * head_dim);
    let (vt, buffer) = buffer.split_at_mut(padded * head_dim);
    let (k, buffer) = buffer.split_at_mut(padded * width);
    let (dk, buffer) = buffer.split_at_mut(padded * width);
    let (dv, buffer) = buffer.split_at_mut(padded * width);
    let (q, buffer) = buffer.split_at_mut(tile_len);
    let (dq, buffer) = buffer.split_at_mut(tile_len);
    let (grad, buffer) = buffer.split_at_mut(tile_len);
    let (scores, buffer) = buffer.split_at_mut(QUERIES_BACKWARD * KEYS_BACKWARD);
    let (score_grads, deltas) = buffer.split_at_mut(QUERIES_BACKWARD * KEYS_BACKWARD);
    pack_columns(level, &qkv[first * stride + k_column..], stride, keys.len(), head_dim, kt);
    pack_columns(level, &qkv[first * stride + v_column..], stride, keys.len(), head_dim, vt);
    pack_rows(&qkv[first * stride + k_column..], stride, keys.len(), head_dim, k, width, padded);
    dk.fill(0.0);
    dv.fill(0.0);
    let mut dq_rows = Buffer::new(queries.len() * head_dim);
    for start in queries.clone().step_by(QUERIES_BACKWARD) {
        let tile = start..queries.end.min(start + QUERIES_BACKWARD);
        let rows = tile.len();
        pack_rows(&qkv[start * stride + q_column..], stride, rows, head_dim, q, width, rows);
        let grad_rows = &outputs.grad[(span + start) * outputs.grad_stride + head * head_dim..];
        pack_rows(grad_rows, outputs.grad_stride, rows, head_dim, grad, width, rows);
        let out = &outputs.out[(head * n + span + start) * head_dim..][..rows * head_dim];
        for (r, delta) in deltas[..rows].iter_mut().enumerate() {
            *delta = out[r * head_dim..][..head_dim].iter().zip(&grad[r * width..]).map(|(o, g)| o * g).sum();
        }
        let lse = &outputs.lse[head * n + span + start..][..rows];
        dq.fill(0.0);
        let begin = layout.first_key(start).max(first) / KEYS_BACKWARD * KEYS_BACKWARD;
        for block in (begin..tile.end.min(keys.end)).step_by(KEYS_BACKWARD) {
            let (columns, bounds) = layout.seen(&tile, block, KEYS_BACKWARD);
            let local = block - first;
            score(level, q, width, rows, head_dim, kt, local, &columns, scores, KEYS_BACKWARD);
            score(level, grad, width, rows, head_dim, vt, local, &columns, score_grads, KEYS_BACKWARD);
            unsoften(level, rows, columns.clone(), bounds, scores, score_grads, lse, deltas);
            // The softmax over one key is 1 whatever its score: rounding left here would become whole steps of Adam.
            for r in (0..rows).filter(|r| layout.first_key(start + r) == start + r) {
                score_grads[r * KEYS_BACKWARD..][columns.clone()].fill(0.0);
            }
            let at = (local + columns.start) * width;
            let shape = (columns.len(), width, rows);
            band(
                level,
                shape,
                Left::strided(&scores[columns.start..], 1, KEYS_BACKWARD),
                grad,
                width,
                &mut dv[at..],
                width,
                Into::Chain,
            );
            let score_grads = &score_grads[columns.start..];
            band(
                level,
                shape,
                Left::strided(score_grads, 1, KEYS_BACKWARD),
                q,
                width,
                &mut dk[at..],
                width,
                Into::Chain,
            );
            let shape = (rows, width, columns.len());
            band(level, shape, Left::strided(score_grads, KEYS_BACKWARD, 1), &k[at..], width, dq, width, Into::Chain);
        }
        unpack_rows(dq, width, &mut dq_rows[(start - queries.start) * head_dim..][..rows * head_dim], head_dim);
    }
    let mut part = Part {
        dk: Buffer::new(keys.len() * head_dim),
        dv: Buffer::new(keys.len() * head_dim),
        keys,
        queries,
        dq: dq_rows,
    };
    unpack_rows(dk, width, &mut part.dk, head_dim);
    unpack_rows(dv, width, &mut part.dv, head_dim);
    part
}

fn unpack_rows(from: &[f32], width: usize, to: &mut [f32], head_dim: usize) {
    for (to, from) in to.chunks_exact_mut(head_dim).zip(from.chunks_exact(width)) {
        to.copy_from_slice(&from[..head_dim]);
    }
}

impl Gradients {
    /// Puts row `position` of span `span` together, as the packed rows hold it (`row` starts as zeros): the gradients of the
    /// scores' natural logarithms' queries, `head_dim^0.5` too great, and of the keys, `log2(e)` too great.
    pub fn row(&self, span: usize, position: usize, row: &mut [f32]) {
        let (layout, spans) = (&self.layout, self.offsets.len() - 1);
        let add = |to: &mut [f32], column: usize, from: &[f32], at: usize| {
            let from = &from[at * layout.head_dim..][..layout.head_dim];
            to[column..][..layout.head_dim].iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        for head in 0..layout.heads {
            let [q_column, k_column, v_column] = layout.columns(head);
            for part in &self.parts[head * spans + span] {
                if part.queries.contains(&position) {
                    add(row, q_column, &part.dq, position - part.queries.start);
                }
                if part.keys.contains(&position) {
                    add(row, k_column, &part.dk, position - part.keys.start);
                    add(row, v_column, &part.dv, position - part.keys.start);
                }
            }
        }
    }
}
