//! Cross-attention between patch rows and byte rows.
//!
//! Both directions are one ragged attention: segment s's query rows see segment s's key rows alone.
//! In the encoder a segment is a patch: k queries, a key for each byte. In the decoder it is the
//! bytes that read one patch, and the patch's k keys; so the gradients of keys and values are sums
//! over one segment, in order, and tasks share nothing.

use super::buffer::{Buffer, Scratch};
use super::loops::{axpy, dot, exp};
use super::norm::{NormGrad, norm, norm_backward};
use super::ragged::{split_by_groups, task_groups};
use super::tile::{
    BLOCK, Into, Left, PANEL, Panels, ROWS, WeightGrad, from_tile, groups_in_turn, panels,
    rows_left, tiles_at_once, to_tile, weight_grads,
};
use super::weight::Weight;
use super::{Fused, Grads, on_pool};
use crate::backend::{BackendError, CrossConfig, CrossParams, Tape, Tensor, check};
use crate::patch::Patches;
use crate::simd::{Level, multiversion};
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

/// Where heads lie in a row of queries, and in a row of keys and values: `[keys | values]`, or
/// values alone.
#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Width of a row of keys and values.
    kv_stride: usize,
    /// Column of the first value.
    values: usize,
}

impl Heads {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// First column of the key head that query head h reads, in the keys and in the values.
    #[inline(always)]
    fn key_value_at(&self, h: usize) -> (usize, usize) {
        let at = h / (self.heads / self.kv_heads) * self.head_dim;
        (at, self.values + at)
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

    /// From the gradient `dy` `[n, out]` of `project(x)`: its input's, to which `residual` times
    /// `along` is added, and the norm's. The weight's rows from each column of `weights` on are
    /// a parameter of their own, `[out of it, dim]`, whose gradient is added to.
    fn project_backward(
        &self,
        x: &[f32],
        (norm_weight, weight): (&[f32], &[f32]),
        dy: &[f32],
        (residual, along): (Option<&[f32]>, f32),
        weights: Vec<(&mut [f32], usize)>,
        dnorm: &mut [f32],
    ) -> Buffer {
        let (level, dim, n) = (self.level, self.dim, x.len() / self.dim);
        let out = weight.len() / dim;
        let stacked = Panels::stacked(&[(weight, out)], dim);
        let mut dx = Buffer::new(x.len());
        let mut weights = weights;
        let mut norm_grad = NormGrad::new(n, dim);
        struct Group<'a> {
            first: usize,
            x: &'a [f32],
            dy: &'a [f32],
            dx: &'a mut [f32],
            norm: &'a mut [f32],
        }
        let (group, hidden) = (tiles_at_once(), panels(dim) * BLOCK);
        let inputs = x.chunks(group * ROWS * dim).zip(dy.chunks(group * ROWS * out));
        let outputs = dx.chunks_mut(group * ROWS * dim).zip(norm_grad.groups(group));
        let groups = inputs.zip(outputs).zip((0..).step_by(group));
        let groups = groups.map(|(((x, dy), (dx, norm)), first)| Group { first, x, dy, dx, norm });
        let held = || Buffer::new(group.min(n.div_ceil(ROWS)) * hidden);
        let tiles = |group: &mut Group, normeds: &mut Buffer| {
            let inputs = group.x.par_chunks(ROWS * dim).zip(group.dy.par_chunks(ROWS * out));
            let outputs = group.dx.par_chunks_mut(ROWS * dim).zip(normeds.par_chunks_mut(hidden));
            let first = group.first;
            inputs.zip(outputs).zip(group.norm.par_chunks_mut(dim)).enumerate().for_each(
                |(t, (((x, dy), (dx, normed)), norm_grad))| {
                    let mut tile = Scratch::new(panels(out) * BLOCK);
                    let mut grad = Scratch::new(hidden);
                    let left = rows_left(dy, out, &mut tile);
                    stacked.apply(level, x.len() / dim, left, &mut grad, (PANEL, BLOCK), Into::Set);
                    norm(level, x, norm_weight, self.eps, normed);
                    let mut through = Scratch::new(x.len());
                    match residual {
                        None => through.fill(0.0),
                        Some(residual) => {
                            let residual = &residual[(first + t) * ROWS * dim..][..x.len()];
                            through.iter_mut().zip(residual).for_each(|(r, dy)| *r = along * dy);
                        }
                    }
                    norm_backward(level, x, norm_weight, self.eps, &grad, &through, dx, norm_grad);
                },
            );
        };
        let of_weights = |group: &Group, normeds: &Buffer| {
            let mut column = 0;
            let mut grads = Vec::new();
            for (dw, outputs) in &mut weights {
                let dys =
                    group.dy.chunks(ROWS * out).map(|dy| Left::strided(&dy[column..], out, 1));
                grads.push(WeightGrad::new(dw, dim, group.x.len() / dim, dys, normeds));
                column += *outputs;
            }
            weight_grads(level, grads);
        };
        groups_in_turn(groups, held, tiles, of_weights);
        norm_grad.add_to(dnorm);
        dx
    }

