//! Files that are not as one's own writer makes them: read as their writers mean them, or refused
//! for what they are. fixtures/odd.py wrote those that Rust does not write.

use arrow::array::{BinaryArray, DictionaryArray, NullArray, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{CompressionType, MetadataVersion};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, encode_arrow_schema};
use parquet::file::metadata::KeyValue;

use super::*;

const EMPTY: &[u8] = include_bytes!("fixtures/fastparquet_empty.parquet");
const COLUMN: &[u8] = include_bytes!("fixtures/encrypted_column.parquet");
const FOOTER: &[u8] = include_bytes!("fixtures/encrypted_footer.parquet");

fn of(dir: &Path, path: &str) -> SourceConfig {
    let kind = match path.contains(".arrow") {
        true => SourceKind::ArrowIpc,
        false => SourceKind::Parquet,
    };
    SourceConfig::new(kind, path, dir)
}

fn found(config: SourceConfig) -> Result<Vec<String>, DataError> {
    let files = Corpus::new(config)?.files()?;
    Ok(files.iter().map(|file| file.name.clone()).collect())
}

fn words(config: SourceConfig) -> Vec<Option<Vec<u8>>> {
    contents(&read(config, &Request::all()).unwrap())
}

#[test]
fn a_folder_is_read_as_its_writers_mean_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_parquet(&path, &texts(&[Some("x")]), 10);
    };
    let read = ["in/A.PARQUET", "in/_k=1/c.parquet", "in/b.Pq", "in/b.parquet"];
    read.iter().for_each(|name| data(name));
    for aside in
        ["_temporary/0/d.parquet", "_delta_log/e.parquet", ".cache/f.parquet", "_g.parquet"]
    {
        data(&format!("in/{aside}"));
    }
    std::fs::write(dir.path().join("in/._A.PARQUET"), "resource fork").unwrap();
    assert_eq!(found(of(dir.path(), "in")).unwrap(), read);
    let names = |glob: &str| found(of(dir.path(), glob));
    assert_eq!(names("in/**/*.parquet").unwrap(), ["in/_k=1/c.parquet", "in/b.parquet"]);
    // What is asked for by its name is read.
    assert_eq!(names("in/_temporary").unwrap(), ["in/_temporary/0/d.parquet"]);
    assert_eq!(names("in/_g*").unwrap(), ["in/_g.parquet"]);
    assert_eq!(names("in/_g.parquet").unwrap(), ["in/_g.parquet"]);
    assert!(matches!(names("in/_h*"), Err(DataError::NoMatch { .. })));
}

#[test]
fn shards_without_rows_or_without_text_stand_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.parquet"), EMPTY).unwrap();
    assert!(matches!(
        read(of(dir.path(), "a.parquet"), &Request::all()),
        Err(DataError::Empty { rows: 0, .. })
    ));
    // The first one of these has no type for `text`.
    let nulls: ArrayRef = Arc::new(NullArray::new(2));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let nulls = batch(vec![("id", ids), ("text", nulls)]);
    write_parquet(&dir.path().join("b.parquet"), &nulls, 10);
    write_parquet(&dir.path().join("c.parquet"), &texts(&[Some("x"), None]), 10);
    let rows = words(of(dir.path(), "*.parquet"));
    assert_eq!(rows, [None, None, Some(b"x".to_vec()), None]);
    let mut config = of(dir.path(), "*.parquet");
    config.condition = Some(crate::predicate::Predicate::parse("text like 'x%'").unwrap());
    assert_eq!(words(config), [Some(b"x".to_vec())]);
}

#[test]
fn what_cannot_be_read_is_named_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let fails = |column: &str, name: &str| {
        let config = SourceConfig { column: column.into(), ..of(dir.path(), name) };
        let error = read(config, &Request::all()).unwrap_err();
        assert!(matches!(error, DataError::Unsupported { .. }), "{error:?}");
        error.to_string()
    };
    std::fs::write(&path, FOOTER).unwrap();
    assert!(fails("text", "a.parquet").contains("encrypted, its footer too"));
    // The columns in the clear are read.
    std::fs::write(&path, COLUMN).unwrap();
    assert_eq!(words(of(dir.path(), "a.parquet")), [Some(b"one".to_vec()), Some(b"two".to_vec())]);
    let source: Arc<dyn Source> = Arc::new(Corpus::new(of(dir.path(), "a.parquet")).unwrap());
    assert_eq!(source.files().unwrap()[0].encrypted, ["nested", "secret"]);
    let request = |columns| RowRequest {
        portion: Portion::All,
        lists: Vec::new(),
        columns,
        slices: vec![FileSlice { file: 0, groups: 0..1, limit: None }],
        condition: None,
        row_share: None,
        on_error: OnError::Null,
    };
    let error = open_rows(source.clone(), request(None)).err().unwrap().to_string();
    assert!(error.contains("`nested` is encrypted"), "{error}");
    let mut rows = open_rows(source, request(Some(vec!["text".into()]))).unwrap();
    let Some(Stream::Rows { rows, .. }) = rows.next().unwrap() else { panic!("no rows") };
    assert_eq!(rows.columns.num_columns(), 1);

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for name in ["a.parquet", "a.arrow"] {
        std::fs::write(dir.path().join(name), pointer).unwrap();
        assert!(fails("text", name).contains("`git lfs pull`"));
    }
    let twice =
        Schema::new(["text", "x", "x"].map(|n| Field::new(n, DataType::Utf8, true)).to_vec());
    let word: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let twice = RecordBatch::try_new(Arc::new(twice), vec![word; 3]).unwrap();
    write_parquet(&path, &twice, 10);
    write_ipc(&dir.path().join("a.arrow"), &[twice], false);
    for name in ["a.parquet", "a.arrow"] {
        assert!(fails("text", name).contains("two columns `x`"));
    }
    // An older format is read, one older than that is not.
    let options = IpcWriteOptions::try_new(8, true, MetadataVersion::V4).unwrap();
    let file = std::fs::File::create(dir.path().join("a.arrow")).unwrap();
    let mut writer =
        FileWriter::try_new_with_options(file, &texts(&[Some("x")]).schema(), options).unwrap();
    writer.write(&texts(&[Some("x")])).unwrap();
    writer.finish().unwrap();
    assert_eq!(words(of(dir.path(), "a.arrow")), [Some(b"x".to_vec())]);
}

