//! Pooling of each patch's rows.

use super::Fused;
use super::buffer::Buffer;
use super::ragged::{split_by_groups, task_groups};
use crate::backend::{BackendError, Pooling, Tape, Tensor, check};
use crate::patch::Patches;
use crate::simd::multiversion;
use rayon::prelude::*;

/// Input rows that one task pools.
const TASK_ROWS: usize = 256;

/// `[n, dim] -> [P, dim]`. A patch without rows pools to zeros.
pub(super) fn pool(
    fused: &Fused,
    h: &Tensor,
    patches: &Patches,
    pooling: Pooling,
) -> Result<Tensor, BackendError> {
    check::pool(h, patches)?;
    let h = fused.value(h)?;
    let dim = h.cols;
    let offsets = patches.offsets();
    let groups = task_groups(&offsets, TASK_ROWS);
    let mut y = Buffer::zeros(patches.n_patches() * dim);
    let tasks = split_by_groups(&mut y, &groups, |p| p * dim);
    tasks.into_par_iter().zip(&groups).for_each(|(y, group)| {
        let mut sum = vec![0.0f64; dim];
        for (p, y) in group.clone().zip(y.chunks_exact_mut(dim)) {
            pool_patch(&h.data[offsets[p] * dim..offsets[p + 1] * dim], pooling, y, &mut sum);
        }
    });

    let (y, out) = fused.output(patches.n_patches(), dim, y);
    if fused.recording() {
        let (input, id) = (h.data.clone(), h.id);
        let pooled = fused.value(&y)?.data.clone();
        fused.push(move |grads| {
            let Some(dy) = grads.take(out) else { return };
            let mut dh = Buffer::zeros(input.len());
            let tasks = split_by_groups(&mut dh, &groups, |p| offsets[p] * dim);
            tasks.into_par_iter().zip(&groups).for_each(|(mut dh, group)| {
                let mut share = vec![0.0; dim];
                for p in group.clone() {
                    let (of_patch, rest) = dh.split_at_mut((offsets[p + 1] - offsets[p]) * dim);
                    dh = rest;
                    let h = &input[offsets[p] * dim..offsets[p + 1] * dim];
                    let (dy, y) = (&dy[p * dim..][..dim], &pooled[p * dim..][..dim]);
                    pool_patch_backward(h, pooling, y, dy, of_patch, &mut share);
                }
            });
            grads.add(id, dh);
        });
    }
    Ok(y)
}

multiversion! {
    /// Pools the rows of `h` `[len, dim]` into `y` `[dim]`, zeros so far; `sum` is scratch.
    pub(super) fn pool_patch(h: &[f32], pooling: Pooling, y: &mut [f32], sum: &mut [f64]) {
        let dim = y.len();
        let mut rows = h.chunks_exact(dim);
        match pooling {
            Pooling::Mean => {
                sum.fill(0.0);
                for row in rows {
                    sum.iter_mut().zip(row).for_each(|(sum, &h)| *sum += h as f64);
                }
                // An empty patch: 0 / 1.
                let len = (h.len() / dim).max(1) as f64;
                y.iter_mut().zip(sum).for_each(|(y, sum)| *y = (*sum / len) as f32);
            }
            Pooling::Max | Pooling::Min => {
                if let Some(row) = rows.next() {
                    y.copy_from_slice(row);
                }
                // A NaN wins and stays, as in PyTorch.
                match pooling {
                    Pooling::Max => rows.for_each(|row| {
                        y.iter_mut().zip(row).for_each(|(y, &h)| *y = if h > *y || h.is_nan() { h } else { *y })
                    }),
                    _ => rows.for_each(|row| {
                        y.iter_mut().zip(row).for_each(|(y, &h)| *y = if h < *y || h.is_nan() { h } else { *y })
                    }),
                }
            }
        }
    }
}

