//! The block's backward pass.

use super::swiglu::swiglu_backward;
use super::{Block, Saved};
use crate::backend::fused::Grads;
use crate::backend::fused::attention;
use crate::backend::fused::buffer::{Buffer, Scratch};
use crate::backend::fused::norm::{NormGrad, norm, norm_backward};
use crate::backend::fused::rope::rotate;
use crate::backend::fused::tile::{
    BLOCK, Into, Left, PANEL, Panels, ROWS, panels, put_rows, rows_left,
};
use crate::backend::fused::weight_grads::{
    WeightGrad, groups_in_turn, tiles_at_once, weight_grads,
};
use rayon::prelude::*;

impl Block {
    /// The input's gradient; the parameters' are added to `grads`.
    pub(super) fn backward(
        &self,
        x: &[f32],
        saved: Saved,
        dy: Buffer,
        grads: &mut Grads,
    ) -> Buffer {
        let Saved { qkv, attended, lse, gate_up } = saved;
        let (dmiddle, dattended) = self.feed_forward_backward(x, &attended, gate_up, dy, grads);
        let outputs = attention::Outputs {
            out: &attended,
            lse: &lse,
            grad: &dattended,
            grad_stride: panels(self.q_width()) * PANEL,
        };
        let dqkv = attention::backward(self.level, &qkv, &self.offsets, &self.layout, &outputs);
        drop((qkv, attended, dattended));
        self.project_backward(x, dqkv, dmiddle, grads)
    }

