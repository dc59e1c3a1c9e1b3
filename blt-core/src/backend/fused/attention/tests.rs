//! A span's outputs and gradients do not depend on its neighbours or on what memory held.

use super::*;
use crate::backend::fused::buffer::{Buffer, Scratch};
use crate::simd::Level;
use std::ops::Range;

fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}

/// Leaves NaN in all memory that will be used again.
fn poison() {
    for len in [1 << 12, 1 << 16, 1 << 20] {
        Scratch::new(len).fill(f32::NAN);
        Buffer::new(len).fill(f32::NAN);
    }
}

/// Rows `[planes, n, head_dim]` of one span.
fn span_of(planes: &[f32], layout: &Layout, n: usize, span: &Range<usize>) -> Vec<f32> {
    let d = layout.head_dim;
    planes
        .chunks_exact(n * d)
        .flat_map(|plane| &plane[span.start * d..span.end * d])
        .copied()
        .collect()
}

/// Outputs, log-sum-exps and gradients row by row, as bits.
fn all(
    level: Level,
    qkv: &[f32],
    grad: &[f32],
    offsets: &[usize],
    layout: &Layout,
) -> Vec<Vec<u32>> {
    poison();
    let (n, d) = (offsets[offsets.len() - 1], layout.head_dim);
    let (out, lse) = forward(level, qkv, offsets, layout);
    let outputs = Outputs { out: &out, lse: &lse, grad, grad_stride: layout.heads * d };
    poison();
    let gradients = backward(level, qkv, offsets, layout, &outputs);
    let mut rows = Vec::new();
    for (s, span) in offsets.windows(2).enumerate() {
        for i in span[0]..span[1] {
            let mut row = vec![0.0; layout.planes() * d];
            gradients.add_rows(s, i - span[0]..i - span[0] + 1, &mut row, 0);
            for h in 0..layout.heads {
                row.extend_from_slice(&out[(h * n + i) * d..][..d]);
                row.push(lse[h * n + i]);
            }
            rows.push(row.into_iter().map(f32::to_bits).collect());
        }
    }
    rows
}

#[test]
fn a_span_is_not_touched_by_its_neighbours_or_by_what_memory_held() {
    let offsets = [0, 17, 67, 68, 101, 149, 165, 800];
    let n = offsets[offsets.len() - 1];
    for (heads, kv_heads, head_dim) in [(2, 1, 8), (1, 1, 32), (2, 2, 40)] {
        for window in [Some(1), Some(3), Some(20), Some(64), None] {
            let layout = Layout { heads, kv_heads, head_dim, window };
            let mut qkv = wave(layout.planes() * n * head_dim, 0.37);
            let grad = wave(n * heads * head_dim, 0.11);
            // Every other span is not a number.
            for plane in qkv.chunks_exact_mut(n * head_dim) {
                for span in offsets.windows(2).skip(1).step_by(2) {
                    plane[span[0] * head_dim..span[1] * head_dim].fill(f32::NAN);
                }
            }
            for level in Level::available() {
                let together = all(level, &qkv, &grad, &offsets, &layout);
                for span in offsets.windows(2).step_by(2) {
                    let span = span[0]..span[1];
                    let width = heads * head_dim;
                    let grad = &grad[span.start * width..span.end * width];
                    let alone = all(
                        level,
                        &span_of(&qkv, &layout, n, &span),
                        grad,
                        &[0, span.len()],
                        &layout,
                    );
                    assert!(
                        alone.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()),
                        "{span:?}"
                    );
                    assert_eq!(together[span.clone()], alone, "{level:?} {layout:?} {span:?}");
                }
            }
        }
    }
}
