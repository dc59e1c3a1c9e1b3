//! What the operations' tests share: an operation against its meaning in f64 plain loops, values
//! and gradients.

use super::Fused;
use super::buffer::Buffer;
use crate::backend::{Operations, ParamId, Parameters, Tape, Tensor};
use std::sync::{Arc, Mutex};

/// Uniform in -1 to 1.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

pub struct Matrix {
    pub shape: [usize; 2],
    pub data: Vec<f32>,
    pub by_rows: bool,
}

pub fn matrix(rows: usize, cols: usize, seed: u64) -> Matrix {
    Matrix { shape: [rows, cols], data: noise(rows * cols, seed), by_rows: false }
}

/// A norm's weight, about 1.
pub fn scale(cols: usize, seed: u64) -> Matrix {
    let data = noise(cols, seed).iter().map(|x| 1.0 + 0.3 * x).collect();
    Matrix { shape: [1, cols], data, by_rows: false }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Largest difference, as a share of the largest number (or of 1e-3, if that is larger).
pub fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(1e-3f64, |m, w| m.max(w.abs()));
    got.iter()
        .zip(want)
        .fold(0.0f64, |m, (g, w)| if g.is_nan() { f64::NAN } else { m.max((*g as f64 - w).abs()) })
        / size
}

pub fn in_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}

type Captured = Arc<Mutex<Option<Vec<f32>>>>;

/// A value whose gradient is caught. While recording.
fn input(fused: &Fused, x: &Matrix) -> (Tensor, Captured) {
    let (x, id) = fused.output(x.shape[0], x.shape[1], Buffer::copy(&x.data));
    let caught: Captured = Default::default();
    let to = caught.clone();
    fused.push(move |grads| *to.lock().unwrap() = grads.take(id).map(|g| g.to_vec()));
    (x, caught)
}

/// `sum(weights * x)`, to start a backward pass from.
pub fn weighted_sum(fused: &Fused, x: &Tensor, weights: &[f32]) -> Tensor {
    let id = fused.value(x).unwrap().id;
    let sum = fused.to_host(x).unwrap().iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
    let (y, out) = fused.output(1, 1, Buffer::copy(&[sum]));
    let weights = weights.to_vec();
    fused.push(move |grads| {
        let d = grads.take(out).unwrap()[0];
        grads.add(id, weights.iter().map(|w| w * d).collect::<Vec<_>>().into());
    });
    y
}

/// An operation's output, and its gradients by the inputs and then by the parameters, of
/// `sum(weights * output)`.
fn run<Op>(
    op: &Op,
    inputs: &[Matrix],
    params: &[Matrix],
    passes: usize,
) -> (Vec<f32>, Vec<Option<Vec<f32>>>)
where
    Op: Fn(&Fused, &[Tensor], &[ParamId]) -> Tensor,
{
    let fused = Fused::new();
    let ids: Vec<ParamId> = params
        .iter()
        .map(|p| fused.add_param(p.shape, p.data.clone(), p.by_rows).unwrap())
        .collect();
    let plain: Vec<Tensor> = inputs
        .iter()
        .map(|x| fused.constant(x.shape[0], x.shape[1], x.data.clone()).unwrap())
        .collect();
    let unrecorded = fused.to_host(&op(&fused, &plain, &ids)).unwrap();
    let mut gradients = Vec::new();
    for _ in 0..passes {
        fused.record(true);
        let (xs, caught): (Vec<_>, Vec<_>) = inputs.iter().map(|x| input(&fused, x)).unzip();
        let y = op(&fused, &xs, &ids);
        assert_eq!(
            bits(&unrecorded),
            bits(&fused.to_host(&y).unwrap()),
            "recording changes nothing"
        );
        fused.backward(&weighted_sum(&fused, &y, &noise(unrecorded.len(), 99))).unwrap();
        gradients = caught.iter().map(|c| c.lock().unwrap().clone()).collect();
    }
    gradients.extend(ids.iter().map(|&id| fused.grad(id).unwrap()));
    (unrecorded, gradients)
}

