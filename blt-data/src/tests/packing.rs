//! Spans and batches: every byte once, limits kept, continuing at every batch.

use std::collections::BTreeMap;

use blt_core::bytes::{BOS, Batch, OFFSET};
use proptest::prelude::*;

use super::*;

fn corpus(dir: &Path, documents: &[Option<String>]) -> Arc<Corpus> {
    let documents: Vec<Option<&str>> = documents.iter().map(|d| d.as_deref()).collect();
    write_parquet(&dir.join("a.parquet"), &texts(&documents), 4);
    Arc::new(Corpus::new(parquet_corpus(dir)).unwrap())
}

fn drain(reader: &mut BatchReader) -> Vec<(Batch, BatchState)> {
    let mut batches = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        batches.push((batch, reader.state().clone()));
    }
    batches
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_byte_is_counted_once(
        documents in prop::collection::vec(prop::option::weighted(0.9, "[a-zé]{0,40}"), 1..14),
        span_bytes in 1usize..20, batch_bytes in 1usize..40, context in 0usize..20, keep_empty: bool, shuffled: bool,
        best: bool,
    ) {
        prop_assume!(documents.iter().any(Option::is_some));
        let dir = tempfile::tempdir().unwrap();
        let source = corpus(dir.path(), &documents);
        let order = if shuffled { Order::Shuffled { seed: 5, buffer: 3 } } else { Order::Sequential };
        let request = Request { order, scalars: vec!["id".into()], ..Request::all() };
        let packing = if best { Packing::BestFit } else { Packing::NextFit };
        let context_bytes = context.min(span_bytes - 1);
        let packer = Packer { span_bytes, batch_bytes, context_bytes, keep_empty, packing };
        let mut reader = BatchReader::new(source.clone(), request.clone(), packer.clone()).unwrap();
        let start = reader.state().clone();

        // By row, and where the bytes that a span counts begin.
        let mut counted: BTreeMap<u64, BTreeMap<usize, Vec<u8>>> = BTreeMap::new();
        let mut sizes: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        let mut batches = Vec::new();
        while let Some(batch) = reader.next_batch().unwrap() {
            prop_assert!(batch.len() <= batch_bytes || batch.n_spans() == 1);
            prop_assert_eq!(reader.scalars().len(), batch.n_spans());
            for (s, span) in batch.spans.iter().enumerate() {
                let ids = batch.span_ids(s);
                prop_assert_eq!(ids[0], BOS);
                prop_assert!(span.range.len() <= span_bytes);
                prop_assert_eq!(reader.scalars()[s]["id"].as_ref(), Some(&span.row.to_string()));
                let bytes: Vec<u8> = ids[1..].iter().map(|id| (id - OFFSET) as u8).collect();
                let whole = documents[span.row as usize].as_ref().unwrap().as_bytes();
                prop_assert_eq!(&bytes[..], &whole[span.range.clone()]);
                prop_assert_eq!(span.last, span.range.end == whole.len());
                let so_far = counted.entry(span.row).or_default();
                if !best {
                    // Spans of a document come in order, and the context was counted before.
                    let bytes: usize = so_far.values().map(Vec::len).sum();
                    prop_assert_eq!(bytes, span.range.start + span.context);
                }
                let from = span.range.start + span.context;
                prop_assert!(so_far.insert(from, bytes[span.context..].to_vec()).is_none());
                let size = sizes.entry(span.row).or_default();
                *size = (size.0 + 1, size.1 + ids.len());
            }
            batches.push((batch, reader.state().clone()));
        }
        let expected: BTreeMap<u64, Vec<u8>> = (0..)
            .zip(&documents)
            .filter_map(|(row, d)| d.as_ref().map(|d| (row, d.clone().into_bytes())))
            .filter(|(_, d)| keep_empty || !d.is_empty())
            .collect();
        for spans in counted.values() {
            let mut end = 0;
            for (from, bytes) in spans {
                prop_assert_eq!(*from, end);
                end += bytes.len();
            }
        }
        let counted: BTreeMap<u64, Vec<u8>> =
            counted.into_iter().map(|(row, spans)| (row, spans.into_values().flatten().collect())).collect();
        prop_assert_eq!(&counted, &expected);
        for (row, size) in sizes {
            prop_assert_eq!(size, packer.size(expected[&row].len()));
        }
        let counts = reader.counts();
        prop_assert_eq!(counts.documents as usize, documents.iter().flatten().count());
        prop_assert_eq!(counts.nulls as usize, documents.iter().filter(|d| d.is_none()).count());
        let end = reader.state().clone();

        // On another thread the same batches and states, whatever it has read ahead.
        let ahead = BatchReader::new(source.clone(), request.clone(), packer.clone()).unwrap();
        let mut ahead = ahead.read_ahead(1 + context % 3);
        prop_assert_eq!(&drain(&mut ahead), &batches);
        prop_assert_eq!(ahead.state(), &end);

        // And continued after each batch, the same again.
        let states = std::iter::once(&start).chain(batches.iter().map(|(_, state)| state)).chain([&end]);
        for (at, state) in states.enumerate() {
            let state: BatchState = serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap();
            let mut resumed = BatchReader::restore(source.clone(), request.clone(), packer.clone(), &state).unwrap();
            prop_assert_eq!(&drain(&mut resumed)[..], &batches[at.min(batches.len())..]);
            prop_assert_eq!(resumed.state(), &end);
        }
    }
}

