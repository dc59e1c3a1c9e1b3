//! Parts, orders, epochs, and continuing at every position.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Rows with nulls and empties among them, as one Parquet file for each slice.
fn write_rows(dir: &Path, files: &[Vec<Option<String>>], group_rows: usize) {
    for (i, rows) in files.iter().enumerate() {
        let rows: Vec<Option<&str>> = rows.iter().map(|r| r.as_deref()).collect();
        write_parquet(&dir.join(format!("{i}.parquet")), &texts(&rows), group_rows);
    }
}

/// The next `n` rows, or fewer at the end.
fn take(reader: &mut Reader, n: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    while rows.len() < n
        && let Some(row) = reader.next().unwrap()
    {
        rows.push(row);
    }
    rows
}

fn some_rows() -> impl Strategy<Value = Vec<Vec<Option<String>>>> {
    let row = prop_oneof![1 => Just(None), 1 => Just(Some(String::new())), 6 => "[a-zé]{1,12}".prop_map(Some)];
    prop::collection::vec(prop::collection::vec(row, 0..12), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Continuing from the cursor after any row gives what the reader itself goes on to give, cursors included.
    #[test]
    fn resumes_at_every_position(
        files in some_rows(), group_rows in 1usize..6, buffer in 0usize..9, seed in 0u64..4, train: bool, endless: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        write_rows(dir.path(), &files, group_rows);
        let config = SourceConfig { split: Some(Split::new(0.3, BY_CONTENT)), ..parquet_corpus(dir.path()) };
        let source = Corpus::new(config).unwrap();
        let order = if buffer == 0 { Order::Sequential } else { Order::Shuffled { seed, buffer } };
        let request = Request {
            portion: if train { Portion::Train } else { Portion::All },
            order,
            epochs: if endless { None } else { Some(3) },
            ..Request::all()
        };
        let mut reader = source.open(&request).unwrap();
        let (mut all, mut cursors) = (Vec::new(), vec![(reader.cursor(), reader.counts())]);
        for _ in 0..80 {
            match reader.next() {
                Ok(Some(row)) => all.push(row),
                Ok(None) => break,
                Err(DataError::Empty { .. } | DataError::NoBytes { .. }) => return Ok(()),
                Err(error) => panic!("{error}"),
            }
            cursors.push((reader.cursor(), reader.counts()));
        }
        for (at, (cursor, counts)) in cursors.iter().enumerate() {
            // As a checkpoint would keep it.
            let cursor: Cursor = serde_json::from_str(&serde_json::to_string(cursor).unwrap()).unwrap();
            let mut resumed = source.resume(&request, &cursor).unwrap();
            prop_assert_eq!(&resumed.cursor(), &cursor);
            prop_assert_eq!(resumed.counts(), *counts);
            let rest = take(&mut resumed, all.len() - at);
            prop_assert_eq!(&rest[..], &all[at..]);
            prop_assert_eq!(&resumed.cursor(), &cursors[all.len()].0);
        }
    }

    /// Each epoch gives every row once, in an order of its own that the seed decides.
    #[test]
    fn epochs_are_permutations(files in some_rows(), group_rows in 1usize..6, buffer in 1usize..9, seed: u64) {
        let dir = tempfile::tempdir().unwrap();
        write_rows(dir.path(), &files, group_rows);
        let n = files.iter().map(Vec::len).sum::<usize>();
        prop_assume!(files.iter().flatten().any(|r| r.as_ref().is_some_and(|r| !r.is_empty())));
        let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
        let order = Order::Shuffled { seed, buffer };
        let request = Request { order, epochs: Some(2), ..Request::all() };
        let found = rows(&source, &request).unwrap();
        prop_assert_eq!(&found, &rows(&source, &request).unwrap());
        let expected: BTreeSet<u64> = (0..n as u64).collect();
        for epoch in found.chunks(n) {
            prop_assert_eq!(&row_numbers(epoch).into_iter().collect::<BTreeSet<_>>(), &expected);
        }
    }
}

#[test]
fn shuffling_mixes_and_depends_on_seed_and_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let rows_written: Vec<Option<String>> =
        (0..200).map(|i| Some(format!("document {i}"))).collect();
    write_rows(dir.path(), &[rows_written], 20);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    let order = |seed| {
        let mut reader = source.open(&Request::training(seed, 50)).unwrap();
        row_numbers(&take(&mut reader, 400))
    };
    let a = order(1);
    assert_eq!(a, order(1));
    assert_ne!(a, order(2));
    assert_ne!(a[..200], a[200..]);
    // Neighbours in the file are neighbours no more, within a row group or across.
    let kept = a[..200].windows(2).filter(|w| w[1] == w[0] + 1).count();
    assert!(kept < 20, "{kept}");
    let source_order: Vec<u64> = (0..200).collect();
    assert_ne!(a[..200], source_order);
}

/// A corpus of one row group is in a new order each epoch too: the buffer's draws depend on the
/// epoch, not on units alone.
#[test]
fn epochs_differ_within_one_unit() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path(), &[(0..40).map(|i| Some(format!("document {i}"))).collect()], 100);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    let mut reader = source.open(&Request::training(1, 40)).unwrap();
    let (first, second) =
        (row_numbers(&take(&mut reader, 40)), row_numbers(&take(&mut reader, 40)));
    assert_ne!(first, second);
}

