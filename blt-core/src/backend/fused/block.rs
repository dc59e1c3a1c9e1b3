//! A transformer block, `x += Attention(RMSNorm(x)); x += SwiGLU(RMSNorm(x))`, forward and
//! backward.
//!
//! Rows go through in tiles that stay in L2: norm, queries, keys, values and RoPE; then attention
//! by heads and spans (see [`attention`]); then the output projection, norm, feed-forward and both
//! residuals. Backward runs the same three stages from the end. Kept for it, beside the block's
//! input: the rotated queries, keys and values, the attention's outputs and log-sum-exps, the sum
//! after attention, and the two inputs of the SwiGLU product, which its gradients then overwrite.
//! The norms and the product are computed again.

use super::attention::{self, Layout};
use super::buffer::{Buffer, Scratch};
use super::norm::{NormGrad, norm, norm_backward};
use super::rope::{Table, rotate};
use super::tile::{
    BLOCK, Into, Left, PANEL, Panels, ROWS, WeightGrad, copy_rows, groups_in_turn, panels,
    put_rows, rows_left, tiles_at_once, weight_grads,
};
use super::weight::Weight;
use super::{Fused, Grads, on_pool};
use crate::backend::{BackendError, BlockConfig, BlockParams, Tape, Tensor, check};
use crate::simd::{LANES, Level, Simd, kernel};
use rayon::prelude::*;
use std::iter;
use std::ops::Range;
use std::sync::Arc;

/// One transformer block over spans `offsets` into the rows of x. `[n, dim] -> [n, dim]`
pub(crate) fn block(
    fused: &Fused,
    x: &Tensor,
    offsets: &[usize],
    params: &BlockParams,
    config: &BlockConfig,
) -> Result<Tensor, BackendError> {
    block_at(Level::best(), fused, x, offsets, params, config)
}

fn block_at(
    level: Level,
    fused: &Fused,
    x: &Tensor,
    offsets: &[usize],
    params: &BlockParams,
    config: &BlockConfig,
) -> Result<Tensor, BackendError> {
    check::block(x, offsets, config)?;
    let x = fused.value(x)?;
    let (input, input_id) = (x.data.clone(), x.id);
    let block = Block::new(level, fused, offsets, params, config);
    let keep = fused.recording() && !fused.recompute.get();
    let (y, saved) = on_pool(|| block.forward(&input, keep));
    let (y, y_id) = fused.output(x.rows, x.cols, y);
    if fused.recording() {
        fused.push(move |grads| {
            let Some(dy) = grads.take(y_id) else { return };
            let saved = saved
                .or_else(|| block.forward(&input, true).1)
                .expect("kept, or computed again to be kept");
            let dx = block.backward(&input, saved, dy, grads);
            grads.add(input_id, dx);
        });
    }
    Ok(y)
}

/// One call's configuration and weights.
struct Block {
    level: Level,
    config: BlockConfig,
    params: BlockParams,
    offsets: Vec<usize>,
    layout: Layout,
    /// Where the planes begin in a row of the outputs of the three projections; each projection's
    /// start a panel.
    columns: Vec<usize>,
    /// Columns of such a row, in whole panels.
    width: usize,
    table: Arc<Table>,
    input_layernorm: Weight,
    q: Weight,
    k: Weight,
    v: Weight,
    o: Weight,
    post_attention_layernorm: Weight,
    gate: Weight,
    up: Weight,
    down: Weight,
}

/// What backward needs of forward. The sum after attention is computed again, which costs a
/// fiftieth of a step and saves a ninth of this.
struct Saved {
    /// Rotated and scaled queries, rotated keys, values, in planes: `[layout.planes(), n,
    /// head_dim]`.
    qkv: Buffer,
    /// `[heads, n, head_dim]`
    attended: Buffer,
    /// `[heads, n]`
    lse: Buffer,
    /// Outputs of gate and up, a tile's panels after the other's: `[tiles][2 *
    /// panels(ffn)][ROWS][PANEL]`.
    gate_up: Buffer,
}

