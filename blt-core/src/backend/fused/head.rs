//! The last norm, the language-model head, and what is read off its logits: cross-entropy and
//! entropy.
//!
//! Rows are computed in tiles whose logits stay in the cache; logits are never held for all rows.
//! While recording, the loss's gradient is computed along with the loss, for a unit gradient of the
//! loss, which backward then scales: what is kept is `[n, dim]` and the weights' own shapes.

use super::buffer::{Buffer, Scratch};
use super::gemm::{Mat, MatMut, Write, parallel, serial};
use super::loops::{exp, max};
use super::rms_norm::{norm_rows, norm_rows_backward};
use super::weight::Weight;
use super::{Fused, Value, on_pool};
use crate::backend::{BackendError, HeadLoss, ParamId, Parameters, Tape, Tensor, check};
use crate::simd::multiversion;
use rayon::prelude::*;
use std::sync::Arc;

/// Rows of one task.
const TILE: usize = 128;
/// Rows whose gradients of the logits are kept until they are multiplied into the weight's
/// gradient.
const BAND: usize = 16 * TILE;

struct Head {
    x: Arc<Buffer>,
    norm: Weight,
    /// `[vocab, dim]`
    weight: Weight,
    dim: usize,
    vocab: usize,
    eps: f64,
}

impl Head {
    fn new(fused: &Fused, x: &Value, norm: ParamId, head: ParamId, eps: f64) -> Self {
        let [vocab, dim] = fused.param_shape(head);
        Head {
            x: x.data.clone(),
            norm: fused.weight(norm),
            weight: fused.weight(head),
            dim,
            vocab,
            eps,
        }
    }

    /// Normalises `x` `[rows, dim]` into `normed` and computes `logits` `[rows, vocab]`.
    fn logits_of(&self, x: &[f32], normed: &mut [f32], inverse: &mut [f32], logits: &mut [f32]) {
        let rows = inverse.len();
        norm_rows(x, &self.norm, self.eps, normed, inverse);
        let w = Mat::new(&self.weight, self.vocab, self.dim).t();
        serial(
            1.0,
            Mat::new(normed, rows, self.dim),
            w,
            MatMut::new(logits, rows, self.vocab),
            Write::Set,
        );
    }

    /// Sets each row's element of `out` to `f` of the row's number and logits.
    fn map_rows(&self, out: &mut [f32], f: impl Fn(usize, &[f32]) -> f32 + Sync) {
        out.par_chunks_mut(TILE).zip(self.x.par_chunks(TILE * self.dim)).enumerate().for_each_init(
            || (Scratch::new(TILE * self.dim), Scratch::new(TILE), Scratch::new(TILE * self.vocab)),
            |(normed, inverse, logits), (tile, (out, x))| {
                let (rows, logits) = (out.len(), &mut logits[..out.len() * self.vocab]);
                self.logits_of(x, &mut normed[..rows * self.dim], &mut inverse[..rows], logits);
                for (r, (logits, out)) in logits.chunks_exact(self.vocab).zip(out).enumerate() {
                    *out = f(tile * TILE + r, logits);
                }
            },
        );
    }
}

pub(super) fn logits(
    fused: &Fused,
    x: &Tensor,
    norm: ParamId,
    head: ParamId,
    eps: f64,
) -> Result<Vec<f32>, BackendError> {
    check::head("head_logits", x, fused.param_shape(head))?;
    let head = Head::new(fused, fused.value(x)?, norm, head, eps);
    let mut logits = vec![0.0; x.rows * head.vocab];
    logits.par_chunks_mut(TILE * head.vocab).zip(head.x.par_chunks(TILE * head.dim)).for_each_init(
        || (Scratch::new(TILE * head.dim), Scratch::new(TILE)),
        |(normed, inverse), (logits, x)| {
            head.logits_of(x, &mut normed[..x.len()], &mut inverse[..x.len() / head.dim], logits);
        },
    );
    Ok(logits)
}

pub(super) fn entropies(
    fused: &Fused,
    x: &Tensor,
    norm: ParamId,
    head: ParamId,
    eps: f64,
) -> Result<Vec<f32>, BackendError> {
    check::head("head_entropies", x, fused.param_shape(head))?;
    let head = Head::new(fused, fused.value(x)?, norm, head, eps);
    let mut entropies = vec![0.0; x.rows];
    on_pool(|| head.map_rows(&mut entropies, |_, logits| entropy(logits)));
    Ok(entropies)
}

