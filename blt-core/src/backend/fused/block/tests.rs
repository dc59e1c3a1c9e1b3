//! The fused block against a plain f64 one with dense masks, and its bits against themselves.

use super::*;
use crate::backend::fused::Grads;
use crate::backend::{Operations, ParamId, Parameters};
use proptest::prelude::*;

/// A stream of numbers in [-1, 1).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn vec(&mut self, len: usize, scale: f64) -> Vec<f32> {
        (0..len).map(|_| (self.next() * scale) as f32).collect()
    }
}

/// Input, then parameters in the order of [`BlockParams`].
type Inputs = [Vec<f32>; 10];
const NAMES: [&str; 10] =
    ["x", "input_layernorm", "q", "k", "v", "o", "post_attention_layernorm", "gate", "up", "down"];

fn shapes(n: usize, c: &BlockConfig) -> [[usize; 2]; 10] {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    [
        [n, c.dim],
        [1, c.dim],
        [q, c.dim],
        [kv, c.dim],
        [kv, c.dim],
        [c.dim, q],
        [1, c.dim],
        [c.ffn, c.dim],
        [c.ffn, c.dim],
        [c.dim, c.ffn],
    ]
}

fn inputs(n: usize, c: &BlockConfig, seed: u64) -> Inputs {
    let mut noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    shapes(n, c).map(|[rows, cols]| match rows {
        // Norm weights around one; queries and keys wide enough that attention is not uniform.
        1 => noise.vec(cols, 0.5).iter().map(|w| w + 1.0).collect(),
        _ if rows == n => noise.vec(rows * cols, 1.0),
        _ => noise.vec(rows * cols, 2.0 / (cols as f64).sqrt()),
    })
}

/// `x [n, cols] @ w^T`
fn matmul(x: &[f64], w: &[f64], cols: usize) -> Vec<f64> {
    x.chunks(cols)
        .flat_map(|x| w.chunks(cols).map(move |w| x.iter().zip(w).map(|(x, w)| x * w).sum()))
        .collect()
}

fn rms(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let row = |x: &[f64]| {
        let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
        x.iter().zip(w).map(|(x, w)| x * scale * w).collect::<Vec<f64>>()
    };
    x.chunks(w.len()).flat_map(row).collect()
}

fn rope(x: &mut [f64], head_dim: usize, position: usize, theta: f64) {
    for head in x.chunks_mut(head_dim) {
        for (i, pair) in head.chunks_mut(2).enumerate() {
            let (sin, cos) =
                (position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64)).sin_cos();
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
        }
    }
}

/// The block as its definition reads.
fn oracle(inputs: &[Vec<f64>; 10], offsets: &[usize], c: &BlockConfig) -> Vec<f64> {
    let [x, norm1, wq, wk, wv, wo, norm2, gate, up, down] = inputs;
    let (q_width, kv_width, d) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.head_dim);
    let h = rms(x, norm1, c.eps);
    let (mut q, mut k, v) = (matmul(&h, wq, c.dim), matmul(&h, wk, c.dim), matmul(&h, wv, c.dim));
    let mut attended = vec![0.0; q.len()];
    for span in offsets.windows(2) {
        for i in span[0]..span[1] {
            rope(&mut q[i * q_width..][..q_width], d, i - span[0], c.rope_theta);
            rope(&mut k[i * kv_width..][..kv_width], d, i - span[0], c.rope_theta);
        }
        for i in span[0]..span[1] {
            for head in 0..c.heads {
                let kv = head / (c.heads / c.kv_heads);
                let first = c.window.map_or(span[0], |w| span[0].max((i + 1).saturating_sub(w)));
                let dot = |j: usize| {
                    (0..d)
                        .map(|e| q[i * q_width + head * d + e] * k[j * kv_width + kv * d + e])
                        .sum::<f64>()
                };
                let scores: Vec<f64> = (first..=i).map(|j| dot(j) / (d as f64).sqrt()).collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let powers: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let sum: f64 = powers.iter().sum();
                for (j, p) in (first..=i).zip(&powers) {
                    for e in 0..d {
                        attended[i * q_width + head * d + e] +=
                            p / sum * v[j * kv_width + kv * d + e];
                    }
                }
            }
        }
    }
    let x: Vec<f64> = x.iter().zip(matmul(&attended, wo, q_width)).map(|(x, y)| x + y).collect();
    let h = rms(&x, norm2, c.eps);
    let (gate, up) = (matmul(&h, gate, c.dim), matmul(&h, up, c.dim));
    let product: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    x.iter().zip(matmul(&product, down, c.ffn)).map(|(x, y)| x + y).collect()
}

/// Output and, from the output's gradient `dy`, all gradients.
fn fused(
    level: Level,
    inputs: &Inputs,
    offsets: &[usize],
    c: &BlockConfig,
    dy: &[f32],
) -> (Vec<f32>, Inputs) {
    let kept = fused_with(false, level, inputs, offsets, c, dy);
    let recomputed = fused_with(true, level, inputs, offsets, c, dy);
    assert!(kept == recomputed, "recomputing must not change a bit");
    kept
}