/// One string that is not UTF-8 in a column of strings costs nothing else.
#[test]
fn bytes_are_bytes_whatever_a_column_says() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<&[u8]> = vec![b"a", b"\xff\xfe", "한".as_bytes(), b"tail\xc3"];
    let values = BinaryArray::from(bytes.clone());
    let dictionary: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::new(
        vec![0, 1, 2, 3].into(),
        Arc::new(values.clone()),
    ));
    let coded = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for (column, said) in [(Arc::new(values) as ArrayRef, DataType::Utf8), (dictionary, coded)] {
        let numbers: ArrayRef = Arc::new(UInt8Array::from(vec![1, 2, 3, 4]));
        let careless = batch(vec![("text", column), ("n", numbers)]);
        let fields =
            vec![Field::new("text", said.clone(), true), Field::new("n", DataType::UInt8, true)];
        let text = Arc::new(Schema::new(fields));
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
        // Neither writer looks at what it is handed.
        let types = ArrowSchemaConverter::new().convert(&text).unwrap();
        let arrow = KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&text));
        let options = ArrowWriterOptions::new()
            .with_parquet_schema(types)
            .with_skip_arrow_metadata(true)
            .with_properties(
                WriterProperties::builder().set_key_value_metadata(Some(vec![arrow])).build(),
            );
        let mut writer =
            ArrowWriter::try_new_with_options(file("a.parquet"), careless.schema(), options)
                .unwrap();
        writer.write(&careless).unwrap();
        writer.close().unwrap();
        let mut writer = FileWriter::try_new(file("a.arrow"), &text).unwrap();
        writer.write(&careless).unwrap();
        writer.finish().unwrap();
        for file in ["a.parquet", "a.arrow"] {
            let config = of(dir.path(), file);
            let source = Corpus::new(config.clone()).unwrap();
            let schema = source.files().unwrap()[0].schema.clone();
            assert_eq!(schema.field(0).data_type(), &said, "{file}");
            let expected: Vec<_> = bytes.iter().map(|b| Some(b.to_vec())).collect();
            assert_eq!(words(config), expected, "{said} in {file}");
        }
    }
}

#[test]
fn a_buffer_that_claims_more_than_it_can_hold_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.arrow");
    let text = "some words ".repeat(500);
    let batch = texts(&[Some(&text)]);
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let options = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = FileWriter::try_new_with_options(file, &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let claim = (text.len() as u64).to_le_bytes();
        let at = bytes.windows(8).rposition(|w| w == claim).unwrap();
        bytes[at..at + 8].copy_from_slice(&(1u64 << 38).to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = read(of(dir.path(), "a.arrow"), &Request::all()).unwrap_err().to_string();
        assert!(error.contains("claims to hold 274877906944"), "{error}");
    }
}

#[test]
fn lines_end_in_either_way_and_paths_are_urls_or_homes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a b.txt");
    std::fs::write(&path, "one\r\ntwo\n\r\nfo\rur\r").unwrap();
    let url = format!("file://{}", path.display().to_string().replace(' ', "%20"));
    let config = SourceConfig::new(SourceKind::Text { lines: true }, url, dir.path());
    let expected = ["one", "two", "", "fo\rur\r"].map(|s| Some(s.as_bytes().to_vec()));
    assert_eq!(words(config), expected);
    let at = |text: &str| storage::Location::parse(text, Path::new("/base"));
    let home = std::env::home_dir().unwrap();
    assert_eq!(at("~/in/a.txt").unwrap(), home.join("in/a.txt").into());
    assert_eq!(at("~other/a.txt").unwrap().to_string(), "/base/~other/a.txt");
    assert_eq!(at("file://localhost/a").unwrap().to_string(), "/a");
    assert!(at("file://a").unwrap_err().to_string().contains("three `/`"));
}

#[test]
fn values_of_folders_are_numbers_where_all_are() {
    let dir = tempfile::tempdir().unwrap();
    for folder in [
        "month=01/x=0.5/big=18446744073709551615/day=2024-01-01",
        "month=12/x=3/big=1/day=__HIVE_DEFAULT_PARTITION__",
    ] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        write_parquet(&dir.path().join(folder).join("a.parquet"), &texts(&[Some("x")]), 10);
    }
    let mut config = of(dir.path(), ".");
    let schema = Corpus::new(config.clone()).unwrap().files().unwrap()[0].schema.clone();
    let types =
        ["month", "x", "big", "day"].map(|c| schema.field_with_name(c).unwrap().data_type());
    let (int, float, text) = (&DataType::Int64, &DataType::Float64, &DataType::Utf8);
    assert_eq!(types, [int, float, text, text]);
    let condition = crate::predicate::Predicate::parse("month > 1 and x >= 3 and day is null");
    config.condition = Some(condition.unwrap());
    assert_eq!(words(config).len(), 1);
}
