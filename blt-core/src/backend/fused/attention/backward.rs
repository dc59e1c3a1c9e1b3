//! Attention backward: the probabilities again from the saved log-sum-exp.

use super::tiles::{
    GROUP, Layout, QUERIES, Tile, even_share, gather, lanes_of, lanes_of_mut, pack_rows, score,
    turn,
};
use crate::backend::fused::buffer::{Buffer, Scratch};
use crate::backend::fused::loops::dot;
use crate::backend::fused::tile::{Into, Left, PANEL, Right, band, copy_rows, pack_columns};
use crate::simd::{LANES, Level, Simd, kernel};
use rayon::prelude::*;
use std::ops::Range;

/// Keys of a block, backward, where the scores' gradients lie beside them.
const KEYS_BACKWARD: usize = 64;

/// Keys of a backward task, about; without a window, at most a quarter of a longer span.
const TASK_KEYS: usize = 576;

const fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
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
