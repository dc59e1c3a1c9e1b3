//! RMSNorm of a tile, `x * rsqrt(mean(x^2) + eps) * w`, and its gradient.

use super::buffer::Buffer;
use super::tile::{BLOCK, PANEL, ROWS};
use crate::simd::{LANES, Simd, kernel};
use std::slice::ChunksMut;

#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f64) -> f32 {
    let mut sum = s.splat(0.0);
    for x in x.chunks(LANES) {
        let x = s.load_part(x);
        sum = s.mul_add(x, x, sum);
    }
    (1.0 / (s.sum(sum) as f64 / x.len() as f64 + eps).sqrt()) as f32
}

#[inline(always)]
fn norm_body<S: Simd>(s: S, x: &[f32], w: &[f32], eps: f64, out: &mut [f32]) {
    for (r, x) in x.chunks_exact(w.len()).enumerate() {
        let scale = s.splat(inverse_rms(s, x, eps));
        for (p, (x, w)) in x.chunks(PANEL).zip(w.chunks(PANEL)).enumerate() {
            let to = &mut out[p * BLOCK + r * PANEL..][..PANEL];
            let used = x.len().next_multiple_of(LANES);
            for ((x, w), to) in x.chunks(LANES).zip(w.chunks(LANES)).zip(to.as_chunks_mut().0) {
                s.store(to, s.mul(s.mul(s.load_part(x), scale), s.load_part(w)));
            }
            to[used..].fill(0.0);
        }
    }
}

kernel!(
    /// Normalises rows `x` `[rows, dim]` into a tile; the columns added to its last panel become zero.
    pub(crate) fn norm(x: &[f32], w: &[f32], eps: f64, out: &mut [f32]) = norm_body
);

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn norm_backward_body<S: Simd>(
    s: S,
    x: &[f32],
    w: &[f32],
    eps: f64,
    grad: &[f32],
    residual: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let dim = w.len();
    for (r, x) in x.chunks_exact(dim).enumerate() {
        let scale = inverse_rms(s, x, eps);
        let mut dot = s.splat(0.0);
        for (i, (x, w)) in x.chunks(LANES).zip(w.chunks(LANES)).enumerate() {
            let at = i * LANES;
            let g = s.load_part(&grad[at / PANEL * BLOCK + r * PANEL + at % PANEL..][..x.len()]);
            dot = s.mul_add(s.mul(g, s.load_part(w)), s.load_part(x), dot);
        }
        let along = s.splat(-(s.sum(dot) as f64 / dim as f64) as f32 * scale * scale * scale);
        let scale = s.splat(scale);
        let rows =
            residual[r * dim..][..dim].chunks(LANES).zip(dx[r * dim..][..dim].chunks_mut(LANES));
        let weights = x.chunks(LANES).zip(w.chunks(LANES)).zip(dw.chunks_mut(LANES));
        for (i, ((residual, dx), ((x, w), dw))) in rows.zip(weights).enumerate() {
            let at = i * LANES;
            let g = s.mul(
                s.load_part(&grad[at / PANEL * BLOCK + r * PANEL + at % PANEL..][..x.len()]),
                scale,
            );
            let x = s.load_part(x);
            let sum = s.mul_add(g, s.load_part(w), s.load_part(residual));
            s.store_part(dx, s.mul_add(along, x, sum));
            let sum = s.mul_add(g, x, s.load_part(dw));
            s.store_part(dw, sum);
        }
    }
}

kernel!(
    /// From the gradient `grad` (a tile) of `norm(x)`: `dx = residual + its gradient` (`[rows, dim]`), and `dw` (`[dim]`) is
    /// added to.
    pub(crate) fn norm_backward(x: &[f32], w: &[f32], eps: f64, grad: &[f32], residual: &[f32], dx: &mut [f32], dw: &mut [f32]) = norm_backward_body
);

/// A norm's weight's gradient, summed tile by tile and then over the tiles in order, so that
/// threads do not matter.
pub(crate) struct NormGrad {
    dim: usize,
    /// `[tiles, dim]`
    tiles: Buffer,
}

impl NormGrad {
    pub fn new(rows: usize, dim: usize) -> Self {
        Self { dim, tiles: Buffer::zeros(rows.div_ceil(ROWS) * dim) }
    }

    /// The sums of so many tiles at a time, `[tiles, dim]`.
    pub fn groups(&mut self, tiles: usize) -> ChunksMut<'_, f32> {
        self.tiles.chunks_mut(tiles * self.dim)
    }

    pub fn add_to(&self, dw: &mut [f32]) {
        for tile in self.tiles.chunks_exact(self.dim) {
            dw.iter_mut().zip(tile).for_each(|(dw, tile)| *dw += tile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tile::{from_tile, panels, to_tile};
    use super::*;
    use crate::simd::Level;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin() + 0.3).collect()
    }

    fn plain(x: &[f64], w: &[f32], eps: f64) -> Vec<f64> {
        let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
        x.iter().zip(w).map(|(x, w)| x * scale * *w as f64).collect()
    }

    #[test]
    fn norm_and_its_gradient_match_finite_differences() {
        for dim in [1, 5, 16, 33, 64, 100, 128] {
            let (rows, eps) = (3, 1e-3);
            let (x, w, g, residual) = (
                wave(rows * dim, 0.7),
                wave(dim, 1.3),
                wave(rows * dim, 2.1),
                wave(rows * dim, 0.2),
            );
            for level in Level::available() {
                let mut tile = vec![f32::NAN; panels(dim) * BLOCK];
                norm(level, &x, &w, eps, &mut tile);
                let mut out = vec![0.0; rows * dim];
                from_tile(&tile, dim, &mut out);
                to_tile(&g, dim, &mut tile);
                let (mut dx, mut dw) = (vec![f32::NAN; rows * dim], vec![1.0; dim]);
                norm_backward(level, &x, &w, eps, &tile, &residual, &mut dx, &mut dw);
                let mut want_dw = vec![1.0; dim];
                for r in 0..rows {
                    let row: Vec<f64> = x[r * dim..][..dim].iter().map(|x| *x as f64).collect();
                    let loss = |row: &[f64]| -> f64 {
                        plain(row, &w, eps)
                            .iter()
                            .zip(&g[r * dim..])
                            .map(|(y, g)| y * *g as f64)
                            .sum()
                    };
                    for (i, y) in plain(&row, &w, eps).into_iter().enumerate() {
                        assert!(
                            (out[r * dim + i] as f64 - y).abs() < 1e-6 * (1.0 + y.abs()),
                            "{level:?} {dim}"
                        );
                        want_dw[i] += y / w[i] as f64 * g[r * dim + i] as f64;
                        let (mut up, mut down) = (row.clone(), row.clone());
                        up[i] += 1e-5;
                        down[i] -= 1e-5;
                        let want = residual[r * dim + i] as f64 + (loss(&up) - loss(&down)) / 2e-5;
                        assert!(
                            (dx[r * dim + i] as f64 - want).abs() < 1e-5 * (1.0 + want.abs()),
                            "{level:?} {dim}: {} {want}",
                            dx[r * dim + i]
                        );
                    }
                }
                assert!(
                    dw.iter()
                        .zip(&want_dw)
                        .all(|(a, b)| (*a as f64 - b).abs() < 1e-5 * (1.0 + b.abs())),
                    "{level:?} {dim}"
                );
            }
        }
    }
}
