//! Column types, formats, nulls, scalars, schemas, text files.

use std::collections::HashMap;

use arrow::array::{
    BinaryArray, BinaryViewArray, DictionaryArray, Float64Array, Int8Array, Int32Array,
    LargeBinaryArray, LargeStringArray, StringViewArray,
};
use arrow::datatypes::{Int8Type, Int32Type};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions};

use super::*;

const VALUES: [Option<&str>; 5] =
    [Some("one"), None, Some(""), Some("a longer text, in 한국어"), Some("one")];

/// Each type that documents can have, the dictionary-encoded ones included.
fn text_columns() -> Vec<(String, ArrayRef)> {
    let bytes: Vec<Option<&[u8]>> = VALUES.iter().map(|v| v.map(str::as_bytes)).collect();
    let mut plain: Vec<(String, ArrayRef)> = vec![
        ("Utf8".into(), Arc::new(StringArray::from(VALUES.to_vec()))),
        ("LargeUtf8".into(), Arc::new(LargeStringArray::from(VALUES.to_vec()))),
        ("Utf8View".into(), Arc::new(StringViewArray::from(VALUES.to_vec()))),
        ("Binary".into(), Arc::new(BinaryArray::from(bytes.clone()))),
        ("LargeBinary".into(), Arc::new(LargeBinaryArray::from(bytes.clone()))),
        ("BinaryView".into(), Arc::new(BinaryViewArray::from(bytes))),
    ];
    let dictionaries: Vec<(String, ArrayRef)> = plain
        .iter()
        .map(|(name, values)| {
            // A null by its key, and (elsewhere) one by its value: row 1 stays null either way.
            let keys = Int32Array::from(vec![Some(0), None, Some(2), Some(3), Some(0)]);
            let array = DictionaryArray::<Int32Type>::try_new(keys, values.clone()).unwrap();
            (format!("Dictionary of {name}"), Arc::new(array) as ArrayRef)
        })
        .collect();
    let by_value = Int8Array::from(vec![0, 1, 2, 3, 0]);
    let by_value = DictionaryArray::<Int8Type>::try_new(by_value, plain[0].1.clone()).unwrap();
    plain.extend(dictionaries);
    plain.push(("Dictionary with a null value".into(), Arc::new(by_value)));
    plain
}

fn check(config: SourceConfig, name: &str) {
    let source = Corpus::new(config).unwrap();
    let mut reader = source.open(&Request::all()).unwrap();
    let mut found = Vec::new();
    while let Some(row) = reader.next().unwrap() {
        found.push(row);
    }
    let expected: Vec<_> = VALUES.iter().map(|v| v.map(|v| v.as_bytes().to_vec())).collect();
    assert_eq!(contents(&found), expected, "{name}");
    assert_eq!(row_numbers(&found), [0, 1, 2, 3, 4], "{name}");
    let bytes = VALUES.iter().flatten().map(|v| v.len() as u64).sum();
    assert_eq!(reader.counts(), Counts { documents: 4, bytes, nulls: 1, empty: 1 }, "{name}");
}

#[test]
fn every_type_in_every_format() {
    for (name, column) in text_columns() {
        let dir = tempfile::tempdir().unwrap();
        let extra: ArrayRef = Arc::new(Float64Array::from(vec![1.0; 5]));
        let batch = batch(vec![("before", extra.clone()), ("text", column), ("after", extra)]);
        // The Parquet writer knows no dictionary of views; Arrow does.
        if !(name.starts_with("Dictionary of") && name.ends_with("View")) {
            write_parquet(&dir.path().join("a.parquet"), &batch, 2);
            check(parquet_corpus(dir.path()), &format!("{name}, Parquet"));
        }
        for stream in [false, true] {
            let halves = [batch.slice(0, 2), batch.slice(2, 3)];
            // The file form has one dictionary for all batches, which slices of one array share.
            write_ipc(&dir.path().join("a.arrow"), &halves, stream);
            let config = SourceConfig::new(SourceKind::ArrowIpc, "a.arrow", dir.path());
            check(config, &format!("{name}, IPC, stream: {stream}"));
        }
    }
}

