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

use super::buffer::{Buffer, Scratch};
use super::loops::dot;
use super::tile::{Into, Left, PANEL, Right, band, copy_rows, pack_columns};
use crate::simd::{LANES, Level, Simd, kernel};
use rayon::prelude::*;
use std::ops::Range;

/// Queries of a tile: three vectors, so that a microkernel of eight rows fills the registers.
const QUERIES: usize = 48;

/// Keys of a group: each is one row of scores, and a vector of queries sees some of a group's keys,
/// all or none.
const GROUP: usize = LANES;

/// Keys of a block: its scores stay in L1.
const KEYS: usize = 128;

/// Keys of a block, backward, where the scores' gradients lie beside them.
const KEYS_BACKWARD: usize = 64;

/// Queries of a forward task, at least.
const TASK_QUERIES: usize = 192;

/// Keys of a backward task, about; without a window, at most a quarter of a longer span.
const TASK_KEYS: usize = 576;

/// Stands for minus infinity where infinity would give NaN.
const NEVER: f32 = -1e30;

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
    fn first_key(&self, i: usize) -> usize {
        self.window.map_or(0, |window| (i + 1).saturating_sub(window))
    }

    /// The query, key and value rows of head h in one span, each `[span.len(), head_dim]`.
    fn rows<'a>(&self, planes: &'a [f32], h: usize, span: Range<usize>) -> [&'a [f32]; 3] {
        let kv = self.heads + h / (self.heads / self.kv_heads);
        let size = planes.len() / self.planes();
        [h, kv, kv + self.kv_heads].map(|plane| {
            &planes[plane * size..][span.start * self.head_dim..span.end * self.head_dim]
        })
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

/// A tile of queries, and which keys its vectors see. `start` and a block's first key are multiples
/// of [`GROUP`].
#[derive(Clone, Copy)]
struct Tile {
    start: usize,
    /// Vectors of queries; lanes after the last query hold zeros.
    vectors: usize,
    window: Option<usize>,
}

impl Tile {
    fn new(layout: &Layout, queries: &Range<usize>) -> Self {
        Self { start: queries.start, vectors: queries.len().div_ceil(LANES), window: layout.window }
    }

    /// The keys, in whole groups, that some query of vector v sees.
    fn keys(&self, v: usize) -> Range<usize> {
        let first = self.start + v * LANES;
        let from = self.window.map_or(0, |window| (first + 1).saturating_sub(window));
        from / GROUP * GROUP..first + GROUP
    }

    /// Those of them in a block of `len` keys, in whole groups, counted from its start.
    fn keys_in(&self, v: usize, block: usize, len: usize) -> Range<usize> {
        let (keys, end) = (self.keys(v), block + len.next_multiple_of(GROUP));
        keys.start.clamp(block, end) - block..keys.end.clamp(block, end) - block
    }

    /// Lanes of vector v that see the key.
    #[inline(always)]
    fn mask(&self, v: usize, key: usize) -> u16 {
        // Query q sees the keys q - window + 1 ..= q.
        let first = (self.start + v * LANES) as isize;
        let low = key as isize - first;
        let high = self.window.map_or(LANES as isize, |window| low.saturating_add_unsigned(window));
        let bits = |bound: isize| (1u32 << bound.clamp(0, LANES as isize)) - 1;
        (bits(high) & !bits(low)) as u16
    }

    /// Whether every lane of vector v sees the whole group of keys from `key` on.
    #[inline(always)]
    fn sees_all(&self, v: usize, key: usize) -> bool {
        let first = self.start + v * LANES;
        key + GROUP <= first + 1
            && self.window.is_none_or(|window| key.saturating_add(window) > first + LANES - 1)
    }

    /// Calls `f` with runs of a block's keys (from its start) and the vectors that see some key of
    /// each of their groups.
    fn runs(&self, block: usize, len: usize, mut f: impl FnMut(Range<usize>, Range<usize>)) {
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
fn pack_rows(
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
fn score(
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
fn gather(
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
fn lanes_of(row: &[f32], v: usize) -> &[f32; LANES] {
    &row.as_chunks().0[v]
}

#[inline(always)]
fn lanes_of_mut(row: &mut [f32], v: usize) -> &mut [f32; LANES] {
    &mut row.as_chunks_mut().0[v]
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn soften_body<S: Simd>(
    s: S,
    tile: &Tile,
    block: usize,
    len: usize,
    scores: &mut [f32],
    greatest: &mut [f32],
    sums: &mut [f32],
    out: &mut [f32],
) {
    for v in 0..tile.vectors {
        let keys = tile.keys_in(v, block, len);
        let rows = &mut scores[keys.start * QUERIES..keys.end * QUERIES];
        // Maxima that do not wait for each other.
        let mut tops = [s.splat(NEVER); 4];
        for (g, group) in rows.chunks_exact_mut(GROUP * QUERIES).enumerate() {
            let first = block + keys.start + g * GROUP;
            if !tile.sees_all(v, first) {
                for (r, row) in group.chunks_exact_mut(QUERIES).enumerate() {
                    let x = lanes_of_mut(row, v);
                    let seen = s.select(tile.mask(v, first + r), s.load(x), s.splat(NEVER));
                    s.store(x, seen);
                }
            }
            for rows in group.chunks_exact(4 * QUERIES) {
                for (row, top) in rows.chunks_exact(QUERIES).zip(&mut tops) {
                    *top = s.max(s.load(lanes_of(row, v)), *top);
                }
            }
        }
        let (greatest, sum) = (lanes_of_mut(greatest, v), lanes_of_mut(sums, v));
        let before = s.load(greatest);
        let now = s.max(s.max(s.max(tops[0], tops[1]), s.max(tops[2], tops[3])), before);
        let mut total = s.load(sum);
        if s.to_array(now) != s.to_array(before) {
            // One, exactly, for the queries whose greatest score stays.
            let factor = s.exp2_or_zero(s.sub(before, now));
            total = s.mul(total, factor);
            for row in out.chunks_exact_mut(QUERIES) {
                let x = lanes_of_mut(row, v);
                let scaled = s.mul(s.load(x), factor);
                s.store(x, scaled);
            }
            s.store(greatest, now);
        }
        // Of a query that has seen no key yet the powers are 0, not 1.
        let base = s.max(now, s.splat(NEVER / 2.0));
        for row in rows.chunks_exact_mut(QUERIES) {
            let x = lanes_of_mut(row, v);
            let p = s.exp2_or_zero(s.sub(s.load(x), base));
            s.store(x, p);
            total = s.add(total, p);
        }
        s.store(sum, total);
    }
}

kernel!(
    /// One step of the online softmax over a block of scores `[len, QUERIES]`: turns those that are seen into powers relative
    /// to the queries' greatest scores so far, those that are not into zeros, and brings `sums` (`[QUERIES]`) and `out`
    /// (`[head_dim, QUERIES]`) to the same scale.
    fn soften(
        tile: &Tile,
        block: usize,
        len: usize,
        scores: &mut [f32],
        greatest: &mut [f32],
        sums: &mut [f32],
        out: &mut [f32],
    ) = soften_body
);

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
    /// `rows [queries, head_dim] = columns^T * scale`, `columns` `[head_dim, QUERIES]`, `scale` `[QUERIES]`.
    fn turn(columns: &[f32], scale: &[f32], rows: &mut [f32]) = turn_body
);

/// Attention over planes `qkv` ([`Layout`]): outputs `[heads, n, head_dim]` and log2-sum-exps
/// `[heads, n]`.
pub(crate) fn forward(
    level: Level,
    qkv: &[f32],
    offsets: &[usize],
    layout: &Layout,
) -> (Buffer, Buffer) {
    struct Task<'a> {
        head: usize,
        span: Range<usize>,
        queries: Range<usize>,
        out: &'a mut [f32],
        lse: &'a mut [f32],
    }
    let n = offsets.last().copied().unwrap_or(0);
    let mut out = Buffer::new(layout.heads * n * layout.head_dim);
    let mut lse = Buffer::new(layout.heads * n);
    let (mut tasks, mut rest) = (Vec::new(), (&mut *out, &mut *lse));
    // How the queries are shared out does not show in the results.
    let share = (layout.heads * n / (32 * rayon::current_num_threads())).max(TASK_QUERIES);
    for head in 0..layout.heads {
        for span in offsets.windows(2) {
            let len = span[1] - span[0];
            let size = even_share(len, share, QUERIES);
            for start in (0..len).step_by(size) {
                let queries = start..len.min(start + size);
                let (out, out_rest) = rest.0.split_at_mut(queries.len() * layout.head_dim);
                let (lse, lse_rest) = rest.1.split_at_mut(queries.len());
                rest = (out_rest, lse_rest);
                tasks.push(Task { head, span: span[0]..span[1], queries, out, lse });
            }
        }
    }
    tasks.into_par_iter().for_each(|task| {
        let rows = layout.rows(qkv, task.head, task.span);
        forward_task(level, rows, layout, task.queries, task.out, task.lse);
    });
    (out, lse)
}

/// Attention of some queries of one head, of whose span the rows are.
fn forward_task(
    level: Level,
    [q, k, v]: [&[f32]; 3],
    layout: &Layout,
    queries: Range<usize>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let head_dim = layout.head_dim;
    let mut buffer = Scratch::new(head_dim * (PANEL + QUERIES) + (KEYS + 3) * QUERIES);
    let (columns, buffer) = buffer.split_at_mut(head_dim * PANEL);
    let (o, buffer) = buffer.split_at_mut(head_dim * QUERIES);
    let (scores, buffer) = buffer.split_at_mut(KEYS * QUERIES);
    let (sums, buffer) = buffer.split_at_mut(QUERIES);
    let (greatest, shares) = buffer.split_at_mut(QUERIES);
    let outputs = out.chunks_mut(QUERIES * head_dim).zip(lse.chunks_mut(QUERIES));
    for (start, (out, lse)) in queries.step_by(QUERIES).zip(outputs) {
        let end = start + lse.len();
        let tile = Tile::new(layout, &(start..end));
        pack_columns(level, &q[start * head_dim..], head_dim, lse.len(), head_dim, columns);
        o.fill(0.0);
        sums.fill(0.0);
        greatest.fill(NEVER);
        for block in (tile.keys(0).start..end).step_by(KEYS) {
            let (len, at) = (KEYS.min(end - block), block * head_dim);
            score(level, &tile, block, len, &k[at..], columns, scores);
            soften(level, &tile, block, len, scores, greatest, sums, o);
            gather(level, &tile, block, len, &v[at..], scores, o);
        }
        for (share, sum) in shares.iter_mut().zip(&*sums) {
            *share = 1.0 / sum;
        }
        turn(level, o, shares, out);
        for (lse, (greatest, sum)) in lse.iter_mut().zip(greatest.iter().zip(&*sums)) {
            *lse = greatest + sum.log2();
        }
    }
}

/// Gradients of one head over some keys of a span: of those keys and values, and these keys' part
/// of the gradients of the queries that see them. Positions count from the start of the span.
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

/// What [`backward`] reads beside the planes.
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
pub(crate) fn backward(
    level: Level,
    qkv: &[f32],
    offsets: &[usize],
    layout: &Layout,
    outputs: &Outputs,
) -> Gradients {
    let spans = offsets.len() - 1;
    let mut tasks = Vec::new();
    for slot in 0..layout.heads * spans {
        let len = offsets[slot % spans + 1] - offsets[slot % spans];
        // With a window a task's queries reach at most a window past its keys; without one at most
        // four tasks share a span, so that the parts of dq stay within a small multiple of
        // dq. The shares show in how dq is summed, so they follow from the span alone.
        let share = len.div_ceil(4).min(layout.window.unwrap_or(len)).max(TASK_KEYS);
        let size = even_share(len, share, lcm(QUERIES, KEYS_BACKWARD));
        for start in (0..len).step_by(size) {
            let keys = start..len.min(start + size);
            let queries = start
                ..layout
                    .window
                    .map_or(len, |window| len.min((keys.end - 1).saturating_add(window)));
            tasks.push((slot, keys, queries));
        }
    }
    let done: Vec<(usize, Part)> = tasks
        .into_par_iter()
        .map(|(slot, keys, queries)| {
            let (head, span) = (slot / spans, slot % spans);
            let rows = layout.rows(qkv, head, offsets[span]..offsets[span + 1]);
            (slot, backward_task(level, rows, layout, outputs, head, offsets, span, keys, queries))
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
    tile: &Tile,
    block: usize,
    len: usize,
    scores: &mut [f32],
    grads: &mut [f32],
    lse: &[f32],
    deltas: &[f32],
) {
    for v in 0..tile.vectors {
        let keys = tile.keys_in(v, block, len);
        let (lse, delta) = (s.load(lanes_of(lse, v)), s.load(lanes_of(deltas, v)));
        let groups = scores[keys.start * QUERIES..keys.end * QUERIES]
            .chunks_exact_mut(GROUP * QUERIES)
            .zip(grads[keys.start * QUERIES..].chunks_exact_mut(GROUP * QUERIES));
        for (g, (scores, grads)) in groups.enumerate() {
            let first = block + keys.start + g * GROUP;
            let all = tile.sees_all(v, first);
            let rows = scores.chunks_exact_mut(QUERIES).zip(grads.chunks_exact_mut(QUERIES));
            for (r, (score, grad)) in rows.enumerate() {
                let (x, g) = (lanes_of_mut(score, v), lanes_of_mut(grad, v));
                let mut p = s.exp2_or_zero(s.sub(s.load(x), lse));
                if !all {
                    p = s.select(tile.mask(v, first + r), p, s.splat(0.0));
                }
                s.store(x, p);
                let grad = s.mul(p, s.sub(s.load(g), delta));
                s.store(g, grad);
            }
        }
    }
}

kernel!(
    /// Turns scores `[len, QUERIES]` into probabilities, and the probabilities' gradients into the scores'.
    fn unsoften(
        tile: &Tile,
        block: usize,
        len: usize,
        scores: &mut [f32],
        grads: &mut [f32],
        lse: &[f32],
        deltas: &[f32],
    ) = unsoften_body
);

#[allow(clippy::too_many_arguments)]
fn backward_task(
    level: Level,
    [q, k, v]: [&[f32]; 3],
    layout: &Layout,
    outputs: &Outputs,
    head: usize,
    offsets: &[usize],
    span: usize,
    keys: Range<usize>,
    queries: Range<usize>,
) -> Part {
    let (n, span, head_dim) = (offsets[offsets.len() - 1], offsets[span], layout.head_dim);
    let width = head_dim.next_multiple_of(LANES);
    let mut buffer = Scratch::new(
        2 * keys.len() * width
            + 2 * (QUERIES * width + head_dim * PANEL)
            + head_dim * QUERIES
            + (2 * KEYS_BACKWARD + 3) * QUERIES,
    );
    let (dk, buffer) = buffer.split_at_mut(keys.len() * width);
    let (dv, buffer) = buffer.split_at_mut(keys.len() * width);
    let (q_rows, buffer) = buffer.split_at_mut(QUERIES * width);
    let (q_columns, buffer) = buffer.split_at_mut(head_dim * PANEL);
    let (grad_rows, buffer) = buffer.split_at_mut(QUERIES * width);
    let (grad_columns, buffer) = buffer.split_at_mut(head_dim * PANEL);
    let (dq, buffer) = buffer.split_at_mut(head_dim * QUERIES);
    let (scores, buffer) = buffer.split_at_mut(KEYS_BACKWARD * QUERIES);
    let (score_grads, buffer) = buffer.split_at_mut(KEYS_BACKWARD * QUERIES);
    let (lse, buffer) = buffer.split_at_mut(QUERIES);
    let (deltas, ones) = buffer.split_at_mut(QUERIES);
    dk.fill(0.0);
    dv.fill(0.0);
    ones.fill(1.0);
    let mut part = Part {
        dq: Buffer::new(queries.len() * head_dim),
        dk: Buffer::new(keys.len() * head_dim),
        dv: Buffer::new(keys.len() * head_dim),
        keys: keys.clone(),
        queries: queries.clone(),
    };
    for (start, dq_rows) in queries.step_by(QUERIES).zip(part.dq.chunks_mut(QUERIES * head_dim)) {
        let rows = dq_rows.len() / head_dim;
        let tile = Tile::new(layout, &(start..start + rows));
        let q = &q[start * head_dim..][..rows * head_dim];
        let (at, stride) =
            ((span + start) * outputs.grad_stride + head * head_dim, outputs.grad_stride);
        let grad = &outputs.grad[at..][..(rows - 1) * stride + head_dim];
        let q_rows = if head_dim == width {
            q
        } else {
            pack_rows(level, q, head_dim, head_dim, q_rows, width);
            &*q_rows
        };
        pack_columns(level, q, head_dim, rows, head_dim, q_columns);
        pack_rows(level, grad, stride, head_dim, grad_rows, width);
        pack_columns(level, grad, stride, rows, head_dim, grad_columns);
        let out = &outputs.out[(head * n + span + start) * head_dim..][..rows * head_dim];
        lse[..rows].copy_from_slice(&outputs.lse[head * n + span + start..][..rows]);
        lse[rows..].fill(0.0);
        deltas[rows..].fill(0.0);
        for ((delta, out), grad) in
            deltas.iter_mut().zip(out.chunks_exact(head_dim)).zip(grad_rows.chunks_exact(width))
        {
            *delta = dot(out, &grad[..head_dim]);
        }
        dq.fill(0.0);
        let end = (start + rows).min(keys.end);
        for block in (tile.keys(0).start.max(keys.start)..end).step_by(KEYS_BACKWARD) {
            let len = KEYS_BACKWARD.min(end - block);
            score(level, &tile, block, len, &k[block * head_dim..], q_columns, scores);
            score(level, &tile, block, len, &v[block * head_dim..], grad_columns, score_grads);
            unsoften(level, &tile, block, len, scores, score_grads, lse, deltas);
            // The softmax over one key is 1 whatever its score: rounding left here would become
            // whole steps of Adam.
            for q in (0..rows).filter(|q| layout.first_key(start + q) == start + q) {
                score_grads[..len * QUERIES]
                    .iter_mut()
                    .skip(q)
                    .step_by(QUERIES)
                    .for_each(|g| *g = 0.0);
            }
            tile.runs(block, len, |run, vectors| {
                let (from, to) = (vectors.start * LANES, rows.min(vectors.end * LANES));
                let (shape, at) =
                    ((run.len(), width, to - from), (block - keys.start + run.start) * width);
                let sums = [(&*scores, &*grad_rows, &mut *dv), (&*score_grads, q_rows, &mut *dk)];
                for (weights, rows, sums) in sums {
                    let weights = Left::strided(&weights[run.start * QUERIES + from..], QUERIES, 1);
                    let rows = Right::new(&rows[from * width..], width);
                    band(level, shape, weights, rows, &mut sums[at..], width, Into::Chain);
                }
            });
            gather(level, &tile, block, len, &k[block * head_dim..], score_grads, dq);
        }
        turn(level, dq, ones, dq_rows);
    }
    for (from, to) in [(dk, &mut part.dk), (dv, &mut part.dv)] {
        copy_rows(level, (keys.len(), head_dim), (from, width), (to, head_dim));
    }
    part
}

impl Gradients {
    /// Adds the gradients of some positions of span `span` to rows `row ..` of planes `[planes,
    /// rows, head_dim]`: of the queries, `head_dim^0.5` too great, of the keys, `log2(e)` too
    /// great, and of the values.
    pub fn add_rows(&self, span: usize, positions: Range<usize>, planes: &mut [f32], row: usize) {
        let (layout, spans) = (&self.layout, self.offsets.len() - 1);
        let (head_dim, size) = (layout.head_dim, planes.len() / layout.planes());
        // Those of a part's rows, `of`, that are asked for.
        let mut add = |plane: usize, from: &[f32], of: &Range<usize>| {
            let (start, end) = (positions.start.max(of.start), positions.end.min(of.end));
            if start < end {
                let from = &from[(start - of.start) * head_dim..(end - of.start) * head_dim];
                let to = &mut planes[plane * size + (row + start - positions.start) * head_dim..]
                    [..from.len()];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        };
        for head in 0..layout.heads {
            let kv = layout.heads + head / (layout.heads / layout.kv_heads);
            for part in &self.parts[head * spans + span] {
                add(head, &part.dq, &part.queries);
                add(kv, &part.dk, &part.keys);
                add(kv + layout.kv_heads, &part.dv, &part.keys);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Leaves NaN in all memory that will be used again.
    fn poison() {
        for len in [1 << 12, 1 << 16, 1 << 20] {
            Scratch::new(len).fill(f32::NAN);
            Buffer::new(len).fill(f32::NAN);
        }
    }

    /// Rows `[planes, n, head_dim]` of one span.
    fn span_of(planes: &[f32], layout: &Layout, n: usize, span: &Range<usize>) -> Vec<f32> {
        let d = layout.head_dim;
        planes
            .chunks_exact(n * d)
            .flat_map(|plane| &plane[span.start * d..span.end * d])
            .copied()
            .collect()
    }

    /// Outputs, log-sum-exps and gradients row by row, as bits.
    fn all(
        level: Level,
        qkv: &[f32],
        grad: &[f32],
        offsets: &[usize],
        layout: &Layout,
    ) -> Vec<Vec<u32>> {
        poison();
        let (n, d) = (offsets[offsets.len() - 1], layout.head_dim);
        let (out, lse) = forward(level, qkv, offsets, layout);
        let outputs = Outputs { out: &out, lse: &lse, grad, grad_stride: layout.heads * d };
        poison();
        let gradients = backward(level, qkv, offsets, layout, &outputs);
        let mut rows = Vec::new();
        for (s, span) in offsets.windows(2).enumerate() {
            for i in span[0]..span[1] {
                let mut row = vec![0.0; layout.planes() * d];
                gradients.add_rows(s, i - span[0]..i - span[0] + 1, &mut row, 0);
                for h in 0..layout.heads {
                    row.extend_from_slice(&out[(h * n + i) * d..][..d]);
                    row.push(lse[h * n + i]);
                }
                rows.push(row.into_iter().map(f32::to_bits).collect());
            }
        }
        rows
    }

    #[test]
    fn a_span_is_not_touched_by_its_neighbours_or_by_what_memory_held() {
        let offsets = [0, 17, 67, 68, 101, 149, 165, 800];
        let n = offsets[offsets.len() - 1];
        for (heads, kv_heads, head_dim) in [(2, 1, 8), (1, 1, 32), (2, 2, 40)] {
            for window in [Some(1), Some(3), Some(20), Some(64), None] {
                let layout = Layout { heads, kv_heads, head_dim, window };
                let mut qkv = wave(layout.planes() * n * head_dim, 0.37);
                let grad = wave(n * heads * head_dim, 0.11);
                // Every other span is not a number.
                for plane in qkv.chunks_exact_mut(n * head_dim) {
                    for span in offsets.windows(2).skip(1).step_by(2) {
                        plane[span[0] * head_dim..span[1] * head_dim].fill(f32::NAN);
                    }
                }
                for level in Level::available() {
                    let together = all(level, &qkv, &grad, &offsets, &layout);
                    for span in offsets.windows(2).step_by(2) {
                        let span = span[0]..span[1];
                        let width = heads * head_dim;
                        let grad = &grad[span.start * width..span.end * width];
                        let alone = all(
                            level,
                            &span_of(&qkv, &layout, n, &span),
                            grad,
                            &[0, span.len()],
                            &layout,
                        );
                        assert!(
                            alone.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()),
                            "{span:?}"
                        );
                        assert_eq!(together[span.clone()], alone, "{level:?} {layout:?} {span:?}");
                    }
                }
            }
        }
    }
}