#[test]
fn a_cursor_of_other_data_or_settings_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path(), &[vec![Some("a".into()), Some("b".into()), Some("c".into())]], 2);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    let request = Request::training(1, 2);
    let mut reader = source.open(&request).unwrap();
    take(&mut reader, 1);
    let cursor = reader.cursor();
    let refused = |source: &Corpus, request: &Request, cursor: &Cursor| {
        let error = source.resume(request, cursor).map(|_| ()).unwrap_err();
        assert!(matches!(error, DataError::Cursor { .. } | DataError::NoSuchRow { .. }), "{error}");
    };
    refused(&source, &Request::training(2, 2), &cursor);
    refused(&source, &request, &Cursor { unit: 9, ..cursor.clone() });
    refused(&source, &request, &Cursor { rows: 9, ..cursor.clone() });
    refused(&source, &request, &Cursor { buffered: vec![9], ..cursor.clone() });
    write_rows(dir.path(), &[vec![Some("a".into()); 5]], 2);
    refused(&Corpus::new(parquet_corpus(dir.path())).unwrap(), &request, &cursor);
}

#[test]
fn settings_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path(), &[vec![Some("a".into())]], 2);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    for request in [
        Request { epochs: Some(0), ..Request::all() },
        Request { order: Order::Shuffled { seed: 0, buffer: 0 }, ..Request::all() },
    ] {
        assert!(matches!(source.check(&request), Err(DataError::Config { .. })));
    }
    assert!(matches!(
        source.check(&Request::portion(Portion::Valid)),
        Err(DataError::NoSplit { .. })
    ));
    let split = Some(Split::new(-0.1, BY_CONTENT));
    assert!(Corpus::new(SourceConfig { split, ..parquet_corpus(dir.path()) }).is_err());
    assert!(Packer::new(0, 1).is_err() && Packer::new(1, 0).is_err());
}

/// The same documents are held out whatever file, row or format they stand in.
#[test]
fn parts_do_not_depend_on_where_documents_stand() {
    let documents: Vec<String> = (0..400).map(|i| format!("document {i}")).collect();
    let mut backwards = documents.clone();
    backwards.reverse();
    let mut by_order = Vec::new();
    for documents in [&documents, &backwards] {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<Vec<Option<String>>> =
            documents.chunks(150).map(|c| c.iter().cloned().map(Some).collect()).collect();
        write_rows(dir.path(), &files, 40);
        std::fs::write(dir.path().join("lines.txt"), documents.join("\n")).unwrap();
        let split = Some(Split { valid: 0.2, by: BY_CONTENT.into(), calibration: 0.1 });
        let lines = SourceConfig::new(SourceKind::Text { lines: true }, "lines.txt", dir.path());
        for config in [parquet_corpus(dir.path()), lines] {
            let config = SourceConfig { split: split.clone(), ..config };
            let part = |part, exclude_calibration| -> BTreeSet<Vec<u8>> {
                let request = Request { exclude_calibration, ..Request::portion(part) };
                contents(&read(config.clone(), &request).unwrap()).into_iter().flatten().collect()
            };
            let (valid, train, fit, calibration) = (
                part(Portion::Valid, false),
                part(Portion::Train, false),
                part(Portion::Train, true),
                part(Portion::Calibration, false),
            );
            assert_eq!(valid.len() + train.len(), 400);
            assert!(valid.is_disjoint(&train) && fit.is_disjoint(&calibration));
            assert_eq!(fit.union(&calibration).cloned().collect::<BTreeSet<_>>(), train);
            assert!(
                (50..110).contains(&valid.len()) && (15..55).contains(&calibration.len()),
                "{}",
                valid.len()
            );
            by_order.push((valid, calibration));
        }
    }
    assert!(by_order.windows(2).all(|w| w[0] == w[1]));
}

/// By a column, rows of one value stay together; a null goes by its content.
#[test]
fn parts_by_column() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<Option<i64>> = (0..300).map(|i| (i % 10 != 0).then_some(i / 3)).collect();
    let text: Vec<String> = (0..300).map(|i| format!("row {i}")).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("text", Arc::new(StringArray::from(text))),
    ];
    write_parquet(&dir.path().join("a.parquet"), &batch(columns), 64);
    let split = Split::new(0.4, "id");
    let config = SourceConfig { split: Some(split.clone()), ..parquet_corpus(dir.path()) };
    let valid: BTreeSet<u64> =
        row_numbers(&read(config, &Request::portion(Portion::Valid)).unwrap())
            .into_iter()
            .collect();
    assert!((60..180).contains(&valid.len()), "{}", valid.len());
    for (row, id) in ids.iter().enumerate() {
        let key = id.map_or(format!("row {row}"), |id| id.to_string());
        assert_eq!(
            valid.contains(&(row as u64)),
            split.portion(key.as_bytes()) == Portion::Valid,
            "row {row}"
        );
    }
}
