//! The backward pass of cross-attention.

use super::attend::{attend_backward, spread_values_backward};
use super::{Layer, Saved};
use crate::backend::CrossParams;
use crate::backend::fused::Grads;
use crate::backend::fused::buffer::{Buffer, Scratch};
use crate::backend::fused::norm::{NormGrad, norm, norm_backward};
use crate::backend::fused::ragged::split_by_groups;
use crate::backend::fused::tile::{
    BLOCK, Into, Left, PANEL, Panels, ROWS, from_tile, panels, rows_left, to_tile,
};
use crate::backend::fused::weight_grads::{
    WeightGrad, groups_in_turn, tiles_at_once, weight_grads,
};
use rayon::prelude::*;

impl Layer {
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
    pub(super) fn backward(
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
