//! Cross-attention between patch rows and byte rows.
//!
//! Both directions are one ragged attention: segment s's query rows see segment s's key rows alone.
//! In the encoder a segment is a patch: k queries, a key for each byte. In the decoder it is the
//! bytes that read one patch, and the patch's k keys; so the gradients of keys and values are sums
//! over one segment, in order, and tasks share nothing.

pub(super) mod attend;
mod backward;
#[cfg(test)]
mod tests;

use super::buffer::{Buffer, Scratch};
use super::norm::norm;
use super::ragged::{split_by_groups, task_groups};
use super::tile::{BLOCK, Into, Left, PANEL, Panels, ROWS, from_tile, panels, to_tile};
use super::weight::Weight;
use super::{Fused, on_pool};
use crate::backend::{BackendError, CrossConfig, CrossParams, Tape, Tensor, check};
use crate::patch::Patches;
use crate::simd::Level;
use attend::{Heads, attend, spread_values};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Query and key rows of one task.
const TASK_ROWS: usize = 256;

struct Segments {
    /// Query rows of segment s: `queries[s]..queries[s + 1]`.
    queries: Vec<usize>,
    /// Its key rows, likewise.
    keys: Vec<usize>,
    /// Every segment has one key: the softmax is 1, queries and keys are not computed and their
    /// gradients are zero.
    one_key: bool,
    /// Segments that one task computes.
    tasks: Vec<Range<usize>>,
}

impl Segments {
    fn new(queries: Vec<usize>, keys: Vec<usize>, one_key: bool) -> Self {
        let rows: Vec<usize> = queries.iter().zip(&keys).map(|(q, k)| q + k).collect();
        let tasks = task_groups(&rows, TASK_ROWS);
        Segments { queries, keys, one_key, tasks }
    }
}

pub(super) fn encoder(
    fused: &Fused,
    q: &Tensor,
    h: &Tensor,
    patches: &Patches,
    k: usize,
    params: &CrossParams,
    config: &CrossConfig,
) -> Result<Tensor, BackendError> {
    check::encoder_cross(q, h, patches, k, config)?;
    let queries = (0..=patches.n_patches()).map(|p| p * k).collect();
    cross(fused, q, h, Segments::new(queries, patches.offsets(), false), None, params, config)
}

pub(super) fn decoder(
    fused: &Fused,
    x: &Tensor,
    kv: &Tensor,
    reads: &[u32],
    k: usize,
    params: &CrossParams,
    config: &CrossConfig,
) -> Result<Tensor, BackendError> {
    check::decoder_cross(x, kv, reads, k, config)?;
    let n_patches = kv.rows / k;
    let mut queries = vec![0; n_patches + 1];
    for &p in reads {
        queries[p as usize + 1] += 1;
    }
    for p in 0..n_patches {
        queries[p + 1] += queries[p];
    }
    let keys = (0..=n_patches).map(|p| p * k).collect();
    // A model's reads ascend; any others are brought into that order and back.
    let order = (!reads.is_sorted()).then(|| {
        let mut order: Vec<u32> = (0..reads.len() as u32).collect();
        order.sort_by_key(|&i| reads[i as usize]);
        order
    });
    cross(fused, x, kv, Segments::new(queries, keys, k == 1), order, params, config)
}

/// `2 x + o_proj(attn(q_proj(q_norm x), k_proj(k_norm memory), v_proj(k_norm memory)))`. Query row
/// r is row `order[r]` of x.
fn cross(
    fused: &Fused,
    x: &Tensor,
    memory: &Tensor,
    segments: Segments,
    order: Option<Vec<u32>>,
    params: &CrossParams,
    config: &CrossConfig,
) -> Result<Tensor, BackendError> {
    let (x, memory) = (fused.value(x)?, fused.value(memory)?);
    let dim = config.dim;
    let kv_width = config.kv_heads * config.head_dim;
    let (kv_stride, values) =
        if segments.one_key { (kv_width, 0) } else { (2 * kv_width, kv_width) };
    let heads = Heads {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        kv_stride,
        values,
    };
    let layer = Layer {
        level: Level::best(),
        q_norm: fused.weight(params.q_norm),
        k_norm: fused.weight(params.k_norm),
        q: fused.weight(params.q),
        kv: match segments.one_key {
            true => fused.weight(params.v),
            false => [&fused.weight(params.k)[..], &fused.weight(params.v)[..]].concat().into(),
        },
        o: fused.weight(params.o),
        dim,
        eps: config.eps,
        heads,
        segments,
    };
    let rows = |data: &Arc<Buffer>| match &order {
        None => data.clone(),
        Some(order) => Arc::new(gather(data, dim, order)),
    };
    let queries = rows(&x.data);
    let (y, saved) = on_pool(|| layer.forward(&queries, &memory.data));
    let y = match &order {
        None => y,
        Some(order) => scatter(&y, dim, order),
    };
    let (y, out) = fused.output(x.rows, dim, y);
    if fused.recording() {
        let (x_id, memory_id, memory, params) =
            (x.id, memory.id, memory.data.clone(), params.clone());
        fused.push(move |grads| {
            let Some(dy) = grads.take(out) else { return };
            let dy = match &order {
                None => dy,
                Some(order) => gather(&dy, dim, order),
            };
            let (dx, dmemory) = layer.backward(&queries, &memory, saved, dy, &params, grads);
            let dx = match &order {
                None => dx,
                Some(order) => scatter(&dx, dim, order),
            };
            grads.add(x_id, dx);
            grads.add(memory_id, dmemory);
        });
    }
    Ok(y)
}