impl Block {
    fn new(
        level: Level,
        fused: &Fused,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Self {
        let layout = Layout {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            window: config.window,
        };
        let (q, kv) =
            (panels(config.heads * config.head_dim), panels(config.kv_heads * config.head_dim));
        let parts = [(0, config.heads), (q, config.kv_heads), (q + kv, config.kv_heads)];
        let columns = parts.iter().flat_map(|(panel, heads)| {
            (0..*heads).map(move |h| panel * PANEL + h * config.head_dim)
        });
        let longest = offsets.windows(2).map(|span| span[1] - span[0]).max().unwrap_or(0);
        Self {
            level,
            config: config.clone(),
            params: params.clone(),
            offsets: offsets.to_vec(),
            layout,
            columns: columns.collect(),
            width: (q + 2 * kv) * PANEL,
            table: Table::get(config.rope_theta, config.head_dim, longest),
            input_layernorm: fused.weight(params.input_layernorm),
            q: fused.weight(params.q),
            k: fused.weight(params.k),
            v: fused.weight(params.v),
            o: fused.weight(params.o),
            post_attention_layernorm: fused.weight(params.post_attention_layernorm),
            gate: fused.weight(params.gate),
            up: fused.weight(params.up),
            down: fused.weight(params.down),
        }
    }

    fn q_width(&self) -> usize {
        self.config.heads * self.config.head_dim
    }

    fn kv_width(&self) -> usize {
        self.config.kv_heads * self.config.head_dim
    }

    /// `head_dim^-0.5`
    fn scale(&self) -> f64 {
        (self.config.head_dim as f64).powf(-0.5)
    }

    /// The spans in which rows `first ..` lie, `rows` of them, and their positions there.
    fn positions(
        &self,
        first: usize,
        rows: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let mut span = self.offsets.partition_point(|offset| *offset <= first) - 1;
        let (mut at, end) = (first, first + rows);
        iter::from_fn(move || {
            if at == end {
                return None;
            }
            while at >= self.offsets[span + 1] {
                span += 1;
            }
            let (start, to) = (self.offsets[span], end.min(self.offsets[span + 1]));
            let positions = at - start..to - start;
            at = to;
            Some((span, positions))
        })
    }

    fn forward(&self, x: &[f32], save: bool) -> (Buffer, Option<Saved>) {
        let qkv = self.project(x);
        let (attended, lse) = attention::forward(self.level, &qkv, &self.offsets, &self.layout);
        // Without a backward pass these, three fifths of what lives at this point, go before the
        // output comes.
        let kept = save.then_some((qkv, lse));
        let (y, gate_up) = self.feed_forward(x, &attended, save);
        (y, kept.map(|(qkv, lse)| Saved { qkv, attended, lse, gate_up }))
    }

    /// Norm, the three projections, RoPE, and the queries' scale (in units of log2):
    /// `[layout.planes(), n, head_dim]`.
    fn project(&self, x: &[f32]) -> Buffer {
        let (level, dim, head_dim) = (self.level, self.config.dim, self.config.head_dim);
        let (q, kv, width) = (self.q_width(), self.kv_width(), self.width);
        let weights = Panels::transposed(level, &[(&self.q, q), (&self.k, kv), (&self.v, kv)], dim);
        let scale = (self.scale() * std::f64::consts::LOG2_E) as f32;
        let n = x.len() / dim;
        let mut qkv = Buffer::new(self.layout.planes() * n * head_dim);
        // Of each tile of rows its part of every plane.
        let mut tiles: Vec<Vec<&mut [f32]>> = (0..n.div_ceil(ROWS)).map(|_| Vec::new()).collect();
        for plane in qkv.chunks_mut((n * head_dim).max(1)) {
            plane
                .chunks_mut(ROWS * head_dim)
                .zip(&mut tiles)
                .for_each(|(part, tile)| tile.push(part));
        }
        tiles.into_par_iter().zip(x.par_chunks(ROWS * dim)).enumerate().for_each(
            |(t, (planes, x))| {
                let rows = x.len() / dim;
                let mut normed = Scratch::new(panels(dim) * BLOCK);
                let mut projected = Scratch::new(ROWS * width);
                norm(level, x, &self.input_layernorm, self.config.eps, &mut normed);
                weights.apply(
                    level,
                    rows,
                    Left::tile(&normed),
                    &mut projected,
                    (width, PANEL),
                    Into::Set,
                );
                let positions: Vec<usize> =
                    self.positions(t * ROWS, rows).flat_map(|(_, positions)| positions).collect();
                for (p, (plane, column)) in planes.into_iter().zip(&self.columns).enumerate() {
                    let from = (&projected[*column..], width);
                    if p >= self.config.heads + self.config.kv_heads {
                        copy_rows(level, (rows, head_dim), from, (plane, head_dim));
                        continue;
                    }
                    let scale = if p < self.config.heads { scale } else { 1.0 };
                    rotate(level, &self.table, &positions, from, plane, scale, 1.0);
                }
            },
        );
        qkv
    }

    /// Gathers rows `first ..` of the attention's outputs `[heads, n, head_dim]` into a tile.
    fn attended_tile(&self, attended: &[f32], first: usize, rows: usize, tile: &mut [f32]) {
        let (n, head_dim) = (self.offsets[self.offsets.len() - 1], self.config.head_dim);
        for head in 0..self.config.heads {
            let from = &attended[(head * n + first) * head_dim..][..rows * head_dim];
            put_rows(self.level, rows, from, head * head_dim, tile);
        }
        let width = self.q_width();
        for r in (0..rows).filter(|_| !width.is_multiple_of(PANEL)) {
            tile[width / PANEL * BLOCK + r * PANEL..][width % PANEL..PANEL].fill(0.0);
        }
    }

    /// The sum after attention of a tile's rows: output projection and residual. `tile` holds the
    /// attention's outputs.
    fn middle(&self, o: &Panels, tile: &[f32], x: &[f32], middle: &mut [f32]) {
        middle.copy_from_slice(x);
        o.apply_to_rows(self.level, tile, middle, self.config.dim);
    }

    /// Output projection, residual, norm, SwiGLU, residual. Returns the output, and if they are
    /// kept the outputs of gate and up.
    fn feed_forward(&self, x: &[f32], attended: &[f32], save: bool) -> (Buffer, Buffer) {
        let (level, dim, ffn) = (self.level, self.config.dim, self.config.ffn);
        let o = Panels::transposed(level, &[(&self.o, dim)], self.q_width());
        let gate_up = Panels::transposed(level, &[(&self.gate, ffn), (&self.up, ffn)], dim);
        let down = Panels::transposed(level, &[(&self.down, dim)], ffn);
        let (hidden, wide) = (panels(dim) * BLOCK, panels(ffn) * BLOCK);
        let tiles = (x.len() / dim).div_ceil(ROWS);
        let mut y = Buffer::new(x.len());
        let mut kept = Buffer::new(if save { tiles * 2 * wide } else { 0 });
        let mut keeps: Vec<Option<&mut [f32]>> = kept.chunks_mut(2 * wide).map(Some).collect();
        keeps.resize_with(tiles, || None);
        let outputs = y.par_chunks_mut(ROWS * dim).zip(x.par_chunks(ROWS * dim)).zip(keeps);
        outputs.enumerate().for_each(|(t, ((y, x), kept))| {
            let rows = x.len() / dim;
            let mut from = Scratch::new(panels(self.q_width()) * BLOCK);
            let mut normed = Scratch::new(hidden);
            let mut product = Scratch::new(wide);
            self.attended_tile(attended, t * ROWS, rows, &mut from);
            self.middle(&o, &from, x, y);
            norm(level, y, &self.post_attention_layernorm, self.config.eps, &mut normed);
            let mut scratch = kept.is_none().then(|| Scratch::new(2 * wide));
            let both = match (kept, &mut scratch) {
                (Some(kept), _) => kept,
                (None, Some(scratch)) => &mut **scratch,
                (None, None) => unreachable!("scratch stands in for what is not kept"),
            };
            gate_up.apply_tile(level, rows, &normed, both, Into::Set);
            let (gate, up) = both.split_at(wide);
            swiglu(level, rows, gate, up, &mut product);
            down.apply_to_rows(level, &product, y, dim);
        });
        (y, kept)
    }

    /// The input's gradient; the parameters' are added to `grads`.
    fn backward(&self, x: &[f32], saved: Saved, dy: Buffer, grads: &mut Grads) -> Buffer {
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

/// `silu(gate) = gate * sigmoid(gate)`; returns the sigmoid.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, gate: S::V) -> S::V {
    let power = s.exp2(s.mul(gate, s.splat(-std::f32::consts::LOG2_E)));
    s.div(s.splat(1.0), s.add(s.splat(1.0), power))
}

#[inline(always)]
fn swiglu_body<S: Simd>(s: S, rows: usize, gate: &[f32], up: &[f32], product: &mut [f32]) {
    let panels =
        gate.chunks_exact(BLOCK).zip(up.chunks_exact(BLOCK)).zip(product.chunks_exact_mut(BLOCK));
    for ((gate, up), product) in panels {
        let gate = gate[..rows * PANEL].as_chunks::<LANES>().0;
        let up = up.as_chunks::<LANES>().0;
        for ((gate, up), product) in gate.iter().zip(up).zip(product.as_chunks_mut::<LANES>().0) {
            let (g, u) = (s.load(gate), s.load(up));
            s.store(product, s.mul(s.mul(g, sigmoid(s, g)), u));
        }
    }
}

kernel!(
    /// `product = silu(gate) * up`, tiles.
    fn swiglu(rows: usize, gate: &[f32], up: &[f32], product: &mut [f32]) = swiglu_body
);

#[inline(always)]
fn swiglu_backward_body<S: Simd>(
    s: S,
    rows: usize,
    gate: &mut [f32],
    up: &mut [f32],
    dproduct: &[f32],
    product: &mut [f32],
) {
    let both = gate.chunks_exact_mut(BLOCK).zip(up.chunks_exact_mut(BLOCK));
    for ((gate, up), (dproduct, product)) in
        both.zip(dproduct.chunks_exact(BLOCK).zip(product.chunks_exact_mut(BLOCK)))
    {
        let both = gate[..rows * PANEL]
            .as_chunks_mut::<LANES>()
            .0
            .iter_mut()
            .zip(up.as_chunks_mut::<LANES>().0);
        let products =
            dproduct.as_chunks::<LANES>().0.iter().zip(product.as_chunks_mut::<LANES>().0);
        for ((gate, up), (dproduct, product)) in both.zip(products) {
            let (g, u, d) = (s.load(gate), s.load(up), s.load(dproduct));
            let sigma = sigmoid(s, g);
            let silu = s.mul(g, sigma);
            s.store(product, s.mul(silu, u));
            s.store(up, s.mul(d, silu));
            // d silu / d gate = sigma * (1 + gate - silu)
            let slope = s.mul(sigma, s.add(s.splat(1.0), s.sub(g, silu)));
            s.store(gate, s.mul(s.mul(d, u), slope));
        }
    }
}

kernel!(
    /// From the gradient of `product = silu(gate) * up`: replaces gate and up by their gradients, and computes the product
    /// again.
    fn swiglu_backward(rows: usize, gate: &mut [f32], up: &mut [f32], dproduct: &[f32], product: &mut [f32]) = swiglu_backward_body
);

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
