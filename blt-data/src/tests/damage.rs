//! Damaged files: errors that name file and place, for what is read and only for that; never a
//! panic.

use arrow::array::{BinaryArray, DictionaryArray};
use arrow::datatypes::Int32Type;
use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;
use crate::formats::Format;
use crate::formats::file::Extent;

/// Three row groups of ten rows, uncompressed and without dictionary, so that bytes in the file are
/// bytes of the text.
fn plain_parquet(path: &Path) {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("other", Arc::new(StringArray::from_iter_values((0..30).map(|i| format!("other {i}"))))),
        ("text", Arc::new(BinaryArray::from_iter_values((0..30).map(|i| format!("document {i}"))))),
    ];
    let batch = batch(columns);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(10))
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(
        std::fs::File::create(path).unwrap(),
        batch.schema(),
        Some(properties),
    )
    .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Overwrites the page of a column chunk with noise that no decoder takes.
fn break_chunk(path: &Path, group: usize, column: usize) {
    let (start, length) = {
        let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        reader.metadata().row_group(group).column(column).byte_range()
    };
    let mut bytes = std::fs::read(path).unwrap();
    bytes[start as usize..(start + length) as usize].fill(0xff);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn only_needed_columns_and_one_row_group_at_a_time_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    plain_parquet(&path);
    // A broken column that is not asked for is not noticed ...
    (0..3).for_each(|group| break_chunk(&path, group, 0));
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    assert_eq!(rows(&source, &Request::all()).unwrap().len(), 30);
    let request = Request { scalars: vec!["other".into()], ..Request::all() };
    let error = rows(&source, &request).unwrap_err().to_string();
    assert!(error.contains("a.parquet") && error.contains("row group 0, rows 0 to 9"), "{error}");

    // ... and a broken row group not before its turn.
    break_chunk(&path, 2, 1);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    let mut reader = source.open(&Request::all()).unwrap();
    for i in 0..20 {
        let Some(Row::Document(document)) = reader.next().unwrap() else { panic!("row {i}") };
        assert_eq!(document.bytes, format!("document {i}").as_bytes());
    }
    let error = reader.next().unwrap_err();
    assert!(
        matches!(&error, DataError::Corrupt { place, .. } if place == "row group 2, rows 20 to 29"),
        "{error}"
    );
    assert_eq!(reader.counts().documents, 20);
    assert!(source.fetch(&Request::all(), &[19]).is_ok());
}

/// A row group is decoded some rows at a time: few where documents are large.
#[test]
fn row_groups_stream() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let (large, small) = ("x".repeat(1 << 20), "x");
    for (text, n, most) in [(large.as_str(), 12, 4), (small, 3000, 1024)] {
        // Plain pages: what a dictionary page holds has to be in memory whole.
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let batch = texts(&vec![Some(text); n]);
        let mut writer = ArrowWriter::try_new(
            std::fs::File::create(&path).unwrap(),
            batch.schema(),
            Some(properties),
        )
        .unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let corpus = Corpus::new(parquet_corpus(dir.path())).unwrap();
        let index = corpus.index().unwrap();
        assert_eq!(index.files[0].scan.groups.len(), 1);
        let mut reader = crate::formats::parquet::Parquet.reader(&["text".to_string()]);
        let batches =
            reader.open(&index.files[0], 0, std::slice::from_ref(&(0..n as u64))).unwrap();
        let sizes: Vec<usize> = batches.map(|b| b.unwrap().num_rows()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), n);
        assert!(sizes.iter().all(|&rows| rows <= most), "{sizes:?}");
    }
}

#[test]
fn page_checksums_are_verified() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let mut bytes = include_bytes!("fixtures/page_checksum.parquet").to_vec();
    std::fs::write(&path, &bytes).unwrap();
    let found = read(parquet_corpus(dir.path()), &Request::all()).unwrap();
    assert_eq!(
        contents(&found),
        [Some(b"first document".to_vec()), Some(b"second document".to_vec())]
    );
    let at = bytes.windows(6).position(|w| w == b"second").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = read(parquet_corpus(dir.path()), &Request::all()).unwrap_err().to_string();
    assert!(error.contains("checksum") && error.contains("row group 0, rows 0 to 1"), "{error}");
}

