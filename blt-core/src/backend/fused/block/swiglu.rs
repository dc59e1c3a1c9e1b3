//! `silu(gate) * up` on tiles.

use crate::backend::fused::tile::{BLOCK, PANEL};
use crate::simd::{LANES, Simd, kernel};

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
    pub(super) fn swiglu(rows: usize, gate: &[f32], up: &[f32], product: &mut [f32]) = swiglu_body
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
    pub(super) fn swiglu_backward(rows: usize, gate: &mut [f32], up: &mut [f32], dproduct: &[f32], product: &mut [f32]) = swiglu_backward_body
);