    /// Gradients of the sum after attention `[n, dim]` and of the attention's outputs `[n,
    /// panels(heads * head_dim) * PANEL]`.
    fn feed_forward_backward(
        &self,
        x: &[f32],
        attended: &[f32],
        mut gate_up: Buffer,
        dy: Buffer,
        grads: &mut Grads,
    ) -> (Buffer, Buffer) {
        let (level, dim, ffn, q) = (self.level, self.config.dim, self.config.ffn, self.q_width());
        let o_forward = Panels::transposed(level, &[(&self.o, dim)], q);
        let o = Panels::stacked(&[(&self.o, dim)], q);
        let gate_up_weights = Panels::stacked(&[(&self.gate, ffn), (&self.up, ffn)], dim);
        let down = Panels::stacked(&[(&self.down, dim)], ffn);
        let (hidden, wide, q_tile) = (panels(dim) * BLOCK, panels(ffn) * BLOCK, panels(q) * BLOCK);
        let q_stride = panels(q) * PANEL;
        let n = dy.len() / dim;
        let mut dmiddle = Buffer::new(n * dim);
        let mut dattended = Buffer::new(n * q_stride);
        let mut do_ = grads.take_dense(self.params.o);
        let mut dgate = grads.take_dense(self.params.gate);
        let mut dup = grads.take_dense(self.params.up);
        let mut ddown = grads.take_dense(self.params.down);
        let mut dnorm = NormGrad::new(n, dim);
        struct Group<'a> {
            first: usize,
            dy: &'a [f32],
            x: &'a [f32],
            gate_up: &'a mut [f32],
            dmiddle: &'a mut [f32],
            dattended: &'a mut [f32],
            dnorm: &'a mut [f32],
        }
        let group = tiles_at_once();
        let inputs = dy.chunks(group * ROWS * dim).zip(x.chunks(group * ROWS * dim));
        let outputs = dmiddle
            .chunks_mut(group * ROWS * dim)
            .zip(dattended.chunks_mut(group * ROWS * q_stride));
        let kept = gate_up.chunks_mut(group * 2 * wide).zip(dnorm.groups(group));
        let groups = inputs.zip(outputs).zip(kept).zip((0..).step_by(group));
        let groups = groups.map(|((((dy, x), (dmiddle, dattended)), (gate_up, dnorm)), first)| {
            Group { first, dy, x, gate_up, dmiddle, dattended, dnorm }
        });
        let held =
            || [wide, hidden, q_tile].map(|tile| Buffer::new(group.min(n.div_ceil(ROWS)) * tile));
        let tiles = |group: &mut Group, [products, normeds, attendeds]: &mut [Buffer; 3]| {
            let inputs = group.dy.par_chunks(ROWS * dim).zip(group.x.par_chunks(ROWS * dim));
            let outputs = group
                .dmiddle
                .par_chunks_mut(ROWS * dim)
                .zip(group.dattended.par_chunks_mut(ROWS * q_stride));
            let held = products
                .par_chunks_mut(wide)
                .zip(normeds.par_chunks_mut(hidden))
                .zip(attendeds.par_chunks_mut(q_tile));
            let norms = group.dnorm.par_chunks_mut(dim).zip(group.gate_up.par_chunks_mut(2 * wide));
            let first = group.first;
            inputs.zip(outputs).zip(held.zip(norms)).enumerate().for_each(
                |(
                    t,
                    (
                        ((dy, x), (dmiddle, dattended)),
                        (((product, normed), attended_tile), (dnorm, gate_up)),
                    ),
                )| {
                    let rows = dy.len() / dim;
                    let mut grad = Scratch::new(hidden);
                    let mut dproduct = Scratch::new(wide);
                    let mut middle = Scratch::new(rows * dim);
                    self.attended_tile(attended, (first + t) * ROWS, rows, attended_tile);
                    self.middle(&o_forward, attended_tile, x, &mut middle);
                    let left = rows_left(dy, dim, &mut grad);
                    down.apply(level, rows, left, &mut dproduct, (PANEL, BLOCK), Into::Set);
                    let (gate, up) = gate_up.split_at_mut(wide);
                    swiglu_backward(level, rows, gate, up, &dproduct, product);
                    gate_up_weights.apply_tile(level, rows, gate_up, &mut grad, Into::Set);
                    norm(level, &middle, &self.post_attention_layernorm, self.config.eps, normed);
                    norm_backward(
                        level,
                        &middle,
                        &self.post_attention_layernorm,
                        self.config.eps,
                        &grad,
                        dy,
                        dmiddle,
                        dnorm,
                    );
                    let left = rows_left(dmiddle, dim, &mut grad);
                    o.apply(level, rows, left, dattended, (q_stride, PANEL), Into::Set);
                },
            );
        };
        let weights = |group: &Group, [products, normeds, attendeds]: &[Buffer; 3]| {
            let rows = group.dy.len() / dim;
            let gates = group.gate_up.chunks(2 * wide).map(Left::tile);
            let ups = group.gate_up.chunks(2 * wide).map(|tile| Left::tile(&tile[wide..]));
            let of_row = |dy| Left::strided(dy, dim, 1);
            let downs = group.dy.chunks(ROWS * dim).map(of_row);
            let outs = group.dmiddle.chunks(ROWS * dim).map(of_row);
            let grads = vec![
                WeightGrad::new(&mut ddown, ffn, rows, downs, products),
                WeightGrad::new(&mut dgate, dim, rows, gates, normeds),
                WeightGrad::new(&mut dup, dim, rows, ups, normeds),
                WeightGrad::new(&mut do_, q, rows, outs, attendeds),
            ];
            weight_grads(level, grads);
        };
        groups_in_turn(groups, held, tiles, weights);
        grads.put_dense(self.params.o, do_);
        grads.put_dense(self.params.gate, dgate);
        grads.put_dense(self.params.up, dup);
        grads.put_dense(self.params.down, ddown);
        dnorm.add_to(grads.dense(self.params.post_attention_layernorm));
        (dmiddle, dattended)
    }

    /// The block's input's gradient, from that of the projections' outputs and, through the
    /// residual, `dmiddle`.
    fn project_backward(
        &self,
        x: &[f32],
        dqkv: attention::Gradients,
        mut dmiddle: Buffer,
        grads: &mut Grads,
    ) -> Buffer {
        let (level, dim, head_dim) = (self.level, self.config.dim, self.config.head_dim);
        let (q, kv) = (self.q_width(), self.kv_width());
        let weights = Panels::stacked(&[(&self.q, q), (&self.k, kv), (&self.v, kv)], dim);
        let (hidden, packed) = (panels(dim) * BLOCK, panels(self.width) * BLOCK);
        let n = x.len() / dim;
        let scale = self.scale() as f32;
        let mut dq = grads.take_dense(self.params.q);
        let mut dk = grads.take_dense(self.params.k);
        let mut dv = grads.take_dense(self.params.v);
        let mut dnorm = NormGrad::new(n, dim);
        struct Group<'a> {
            first: usize,
            x: &'a [f32],
            dx: &'a mut [f32],
            dnorm: &'a mut [f32],
        }
        let group = tiles_at_once();
        let rows = x.chunks(group * ROWS * dim).zip(dmiddle.chunks_mut(group * ROWS * dim));
        let groups = rows.zip(dnorm.groups(group)).zip((0..).step_by(group));
        let groups = groups.map(|(((x, dx), dnorm), first)| Group { first, x, dx, dnorm });
        let held = || [hidden, packed].map(|tile| Buffer::new(group.min(n.div_ceil(ROWS)) * tile));
        let tiles = |group: &mut Group, [normeds, dqkvs]: &mut [Buffer; 2]| {
            let inputs = group.x.par_chunks(ROWS * dim).zip(group.dx.par_chunks_mut(ROWS * dim));
            let held = normeds.par_chunks_mut(hidden).zip(dqkvs.par_chunks_mut(packed));
            let first = group.first;
            let held = held.zip(group.dnorm.par_chunks_mut(dim));
            inputs.zip(held).enumerate().for_each(|(t, ((x, dx), ((normed, packed), dnorm)))| {
                let rows = x.len() / dim;
                let mut planes = Scratch::new(self.layout.planes() * rows * head_dim);
                let mut turned = Scratch::new(rows * head_dim);
                planes.fill(0.0);
                let (mut row, mut all) = (0, Vec::with_capacity(rows));
                for (span, positions) in self.positions((first + t) * ROWS, rows) {
                    dqkv.add_rows(span, positions.clone(), &mut planes, row);
                    row += positions.len();
                    all.extend(positions);
                }
                // Columns that fill up panels are zero.
                if ![q, kv].iter().all(|width| width.is_multiple_of(PANEL)) {
                    packed.fill(0.0);
                }
                for (p, (plane, column)) in
                    planes.chunks_exact(rows * head_dim).zip(&self.columns).enumerate()
                {
                    if p >= self.config.heads + self.config.kv_heads {
                        put_rows(level, rows, plane, *column, packed);
                        continue;
                    }
                    let scale = if p < self.config.heads { scale } else { std::f32::consts::LN_2 };
                    rotate(level, &self.table, &all, (plane, head_dim), &mut turned, scale, -1.0);
                    put_rows(level, rows, &turned, *column, packed);
                }
                let mut grad = Scratch::new(hidden);
                weights.apply_tile(level, rows, packed, &mut grad, Into::Set);
                norm(level, x, &self.input_layernorm, self.config.eps, normed);
                let residual = Scratch::copy(dx);
                norm_backward(
                    level,
                    x,
                    &self.input_layernorm,
                    self.config.eps,
                    &grad,
                    &residual,
                    dx,
                    dnorm,
                );
            });
        };
        let of_weights = |group: &Group, [normeds, dqkvs]: &[Buffer; 2]| {
            let parts = [(&mut dq, 0), (&mut dk, panels(q)), (&mut dv, panels(q) + panels(kv))];
            let grads = parts.into_iter().map(|(dw, panel)| {
                let dys = dqkvs.chunks(packed).map(|tile| Left::tile(&tile[panel * BLOCK..]));
                WeightGrad::new(dw, dim, group.x.len() / dim, dys, normeds)
            });
            weight_grads(level, grads.collect());
        };
        groups_in_turn(groups, held, tiles, of_weights);
        grads.put_dense(self.params.q, dq);
        grads.put_dense(self.params.k, dk);
        grads.put_dense(self.params.v, dv);
        dnorm.add_to(grads.dense(self.params.input_layernorm));
        dmiddle
    }
}
