//! Bytes per second of a count-based model: 8 MiB of text in documents of 4 KiB. Fitting uses all
//! threads of rayon (`RAYON_NUM_THREADS`), reading one.

use blt_core::bytes::Batch;
use blt_core::counts::{Counts, CountsConfig, Fit};
use blt_core::model::next_byte_targets;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const DOCUMENT: usize = 4 << 10;
const BYTES: usize = 8 << 20;

/// A small linear congruential generator: the same numbers on every machine.
fn random(seed: u64) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(seed), |x| {
        Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407))
    })
    .map(|x| (x >> 33) as u32)
}

/// Words of a vocabulary of 8,192, the first ones often, the last ones rarely.
fn text(seed: u64) -> Vec<u8> {
    let mut letters = random(7);
    let words: Vec<Vec<u8>> = (0..8192)
        .map(|_| {
            let length = letters.next().unwrap() % 8 + 2;
            (0..length).map(|_| b'a' + (letters.next().unwrap() % 26) as u8).collect()
        })
        .collect();
    let mut random = random(seed);
    let mut text = Vec::with_capacity(BYTES + 16);
    while text.len() < BYTES {
        let (r, bits) = (random.next().unwrap() as usize, random.next().unwrap() % 14);
        text.extend_from_slice(&words[r & ((1 << bits) - 1)]);
        text.push(b' ');
    }
    text.truncate(BYTES);
    text
}

fn fit(batch: &Batch, order: usize) -> Counts {
    let mut fit = Fit::new(CountsConfig { order, memory: 1 << 30 }).unwrap();
    fit.push(batch);
    fit.finish().unwrap()
}

fn counts(c: &mut Criterion) {
    let (train, unseen) = (text(1), text(2));
    let train = Batch::from_documents(train.chunks(DOCUMENT));
    let unseen = Batch::from_documents(unseen.chunks(DOCUMENT));
    let targets = next_byte_targets(&unseen, false);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut group = c.benchmark_group("counts");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
    for order in [3, 5, 6] {
        group.bench_function(format!("fit, order {order}"), |b| {
            b.iter(|| fit(black_box(&train), order))
        });
        let counts = fit(&train, order);
        group.bench_function(format!("entropies, order {order}"), |b| {
            b.iter(|| one.install(|| counts.entropies(black_box(&unseen))))
        });
        group.bench_function(format!("log-probabilities, order {order}"), |b| {
            b.iter(|| one.install(|| counts.nats(black_box(&unseen), &targets)))
        });
        group.bench_function(format!("entropies of fitted documents, order {order}"), |b| {
            b.iter(|| one.install(|| counts.entropies(black_box(&train))))
        });
    }
    group.finish();
}

criterion_group!(benches, counts);
criterion_main!(benches);
