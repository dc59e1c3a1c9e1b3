//! Gradients of weights, summed over tiles.

use super::buffer::Scratch;
use super::tile::{BLOCK, Into, Left, PANEL, ROWS, Right, band, copy_rows, panels};
use crate::simd::{LANES, Level};
use rayon::prelude::*;

/// Tiles whose intermediates are held at once in a backward pass: enough for every thread, few
/// enough to stay near the cores.
pub(crate) fn tiles_at_once() -> usize {
    2 * rayon::current_num_threads()
}

/// Takes groups of tiles in turn, [`tiles_at_once`] each: `tiles` computes a group's, and beside it
/// `weights` adds the weights' gradients from the group before, so that no thread waits where
/// either ends. `held` makes what a group holds for its weights; two of them live.
pub(crate) fn groups_in_turn<G: Send + Sync, H: Send + Sync>(
    groups: impl Iterator<Item = G>,
    held: impl Fn() -> H,
    tiles: impl Fn(&mut G, &mut H) + Send + Sync,
    mut weights: impl FnMut(&G, &H) + Send,
) {
    let (mut before, mut spare): (Option<(G, H)>, Option<H>) = (None, None);
    for mut group in groups {
        let mut holds = spare.take().unwrap_or_else(&held);
        rayon::join(
            || tiles(&mut group, &mut holds),
            || {
                if let Some((group, holds)) = &before {
                    weights(group, holds);
                }
            },
        );
        spare = before.replace((group, holds)).map(|(_, holds)| holds);
    }
    if let Some((group, holds)) = &before {
        weights(group, holds);
    }
}

/// The gradient of one weight from some tiles: `dw[o, i] += sum over tiles and rows of dy[row, o] *
/// x[row, i]`.
pub(crate) struct WeightGrad<'a> {
    /// `[out, cols]`
    dw: &'a mut [f32],
    cols: usize,
    /// For each tile its rows, the outputs' gradient, and the inputs in panels.
    tiles: Vec<(usize, Left<'a>, &'a [f32])>,
}

impl<'a> WeightGrad<'a> {
    /// From `rows` rows in tiles: the outputs' gradients, and the inputs one tile after the other.
    pub fn new(
        dw: &'a mut [f32],
        cols: usize,
        rows: usize,
        dys: impl IntoIterator<Item = Left<'a>>,
        inputs: &'a [f32],
    ) -> Self {
        let tiles = dys
            .into_iter()
            .zip(inputs.chunks((panels(cols) * BLOCK).max(1)))
            .take(rows.div_ceil(ROWS))
            .enumerate();
        Self {
            dw,
            cols,
            tiles: tiles.map(|(t, (dy, x))| (ROWS.min(rows - t * ROWS), dy, x)).collect(),
        }
    }
}

/// Adds weight gradients, shared out by rows of the weights. Each tile's sum is a chain of its own,
/// and tiles are added in order: bits depend neither on the threads nor on how many tiles come in
/// one call.
pub(crate) fn weight_grads(level: Level, grads: Vec<WeightGrad>) {
    struct Job<'a, 't> {
        dw: &'a mut [f32],
        cols: usize,
        /// The panel of outputs whose rows of the weight these are.
        panel: usize,
        tiles: &'t [(usize, Left<'a>, &'a [f32])],
    }
    let mut grads = grads;
    let mut jobs = Vec::new();
    for WeightGrad { dw, cols, tiles } in &mut grads {
        for (panel, dw) in dw.chunks_mut((PANEL * *cols).max(1)).enumerate() {
            jobs.push(Job { dw, cols: *cols, panel, tiles });
        }
    }
    jobs.into_par_iter().for_each(|Job { dw, cols, panel, tiles }| {
        let out = dw.len() / cols;
        // Rows that do not fill whole vectors are summed beside the weight.
        let stride = cols.next_multiple_of(LANES);
        let mut wide = (stride > cols).then(|| Scratch::new(out * stride));
        if let Some(wide) = &mut wide {
            copy_rows(level, (out, cols), (dw, cols), (wide, stride));
        }
        let sum = wide.as_deref_mut().unwrap_or(&mut *dw);
        for p in 0..panels(cols) {
            let width = PANEL.min(stride - p * PANEL);
            for (t, (rows, dy, x)) in tiles.iter().enumerate() {
                // Row o of the product is column o of dy.
                let dy =
                    Left::strided(&dy.data[panel * dy.panel_stride..], dy.k_stride, dy.row_stride);
                let next = match tiles.get(t + 1) {
                    Some((_, _, x)) => &x[p * BLOCK..],
                    None if p + 1 < panels(cols) => &tiles[0].2[(p + 1) * BLOCK..],
                    None => &[],
                };
                let next = &next[..next.len().min(BLOCK)];
                let x = Right::new(&x[p * BLOCK..], PANEL).fetching(next);
                band(level, (out, width, *rows), dy, x, &mut sum[p * PANEL..], stride, Into::Add);
            }
        }
        if let Some(wide) = &wide {
            copy_rows(level, (out, cols), (wide, stride), (dw, cols));
        }
    });
}