    /// Gradients of x and memory; adds those of the parameters.
    fn backward(
        &self,
        x: &[f32],
        memory: &[f32],
        saved: Saved,
        dy: Buffer,
        params: &CrossParams,
        grads: &mut Grads,
    ) -> (Buffer, Buffer) {
        let (heads, segments) = (&self.heads, &self.segments);
        let (width, stride) = (heads.width(), heads.kv_stride);
        let Saved { kv, attended } = saved;
        let q = self.queries(x);
        let d_attended = self.output_backward(&attended, &dy, params, grads);

        let mut dq = Buffer::zeros(q.len());
        let mut dkv = Buffer::zeros(kv.len());
        let q_at = |s: usize| segments.queries[s] * width;
        let kv_at = |s: usize| segments.keys[s] * stride;
        let dq_parts =
            split_by_groups(
                &mut dq,
                &segments.tasks,
                |s| if segments.one_key { 0 } else { q_at(s) },
            );
        let dkv_parts = split_by_groups(&mut dkv, &segments.tasks, kv_at);
        dq_parts.into_par_iter().zip(dkv_parts).zip(&segments.tasks).for_each(
            |((mut dq, mut dkv), task)| {
                let mut scratch = Vec::new();
                for s in task.clone() {
                    let (q_range, kv_range) = (q_at(s)..q_at(s + 1), kv_at(s)..kv_at(s + 1));
                    let (dkv_part, rest) = dkv.split_at_mut(kv_range.len());
                    dkv = rest;
                    let d_out = &d_attended[q_range.clone()];
                    if segments.one_key {
                        spread_values_backward(d_out, heads, dkv_part);
                        continue;
                    }
                    let (dq_part, rest) = dq.split_at_mut(q_range.len());
                    dq = rest;
                    let (q, out, kv) = (&q[q_range.clone()], &attended[q_range], &kv[kv_range]);
                    attend_backward(q, kv, out, d_out, heads, dq_part, dkv_part, &mut scratch);
                }
            },
        );
        drop((d_attended, attended, q, kv));

        let dx = if segments.one_key {
            // There is a path to these, and what flows along it is zero.
            for id in [params.q_norm, params.q, params.k] {
                grads.dense(id);
            }
            let mut dx = dy;
            dx.iter_mut().for_each(|d| *d *= 2.0);
            dx
        } else {
            let (mut d_weight, mut d_norm) =
                (grads.take_dense(params.q), grads.take_dense(params.q_norm));
            let weights = vec![(&mut d_weight[..], width)];
            let dx = self.project_backward(
                x,
                (&self.q_norm, &self.q),
                &dq,
                (Some(&dy), 2.0),
                weights,
                &mut d_norm,
            );
            grads.put_dense(params.q, d_weight);
            grads.put_dense(params.q_norm, d_norm);
            dx
        };

        let kv_width = heads.kv_width();
        let mut dk = (!segments.one_key).then(|| grads.take_dense(params.k));
        let (mut dv, mut d_norm) = (grads.take_dense(params.v), grads.take_dense(params.k_norm));
        let weights =
            dk.as_deref_mut().into_iter().chain([&mut dv[..]]).map(|dw| (dw, kv_width)).collect();
        let d_memory = self.project_backward(
            memory,
            (&self.k_norm, &self.kv),
            &dkv,
            (None, 0.0),
            weights,
            &mut d_norm,
        );
        dk.into_iter().for_each(|dk| grads.put_dense(params.k, dk));
        grads.put_dense(params.v, dv);
        grads.put_dense(params.k_norm, d_norm);
        (dx, d_memory)
    }