#[test]
fn batches_are_filled() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Option<String>> = (0..100).map(|i| Some("x".repeat(i % 7 + 1))).collect();
    let source = corpus(dir.path(), &documents);
    let mut reader =
        BatchReader::new(source, Request::all(), Packer::new(100, 50).unwrap()).unwrap();
    let batches = drain(&mut reader);
    // No span of the corpus has more than 8 ids, so a batch that is not the last leaves less than
    // that.
    assert!(batches[..batches.len() - 1].iter().all(|(b, _)| b.len() > 42 && b.len() <= 50));
}

/// Documents of one to three spans, of which full ones fill a batch: packed in order, most batches
/// are ragged.
#[test]
fn the_best_fit_fills_ragged_batches() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Option<String>> =
        (0..600).map(|i| Some("x".repeat(i * 7919 % 300 + 1))).collect();
    let source = corpus(dir.path(), &documents);
    let filled = |packing| {
        let packer = Packer { packing, ..Packer::new(100, 101).unwrap() };
        let mut reader = BatchReader::new(source.clone(), Request::all(), packer).unwrap();
        let batches = drain(&mut reader);
        let ids: usize = batches.iter().map(|(batch, _)| batch.len()).sum();
        // Once everything is read, what is left does not pair up.
        let even = batches[..batches.len() - 40].iter().filter(|(batch, _)| batch.len() > 90);
        (ids as f64 / (101 * batches.len()) as f64, even.count() as f64 / batches.len() as f64)
    };
    let (next, best) = (filled(Packing::NextFit), filled(Packing::BestFit));
    assert!(next.0 < 0.85, "{next:?}");
    assert!(best.0 > 0.95 && best.1 > 0.9, "{best:?}");
}

#[test]
fn a_reader_ahead_ends_when_dropped_and_keeps_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let source = corpus(dir.path(), &[Some("abc".into()), Some("de".into())]);
    let mut endless =
        BatchReader::new(source.clone(), Request::training(1, 2), Packer::new(2, 4).unwrap())
            .unwrap()
            .read_ahead(2);
    let taken: u64 =
        (0..20).map(|_| endless.next_batch().unwrap().unwrap().n_counted_bytes() as u64).sum();
    assert!(taken >= 20);
    assert_eq!(endless.state().batches, 20);
    drop(endless);

    let nothing = corpus(dir.path(), &[None]);
    let mut reader = BatchReader::new(nothing, Request::all(), Packer::new(2, 4).unwrap())
        .unwrap()
        .read_ahead(1);
    for _ in 0..2 {
        assert!(matches!(reader.next_batch(), Err(DataError::Empty { .. })));
    }
}

/// The state in a checkpoint, whose text on disk is a promise. It was computed from the formats and
/// SplitMix64 by a script apart from this crate.
const STATE: &str = r#"{"cursor":{"layout":"af14ed171f43cc3c9378a53550afaf8dab3a68454825a4594619ff0d4e882ca0","epoch":1,"unit":2,"rows":1,"buffered":[2,18,19],"rng":2493275175545933501,"finished":false,"counts":{"documents":18,"bytes":364,"nulls":5,"empty":0},"epoch_counts":{"documents":4,"bytes":70,"nulls":2,"empty":0}},"pending":{"row":8,"from":14},"batches":30}"#;

#[test]
fn the_state_in_checkpoints_is_written_and_read_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Option<String>> =
        (0..20).map(|i| (i % 7 != 3).then(|| format!("document {i} {}", "x".repeat(i)))).collect();
    let list: Vec<Option<&str>> = documents.iter().map(|d| d.as_deref()).collect();
    write_parquet(&dir.path().join("a.parquet"), &texts(&list), 4);
    let split = Some(Split { valid: 0.2, by: "id".into(), calibration: 0.1 });
    let source =
        Arc::new(Corpus::new(SourceConfig { split, ..parquet_corpus(dir.path()) }).unwrap());
    let request = Request {
        exclude_calibration: true,
        limit: Some(100),
        scalars: vec!["id".into()],
        ..Request::training(3, 4)
    };
    let packer = Packer { context_bytes: 2, ..Packer::new(8, 20).unwrap() };
    let mut reader = BatchReader::new(source.clone(), request.clone(), packer.clone()).unwrap();
    (0..30).for_each(|_| drop(reader.next_batch().unwrap().unwrap()));
    assert_eq!(serde_json::to_string(reader.state()).unwrap(), STATE);
    let state: BatchState = serde_json::from_str(STATE).unwrap();
    let mut resumed = BatchReader::restore(source, request, packer, &state).unwrap();
    for _ in 0..40 {
        assert_eq!(resumed.next_batch().unwrap(), reader.next_batch().unwrap());
        assert_eq!(resumed.state(), reader.state());
    }
}