/// Holds `op` against `meaning`, which maps the inputs and then the parameters to the output:
/// values, and gradients by central differences at up to 24 places of each tensor; the same bits on
/// one thread and on three; and gradients that add up.
pub fn check<Op, Meaning>(op: Op, inputs: &[Matrix], params: &[Matrix], meaning: Meaning)
where
    Op: Fn(&Fused, &[Tensor], &[ParamId]) -> Tensor + Sync,
    Meaning: Fn(&[Vec<f64>]) -> Vec<f64>,
{
    let (y, gradients) = in_threads(1, || run(&op, inputs, params, 1));
    let (y3, gradients3) = in_threads(3, || run(&op, inputs, params, 1));
    assert_eq!(bits(&y), bits(&y3), "a value on three threads");
    for (a, b) in gradients.iter().zip(&gradients3) {
        assert_eq!(a.as_deref().map(bits), b.as_deref().map(bits), "a gradient on three threads");
    }
    let (_, twice) = run(&op, inputs, params, 2);
    for (i, (once, twice)) in gradients.iter().zip(&twice).enumerate().skip(inputs.len()) {
        let doubled: Vec<f64> = once.iter().flatten().map(|&g| 2.0 * g as f64).collect();
        assert!(
            error(twice.as_deref().unwrap_or_default(), &doubled) < 1e-5,
            "gradient {i} of two passes"
        );
    }

    let all = || inputs.iter().chain(params);
    let at: Vec<Vec<f64>> = all().map(|m| m.data.iter().map(|&x| x as f64).collect()).collect();
    let want = meaning(&at);
    let off = error(&y, &want);
    assert!(off < 1e-5, "value off by {off:e}");
    let weights: Vec<f64> = noise(y.len(), 99).iter().map(|&w| w as f64).collect();
    let loss = |at: &[Vec<f64>]| meaning(at).iter().zip(&weights).map(|(y, w)| y * w).sum::<f64>();
    // A gradient that is small beside the others is a difference of large terms, and as exact as
    // those.
    let largest = |grad: &[f32]| grad.iter().fold(1e-3f64, |m, g| m.max(g.abs() as f64));
    let overall = gradients.iter().flatten().map(|g| largest(g)).fold(0.0, f64::max);
    for (i, got) in gradients.iter().enumerate() {
        let len = at[i].len();
        let got = got.as_ref().unwrap_or_else(|| panic!("no gradient of tensor {i}"));
        assert_eq!(got.len(), len);
        let places: Vec<usize> =
            if len <= 24 { (0..len).collect() } else { (0..24).map(|j| j * 7919 % len).collect() };
        let mut moved = at.clone();
        let want: Vec<f64> = places
            .iter()
            .map(|&j| {
                let mut with = |x: f64| {
                    moved[i][j] = x;
                    loss(&moved)
                };
                const STEP: f64 = 1e-5;
                let slope = (with(at[i][j] + STEP) - with(at[i][j] - STEP)) / (2.0 * STEP);
                with(at[i][j]);
                slope
            })
            .collect();
        let size = largest(got).max(0.1 * overall);
        let mut squares = 0.0;
        for (&j, want) in places.iter().zip(&want) {
            let off = (got[j] as f64 - want).abs() / size;
            // One element of an f32 sum over hundreds of terms of both signs was seen 1.2e-5 off.
            assert!(off < 3e-5, "gradient of tensor {i} at {j}: {} for {want}", got[j]);
            squares += off * off;
        }
        let off = (squares / places.len().max(1) as f64).sqrt();
        assert!(off < 1e-5, "gradient of tensor {i}: {off:e} off in the mean square");
    }
}

/// `x @ w^T`; `w` is `[out, in]`.
pub fn linear(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks_exact(inputs).flat_map(|x| w.chunks_exact(inputs).map(move |w| dot(x, w))).collect()
}

pub fn rms_norm(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let dim = w.len();
    x.chunks_exact(dim)
        .flat_map(|x| {
            let inverse = (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + eps).sqrt().recip();
            x.iter().zip(w).map(move |(x, w)| x * inverse * w)
        })
        .collect()
}