#[test]
fn files_that_are_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let fails = |bytes: &[u8], kind: SourceKind, part: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error =
            read(SourceConfig::new(kind, "a.parquet", dir.path()), &Request::all()).unwrap_err();
        assert!(
            error.to_string().contains(part) && error.to_string().contains("a.parquet"),
            "{error}"
        );
    };
    fails(b"", SourceKind::Parquet, "shorter than any Parquet file");
    fails(b"id,text\n1,hello", SourceKind::Parquet, "does not begin with PAR1");
    fails(b"PAR1 cut off in the middle", SourceKind::Parquet, "was cut off");
    fails(
        b"PAR1 a wrong footer \xff\xff\xff\x7fPAR1",
        SourceKind::Parquet,
        "damaged in its footer",
    );
    fails(b"", SourceKind::ArrowIpc, "neither ARROW1 nor");
    fails(b"id,text\n1,hello", SourceKind::ArrowIpc, "neither ARROW1 nor");
    fails(b"FEA1....", SourceKind::ArrowIpc, "Feather version 1");
    fails(b"PAR1....PAR1", SourceKind::ArrowIpc, "ParquetBytes");
    fails(b"ARROW1\0\0 cut off in the middle", SourceKind::ArrowIpc, "cut off");
    fails(
        b"ARROW1\0\0 a wrong footer \xff\xff\xff\x7fARROW1",
        SourceKind::ArrowIpc,
        "damaged in its footer",
    );
}

/// Files of each format, with dictionaries and lists in them.
fn samples(dir: &Path) -> Vec<(SourceKind, Vec<u8>)> {
    let list = arrow::array::ListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..12).map(|i| Some(vec![Some(1), Some(i / 10 + 2)])),
    );
    let text: DictionaryArray<Int32Type> = (0..12).map(|i| ["aa", "bb", "ccc"][i / 5]).collect();
    let batch =
        batch(vec![("text", Arc::new(text) as ArrayRef), ("patch_lengths", Arc::new(list))]);
    let path = dir.join("sample");
    write_parquet(&path, &batch, 6);
    let mut samples = vec![(SourceKind::Parquet, std::fs::read(&path).unwrap())];
    for stream in [false, true] {
        write_ipc(&path, &[batch.slice(0, 6), batch.slice(6, 6)], stream);
        samples.push((SourceKind::ArrowIpc, std::fs::read(&path).unwrap()));
    }
    samples
}

fn read_sample(dir: &Path, kind: &SourceKind, bytes: &[u8]) -> Result<Vec<Row>, DataError> {
    std::fs::write(dir.join("sample"), bytes).unwrap();
    let list = ListColumn { column: "patch_lengths".into(), kind: ListKind::PatchLengths };
    read(
        SourceConfig::new(kind.clone(), "sample", dir),
        &Request { lists: vec![list], ..Request::all() },
    )
}

#[test]
fn cut_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (kind, bytes)) in samples(dir.path()).into_iter().enumerate() {
        let whole = read_sample(dir.path(), &kind, &bytes).unwrap();
        assert_eq!(whole.len(), 12);
        for length in (0..bytes.len()).step_by(3) {
            match read_sample(dir.path(), &kind, &bytes[..length]) {
                Err(error) => assert!(error.to_string().contains("sample"), "{error}"),
                // A stream that ends between two messages cannot be told from a shorter one.
                Ok(rows) => assert!(
                    i == 2 && whole.starts_with(&rows),
                    "{kind:?} cut to {length}: {rows:?}"
                ),
            }
        }
    }
}

/// A byte that flips anywhere gives an error or wrong text (no format but checksummed Parquet can
/// tell), and never a panic.
#[test]
fn flipped_bytes_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, bytes) in samples(dir.path()) {
        let mut errors = 0;
        for at in 0..bytes.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= mask;
                errors += read_sample(dir.path(), &kind, &bytes).is_err() as usize;
            }
        }
        assert!(errors > bytes.len() / 10, "{kind:?}: {errors} of {}", bytes.len());
    }
}

/// A file that was replaced after it was indexed is an error, not rows of two files mixed.
#[test]
fn files_that_change_while_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write_parquet(&path, &texts(&[Some("a"), Some("b"), Some("c")]), 2);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    source.files().unwrap();
    write_parquet(&path, &texts(&[Some("a")]), 2);
    assert!(matches!(rows(&source, &Request::all()), Err(DataError::Changed { .. })));

    std::fs::write(dir.path().join("a.txt"), "one").unwrap();
    let source =
        Corpus::new(SourceConfig::new(SourceKind::Text { lines: false }, "a.txt", dir.path()))
            .unwrap();
    source.files().unwrap();
    std::fs::write(dir.path().join("a.txt"), "longer").unwrap();
    assert!(matches!(rows(&source, &Request::all()), Err(DataError::Changed { .. })));
    std::fs::remove_file(dir.path().join("a.txt")).unwrap();
    assert!(matches!(rows(&source, &Request::all()), Err(DataError::Storage(_))));
}

#[test]
fn row_groups_are_what_is_shuffled() {
    let dir = tempfile::tempdir().unwrap();
    plain_parquet(&dir.path().join("a.parquet"));
    let corpus = Corpus::new(parquet_corpus(dir.path())).unwrap();
    let index = corpus.index().unwrap();
    let groups: Vec<_> =
        index.files[0].scan.groups.iter().map(|u| (u.extent.clone(), u.rows)).collect();
    assert_eq!(groups, [0, 1, 2].map(|g| (Extent::RowGroup(g), 10)));
}
