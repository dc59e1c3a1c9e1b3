//! The fused operations beside the transformer blocks, at the shapes of the peer's presets: 4096
//! ids in patches of 4.5. `forward` is one recorded-off call; `train` is forward and backward.

use blt_core::backend::fused::{Fused, embed::rolling_hash_ids};
use blt_core::backend::{
    AdamWStep, CrossConfig, CrossParams, HashConfig, Operations, Optimizer, ParamId, Parameters,
    Pooling, Tape, Tensor,
};
use blt_core::bytes::Batch;
use blt_core::patch::Patches;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

struct Preset {
    name: &'static str,
    dim: usize,
    heads: usize,
    hash_vocab: usize,
    /// Ids of a span, BOS included; 4096 in all.
    span: usize,
}

const PRESETS: [Preset; 2] = [
    Preset { name: "small", dim: 128, heads: 4, hash_vocab: 30_000, span: 1024 },
    Preset { name: "base", dim: 256, heads: 8, hash_vocab: 100_000, span: 2048 },
];
const IDS: usize = 4096;
const K: usize = 2;
const EPS: f64 = 1e-5;

/// A small linear congruential generator: the same numbers on every machine.
fn random() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1u64), |x| {
        Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407))
    })
    .map(|x| (x >> 33) as u32)
}

fn noise(len: usize) -> Vec<f32> {
    random().take(len).map(|x| x as f32 / (1u32 << 30) as f32 - 1.0).collect()
}

/// Words of 1 to 8 letters, the first ones frequent.
fn text(len: usize) -> Vec<u8> {
    let mut random = random();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        let word = (random.next().unwrap() % 2000) * (random.next().unwrap() % 2000) / 2000;
        let letters = word.wrapping_mul(2654435761);
        text.extend((0..word % 8 + 1).map(|i| b'a' + ((letters >> (3 * i)) % 26) as u8));
        text.push(b' ');
    }
    text.truncate(len);
    text
}

fn batch(preset: &Preset) -> (Batch, Patches) {
    let text = text(IDS - IDS / preset.span);
    let batch = Batch::from_documents(text.chunks(preset.span - 1));
    // Patches of 4.5 bytes on average.
    let mut random = random();
    let starts: Vec<bool> = batch.ids.iter().map(|_| random.next().unwrap() % 9 < 2).collect();
    let patches = Patches::from_flags(&batch, &starts, vec![false; batch.n_spans()]);
    (batch, patches)
}

fn weight(fused: &Fused, rows: usize, cols: usize) -> ParamId {
    let scale = (cols as f32).sqrt().recip();
    fused
        .add_param([rows, cols], noise(rows * cols).iter().map(|x| x * scale).collect(), false)
        .unwrap()
}

/// `[1, 1]`: the sum of all numbers of `y`, which a backward pass can start from. `ones` has a
/// number for each of them.
fn sum(fused: &Fused, y: &Tensor, ones: ParamId) -> Tensor {
    fused.linear(&fused.reshape(y, 1, y.rows * y.cols).unwrap(), ones).unwrap()
}

fn ones(fused: &Fused, [rows, cols]: [usize; 2]) -> ParamId {
    fused.add_param([1, rows * cols], vec![1.0; rows * cols], false).unwrap()
}

/// Times `op` without and with its backward pass, which starts from the sum of its output.
fn forward_and_train(
    c: &mut Criterion,
    name: &str,
    preset: &Preset,
    fused: &Fused,
    op: impl Fn() -> Tensor,
) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(IDS as u64));
    group.bench_function(BenchmarkId::new("forward", preset.name), |b| b.iter(|| black_box(op())));
    let ones = ones(fused, op().shape());
    group.bench_function(BenchmarkId::new("train", preset.name), |b| {
        b.iter(|| {
            fused.record(true);
            fused.backward(&sum(fused, &op(), ones)).unwrap();
            fused.zero_grads();
        })
    });
    fused.record(false);
    group.finish();
}

fn hash_config(preset: &Preset) -> HashConfig {
    HashConfig { sizes: vec![3, 4, 5, 6, 7, 8], functions: 1, vocab: preset.hash_vocab }
}

fn hash(c: &mut Criterion) {
    // A training batch: of a megabyte the system's clearing of pages for the result is a quarter of
    // the time.
    let text = text(1 << 16);
    let batch = Batch::from_documents(text.chunks(2047));
    let mut group = c.benchmark_group("hash_ids");
    group.throughput(Throughput::Bytes(batch.len() as u64));
    let config = hash_config(&PRESETS[0]);
    group.bench_function("one thread", |b| {
        b.iter(|| rolling_hash_ids(&batch.ids, &batch.offsets, black_box(&config)))
    });
    group.finish();
}

fn embed(c: &mut Criterion) {
    for preset in &PRESETS {
        let (batch, _) = batch(preset);
        let (fused, config) = (Fused::new(), hash_config(preset));
        let tokens = weight(&fused, 260, preset.dim);
        let rows = 6 * preset.hash_vocab;
        let table = fused.add_param([rows, preset.dim], noise(rows * preset.dim), true).unwrap();
        forward_and_train(c, "embed", preset, &fused, || {
            fused.embed(&batch.ids, &batch.offsets, tokens, Some((table, &config))).unwrap()
        });
    }
}