#[test]
fn codecs() {
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    let dir = tempfile::tempdir().unwrap();
    let batch = texts(&VALUES);
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
    ] {
        let properties = WriterProperties::builder().set_compression(codec).build();
        let file = std::fs::File::create(dir.path().join("a.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        check(parquet_corpus(dir.path()), &format!("{codec:?}"));
    }
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let options = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
        let file = std::fs::File::create(dir.path().join("a.arrow")).unwrap();
        let mut writer = FileWriter::try_new_with_options(file, &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        check(SourceConfig::new(SourceKind::ArrowIpc, ".", dir.path()), &format!("{codec:?}"));
    }
}

/// A stream may send a dictionary anew or add to it; its batches are still read in any order.
#[test]
fn dictionaries_that_change_within_a_stream() {
    let part = |values: &[&str], keys: &[i32]| {
        let values: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        let array =
            DictionaryArray::<Int32Type>::try_new(Int32Array::from(keys.to_vec()), values).unwrap();
        batch(vec![("text", Arc::new(array) as ArrayRef)])
    };
    let replaced = [part(&["a", "b"], &[0, 1]), part(&["c", "d"], &[1, 0]), part(&["e"], &[0, 0])];
    let grown = [
        part(&["a", "b"], &[0, 1]),
        part(&["a", "b", "d", "c"], &[2, 3]),
        part(&["a", "b", "d", "c", "e"], &[4, 4]),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (batches, handling) in
        [(replaced, DictionaryHandling::Resend), (grown, DictionaryHandling::Delta)]
    {
        let options = IpcWriteOptions::default().with_dictionary_handling(handling);
        let file = std::fs::File::create(dir.path().join("a.arrow")).unwrap();
        let mut writer =
            StreamWriter::try_new_with_options(file, &batches[0].schema(), options).unwrap();
        batches.iter().for_each(|b| writer.write(b).unwrap());
        writer.finish().unwrap();
        let source =
            Corpus::new(SourceConfig::new(SourceKind::ArrowIpc, "a.arrow", dir.path())).unwrap();
        let expected: HashMap<u64, &str> = (0..).zip(["a", "b", "d", "c", "e", "e"]).collect();
        for seed in 0..10 {
            let request = Request { order: Order::Shuffled { seed, buffer: 1 }, ..Request::all() };
            for row in rows(&source, &request).unwrap() {
                let Row::Document(document) = row else { panic!("{row:?}") };
                assert_eq!(document.bytes, expected[&document.row].as_bytes(), "seed {seed}");
            }
        }
        let fetched = source.fetch(&Request::all(), &[5, 0, 2, 0]).unwrap();
        assert_eq!(row_numbers(&fetched), [5, 0, 2, 0]);
    }
}

#[test]
fn scalars_are_text() {
    let dir = tempfile::tempdir().unwrap();
    let batch = batch(vec![
        ("text", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
        ("id", Arc::new(Int64Array::from(vec![Some(7), None]))),
        ("score", Arc::new(Float64Array::from(vec![0.5, -1.25]))),
        ("raw", Arc::new(BinaryArray::from(vec![&b"code"[..], &[0xff, 0x00][..]]))),
        ("domain", Arc::new(DictionaryArray::<Int32Type>::from_iter([Some("prose"), None]))),
    ]);
    write_parquet(&dir.path().join("a.parquet"), &batch, 10);
    let scalars = ["id", "score", "raw", "domain"].map(String::from).to_vec();
    let found = read(parquet_corpus(dir.path()), &Request { scalars, ..Request::all() }).unwrap();
    let values: Vec<Vec<Option<&str>>> = found
        .iter()
        .map(|row| match row {
            Row::Document(d) => {
                ["id", "score", "raw", "domain"].iter().map(|n| d.scalars[*n].as_deref()).collect()
            }
            Row::Null(_) => panic!("no null was written"),
        })
        .collect();
    assert_eq!(values[0], [Some("7"), Some("0.5"), Some("code"), Some("prose")]);
    assert_eq!(values[1], [None, Some("-1.25"), Some("ff00"), None]);
}

#[test]
fn columns_that_do_not_serve() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("a.parquet"), &texts(&VALUES), 10);
    let with = |column: &str| SourceConfig { column: column.into(), ..parquet_corpus(dir.path()) };

    let error = Corpus::new(with("txet")).unwrap().check(&Request::all()).unwrap_err();
    assert!(matches!(error, DataError::NoSuchColumn { .. }), "{error:?}");
    assert_eq!(error.parameter(), Some("column"));
    let message = error.to_string();
    assert!(message.contains("no column `txet`") && message.contains("a.parquet"), "{message}");
    assert!(
        message.contains("did you mean `text`?") && message.contains("its columns: id, text"),
        "{message}"
    );

    let error = read(with("id"), &Request::all()).unwrap_err();
    assert!(matches!(error, DataError::ColumnType { .. }), "{error:?}");
    assert_eq!(error.parameter(), Some("column"));
    assert!(
        error.to_string().contains("column `id`") && error.to_string().contains("Int64"),
        "{error}"
    );

    let mut config = with("text");
    config.split = Some(Split::new(0.5, "url"));
    let error = Corpus::new(config).unwrap().check(&Request::all()).unwrap_err();
    assert_eq!(error.parameter(), Some("split.by"));
    let error = error.to_string();
    assert!(error.contains("no column `url`") && !error.contains("did you mean"), "{error}");

    let request = Request { scalars: vec!["domain".into()], ..Request::all() };
    let error = read(with("text"), &request).unwrap_err();
    assert!(matches!(error, DataError::NoSuchColumn { .. }), "{error:?}");
    assert_eq!(error.parameter(), None);

    let source = Corpus::new(with("text")).unwrap();
    let files = source.files().unwrap();
    let columns = files[0].schema.fields().iter();
    let columns: Vec<String> = columns.map(|c| format!("{} {}", c.name(), c.data_type())).collect();
    assert_eq!(columns, ["id Int64", "text Utf8"]);
    assert_eq!((files.len(), files[0].rows(), files[0].groups.len()), (1, 5, 1));
    assert_eq!(source.name(), "*.parquet");
}

#[test]
fn schemas_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("a.parquet"), &texts(&VALUES), 10);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let other =
        batch(vec![("text", text.clone()), ("id", Arc::new(Float64Array::from(vec![1.0])))]);
    write_parquet(&dir.path().join("b.parquet"), &other, 10);
    let error = read(parquet_corpus(dir.path()), &Request::all()).unwrap_err().to_string();
    for part in ["a.parquet", "b.parquet", "`id` is Float64", "Int64"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    write_parquet(&dir.path().join("b.parquet"), &batch(vec![("text", text.clone())]), 10);
    let error = read(parquet_corpus(dir.path()), &Request::all()).unwrap_err().to_string();
    assert!(error.contains("`id` is missing in the one and Int64"), "{error}");

    // Another order of the same columns reads right.
    let other = batch(vec![("text", text), ("id", Arc::new(Int64Array::from(vec![1])))]);
    write_parquet(&dir.path().join("b.parquet"), &other, 10);
    let found = read(parquet_corpus(dir.path()), &Request::all()).unwrap();
    assert_eq!(found.len(), 6);
    assert_eq!(contents(&found)[5], Some(b"x".to_vec()));
}

