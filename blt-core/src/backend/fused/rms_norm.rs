//! RMSNorm of plain rows, `x * rsqrt(mean(x^2) + eps) * w` (that of a block's tiles is in `norm`).

use super::loops::dot;
use crate::simd::multiversion;

multiversion! {
    /// Normalises the rows of `x` `[rows, dim]` into `y`; `inverse` `[rows]` becomes their inverse root mean squares.
    pub(super) fn norm_rows(x: &[f32], weight: &[f32], eps: f64, y: &mut [f32], inverse: &mut [f32]) {
        let dim = weight.len();
        for ((x, y), inverse) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).zip(inverse) {
            *inverse = ((dot(x, x) as f64 / dim as f64 + eps).sqrt().recip()) as f32;
            let inverse = *inverse;
            y.iter_mut().zip(x.iter().zip(weight)).for_each(|(y, (x, w))| *y = x * inverse * w);
        }
    }
}

multiversion! {
    /// Adds into `dx` `[rows, dim]` and `dw` `[dim]`.
    pub(super) fn norm_rows_backward(x: &[f32], weight: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let dim = weight.len();
        let mut wdy = vec![0.0; dim];
        for (((x, dy), dx), &inv) in x.chunks_exact(dim).zip(dy.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim)).zip(inverse) {
            wdy.iter_mut().zip(dy.iter().zip(weight)).for_each(|(s, (d, w))| *s = d * w);
            let mean = dot(&wdy, x) / dim as f32 * inv * inv;
            dx.iter_mut().zip(wdy.iter().zip(x)).for_each(|(dx, (d, x))| *dx += inv * (d - x * mean));
            dw.iter_mut().zip(dy.iter().zip(x)).for_each(|(dw, (d, x))| *dw += d * (x * inv));
        }
    }
}