fn pool(c: &mut Criterion) {
    for preset in &PRESETS {
        let (_, patches) = batch(preset);
        let fused = Fused::new();
        let h = fused.constant(IDS, preset.dim, noise(IDS * preset.dim)).unwrap();
        for (name, pooling) in [("pool max", Pooling::Max), ("pool mean", Pooling::Mean)] {
            forward_and_train(c, name, preset, &fused, || {
                fused.pool(&h, &patches, pooling).unwrap()
            });
        }
    }
}

fn cross(c: &mut Criterion) {
    for preset in &PRESETS {
        let (batch, patches) = batch(preset);
        let (fused, dim) = (Fused::new(), preset.dim);
        let config = CrossConfig {
            dim,
            heads: preset.heads,
            kv_heads: preset.heads,
            head_dim: dim / preset.heads,
            eps: EPS,
        };
        let ones = || fused.add_param([1, dim], vec![1.0; dim], false).unwrap();
        let square = || weight(&fused, dim, dim);
        let params = CrossParams {
            q_norm: ones(),
            k_norm: ones(),
            q: square(),
            k: square(),
            v: square(),
            o: square(),
        };
        let bytes = fused.constant(IDS, dim, noise(IDS * dim)).unwrap();
        let rows = |k: usize| {
            fused
                .constant(patches.n_patches() * k, dim, noise(patches.n_patches() * k * dim))
                .unwrap()
        };
        let (rows_k, rows_1) = (rows(K), rows(1));
        let reads = patches.decoder_reads(&batch.offsets);
        forward_and_train(c, "encoder cross", preset, &fused, || {
            fused.encoder_cross(&rows_k, &bytes, &patches, K, &params, &config).unwrap()
        });
        forward_and_train(c, "decoder cross", preset, &fused, || {
            fused.decoder_cross(&bytes, &rows_k, &reads, K, &params, &config).unwrap()
        });
        forward_and_train(c, "decoder cross, k 1", preset, &fused, || {
            fused.decoder_cross(&bytes, &rows_1, &reads, 1, &params, &config).unwrap()
        });
    }
}

fn head(c: &mut Criterion) {
    for preset in &PRESETS {
        let (batch, _) = batch(preset);
        let fused = Fused::new();
        let norm = fused.add_param([1, preset.dim], vec![1.0; preset.dim], false).unwrap();
        let head = weight(&fused, 260, preset.dim);
        let x = fused.constant(IDS, preset.dim, noise(IDS * preset.dim)).unwrap();
        let targets: Vec<Option<u16>> = batch.ids.iter().map(|&id| Some(id)).collect();
        forward_and_train(c, "head loss", preset, &fused, || {
            fused.head_loss(&x, norm, head, EPS, &targets, 1.0 / IDS as f64).unwrap().loss
        });
        let mut group = c.benchmark_group("head entropies");
        group.throughput(Throughput::Bytes(IDS as u64));
        group.bench_function(preset.name, |b| {
            b.iter(|| fused.head_entropies(&x, norm, head, EPS).unwrap())
        });
        group.finish();
    }
}

fn adamw(c: &mut Criterion) {
    for preset in &PRESETS {
        let (batch, _) = batch(preset);
        let (fused, config) = (Fused::new(), hash_config(preset));
        let tokens = weight(&fused, 260, preset.dim);
        let rows = 6 * preset.hash_vocab;
        let table = fused.add_param([rows, preset.dim], noise(rows * preset.dim), true).unwrap();
        let dense = fused.add_param([4096, 1024], noise(4096 * 1024), false).unwrap();
        let x = fused.constant(1, 1024, vec![1.0; 1024]).unwrap();
        let (states, rows) = ([batch.ids.len(), preset.dim], [1, 4096]);
        let (of_states, of_rows) = (ones(&fused, states), ones(&fused, rows));
        fused.record(true);
        let y = fused.embed(&batch.ids, &batch.offsets, tokens, Some((table, &config))).unwrap();
        fused.backward(&sum(&fused, &y, of_states)).unwrap();
        fused.backward(&sum(&fused, &fused.linear(&x, dense).unwrap(), of_rows)).unwrap();
        fused.record(false);
        let mut t = 0;
        let mut step = |ids: &[ParamId]| {
            t += 1;
            let (beta1, beta2, eps) = (0.9, 0.95, 1e-8);
            fused
                .adamw(
                    ids,
                    &AdamWStep {
                        lr: 1e-4,
                        beta1,
                        beta2,
                        eps,
                        weight_decay: 0.1,
                        grad_scale: 0.5,
                        t,
                    },
                )
                .unwrap();
        };
        let mut group = c.benchmark_group("adamw");
        group.bench_function(BenchmarkId::new("table, rows of one batch", preset.name), |b| {
            b.iter(|| step(&[table]))
        });
        group.bench_function(BenchmarkId::new("table, all rows caught up", preset.name), |b| {
            b.iter(|| {
                step(&[table]);
                black_box(fused.moments(table).unwrap().0.len())
            })
        });
        group.throughput(Throughput::Elements(4096 * 1024));
        group.bench_function(BenchmarkId::new("dense", preset.name), |b| b.iter(|| step(&[dense])));
        group.bench_function(BenchmarkId::new("norm", preset.name), |b| {
            b.iter(|| fused.grad_norm_squared(&[dense]).unwrap())
        });
        group.finish();
    }
}

criterion_group!(benches, hash, embed, pool, cross, head, adamw);
criterion_main!(benches);