pub(super) fn loss(
    fused: &Fused,
    x: &Tensor,
    norm: ParamId,
    head_id: ParamId,
    eps: f64,
    targets: &[Option<u16>],
    scale: f64,
) -> Result<HeadLoss, BackendError> {
    let shape = fused.param_shape(head_id);
    check::head("head_loss", x, shape)?;
    check::targets(x, shape, targets)?;
    let x = fused.value(x)?;
    let head = Head::new(fused, x, norm, head_id, eps);
    let mut nats = vec![0.0; x.rows];
    let gradients = if fused.recording() {
        Some(on_pool(|| loss_and_gradients(&head, targets, scale as f32, &mut nats)))
    } else {
        let nats_at =
            |i: usize, logits: &[f32]| targets[i].map_or(0.0, |target| nats_of(logits, target));
        on_pool(|| head.map_rows(&mut nats, nats_at));
        None
    };
    let total: f64 = nats.iter().map(|&n| n as f64).sum();
    let (loss, out) = fused.output(1, 1, Buffer::from(vec![(scale * total) as f32]));
    if let Some((mut dx, mut d_norm, mut d_weight)) = gradients {
        let id = x.id;
        fused.push(move |grads| {
            let Some(d_loss) = grads.take(out) else { return };
            if d_loss[0] != 1.0 {
                dx.iter_mut().chain(&mut d_norm).chain(&mut d_weight).for_each(|d| *d *= d_loss[0]);
            }
            for (id, grad) in [(norm, d_norm), (head_id, d_weight)] {
                grads.dense(id).iter_mut().zip(grad).for_each(|(sum, d)| *sum += d);
            }
            grads.add(id, dx);
        });
    }
    Ok(HeadLoss { loss, nats })
}

/// Writes the nats; returns the gradients of `scale * sum(nats)` by x, the norm's weight and the
/// head's.
fn loss_and_gradients(
    head: &Head,
    targets: &[Option<u16>],
    scale: f32,
    nats: &mut [f32],
) -> (Buffer, Vec<f32>, Vec<f32>) {
    let (dim, vocab, n) = (head.dim, head.vocab, targets.len());
    let mut dx = Buffer::zeros(n * dim);
    let (mut d_norm, mut d_weight) = (vec![0.0; dim], vec![0.0; vocab * dim]);
    let band = BAND.min(n);
    let (mut normed, mut inverse, mut d_logits) =
        (Buffer::new(band * dim), Buffer::new(band), Buffer::new(band * vocab));
    for start in (0..n).step_by(BAND) {
        let rows = BAND.min(n - start);
        let tiles = (
            (normed[..rows * dim].par_chunks_mut(TILE * dim), inverse[..rows].par_chunks_mut(TILE)),
            (
                d_logits[..rows * vocab].par_chunks_mut(TILE * vocab),
                nats[start..][..rows].par_chunks_mut(TILE),
            ),
            (
                dx[start * dim..][..rows * dim].par_chunks_mut(TILE * dim),
                targets[start..][..rows].par_chunks(TILE),
            ),
            head.x[start * dim..][..rows * dim].par_chunks(TILE * dim),
        );
        let d_norms: Vec<Vec<f32>> = (tiles.0.0.zip(tiles.0.1))
            .zip(tiles.1.0.zip(tiles.1.1))
            .zip(tiles.2.0.zip(tiles.2.1))
            .zip(tiles.3)
            .map(|((((normed, inverse), (d_logits, nats)), (dx, targets)), x)| {
                let rows = targets.len();
                head.logits_of(x, normed, inverse, d_logits);
                for ((row, nats), target) in d_logits.chunks_exact_mut(vocab).zip(nats).zip(targets)
                {
                    match target {
                        Some(target) => *nats = nats_and_gradient(row, *target, scale),
                        None => row.fill(0.0),
                    }
                }
                let mut d_normed = Scratch::new(rows * dim);
                let w = Mat::new(&head.weight, vocab, dim);
                serial(
                    1.0,
                    Mat::new(d_logits, rows, vocab),
                    w,
                    MatMut::new(&mut d_normed, rows, dim),
                    Write::Set,
                );
                let mut d_norm = vec![0.0; dim];
                norm_rows_backward(x, &head.norm, inverse, &d_normed, dx, &mut d_norm);
                d_norm
            })
            .collect();
        for part in d_norms {
            d_norm.iter_mut().zip(&part).for_each(|(sum, d)| *sum += d);
        }
        let d_logits = Mat::new(&d_logits, rows, vocab).t();
        let normed = Mat::new(&normed, rows, dim);
        parallel(1.0, d_logits, normed, MatMut::new(&mut d_weight, vocab, dim), Write::Add);
    }
    (dx, d_norm, d_weight)
}

