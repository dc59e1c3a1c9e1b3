//! A transformer block, `x += Attention(RMSNorm(x)); x += SwiGLU(RMSNorm(x))`, forward and
//! backward.
//!
//! Rows go through in tiles that stay in L2: norm, queries, keys, values and RoPE; then attention
//! by heads and spans (see [`attention`]); then the output projection, norm, feed-forward and both
//! residuals. Backward runs the same three stages from the end. Kept for it, beside the block's
//! input: the rotated queries, keys and values, the attention's outputs and log-sum-exps, the sum
//! after attention, and the two inputs of the SwiGLU product, which its gradients then overwrite.
//! The norms and the product are computed again.

mod backward;
mod swiglu;
#[cfg(test)]
mod tests;

use super::attention::{self, Layout};
use super::buffer::{Buffer, Scratch};
use super::norm::norm;
use super::rope::{Table, rotate};
use super::tile::{BLOCK, Into, Left, PANEL, Panels, ROWS, copy_rows, panels, put_rows};
use super::weight::Weight;
use super::{Fused, on_pool};
use crate::backend::{BackendError, BlockConfig, BlockParams, Tape, Tensor, check};
use crate::simd::Level;
use rayon::prelude::*;
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use swiglu::swiglu;

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
}
