//! Columns made of folders' names, as Hive and Spark write them: `lang=en/year=2024/a.parquet`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};

use crate::formats::file::{Found, Partition};
use crate::storage::decoded;

/// The columns made of folders' names, for each file: of folders below the path that the user
/// named, for what stands above it says where the data is, not what it is. A column holds integers
/// or else numbers if all of its values are (`month=01` is 1, as in Spark and Arrow), else text. A column that one file has, every file has.
pub(crate) fn partitions(found: &[Found]) -> Vec<Vec<Partition>> {
    let of_files: Vec<Vec<(String, Option<String>)>> =
        found.iter().map(|f| pairs(&f.below)).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (key, _) in of_files.iter().flatten() {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    let type_of = |column: &String| {
        let values = || {
            let of_column = of_files.iter().flatten().filter(|(key, _)| key == column);
            of_column.filter_map(|(_, value)| value.as_deref())
        };
        match () {
            _ if values().all(|v| v.parse::<i64>().is_ok()) => DataType::Int64,
            _ if values().all(|v| number(v).is_some()) => DataType::Float64,
            _ => DataType::Utf8,
        }
    };
    let columns: Vec<(&String, DataType)> =
        columns.into_iter().map(|column| (column, type_of(column))).collect();
    let of_file = |pairs: &Vec<(String, Option<String>)>| {
        let partition = |(column, data_type): &(&String, DataType)| {
            let value = pairs
                .iter()
                .rev()
                .find(|(key, _)| key == *column)
                .and_then(|(_, value)| value.as_deref());
            let value: ArrayRef = match data_type {
                DataType::Int64 => {
                    Arc::new(Int64Array::from(vec![value.and_then(|v| v.parse().ok())]))
                }
                DataType::Float64 => Arc::new(Float64Array::from(vec![value.and_then(number)])),
                _ => Arc::new(StringArray::from(vec![value])),
            };
            Partition {
                field: Arc::new(Field::new(*column, value.data_type().clone(), true)),
                value,
            }
        };
        columns.iter().map(partition).collect()
    };
    of_files.iter().map(of_file).collect()
}

/// A number that is no integer too large for 64 bits.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (text.contains(['.', 'e', 'E']) || text.parse::<i64>().is_ok());
    text.parse().ok().filter(|x: &f64| is_number && x.is_finite())
}

/// How Hive writes a null in a folder's name.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns of one file's path: `lang=en/year=2024/a.parquet` has `lang` and `year`. Values are
/// text with `%XX` decoded; None is a null.
fn pairs(name: &str) -> Vec<(String, Option<String>)> {
    let folders = name.rsplit_once('/').map_or("", |(folders, _)| folders).split('/');
    let pairs =
        folders.filter_map(|folder| folder.split_once('=')).filter(|(key, _)| !key.is_empty());
    pairs.map(|(key, value)| (decoded(key), (value != HIVE_NULL).then(|| decoded(value)))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn folders_of_partitions() {
        let pairs = |name| {
            super::pairs(name)
                .into_iter()
                .map(|(k, v)| format!("{k}={v:?}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            pairs("in/lang=en/year=2024/a=b.parquet"),
            r#"lang=Some("en") year=Some("2024")"#
        );
        assert_eq!(pairs("a=b.parquet"), "");
        assert_eq!(
            pairs("x=__HIVE_DEFAULT_PARTITION__/y=a%2Fb%3D%zz%ff/=c/f"),
            r#"x=None y=Some("a%2Fb%3D%zz%ff")"#
        );
        assert_eq!(pairs("y=a%2Fb%3D%zz=/f"), r#"y=Some("a/b=%zz=")"#);
    }
}