/// Sum of `exp(logit - top)`, and of the same times `logit - top`, both in f64.
#[inline(always)]
fn exp_sums(logits: &[f32], top: f32) -> (f64, f64) {
    const LANES: usize = 16;
    let (mut sums, mut weighted) = ([0.0f64; LANES], [0.0f64; LANES]);
    let mut add = |chunk: &[f32]| {
        for ((&x, sum), weighted) in chunk.iter().zip(&mut sums).zip(&mut weighted) {
            let x = x - top;
            let e = exp(x);
            *sum += e as f64;
            // A logit of negative infinity has probability 0 and adds nothing.
            *weighted += if e == 0.0 { 0.0 } else { e as f64 * x as f64 };
        }
    };
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        add(chunk);
    }
    add(rest);
    (sums.iter().sum(), weighted.iter().sum())
}

multiversion! {
    /// Entropy in nats: `ln(sum e) - sum(e (l - top)) / sum e`, both terms small where the distribution is sharp.
    pub(super) fn entropy(logits: &[f32]) -> f32 {
        let (sum, weighted) = exp_sums(logits, max(logits));
        (sum.ln() - weighted / sum) as f32
    }
}

multiversion! {
    fn nats_of(logits: &[f32], target: u16) -> f32 {
        let top = max(logits);
        (exp_sums(logits, top).0.ln() - (logits[target as usize] - top) as f64) as f32
    }
}

