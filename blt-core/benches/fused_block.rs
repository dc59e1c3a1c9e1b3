//! The fused transformer block at the shapes of the peer's presets, forward and with its backward
//! pass, in floating-point operations per second (attention's allowed pairs counted, backward
//! twice, recomputation not), beside the rate of a 1024 x 1024 x 1024 sgemm of the `gemm` crate in
//! the same run. `shares` prints the ratio, taken in turns so that a busy machine slows both.

use blt_core::backend::fused::Fused;
use blt_core::backend::{BlockConfig, BlockParams, Operations, ParamId, Parameters, Tape, Tensor};
use blt_core::flops;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};

struct Shape {
    name: &'static str,
    dim: usize,
    heads: usize,
    ffn: usize,
    window: Option<usize>,
    spans: usize,
    span: usize,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "small, bytes",
        dim: 128,
        heads: 4,
        ffn: 384,
        window: Some(512),
        spans: 4,
        span: 1024,
    },
    Shape {
        name: "small, patches",
        dim: 256,
        heads: 8,
        ffn: 704,
        window: None,
        spans: 4,
        span: 228,
    },
    Shape {
        name: "base, bytes",
        dim: 256,
        heads: 8,
        ffn: 704,
        window: Some(512),
        spans: 2,
        span: 2048,
    },
    Shape {
        name: "base, patches",
        dim: 512,
        heads: 8,
        ffn: 1408,
        window: None,
        spans: 2,
        span: 455,
    },
];

struct Block {
    fused: Fused,
    x: Tensor,
    offsets: Vec<usize>,
    params: BlockParams,
    config: BlockConfig,
    /// `[1, numbers of x]`, ones: a backward pass starts from the sum of the output.
    ones: ParamId,
}

/// The same numbers on every machine.
fn noise(len: usize, scale: f32) -> Vec<f32> {
    let states = std::iter::successors(Some(1u64), |x| {
        Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407))
    });
    states
        .skip(1)
        .take(len)
        .map(|x| ((x >> 33) as f32 / (1u32 << 30) as f32 - 1.0) * scale)
        .collect()
}

impl Block {
    fn new(shape: &Shape) -> Self {
        let &Shape { dim, heads, ffn, window, spans, span, .. } = shape;
        let config = BlockConfig {
            dim,
            heads,
            kv_heads: heads,
            head_dim: dim / heads,
            ffn,
            window,
            rope_theta: 500000.0,
            eps: 1e-5,
        };
        let fused = Fused::new();
        let weight = |rows: usize, cols: usize| {
            fused
                .add_param([rows, cols], noise(rows * cols, (cols as f32).sqrt().recip()), false)
                .unwrap()
        };
        let norm = || fused.add_param([1, dim], vec![1.0; dim], false).unwrap();
        let params = BlockParams {
            input_layernorm: norm(),
            q: weight(dim, dim),
            k: weight(dim, dim),
            v: weight(dim, dim),
            o: weight(dim, dim),
            post_attention_layernorm: norm(),
            gate: weight(ffn, dim),
            up: weight(ffn, dim),
            down: weight(dim, ffn),
        };
        let x = fused.constant(spans * span, dim, noise(spans * span * dim, 1.0)).unwrap();
        let numbers = spans * span * dim;
        let ones = fused.add_param([1, numbers], vec![1.0; numbers], false).unwrap();
        let offsets = (0..=spans).map(|i| i * span).collect();
        Self { fused, x, offsets, params, config, ones }
    }

    fn forward(&self) -> Tensor {
        self.fused.block(&self.x, &self.offsets, &self.params, &self.config).unwrap()
    }

    fn train(&self) {
        self.fused.record(true);
        let y = self.fused.reshape(&self.forward(), 1, self.x.rows * self.x.cols).unwrap();
        self.fused.backward(&self.fused.linear(&y, self.ones).unwrap()).unwrap();
        self.fused.record(false);
    }

    /// Operations of a forward pass.
    fn flops(&self) -> u64 {
        flops::block(&self.config, &self.offsets)
    }
}

const SIDE: usize = 1024;
const SGEMM_FLOPS: u64 = 2 * (SIDE * SIDE * SIDE) as u64;

fn sgemm(a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!([a.len(), b.len(), c.len()] == [SIDE * SIDE; 3]);
    let (side, stride) = (SIDE, SIDE as isize);
    let parallelism = gemm::Parallelism::Rayon(0);
    // SAFETY: each slice holds SIDE rows of SIDE elements, and c overlaps neither operand.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        gemm::gemm(
            side,
            side,
            side,
            c,
            1,
            stride,
            false,
            a,
            1,
            stride,
            b,
            1,
            stride,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn blocks(c: &mut Criterion) {
    let (a, b, mut out) =
        (noise(SIDE * SIDE, 1.0), noise(SIDE * SIDE, 1.0), vec![0.0; SIDE * SIDE]);
    let mut group = c.benchmark_group("fused_block");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(SGEMM_FLOPS));
    group.bench_function("sgemm", |bench| bench.iter(|| sgemm(&a, &b, &mut out)));
    for shape in &SHAPES {
        let block = Block::new(shape);
        group.throughput(Throughput::Elements(block.flops()));
        group.bench_function(BenchmarkId::new("forward", shape.name), |b| {
            b.iter(|| black_box(block.forward()))
        });
        group.throughput(Throughput::Elements(3 * block.flops()));
        group.bench_function(BenchmarkId::new("forward and backward", shape.name), |b| {
            b.iter(|| block.train())
        });
    }
    group.finish();
}

fn seconds(f: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn shares(_: &mut Criterion) {
    let (a, b, mut out) =
        (noise(SIDE * SIDE, 1.0), noise(SIDE * SIDE, 1.0), vec![0.0; SIDE * SIDE]);
    println!(
        "{:16} {:>8} {:>9} {:>6} {:>9} {:>6}",
        "GFLOP/s", "sgemm", "forward", "share", "training", "share"
    );
    for shape in &SHAPES {
        let block = Block::new(shape);
        let mut times = [vec![], vec![], vec![]];
        for _ in 0..40 {
            times[0].push(seconds(&mut || (0..4).for_each(|_| sgemm(&a, &b, &mut out))) / 4.0);
            times[1].push(seconds(&mut || drop(block.forward())));
            times[2].push(seconds(&mut || block.train()));
        }
        let flops = [SGEMM_FLOPS, block.flops(), 3 * block.flops()];
        let mut rates =
            flops.iter().zip(times).map(|(flops, times)| *flops as f64 / median(times) / 1e9);
        let [sgemm, forward, train] = std::array::from_fn(|_| rates.next().unwrap_or(f64::NAN));
        println!(
            "{:16} {sgemm:8.0} {forward:9.0} {:5.0}% {train:9.0} {:5.0}%",
            shape.name,
            forward / sgemm * 100.0,
            train / sgemm * 100.0
        );
    }
}

criterion_group!(benches, shares, blocks);
criterion_main!(benches);
