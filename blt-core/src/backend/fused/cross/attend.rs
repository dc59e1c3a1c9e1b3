//! Attention of one segment: its query rows to its key rows.

use crate::backend::fused::loops::{axpy, dot, exp};
use crate::simd::multiversion;

/// Where heads lie in a row of queries, and in a row of keys and values: `[keys | values]`, or
/// values alone.
#[derive(Clone, Copy)]
pub(in crate::backend::fused) struct Heads {
    pub(in crate::backend::fused) heads: usize,
    pub(in crate::backend::fused) kv_heads: usize,
    pub(in crate::backend::fused) head_dim: usize,
    /// Width of a row of keys and values.
    pub(in crate::backend::fused) kv_stride: usize,
    /// Column of the first value.
    pub(in crate::backend::fused) values: usize,
}

impl Heads {
    pub(in crate::backend::fused) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// First column of the key head that query head h reads, in the keys and in the values.
    #[inline(always)]
    pub(super) fn key_value_at(&self, h: usize) -> (usize, usize) {
        let at = h / (self.heads / self.kv_heads) * self.head_dim;
        (at, self.values + at)
    }
}

/// Attention to one key: its value, for every query row.
pub(super) fn spread_values(values: &[f32], heads: &Heads, out: &mut [f32]) {
    let d = heads.head_dim;
    for out in out.chunks_exact_mut(heads.width()) {
        for (h, out) in out.chunks_exact_mut(d).enumerate() {
            out.copy_from_slice(&values[heads.key_value_at(h).1..][..d]);
        }
    }
}

pub(super) fn spread_values_backward(d_out: &[f32], heads: &Heads, d_values: &mut [f32]) {
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
    pub(in crate::backend::fused) fn attend(q: &[f32], kv: &[f32], heads: &Heads, out: &mut [f32], p: &mut Vec<f32>) {
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
    pub(super) fn attend_backward(
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