    /// Through the output projection: the gradient of `attended` from that of the output; adds the
    /// weight's.
    fn output_backward(
        &self,
        attended: &[f32],
        dy: &[f32],
        params: &CrossParams,
        grads: &mut Grads,
    ) -> Buffer {
        let (level, dim, width) = (self.level, self.dim, self.heads.width());
        let n = dy.len() / dim;
        let stacked = Panels::stacked(&[(&self.o, dim)], width);
        let mut d_o = grads.take_dense(params.o);
        let mut d_attended = Buffer::new(attended.len());
        struct Group<'a> {
            dy: &'a [f32],
            attended: &'a [f32],
            d_attended: &'a mut [f32],
        }
        let (group, tile) = (tiles_at_once(), panels(width) * BLOCK);
        let inputs = dy.chunks(group * ROWS * dim).zip(attended.chunks(group * ROWS * width));
        let groups = inputs.zip(d_attended.chunks_mut(group * ROWS * width));
        let groups = groups.map(|((dy, attended), d_attended)| Group { dy, attended, d_attended });
        let held = || Buffer::new(group.min(n.div_ceil(ROWS)) * tile);
        let tiles = |group: &mut Group, tiles: &mut Buffer| {
            let inputs =
                group.dy.par_chunks(ROWS * dim).zip(group.attended.par_chunks(ROWS * width));
            let outputs =
                group.d_attended.par_chunks_mut(ROWS * width).zip(tiles.par_chunks_mut(tile));
            inputs.zip(outputs).for_each(|((dy, attended), (d_attended, tile))| {
                let rows = dy.len() / dim;
                let mut from = Scratch::new(panels(dim) * BLOCK);
                let left = rows_left(dy, dim, &mut from);
                if width.is_multiple_of(PANEL) {
                    stacked.apply(level, rows, left, d_attended, (width, PANEL), Into::Set);
                } else {
                    stacked.apply(level, rows, left, tile, (PANEL, BLOCK), Into::Set);
                    from_tile(tile, width, d_attended);
                }
                to_tile(attended, width, tile);
            });
        };
        let of_weight = |group: &Group, tiles: &Buffer| {
            let dys = group.dy.chunks(ROWS * dim).map(|dy| Left::strided(dy, dim, 1));
            weight_grads(
                level,
                vec![WeightGrad::new(&mut d_o, width, group.dy.len() / dim, dys, tiles)],
            );
        };
        groups_in_turn(groups, held, tiles, of_weight);
        grads.put_dense(params.o, d_o);
        d_attended
    }
}

/// Attention to one key: its value, for every query row.
fn spread_values(values: &[f32], heads: &Heads, out: &mut [f32]) {
    let d = heads.head_dim;
    for out in out.chunks_exact_mut(heads.width()) {
        for (h, out) in out.chunks_exact_mut(d).enumerate() {
            out.copy_from_slice(&values[heads.key_value_at(h).1..][..d]);
        }
    }
}

fn spread_values_backward(d_out: &[f32], heads: &Heads, d_values: &mut [f32]) {
    let d = heads.head_dim;
    for d_out in d_out.chunks_exact(heads.width()) {
        for (h, d_out) in d_out.chunks_exact(d).enumerate() {
            axpy(1.0, d_out, &mut d_values[heads.key_value_at(h).1..][..d]);
        }
    }
}

/// Query heads are padded to whole vectors of this many.
const LANES: usize = 16;

/// Attention probabilities of one query row `[heads * head_dim]` to all keys, `[keys, padded
/// heads]`: heads lie side by side, so that the softmax needs no sum across a vector. `D` is the
/// head dimension, 0 if it is none that is compiled for.
#[inline(always)]
fn probabilities<const D: usize>(q: &[f32], kv: &[f32], heads: &Heads, p: &mut Vec<f32>) {
    let (d, stride) = (if D == 0 { heads.head_dim } else { D }, heads.kv_stride);
    let scale = (d as f32).sqrt().recip();
    let padded = heads.heads.next_multiple_of(LANES);
    p.clear();
    p.resize(kv.len() / stride * padded, 0.0);
    for (kv, p) in kv.chunks_exact(stride).zip(p.chunks_exact_mut(padded)) {
        for h in 0..heads.heads {
            p[h] = scale * dot(&q[h * d..][..d], &kv[heads.key_value_at(h).0..][..d]);
        }
    }
    for first in (0..padded).step_by(LANES) {
        let mut top = [f32::NEG_INFINITY; LANES];
        for p in p.chunks_exact(padded) {
            for (top, &p) in top.iter_mut().zip(&p[first..][..LANES]) {
                *top = if p > *top { p } else { *top };
            }
        }
        let mut sum = [0.0; LANES];
        for p in p.chunks_exact_mut(padded) {
            for ((p, &top), sum) in p[first..][..LANES].iter_mut().zip(&top).zip(&mut sum) {
                *p = exp(*p - top);
                *sum += *p;
            }
        }
        let share = sum.map(f32::recip);
        for p in p.chunks_exact_mut(padded) {
            for (p, share) in p[first..][..LANES].iter_mut().zip(&share) {
                *p *= share;
            }
        }
    }
}