#[test]
fn empty_corpora() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("a.parquet"), &texts(&[]), 10);
    let error = read(parquet_corpus(dir.path()), &Request::all()).unwrap_err();
    assert!(matches!(error, DataError::Empty { rows: 0, .. }), "{error}");
    write_parquet(&dir.path().join("a.parquet"), &texts(&[None, None]), 10);
    let error = read(parquet_corpus(dir.path()), &Request::all()).unwrap_err();
    assert!(matches!(error, DataError::Empty { rows: 2, nulls: 2, .. }), "{error}");
    assert!(error.to_string().contains("*.parquet has no documents"), "{error}");
    // Empty documents are documents, but nothing to train on for ever.
    write_parquet(&dir.path().join("a.parquet"), &texts(&[Some(""), Some("")]), 10);
    assert_eq!(read(parquet_corpus(dir.path()), &Request::all()).unwrap().len(), 2);
    let error = read(parquet_corpus(dir.path()), &Request::training(0, 4)).unwrap_err();
    assert!(matches!(error, DataError::NoBytes { documents: 2, .. }), "{error}");
    // A part can be empty where the corpus is not.
    write_parquet(&dir.path().join("a.parquet"), &texts(&[Some("x")]), 10);
    let config =
        SourceConfig { split: Some(Split::new(1.0, BY_CONTENT)), ..parquet_corpus(dir.path()) };
    assert!(matches!(
        read(config.clone(), &Request::portion(Portion::Train)),
        Err(DataError::Empty { .. })
    ));
    assert_eq!(read(config, &Request::portion(Portion::Valid)).unwrap().len(), 1);
}