multiversion! {
    /// Writes one patch's `dh` `[len, dim]`; `share` is scratch.
    fn pool_patch_backward(h: &[f32], pooling: Pooling, y: &[f32], dy: &[f32], dh: &mut [f32], share: &mut [f32]) {
        let dim = y.len();
        match pooling {
            Pooling::Mean => {
                let len = (h.len() / dim) as f32;
                share.iter_mut().zip(dy).for_each(|(share, dy)| *share = dy / len);
                dh.chunks_exact_mut(dim).for_each(|dh| dh.copy_from_slice(share));
            }
            Pooling::Max | Pooling::Min => {
                // First the number of ties, then each one's share.
                share.fill(0.0);
                for row in h.chunks_exact(dim) {
                    share.iter_mut().zip(row.iter().zip(y)).for_each(|(ties, (h, y))| *ties += (h == y) as u32 as f32);
                }
                share.iter_mut().zip(dy).for_each(|(share, dy)| *share = dy / *share);
                for (dh, row) in dh.chunks_exact_mut(dim).zip(h.chunks_exact(dim)) {
                    for (((dh, h), y), share) in dh.iter_mut().zip(row).zip(y).zip(share.iter()) {
                        *dh = if h == y { *share } else { 0.0 };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bits, check, matrix, weighted_sum};
    use super::*;
    use crate::backend::Operations;
    use proptest::prelude::*;

    fn patches(lengths: &[usize]) -> Patches {
        let starts =
            lengths.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
        Patches {
            starts,
            span_offsets: vec![0, lengths.len()],
            next_starts: vec![true],
            n_ids: lengths.iter().sum(),
        }
    }

    fn meaning(h: &[f64], lengths: &[usize], dim: usize, pooling: Pooling) -> Vec<f64> {
        let mut start = 0;
        let mut y = Vec::new();
        for &len in lengths {
            for c in 0..dim {
                let column = (start..start + len).map(|i| h[i * dim + c]);
                y.push(match pooling {
                    Pooling::Max => column.fold(f64::NEG_INFINITY, f64::max),
                    Pooling::Min => column.fold(f64::INFINITY, f64::min),
                    Pooling::Mean => column.sum::<f64>() / len as f64,
                });
            }
            start += len;
        }
        y
    }

    proptest! {
        #[test]
        fn agrees_with_plain_loops(
            lengths in prop::collection::vec(prop_oneof![Just(1usize), 1usize..9, Just(700)], 0..6),
            dim in prop_oneof![Just(1usize), 1usize..40],
            pooling in prop_oneof![Just(Pooling::Max), Just(Pooling::Mean), Just(Pooling::Min)],
            seed in 0u64..1000,
        ) {
            let patches = patches(&lengths);
            let h = matrix(patches.n_ids, dim, seed);
            check(|fused, x, _| pool(fused, &x[0], &patches, pooling).unwrap(), &[h], &[], |at| meaning(&at[0], &lengths, dim, pooling));
        }
    }

    #[test]
    fn ties_share_the_gradient() {
        for (pooling, sign) in [(Pooling::Max, 1.0), (Pooling::Min, -1.0)] {
            let fused = Fused::new();
            fused.record(true);
            let data = [3.0, 3.0, 1.0, 3.0, -2.0, -2.0].map(|x| sign * x);
            let (h, id) = fused.output(6, 1, Buffer::copy(&data));
            let caught = std::sync::Arc::new(std::sync::Mutex::new(None));
            let to = caught.clone();
            fused.push(move |grads| *to.lock().unwrap() = grads.take(id));
            let y = pool(&fused, &h, &patches(&[4, 2]), pooling).unwrap();
            assert_eq!(fused.to_host(&y).unwrap(), [sign * 3.0, sign * -2.0]);
            fused.backward(&weighted_sum(&fused, &y, &[6.0, 5.0])).unwrap();
            assert_eq!(
                caught.lock().unwrap().as_deref(),
                Some(&[2.0, 2.0, 0.0, 2.0, 2.5, 2.5][..])
            );
        }
    }

    #[test]
    fn a_patch_alone_has_the_bits_it_has_in_a_batch() {
        let lengths = [1, 5, 700, 2];
        let h = matrix(708, 40, 3);
        let fused = Fused::new();
        for pooling in [Pooling::Max, Pooling::Mean, Pooling::Min] {
            let run = |rows: &[f32], lengths: &[usize]| {
                let h = fused.constant(rows.len() / 40, 40, rows.to_vec()).unwrap();
                fused.to_host(&pool(&fused, &h, &patches(lengths), pooling).unwrap()).unwrap()
            };
            let all = run(&h.data, &lengths);
            let mut start = 0;
            for (p, &len) in lengths.iter().enumerate() {
                let alone = run(&h.data[start * 40..(start + len) * 40], &[len]);
                assert_eq!(bits(&alone), bits(&all[p * 40..(p + 1) * 40]));
                start += len;
            }
        }
    }
}