/// Row r of the result is row `order[r]` of x.
fn gather(x: &[f32], cols: usize, order: &[u32]) -> Buffer {
    let mut y = Buffer::new(x.len());
    for (y, &i) in y.chunks_exact_mut(cols).zip(order) {
        y.copy_from_slice(&x[i as usize * cols..][..cols]);
    }
    y
}

/// Row `order[r]` of the result is row r of x.
fn scatter(x: &[f32], cols: usize, order: &[u32]) -> Buffer {
    let mut y = Buffer::new(x.len());
    for (x, &i) in x.chunks_exact(cols).zip(order) {
        y[i as usize * cols..][..cols].copy_from_slice(x);
    }
    y
}

/// One call's weights and shapes.
struct Layer {
    level: Level,
    q_norm: Weight,
    k_norm: Weight,
    /// `[heads * head_dim, dim]`
    q: Weight,
    /// `[kv_stride, dim]`
    kv: Weight,
    /// `[dim, heads * head_dim]`
    o: Weight,
    dim: usize,
    eps: f64,
    heads: Heads,
    segments: Segments,
}

/// What backward needs besides the inputs; the normalised inputs and the queries are computed
/// again.
struct Saved {
    /// `[nk, kv_stride]`
    kv: Buffer,
    /// What attention put out, `[nq, heads * head_dim]`.
    attended: Buffer,
}

impl Layer {
    fn forward(&self, x: &[f32], memory: &[f32]) -> (Buffer, Saved) {
        let (level, dim, heads, segments) = (self.level, self.dim, &self.heads, &self.segments);
        let width = heads.width();
        let q = self.queries(x);
        let kv = self.project(memory, &self.k_norm, &self.kv, heads.kv_stride);

        let mut attended = Buffer::zeros(x.len() / dim * width);
        let parts =
            split_by_groups(&mut attended, &segments.tasks, |s| segments.queries[s] * width);
        parts.into_par_iter().zip(&segments.tasks).for_each(|(mut part, task)| {
            let mut scratch = Vec::new();
            for s in task.clone() {
                let (out, rest) =
                    part.split_at_mut((segments.queries[s + 1] - segments.queries[s]) * width);
                part = rest;
                let kv =
                    &kv[segments.keys[s] * heads.kv_stride..segments.keys[s + 1] * heads.kv_stride];
                if segments.one_key {
                    spread_values(kv, heads, out);
                } else {
                    attend(
                        &q[segments.queries[s] * width..][..out.len()],
                        kv,
                        heads,
                        out,
                        &mut scratch,
                    );
                }
            }
        });

        drop(q);
        let mut y = Buffer::new(x.len());
        let o = Panels::transposed(level, &[(&self.o, dim)], width);
        let rows = x.par_chunks(ROWS * dim).zip(attended.par_chunks(ROWS * width));
        y.par_chunks_mut(ROWS * dim).zip(rows).for_each(|(y, (x, attended))| {
            let mut tile = Scratch::new(panels(width) * BLOCK);
            to_tile(attended, width, &mut tile);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = 2.0 * x);
            o.apply_to_rows(level, &tile, y, dim);
        });
        (y, Saved { kv, attended })
    }

    /// `[nq, heads * head_dim]`; empty for one key.
    fn queries(&self, x: &[f32]) -> Buffer {
        match self.segments.one_key {
            true => Buffer::new(0),
            false => self.project(x, &self.q_norm, &self.q, self.heads.width()),
        }
    }

    /// `norm(x) @ weight^T`, `[n, out]`.
    fn project(&self, x: &[f32], norm_weight: &[f32], weight: &[f32], out: usize) -> Buffer {
        let (level, dim) = (self.level, self.dim);
        let weights = Panels::transposed(level, &[(weight, out)], dim);
        let mut y = Buffer::new(x.len() / dim * out);
        y.par_chunks_mut(ROWS * out).zip(x.par_chunks(ROWS * dim)).for_each(|(y, x)| {
            let rows = x.len() / dim;
            let mut normed = Scratch::new(panels(dim) * BLOCK);
            norm(level, x, norm_weight, self.eps, &mut normed);
            if out.is_multiple_of(PANEL) {
                return weights.apply(level, rows, Left::tile(&normed), y, (out, PANEL), Into::Set);
            }
            let mut tile = Scratch::new(panels(out) * BLOCK);
            weights.apply_tile(level, rows, &normed, &mut tile, Into::Set);
            from_tile(&tile, out, y);
        });
        y
    }
}