fn fused_with(
    recompute: bool,
    level: Level,
    inputs: &Inputs,
    offsets: &[usize],
    c: &BlockConfig,
    dy: &[f32],
) -> (Vec<f32>, Inputs) {
    let n = offsets[offsets.len() - 1];
    let backend = Fused::new();
    backend.recompute(recompute);
    let shapes = shapes(n, c);
    let ids: [ParamId; 9] = std::array::from_fn(|i| {
        backend.add_param(shapes[i + 1], inputs[i + 1].clone(), false).unwrap()
    });
    let [input_layernorm, q, k, v, o, post_attention_layernorm, gate, up, down] = ids;
    let params =
        BlockParams { input_layernorm, q, k, v, o, post_attention_layernorm, gate, up, down };
    let x = backend.constant(n, c.dim, inputs[0].clone()).unwrap();
    let silent = block_at(level, &backend, &x, offsets, &params, c).unwrap();
    backend.record(true);
    let y = block_at(level, &backend, &x, offsets, &params, c).unwrap();
    assert_eq!(
        backend.to_host(&silent).unwrap(),
        backend.to_host(&y).unwrap(),
        "recording must not change the output"
    );
    let dx = {
        let mut params = backend.params.borrow_mut();
        let mut grads = Grads { values: Default::default(), params: &mut params };
        grads.add(backend.value(&y).unwrap().id, dy.to_vec().into());
        let ops = backend.tape.borrow_mut().as_mut().map(std::mem::take).unwrap();
        ops.into_iter().rev().for_each(|op| op(&mut grads));
        grads.take(backend.value(&x).unwrap().id).unwrap().to_vec()
    };
    let mut all = vec![dx];
    all.extend(ids.iter().map(|id| backend.grad(*id).unwrap().unwrap()));
    (backend.to_host(&y).unwrap(), all.try_into().unwrap())
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Values within 1e-5 of the oracle's (relative to the largest), and gradients along random
/// directions and at random coordinates within 1e-5 of the oracle's differences (relative to the
/// gradient's norm).
fn check(level: Level, offsets: &[usize], c: &BlockConfig, seed: u64) {
    let n = offsets[offsets.len() - 1];
    let inputs = inputs(n, c, seed);
    let mut noise = Noise(seed.wrapping_add(77) | 1);
    let dy = noise.vec(n * c.dim, 1.0);
    let (y, grads) = fused(level, &inputs, offsets, c, &dy);
    let exact = inputs.clone().map(|x| x.into_iter().map(f64::from).collect::<Vec<f64>>());
    let want = oracle(&exact, offsets, c);
    let scale = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
    for (i, (y, want)) in y.iter().zip(&want).enumerate() {
        assert!(
            (*y as f64 - want).abs() <= 1e-5 * scale,
            "{level:?} {c:?} {offsets:?}: row {} is {y}, not {want}",
            i / c.dim
        );
    }
    let loss = |which: usize, direction: &[f64], step: f64| -> f64 {
        let mut moved = exact.clone();
        moved[which].iter_mut().zip(direction).for_each(|(x, d)| *x += step * d);
        oracle(&moved, offsets, c).iter().zip(&dy).map(|(y, g)| y * *g as f64).sum()
    };
    for which in 0..10 {
        let len = exact[which].len();
        assert_eq!(grads[which].len(), len);
        // The gradients of queries and keys are differences that may cancel (wholly where a row
        // sees one key); what they are differences of is as large as the values' gradient.
        let size = |which: usize| norm(grads[which].iter().map(|g| *g as f64));
        let size = if which == 2 || which == 3 { size(which).max(size(4)) } else { size(which) };
        for trial in 0..if len == 0 { 0 } else { 4 } {
            let direction: Vec<f64> = match trial {
                0 => (0..len).map(|_| noise.next()).collect(),
                _ => {
                    let at = ((noise.next() + 1.0) / 2.0 * len as f64) as usize;
                    (0..len).map(|i| if i == at { 1.0 } else { 0.0 }).collect()
                }
            };
            let got: f64 = grads[which].iter().zip(&direction).map(|(g, d)| *g as f64 * d).sum();
            let step = 1e-5;
            let want =
                (loss(which, &direction, step) - loss(which, &direction, -step)) / (2.0 * step);
            let bound = 1e-5 * size * norm(direction.iter().copied()) + 1e-6;
            assert!(
                (got - want).abs() <= bound,
                "{level:?} {c:?} {offsets:?}: d{} along {trial} is {got}, not {want}",
                NAMES[which]
            );
        }
    }
}

fn config(
    dim: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    window: Option<usize>,
) -> BlockConfig {
    BlockConfig { dim, heads, kv_heads, head_dim, ffn, window, rope_theta: 500000.0, eps: 1e-5 }
}

#[test]
fn matches_the_oracle_at_every_level() {
    let cases: [(&[usize], BlockConfig); 9] = [
        (&[0], config(16, 2, 2, 8, 24, None)),
        (&[0, 1], config(16, 2, 1, 8, 24, None)),
        (&[0, 1, 2, 3, 20], config(16, 1, 1, 16, 20, Some(1))),
        (&[0, 5, 5, 47, 95, 144], config(24, 3, 1, 6, 40, Some(7))),
        (&[0, 130], config(32, 4, 2, 8, 48, Some(48))),
        (&[0, 100, 101], config(64, 2, 2, 32, 96, None)),
        (&[0, 97], config(70, 1, 1, 70, 66, Some(64))),
        (&[0, 30, 200], config(64, 1, 1, 64, 64, Some(100))),
        (&[0, 110], config(40, 2, 1, 48, 130, None)),
    ];
    for level in Level::available() {
        for (i, (offsets, config)) in cases.iter().enumerate() {
            check(level, offsets, config, i as u64 + 1);
        }
    }
}

/// Spans longer than the tasks' shares of queries and keys.
#[test]
fn matches_the_oracle_over_long_spans() {
    for window in [Some(100), Some(1000), None] {
        check(Level::best(), &[0, 40, 40 + 2050], &config(8, 1, 1, 8, 8, window), 5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn matches_the_oracle_at_random_shapes(
        lens in prop::collection::vec(prop_oneof![3 => 1..4usize, 2 => 0..70usize, 1 => 90..200usize], 0..5),
        kv_heads in 1..3usize,
        group in 1..4usize,
        half in 1..18usize,
        // A norm of few elements all but cancels its input's gradient, and f32 has no digits left to compare.
        dim in 8..80usize,
        ffn in 1..80usize,
        window in prop_oneof![Just(None), Just(Some(1)), (1..200usize).prop_map(Some)],
        seed in 1..u64::MAX / 2,
    ) {
        let offsets: Vec<usize> = std::iter::once(0).chain(lens.iter().scan(0, |end, len| { *end += len; Some(*end) })).collect();
        check(Level::best(), &offsets, &config(dim, kv_heads * group, kv_heads, 2 * half, ffn, window), seed);
    }
}

/// A document alone and in a batch: the same bits, values and its rows' gradients.
#[test]
fn bits_do_not_depend_on_the_batch() {
    let offsets = [0, 1, 300, 301, 420, 1500, 1533];
    for window in [Some(64), Some(512), None] {
        let c = config(64, 2, 1, 32, 96, window);
        let n = offsets[offsets.len() - 1];
        let all = inputs(n, &c, 3);
        let dy = Noise(9).vec(n * c.dim, 1.0);
        let (y, grads) = fused(Level::best(), &all, &offsets, &c, &dy);
        for span in offsets.windows(2) {
            let rows = span[0] * c.dim..span[1] * c.dim;
            let mut alone = all.clone();
            alone[0] = all[0][rows.clone()].to_vec();
            let (y_alone, grads_alone) =
                fused(Level::best(), &alone, &[0, span[1] - span[0]], &c, &dy[rows.clone()]);
            assert_eq!(y[rows.clone()], y_alone, "{window:?} {span:?}");
            assert_eq!(grads[0][rows], grads_alone[0], "{window:?} {span:?}");
        }
    }
}

/// A row's output does not change with what follows it, to the bit.
#[test]
fn bits_do_not_depend_on_later_rows() {
    let c = config(64, 2, 2, 32, 96, Some(200));
    let all = inputs(700, &c, 4);
    let dy = vec![0.0; 700 * c.dim];
    let (y, _) = fused(Level::best(), &all, &[0, 700], &c, &dy);
    for len in [1, 40, 129, 500] {
        let mut prefix = all.clone();
        prefix[0].truncate(len * c.dim);
        let (y_prefix, _) = fused(Level::best(), &prefix, &[0, len], &c, &dy[..len * c.dim]);
        assert_eq!(y[..len * c.dim], y_prefix, "{len}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for (c, offsets) in [
        (config(128, 4, 2, 32, 192, Some(256)), vec![0, 1000, 1010, 2600]),
        (config(64, 2, 2, 32, 96, None), vec![0, 2100, 2101]),
    ] {
        let n = offsets[offsets.len() - 1];
        let (all, dy) = (inputs(n, &c, 6), Noise(5).vec(n * c.dim, 1.0));
        let one = pool(1).install(|| fused(Level::best(), &all, &offsets, &c, &dy));
        for threads in [2, 3] {
            assert!(
                one == pool(threads).install(|| fused(Level::best(), &all, &offsets, &c, &dy)),
                "{threads} threads"
            );
        }
    }
}

/// AVX2 and AVX-512 compute the same.
#[test]
fn levels_agree() {
    let c = config(64, 2, 1, 32, 96, Some(100));
    let offsets = [0, 300, 333];
    let (all, dy) = (inputs(333, &c, 8), Noise(5).vec(333 * c.dim, 1.0));
    let levels = Level::available();
    let runs: Vec<_> = levels.iter().map(|level| fused(*level, &all, &offsets, &c, &dy)).collect();
    for (level, (y, _)) in levels.iter().zip(&runs) {
        assert!(y.iter().zip(&runs[0].0).all(|(a, b)| (a - b).abs() < 1e-4), "{level:?}");
    }
    if let [_, avx2, avx512] = &runs[..] {
        assert!(avx2 == avx512);
    }
}
