//! Bytes per second of the patchers, on one thread: 4 MiB of text in documents of 16 KiB.

use blt_core::bytes::Batch;
use blt_core::patch::calibrate::{Calibration, Unknown};
use blt_core::patch::{
    EntropyRule, byte_patches, entropy_patches, newline_reset, space_patches, stride_patches,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const DOCUMENT: usize = 16 << 10;
const BYTES: usize = 4 << 20;

/// A small linear congruential generator: the same numbers on every machine.
fn random() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1u64), |x| {
        Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407))
    })
    .map(|x| (x >> 33) as u32)
}

/// Words of 1 to 9 letters between spaces, a newline now and then.
fn text() -> Vec<u8> {
    let mut random = random();
    let mut text = Vec::with_capacity(BYTES + 16);
    while text.len() < BYTES {
        let r = random.next().unwrap();
        text.extend((0..r % 9 + 1).map(|i| b'a' + ((r >> i) % 26) as u8));
        text.push(if r >> 8 & 15 == 0 { b'\n' } else { b' ' });
    }
    text.truncate(BYTES);
    text
}

fn patching(c: &mut Criterion) {
    let text = text();
    let batch = Batch::from_documents(text.chunks(DOCUMENT));
    // Uniform in [0, 4): a threshold of 3.1 starts a patch every 4.4 bytes, where branches are hard
    // to predict.
    let entropies: Vec<f32> =
        random().take(batch.len()).map(|x| (x % 4096) as f32 / 1024.0).collect();
    let by_entropy =
        |rule, max| entropy_patches(black_box(&batch), black_box(&entropies), rule, max).unwrap();

    let mut group = c.benchmark_group("patching");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.bench_function("byte", |b| b.iter(|| byte_patches(black_box(&batch))));
    group.bench_function("stride 6", |b| b.iter(|| stride_patches(black_box(&batch), 6).unwrap()));
    group.bench_function("space", |b| b.iter(|| space_patches(black_box(&batch))));
    let global = EntropyRule::Global { threshold: 3.1 };
    group.bench_function("entropy global", |b| b.iter(|| by_entropy(global, None)));
    group.bench_function("entropy relative", |b| {
        b.iter(|| by_entropy(EntropyRule::Relative { threshold: 1.4 }, None))
    });
    let both = EntropyRule::Both { global: 2.0, relative: 0.7 };
    group.bench_function("entropy both", |b| b.iter(|| by_entropy(both, None)));
    group.bench_function("entropy global, max_patch_length 8", |b| {
        b.iter(|| by_entropy(global, Some(8)))
    });
    group.bench_function("newline reset", |b| b.iter(|| newline_reset(black_box(&batch))));
    group.finish();

    let mut group = c.benchmark_group("calibration");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
    let mut calibration = Calibration::new();
    calibration.push(&batch, &entropies).unwrap();
    group.bench_function("global, 6 bytes per patch", |b| {
        b.iter(|| black_box(&calibration).find(Unknown::Global, 6.0, None).unwrap())
    });
    group.finish();
}

criterion_group!(benches, patching);
criterion_main!(benches);
