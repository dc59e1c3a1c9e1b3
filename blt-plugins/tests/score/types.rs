//! Columns of every type come back exactly, or are refused by name. types/write.py wrote the files.

use crate::bench::*;
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use parquet::basic::Type as Physical;
use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::TypePtr;
use std::fs::File;
use std::path::{Path, PathBuf};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/score/types").join(name)
}

/// A pipeline that scores a file of types/ with a patcher.
fn yaml(file: &str, score: &str) -> String {
    let node = if file.ends_with(".arrow") { "ArrowBytes" } else { "ParquetBytes" };
    let path = sample(file);
    format!(
        "name: types\ngraph:\n  docs: {{node: {node}, path: '{}'}}\n  \
         p: {{node: StridePatch, in: docs, stride: 6}}\nrun:\n  - score: {{goal: p{score}}}\n",
        path.display()
    )
}

fn part(bench: &Bench, file: &str, score: &str) -> PathBuf {
    let dir = bench.run(&yaml(file, score));
    let (name, _) = files(&dir.join("outputs")).pop().unwrap();
    dir.join("outputs").join(name)
}

/// A column as it is in a file: its type, and each leaf's levels and values, read past Arrow.
#[derive(Debug, PartialEq)]
struct Column {
    of: TypePtr,
    leaves: Vec<String>,
}

fn columns(path: &Path) -> Vec<Column> {
    let file = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let types = file.metadata().file_metadata().schema_descr_ptr();
    let mut columns: Vec<Column> = types
        .root_schema()
        .get_fields()
        .iter()
        .cloned()
        .map(|of| Column { of, leaves: Vec::new() })
        .collect();
    for leaf in 0..types.num_columns() {
        let mut text = String::new();
        for group in 0..file.num_row_groups() {
            macro_rules! values {
                ($reader:expr) => {{
                    let (mut defined, mut repeated, mut values) = (vec![], vec![], vec![]);
                    $reader
                        .read_records(100, Some(&mut defined), Some(&mut repeated), &mut values)
                        .unwrap();
                    format!("{defined:?} {repeated:?} {values:?}\n")
                }};
            }
            text += &match file.get_row_group(group).unwrap().get_column_reader(leaf).unwrap() {
                ColumnReader::BoolColumnReader(mut r) => values!(r),
                ColumnReader::Int32ColumnReader(mut r) => values!(r),
                ColumnReader::Int64ColumnReader(mut r) => values!(r),
                ColumnReader::Int96ColumnReader(mut r) => values!(r),
                ColumnReader::FloatColumnReader(mut r) => values!(r),
                ColumnReader::DoubleColumnReader(mut r) => values!(r),
                ColumnReader::ByteArrayColumnReader(mut r) => values!(r),
                ColumnReader::FixedLenByteArrayColumnReader(mut r) => values!(r),
            };
        }
        columns[types.get_column_root_idx(leaf)].leaves.push(text);
    }
    columns
}

fn is_int96(column: &Column) -> bool {
    column.of.is_primitive() && column.of.get_physical_type() == Physical::INT96
}

#[test]
fn parquet_columns_keep_their_types_and_values() {
    let bench = Bench::new();
    for (file, n_int96) in
        [("types.parquet", 0), ("older.parquet", 12), ("nanos.parquet", 4), ("duckdb.parquet", 0)]
    {
        let (before, after) = (columns(&sample(file)), columns(&part(&bench, file, "")));
        let mut int96 = 0;
        for (before, after) in before.iter().zip(&after) {
            if is_int96(before) {
                int96 += 1;
                assert_eq!(before.of.name(), after.of.name());
            } else if before.of.name() == "long decimal" {
                // Of 16 bytes, where 13 hold its digits.
                assert_eq!(before.of.get_basic_info(), after.of.get_basic_info());
            } else {
                assert_eq!(before, after, "{file}");
            }
        }
        assert_eq!((int96, after.len()), (n_int96, before.len() + 2), "{file}");
    }
}