#[test]
fn text_files_and_lines() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("deep")).unwrap();
    for (name, text) in [
        ("b.txt", "one\n\n\r\nthree"),
        ("a.txt", ""),
        ("deep/c.txt", "\u{feff}last\n"),
        ("d.md", "no"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let request = Request { scalars: vec!["path".into()], ..Request::all() };
    let found =
        read(SourceConfig::new(SourceKind::Text { lines: false }, ".", dir.path()), &request)
            .unwrap();
    let texts = ["", "one\n\n\r\nthree", "\u{feff}last\n"].map(|t| Some(t.as_bytes().to_vec()));
    assert_eq!(contents(&found), texts);
    let Row::Document(last) = &found[2] else { panic!("{:?}", found[2]) };
    assert!(last.scalars["path"].as_ref().unwrap().ends_with("deep/c.txt"), "{:?}", last.scalars);

    let lines = |path| {
        read(SourceConfig::new(SourceKind::Text { lines: true }, path, dir.path()), &request)
            .unwrap()
    };
    let expected = ["one", "", "", "three", "\u{feff}last"].map(|t| Some(t.as_bytes().to_vec()));
    assert_eq!(contents(&lines(".")), expected);

    // Lines in several pieces, one of them longer than a piece; then the same without the last
    // newline.
    let mut text: Vec<u8> = (0..300_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    text.extend(std::iter::repeat_n(b'x', 3 << 20).chain(*b"\nend\n"));
    for newline in [true, false] {
        let text = &text[..text.len() - !newline as usize];
        std::fs::write(dir.path().join("d.md"), text).unwrap();
        let source =
            Corpus::new(SourceConfig::new(SourceKind::Text { lines: true }, "d.md", dir.path()))
                .unwrap();
        assert!(source.files().unwrap()[0].groups.len() >= 4);
        let found = rows(&source, &Request::all()).unwrap();
        assert_eq!(found.len(), 300_002);
        let mut joined = Vec::new();
        contents(&found)
            .into_iter()
            .flatten()
            .for_each(|line| joined.extend(line.into_iter().chain([b'\n'])));
        assert!(joined.strip_suffix(b"\n").unwrap() == text.strip_suffix(b"\n").unwrap_or(text));
        let fetched = source.fetch(&Request::all(), &[300_001, 299_999]).unwrap();
        assert_eq!(contents(&fetched), [Some(b"end".to_vec()), Some(b"line 299999".to_vec())]);
    }
}

#[test]
fn fingerprints_follow_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write_parquet(&path, &texts(&VALUES), 10);
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let fingerprint = || Corpus::new(parquet_corpus(dir.path())).unwrap().fingerprint().unwrap();
    let before = fingerprint();
    assert_eq!(before, fingerprint());
    // Another number of row groups, under the old modification time.
    write_parquet(&path, &texts(&VALUES), 2);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_ne!(before, fingerprint());
    write_parquet(&path, &texts(&VALUES), 10);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(before, fingerprint());
    file.set_modified(modified + std::time::Duration::from_secs(1)).unwrap();
    assert_ne!(before, fingerprint());
}
