use super::held_out::Heads;
use super::{Counts, CountsConfig, CountsError, CountsStream, Fit};
use crate::bytes::{Batch, OFFSET};
use crate::model::next_byte_targets;
use crate::patch::calibrate::{Calibration, Unknown};
use crate::patch::entropy_patches;
use std::path::Path;

/// Pieces of a kilobyte of this crate's sources: every fifth is unseen. Both are of the same files.
fn pieces() -> (Batch, Batch) {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let texts: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let all: Vec<&[u8]> = texts.iter().flat_map(|text| text.chunks(1000)).collect();
    let of = |unseen: bool| {
        let kept = all.iter().enumerate().filter(|(i, _)| (i % 5 == 0) == unseen);
        Batch::from_documents(kept.map(|(_, piece)| *piece))
    };
    (of(false), of(true))
}

fn fit(batch: &Batch, order: usize, memory: usize) -> Counts {
    let mut fit = Fit::new(CountsConfig { order, memory }).unwrap();
    fit.push(batch);
    fit.finish().unwrap()
}

fn bits_per_byte(counts: &Counts, batch: &Batch) -> f64 {
    let nats = counts.nats(batch, &next_byte_targets(batch, false));
    let sum: f64 = nats.iter().map(|&nats| nats as f64).sum();
    sum / std::f64::consts::LN_2 / batch.n_counted_bytes() as f64
}

#[test]
fn probabilities_add_up_and_entropies_are_theirs_whether_fitted_or_not() {
    let (train, unseen) = pieces();
    for order in [1, 3, 6, 8] {
        let counts = fit(&train, order, 64 << 20);
        for batch in [&train, &unseen] {
            let batch = Batch::from_documents([&batch.bytes(3)[..], &batch.bytes(40)[..]]);
            let (entropies, logits) = (counts.entropies(&batch), counts.logits(&batch));
            let targets = next_byte_targets(&batch, true);
            let nats = counts.nats(&batch, &targets);
            for i in 0..batch.len() {
                let row = &logits[260 * i..260 * (i + 1)];
                let p = |l: f32| (l as f64).exp();
                let sum: f64 = row.iter().map(|&l| p(l)).sum();
                let entropy: f64 = -row.iter().map(|&l| p(l) * l as f64).sum::<f64>();
                assert!((sum - 1.0).abs() < 1e-4, "order {order}, id {i}: {sum}");
                assert!(
                    (entropy - entropies[i] as f64).abs() < 2e-3,
                    "order {order}, id {i}: {entropy} nats, given as {}",
                    entropies[i]
                );
                if let Some(id) = targets[i] {
                    let (found, expected) = (nats[i], -row[id as usize]);
                    assert!((found - expected).abs() < 1e-4, "order {order}, id {i}: {found}");
                }
            }
        }
    }
}