multiversion! {
    /// `q` and `out` are `[queries, heads * head_dim]`, `kv` is `[keys, kv_stride]`; `out` is zeros so far, `p` is scratch.
    fn attend(q: &[f32], kv: &[f32], heads: &Heads, out: &mut [f32], p: &mut Vec<f32>) {
        match heads.head_dim {
            32 => attend_rows::<32>(q, kv, heads, out, p),
            64 => attend_rows::<64>(q, kv, heads, out, p),
            _ => attend_rows::<0>(q, kv, heads, out, p),
        }
    }
}

#[inline(always)]
fn attend_rows<const D: usize>(
    q: &[f32],
    kv: &[f32],
    heads: &Heads,
    out: &mut [f32],
    p: &mut Vec<f32>,
) {
    let d = if D == 0 { heads.head_dim } else { D };
    let padded = heads.heads.next_multiple_of(LANES);
    for (q, out) in q.chunks_exact(heads.width()).zip(out.chunks_exact_mut(heads.width())) {
        probabilities::<D>(q, kv, heads, p);
        for (h, out) in out.chunks_exact_mut(d).enumerate() {
            let value = heads.key_value_at(h).1;
            for (kv, p) in kv.chunks_exact(heads.kv_stride).zip(p.chunks_exact(padded)) {
                axpy(p[h], &kv[value..][..d], out);
            }
        }
    }
}

