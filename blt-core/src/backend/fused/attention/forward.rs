//! Attention forward: an online softmax over blocks of keys.

use super::tiles::{
    GROUP, Layout, QUERIES, Tile, even_share, gather, lanes_of, lanes_of_mut, score, turn,
};
use crate::backend::fused::buffer::{Buffer, Scratch};
use crate::backend::fused::tile::{PANEL, pack_columns};
use crate::simd::{Level, Simd, kernel};
use rayon::prelude::*;
use std::ops::Range;

/// Keys of a block: its scores stay in L1.
const KEYS: usize = 128;

/// Queries of a forward task, at least.
const TASK_QUERIES: usize = 192;

/// Stands for minus infinity where infinity would give NaN.
const NEVER: f32 = -1e30;

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