/// Reading batches looks up several places at once; a stream goes byte by byte.
#[test]
fn a_batch_is_read_as_a_stream_reads_it_to_the_bit() {
    let (train, unseen) = pieces();
    for (order, memory) in [(1, 1 << 20), (4, 1 << 20), (8, 64 << 20)] {
        let counts = fit(&train, order, memory);
        for batch in [&train, &unseen] {
            let (entropies, targets) = (counts.entropies(batch), next_byte_targets(batch, true));
            let nats = counts.nats(batch, &targets);
            for s in 0..batch.n_spans() {
                let mut stream = CountsStream::new(&counts);
                for at in batch.offsets[s]..batch.offsets[s + 1] {
                    if at > batch.offsets[s] {
                        stream.push((batch.ids[at] - OFFSET) as u8);
                    }
                    assert_eq!(
                        stream.entropy().to_bits(),
                        entropies[at].to_bits(),
                        "{order}, {at}"
                    );
                    if let Some(id) = targets[at].filter(|&id| id >= OFFSET) {
                        let expected = stream.nats((id - OFFSET) as u8);
                        assert_eq!(expected.to_bits(), nats[at].to_bits(), "{order}, {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_follows_a_context_once_is_what_was_seen() {
    // "abcd" a hundred times: after two bytes the next one is all but sure.
    let text = b"abcd".repeat(100);
    let counts = fit(&Batch::from_documents([&text[..]]), 2, 1 << 20);
    let probe = Batch::from_documents([&b"xyzbcd"[..]]);
    let nats = counts.nats(&probe, &next_byte_targets(&probe, false));
    assert!(nats[5] < 0.1, "after `bc` comes `d`: {} nats", nats[5]);
    assert!(nats[1] > 3.0, "`y` was never seen: {} nats", nats[1]);
}

#[test]
fn longer_contexts_predict_unseen_text_better() {
    let (train, unseen) = pieces();
    let found = [1, 2, 4, 6].map(|order| bits_per_byte(&fit(&train, order, 64 << 20), &unseen));
    assert!(found.is_sorted_by(|a, b| a > b), "{found:?}");
    assert!(found[3] < 2.6, "{found:?}");
}

/// Mean entropy, and bytes a patch at a threshold that gives 6 on unseen text.
fn seen_as(counts: &Counts, batch: &Batch, unseen: &Batch) -> (f64, f64) {
    let mut calibration = Calibration::new();
    calibration.push(unseen, &counts.entropies(unseen)).unwrap();
    let rule = calibration.find(Unknown::Global, 6.0, None).unwrap().rule;
    let entropies = counts.entropies(batch);
    let patches = entropy_patches(batch, &entropies, rule, None).unwrap();
    let n: usize = (0..batch.n_spans()).map(|s| patches.n_counted(batch, s)).sum();
    let mean = entropies.iter().map(|&e| e as f64).sum::<f64>() / batch.len() as f64;
    (mean, batch.n_counted_bytes() as f64 / n as f64)
}

#[test]
fn a_fitted_document_does_not_know_itself() {
    let (train, unseen) = pieces();
    let mut counts = fit(&train, 6, 64 << 20);
    let off_by = |counts: &Counts| {
        let (fitted, other) = (seen_as(counts, &train, &unseen), seen_as(counts, &unseen, &unseen));
        (fitted.0 / other.0 - 1.0, fitted.1 / other.1 - 1.0)
    };
    let (entropy, bytes) = off_by(&counts);
    assert!(entropy.abs() < 0.03 && bytes.abs() < 0.03, "{entropy} of the entropy, {bytes}");
    // The same, read as if nothing had been fitted on it.
    counts.heads = Heads::default();
    let (entropy, bytes) = off_by(&counts);
    assert!(entropy < -0.05 && bytes > 0.1, "{entropy} of the entropy, {bytes}");
}

#[test]
fn a_prefix_is_read_as_the_whole_was() {
    let (train, unseen) = pieces();
    let counts = fit(&train, 5, 64 << 20);
    for batch in [&train, &unseen] {
        let text = batch.bytes(7);
        let whole = counts.entropies(&Batch::from_documents([&text[..]]));
        let mut stream = CountsStream::new(&counts);
        for j in 0..200 {
            let prefix = counts.entropies(&Batch::from_documents([&text[..j]]));
            assert_eq!(prefix, whole[..=j], "the first {j} bytes");
            let mut other = text.clone();
            other[j] ^= 0x81;
            let changed = counts.entropies(&Batch::from_documents([&other[..]]));
            assert_eq!(changed[..=j], whole[..=j], "byte {j} changed");
            assert_eq!(stream.entropy(), whole[j], "as a stream");
            stream.push(text[j]);
        }
    }
}

#[test]
fn threads_and_batches_do_not_change_a_bit() {
    let (train, unseen) = pieces();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let made = [1, 3].map(|n| {
        pool(n).install(|| {
            // Small enough for several chunks, and for pruning.
            let mut fit = Fit::new(CountsConfig { order: 6, memory: 2 << 20 }).unwrap();
            for s in 0..train.n_spans() {
                fit.push(&Batch::from_documents([&train.bytes(s)[..]]));
            }
            let counts = fit.finish().unwrap();
            (counts.to_bytes().to_vec(), counts.entropies(&unseen), counts.entropies(&train))
        })
    });
    assert!(made[0] == made[1]);
    let alone = Batch::from_documents([&unseen.bytes(5)[..]]);
    let (a, b) = (unseen.offsets[5], unseen.offsets[6]);
    let counts = fit(&train, 6, 64 << 20);
    assert_eq!(counts.entropies(&alone), counts.entropies(&unseen)[a..b]);
}

#[test]
fn counts_that_outgrow_their_memory_are_pruned() {
    let (train, unseen) = pieces();
    let found = [64 << 20, 2 << 20, 1 << 20].map(|memory| {
        let counts = fit(&train, 8, memory);
        assert!(counts.memory() <= memory, "{} bytes of {memory}", counts.memory());
        bits_per_byte(&counts, &unseen)
    });
    // Worse with less memory, and still far better than no context at all.
    assert!(found.is_sorted() && found[0] < found[2] && found[2] < 4.0, "{found:?}");
}

#[test]
fn a_file_is_read_back_whole_or_refused() {
    let (train, unseen) = pieces();
    let config = CountsConfig { order: 4, memory: 1 << 20 };
    let counts = fit(&train, config.order, config.memory);
    let file = counts.to_bytes();
    let again = Counts::from_bytes(file.to_vec(), config).unwrap();
    assert_eq!(again.entropies(&unseen), counts.entropies(&unseen));
    assert_eq!(again.entropies(&train), counts.entropies(&train));
    for len in [0, 7, 40, file.len() / 2, file.len() - 1] {
        let found = Counts::from_bytes(file[..len].to_vec(), config).err();
        assert!(matches!(found, Some(CountsError::Damaged(_))), "{len} bytes: {found:?}");
    }
    let mut changed = file.to_vec();
    changed[file.len() / 2] ^= 1;
    assert!(Counts::from_bytes(changed, config).is_err());
    assert!(Counts::from_bytes(file.to_vec(), CountsConfig { order: 5, ..config }).is_err());
}

#[test]
fn sizes_and_texts_that_give_no_counts_are_refused() {
    let made = |order, memory| Fit::new(CountsConfig { order, memory }).err();
    assert_eq!(made(0, 1 << 20), Some(CountsError::Order { found: 0 }));
    assert_eq!(made(9, 1 << 20), Some(CountsError::Order { found: 9 }));
    assert_eq!(made(8, 1000), Some(CountsError::Memory { found: 1000 }));
    let mut fit = Fit::new(CountsConfig { order: 3, memory: 1 << 20 }).unwrap();
    fit.push(&Batch::from_documents([&b"12345678"[..], &b""[..]]));
    assert_eq!(fit.finish().err(), Some(CountsError::Empty));
}