/// INT96 is a type of its own. Its values are those that the same columns have as INT64.
#[test]
fn int96_holds_each_date_that_it_held() {
    let bench = Bench::new();
    let all = read_parquet(&part(&bench, "types.parquet", ""));
    let mut n = 0;
    for file in ["older.parquet", "nanos.parquet"] {
        let part = read_parquet(&part(&bench, file, ""));
        for column in columns(&sample(file)).iter().filter(|column| is_int96(column)) {
            let name = column.of.name();
            let (before, after) = (&all[name], &part[name]);
            assert_eq!(&cast(after, before.data_type()).unwrap(), before, "{name}");
            assert_eq!(&cast(before, after.data_type()).unwrap(), after, "{name}");
            let zone = |array: &ArrayRef| {
                array.data_type().to_string().split(", ").nth(1).map(str::to_owned)
            };
            assert_eq!(zone(before), zone(after), "{name}");
            n += 1;
        }
    }
    assert_eq!(n, 16);
}

#[test]
fn arrow_columns_become_what_pyarrow_makes_of_them() {
    let bench = Bench::new();
    let part = part(&bench, "types.arrow", "");
    let (theirs, ours) = (columns(&sample("types.parquet")), columns(&part));
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!((theirs.of.name(), &theirs.leaves), (ours.of.name(), &ours.leaves));
    }
    // The names of a list's elements and a map's entries differ. Arrow's own reader loses the zones of seconds, which
    // are milliseconds in the file.
    let kept = self::part(&bench, "types.parquet", "");
    let (theirs, ours) = (read_parquet(&kept), read_parquet(&part));
    let paris = theirs["timestamp s Europe/Paris"].data_type().to_string();
    assert_eq!(paris, "Timestamp(ms, \"Europe/Paris\")");
    for field in theirs.schema().fields() {
        let of = ours[field.name().as_str()].data_type();
        // Seconds are milliseconds in both, and dates in milliseconds are days: the file says so.
        let said = |t: &arrow::datatypes::DataType| {
            let text = t.to_string().replace(", field: 'element'", "");
            text.replace("key_value", "entries").replace("Date64", "Date32")
        };
        assert_eq!(said(field.data_type()), said(of), "{}", field.name());
    }
    let runs = read_parquet(&self::part(&bench, "runs.arrow", ""));
    let expected = ["x", "y", "y"].map(|s| Some(s.to_owned()));
    assert_eq!(strings(&runs, "runs"), expected);
}

#[test]
fn a_column_of_no_parquet_type_is_named_before_anything_is_scored() {
    let bench = Bench::new();
    let mut left_out: Vec<&str> = Vec::new();
    for (column, said) in [
        ("union", "Union"),
        ("no bytes", "FixedSizeBinary(0)"),
        ("no fields", "empty structs"),
        ("interval", "MonthDayNano"),
        ("scale", "scale: -2"),
        ("in a struct", "Union"),
    ] {
        let except = format!(", columns: {{except: {left_out:?}}}");
        let error = bench.fails(&yaml("unkept.arrow", &except));
        let named = format!("column `{column}` of");
        assert!(error.contains(&named) && error.contains(said), "{error}");
        assert!(error.contains(&format!("`columns: {{except: [{column}]}}`")), "{error}");
        assert!(!bench.path("runs/types").exists(), "a run was begun");
        left_out.push(column);
    }
    let dir = bench.run(&yaml("unkept.arrow", &format!(", columns: {{except: {left_out:?}}}")));
    assert_eq!(result(&dir)["rows"], 3);
    // Dates in milliseconds hold hours where they should not.
    let error = bench.fails(&yaml("hours.arrow", ""));
    assert!(error.contains("column `hours`") && error.contains("time of the day"), "{error}");
}

#[test]
fn columns_chooses_what_is_written() {
    let bench = Bench::new();
    let names = |score: &str| {
        let part = read_parquet(&part(&bench, "types.parquet", score));
        names(&part)
    };
    assert_eq!(names(", columns: [int8, uuid]"), ["int8", "uuid", "n_bytes", "n_patches"]);
    assert_eq!(names(", columns: []"), ["n_bytes", "n_patches"]);
    // What chooses rows need not be written.
    let kept = part(
        &bench,
        "types.parquet",
        ", columns: [text], where: int8 = 1, keep: int16 = 1, by: int32",
    );
    let kept = read_parquet(&kept);
    assert_eq!(strings(&kept, "text"), [Some("a".to_owned())]);
    let text = yaml("types.parquet", ", columns: [int8, int9]");
    let error = bench.fails(&text);
    let line = format!("score.yaml:{}", text.lines().count());
    assert!(error.contains("no column `int9`") && error.contains(&line), "{error}");
}