multiversion! {
    /// Nats of the target; replaces the logits by `scale * (softmax - one-hot)`.
    fn nats_and_gradient(logits: &mut [f32], target: u16, scale: f32) -> f32 {
        let top = max(logits);
        let sum = exp_sums(logits, top).0;
        let nats = (sum.ln() - (logits[target as usize] - top) as f64) as f32;
        let factor = (scale as f64 / sum) as f32;
        logits.iter_mut().for_each(|l| *l = factor * exp(*l - top));
        logits[target as usize] -= scale;
        nats
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bits, check, error, linear, matrix, noise, rms_norm, scale};
    use super::*;
    use crate::backend::Operations;
    use proptest::prelude::*;

    fn logits_meaning(at: &[Vec<f64>], dim: usize) -> Vec<f64> {
        linear(&rms_norm(&at[0], &at[1], 1e-5), &at[2], dim)
    }

    fn nats_meaning(logits: &[f64], target: usize) -> f64 {
        logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[target]
    }

    fn entropy_meaning(logits: &[f64]) -> f64 {
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
        logits.iter().map(|l| (l - top).exp() / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn loss_agrees_with_plain_loops(
            n in prop_oneof![Just(0usize), Just(1), 1usize..9, 120usize..300, Just(2100)],
            dim in prop_oneof![Just(4usize), Just(24)],
            vocab in prop_oneof![Just(3usize), Just(40)],
            seed in 0u64..1000,
        ) {
            let target = |i: usize| (!i.is_multiple_of(5)).then_some((i * 31 % vocab) as u16);
            let targets: Vec<Option<u16>> = (0..n).map(target).collect();
            let of_loss = |fused: &Fused, x: &Tensor, p: &[ParamId]| loss(fused, x, p[0], p[1], 1e-5, &targets, 0.25).unwrap();
            let nats = |at: &[Vec<f64>]| -> Vec<f64> {
                let logits = logits_meaning(at, dim);
                (targets.iter().enumerate())
                    .map(|(i, t)| t.map_or(0.0, |t| nats_meaning(&logits[i * vocab..][..vocab], t as usize)))
                    .collect()
            };
            let (x, norm, head) = (matrix(n, dim, seed), scale(dim, seed + 1), matrix(vocab, dim, seed + 2));
            let at: Vec<Vec<f64>> =
                [&x, &norm, &head].map(|m| m.data.iter().map(|&x| x as f64).collect()).to_vec();
            // The check's own weights scale the loss, so that a gradient other than 1 comes in.
            check(|fused, x, p| of_loss(fused, &x[0], p).loss, &[matrix(n, dim, seed)], &[scale(dim, seed + 1), matrix(vocab, dim, seed + 2)], |at| {
                vec![0.25 * nats(at).iter().sum::<f64>()]
            });

            let fused = Fused::new();
            let p = [fused.add_param(norm.shape, norm.data, false).unwrap(), fused.add_param(head.shape, head.data, false).unwrap()];
            let x = fused.constant(n, dim, x.data).unwrap();
            let got = of_loss(&fused, &x, &p).nats;
            prop_assert!(error(&got, &nats(&at)) < 1e-5);
            for (got, target) in got.iter().zip(&targets) {
                prop_assert!(target.is_some() || *got == 0.0);
            }
            let want = logits_meaning(&at, dim);
            prop_assert!(error(&logits(&fused, &x, p[0], p[1], 1e-5).unwrap(), &want) < 1e-5);
            let want: Vec<f64> = want.chunks_exact(vocab).map(entropy_meaning).collect();
            prop_assert!(error(&entropies(&fused, &x, p[0], p[1], 1e-5).unwrap(), &want) < 1e-5);
        }

        #[test]
        fn entropy_is_exact(len in 1usize..300, sharpness in -4.0f32..5.0, shift in -60.0f32..60.0, seed in 0u64..1000) {
            let logits: Vec<f32> = noise(len, seed).iter().map(|x| x * sharpness.exp() + shift).collect();
            let want = entropy_meaning(&logits.iter().map(|&l| l as f64).collect::<Vec<_>>());
            prop_assert!((entropy(&logits) as f64 - want).abs() < 1e-6, "{} for {want}", entropy(&logits));
        }
    }

    #[test]
    fn entropy_of_extreme_logits() {
        assert!((entropy(&[0.0; 260]) as f64 - 260f64.ln()).abs() < 1e-6);
        assert_eq!(entropy(&[5.0]), 0.0);
        assert_eq!(entropy(&[1000.0, -1000.0, 0.0]), 0.0);
        assert!((entropy(&[f32::NEG_INFINITY, 3.0, 3.0]) - 2f32.ln()).abs() < 1e-6);
        assert!(entropy(&[f32::NAN, 0.0]).is_nan());
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch() {
        let (dim, vocab, n) = (64, 260, 300);
        let fused = Fused::new();
        let (norm, head, x) = (scale(dim, 0), matrix(vocab, dim, 1), matrix(n, dim, 2));
        let (norm, head) = (
            fused.add_param(norm.shape, norm.data, false).unwrap(),
            fused.add_param(head.shape, head.data, false).unwrap(),
        );
        let targets: Vec<Option<u16>> = (0..n).map(|i| Some((i * 7 % vocab) as u16)).collect();
        let run = |first: usize, count: usize| {
            let x =
                fused.constant(count, dim, x.data[first * dim..][..count * dim].to_vec()).unwrap();
            let nats =
                loss(&fused, &x, norm, head, 1e-5, &targets[first..][..count], 1.0).unwrap().nats;
            (
                bits(&nats),
                bits(&logits(&fused, &x, norm, head, 1e-5).unwrap()),
                bits(&entropies(&fused, &x, norm, head, 1e-5).unwrap()),
            )
        };
        let all = run(0, n);
        for (first, count) in [(0, 1), (299, 1), (127, 2), (5, 17), (100, 129)] {
            let some = run(first, count);
            assert_eq!(some.0, all.0[first..][..count]);
            assert_eq!(some.1, all.1[first * vocab..][..count * vocab]);
            assert_eq!(some.2, all.2[first..][..count]);
        }
        fused.record(true);
        assert_eq!(run(0, n).0, all.0, "recording changes nothing");
    }
}