multiversion! {
    /// Adds into `dq` and `dkv`; `p` is scratch.
    fn attend_backward(
        q: &[f32],
        kv: &[f32],
        out: &[f32],
        d_out: &[f32],
        heads: &Heads,
        dq: &mut [f32],
        dkv: &mut [f32],
        p: &mut Vec<f32>,
    ) {
        match heads.head_dim {
            32 => attend_rows_backward::<32>(q, kv, out, d_out, heads, dq, dkv, p),
            64 => attend_rows_backward::<64>(q, kv, out, d_out, heads, dq, dkv, p),
            _ => attend_rows_backward::<0>(q, kv, out, d_out, heads, dq, dkv, p),
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn attend_rows_backward<const D: usize>(
    q: &[f32],
    kv: &[f32],
    out: &[f32],
    d_out: &[f32],
    heads: &Heads,
    dq: &mut [f32],
    dkv: &mut [f32],
    p: &mut Vec<f32>,
) {
    let (d, width, stride) =
        (if D == 0 { heads.head_dim } else { D }, heads.width(), heads.kv_stride);
    let scale = (d as f32).sqrt().recip();
    let padded = heads.heads.next_multiple_of(LANES);
    for row in (0..q.len()).step_by(width) {
        probabilities::<D>(&q[row..][..width], kv, heads, p);
        for h in 0..heads.heads {
            let ((key, value), at) = (heads.key_value_at(h), row + h * d);
            let (q, out, d_out, dq) =
                (&q[at..][..d], &out[at..][..d], &d_out[at..][..d], &mut dq[at..][..d]);
            // The mean of the probabilities' gradients is out . d_out; with one key the difference
            // is exactly zero.
            let mean = dot(d_out, out);
            for ((kv, dkv), p) in kv
                .chunks_exact(stride)
                .zip(dkv.chunks_exact_mut(stride))
                .zip(p.chunks_exact(padded))
            {
                let ds = scale * (p[h] * (dot(d_out, &kv[value..][..d]) - mean));
                axpy(ds, &kv[key..][..d], dq);
                axpy(ds, q, &mut dkv[key..][..d]);
                axpy(p[h], d_out, &mut dkv[value..][..d]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Matrix, bits, check, linear, matrix, noise, rms_norm, scale};
    use super::*;
    use crate::backend::{Operations, ParamId, Parameters};
    use proptest::prelude::*;

    fn patches(lengths: &[usize]) -> Patches {
        let starts =
            lengths.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
        Patches {
            starts,
            span_offsets: vec![0, lengths.len()],
            next_starts: vec![true],
            n_ids: lengths.iter().sum(),
        }
    }

    fn weights(c: &CrossConfig, seed: u64) -> Vec<Matrix> {
        let (width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        vec![
            scale(c.dim, seed),
            scale(c.dim, seed + 1),
            matrix(width, c.dim, seed + 2),
            matrix(kv_width, c.dim, seed + 3),
            matrix(kv_width, c.dim, seed + 4),
            matrix(c.dim, width, seed + 5),
        ]
    }

    fn params(p: &[ParamId]) -> CrossParams {
        CrossParams { q_norm: p[0], k_norm: p[1], q: p[2], k: p[3], v: p[4], o: p[5] }
    }

    /// Dense attention with a mask, in f64: query row i sees key row j iff `visible(i, j)`.
    fn meaning(
        at: &[Vec<f64>],
        c: &CrossConfig,
        visible: impl Fn(usize, usize) -> bool,
    ) -> Vec<f64> {
        let [x, memory, q_norm, k_norm, q, k, v, o] = at else {
            panic!("two inputs and six parameters")
        };
        let (width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let q = linear(&rms_norm(x, q_norm, c.eps), q, c.dim);
        let normed = rms_norm(memory, k_norm, c.eps);
        let (k, v) = (linear(&normed, k, c.dim), linear(&normed, v, c.dim));
        let (nq, nk) = (x.len() / c.dim, memory.len() / c.dim);
        let mut attended = vec![0.0; nq * width];
        for i in 0..nq {
            for h in 0..c.heads {
                let kv_at = h / (c.heads / c.kv_heads) * c.head_dim;
                let seen: Vec<usize> = (0..nk).filter(|&j| visible(i, j)).collect();
                let dot = |j: usize| {
                    (0..c.head_dim)
                        .map(|d| q[i * width + h * c.head_dim + d] * k[j * kv_width + kv_at + d])
                        .sum::<f64>()
                };
                let scores: Vec<f64> =
                    seen.iter().map(|&j| (dot(j) / (c.head_dim as f64).sqrt()).exp()).collect();
                let total: f64 = scores.iter().sum();
                for (&j, score) in seen.iter().zip(&scores) {
                    for d in 0..c.head_dim {
                        attended[i * width + h * c.head_dim + d] +=
                            score / total * v[j * kv_width + kv_at + d];
                    }
                }
            }
        }
        linear(&attended, o, width).iter().zip(x).map(|(a, x)| a + 2.0 * x).collect()
    }

    fn config() -> impl Strategy<Value = CrossConfig> {
        let heads = prop_oneof![Just((1, 1)), Just((2, 2)), Just((4, 2)), Just((6, 1))];
        (
            prop_oneof![Just(8usize), Just(20)],
            heads,
            prop_oneof![Just(2usize), Just(5), Just(16), Just(32)],
        )
            .prop_map(|(dim, (heads, kv_heads), head_dim)| CrossConfig {
                dim,
                heads,
                kv_heads,
                head_dim,
                eps: 1e-5,
            })
    }

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        prop_oneof![
            prop::collection::vec(prop_oneof![Just(1usize), 1usize..7], 0..6),
            Just(vec![1, 90]),
            Just(vec![1; 20]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn encoder_agrees_with_masked_attention(lengths in lengths(), k in 1usize..5, c in config(), seed in 0u64..1000) {
            let patches = patches(&lengths);
            let owner = patches.owner();
            let inputs = [matrix(lengths.len() * k, c.dim, seed + 10), matrix(patches.n_ids, c.dim, seed + 11)];
            check(
                |fused, x, p| encoder(fused, &x[0], &x[1], &patches, k, &params(p), &c).unwrap(),
                &inputs,
                &weights(&c, seed),
                |at| meaning(at, &c, |i, j| owner[j] as usize == i / k),
            );
        }

        #[test]
        fn decoder_agrees_with_masked_attention(
            lengths in lengths(),
            shuffled: bool,
            k in 1usize..5,
            c in config(),
            seed in 0u64..1000,
        ) {
            let n_patches = lengths.len();
            let mut reads: Vec<u32> = patches(&lengths).owner().iter().map(|p| p.saturating_sub(1)).collect();
            if shuffled {
                let keys = noise(reads.len(), seed);
                let mut order: Vec<usize> = (0..reads.len()).collect();
                order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
                reads = order.iter().map(|&i| reads[i]).collect();
            }
            let inputs = [matrix(reads.len(), c.dim, seed + 10), matrix(n_patches * k, c.dim, seed + 11)];
            check(
                |fused, x, p| decoder(fused, &x[0], &x[1], &reads, k, &params(p), &c).unwrap(),
                &inputs,
                &weights(&c, seed),
                |at| meaning(at, &c, |i, j| reads[i] as usize == j / k),
            );
        }
    }

    #[test]
    fn with_one_key_the_gradients_of_queries_and_keys_are_zeros() {
        let c = CrossConfig { dim: 16, heads: 4, kv_heads: 2, head_dim: 8, eps: 1e-5 };
        // The decoder by its short cut, and the encoder by the general way.
        for decode in [true, false] {
            let fused = Fused::new();
            let ids: Vec<ParamId> = weights(&c, 0)
                .into_iter()
                .map(|w| fused.add_param(w.shape, w.data, false).unwrap())
                .collect();
            fused.record(true);
            let (x, y) = (matrix(3, 16, 7), matrix(3, 16, 8));
            let (x, y) =
                (fused.constant(3, 16, x.data).unwrap(), fused.constant(3, 16, y.data).unwrap());
            let y = match decode {
                true => decoder(&fused, &x, &y, &[0, 1, 2], 1, &params(&ids), &c).unwrap(),
                false => {
                    encoder(&fused, &x, &y, &patches(&[1, 1, 1]), 1, &params(&ids), &c).unwrap()
                }
            };
            fused
                .backward(&super::super::testing::weighted_sum(&fused, &y, &noise(48, 1)))
                .unwrap();
            for id in [ids[0], ids[2], ids[3]] {
                let grad = fused.grad(id).unwrap().expect("there is a path");
                assert!(grad.iter().all(|&g| g == 0.0));
            }
            for id in [ids[1], ids[4], ids[5]] {
                assert!(
                    fused.grad(id).unwrap().expect("there is a path").iter().any(|&g| g != 0.0)
                );
            }
        }
    }

    #[test]
    fn rows_alone_have_the_bits_they_have_in_a_batch() {
        let c = CrossConfig { dim: 64, heads: 4, kv_heads: 2, head_dim: 16, eps: 1e-5 };
        let k = 2;
        let fused = Fused::new();
        let ids: Vec<ParamId> = weights(&c, 0)
            .into_iter()
            .map(|w| fused.add_param(w.shape, w.data, false).unwrap())
            .collect();
        let spans = [vec![1, 4, 3], vec![1], vec![1, 300, 2, 2, 2, 9], vec![1, 1, 1]];
        let all: Vec<usize> = spans.concat();
        let (bytes, rows) = (matrix(all.iter().sum(), 64, 1), matrix(all.len() * k, 64, 2));
        let encode = |lengths: &[usize], rows: &[f32], bytes: &[f32]| {
            let q = fused.constant(rows.len() / 64, 64, rows.to_vec()).unwrap();
            let h = fused.constant(bytes.len() / 64, 64, bytes.to_vec()).unwrap();
            fused
                .to_host(&encoder(&fused, &q, &h, &patches(lengths), k, &params(&ids), &c).unwrap())
                .unwrap()
        };
        let decode = |reads: &[u32], rows: &[f32], bytes: &[f32]| {
            let kv = fused.constant(rows.len() / 64, 64, rows.to_vec()).unwrap();
            let x = fused.constant(bytes.len() / 64, 64, bytes.to_vec()).unwrap();
            fused.to_host(&decoder(&fused, &x, &kv, reads, k, &params(&ids), &c).unwrap()).unwrap()
        };
        let owner = patches(&all).owner();
        let (encoded, decoded) =
            (encode(&all, &rows.data, &bytes.data), decode(&owner, &rows.data, &bytes.data));
        let (mut patch, mut byte) = (0, 0);
        for span in &spans {
            let (p, b) = (patch + span.len(), byte + span.iter().sum::<usize>());
            let (row_range, byte_range) = (patch * k * 64..p * k * 64, byte * 64..b * 64);
            let (span_rows, span_bytes) =
                (&rows.data[row_range.clone()], &bytes.data[byte_range.clone()]);
            assert_eq!(bits(&encode(span, span_rows, span_bytes)), bits(&encoded[row_range]));
            let reads: Vec<u32> = owner[byte..b].iter().map(|o| o - patch as u32).collect();
            assert_eq!(bits(&decode(&reads, span_rows, span_bytes)), bits(&decoded[byte_range]));
            (patch, byte) = (p, b);
        }
    }
}
