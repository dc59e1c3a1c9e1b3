//! Columns made of folders' names, as Hive and Spark write them: `lang=en/year=2024/a.parquet`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
use arrow::datatypes::Field;

use crate::formats::file::{Found, Partition};

/// The columns made of folders' names, for each file: of folders below the path that the user
/// named, for what stands above it says where the data is, not what it is. A column holds integers
/// if all of its values are, else text. A column that one file has, every file has.
pub(crate) fn partitions(found: &[Found]) -> Vec<Vec<Partition>> {
    let of_files: Vec<Vec<(String, Option<String>)>> =
        found.iter().map(|f| pairs(&f.below)).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (key, _) in of_files.iter().flatten() {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    // `007` is a name, not a number.
    let integer = |text: &str| text.parse::<i64>().ok().filter(|n| n.to_string() == text);
    let numbers = |column: &String| {
        let mut values = of_files
            .iter()
            .flatten()
            .filter(|(key, _)| key == column)
            .filter_map(|(_, v)| v.as_deref());
        values.all(|v| integer(v).is_some())
    };
    let columns: Vec<(&String, bool)> =
        columns.into_iter().map(|column| (column, numbers(column))).collect();
    let of_file = |pairs: &Vec<(String, Option<String>)>| {
        let partition = |(column, numbers): &(&String, bool)| {
            let value = pairs
                .iter()
                .rev()
                .find(|(key, _)| key == *column)
                .and_then(|(_, value)| value.as_deref());
            let value: ArrayRef = match numbers {
                true => Arc::new(Int64Array::from(vec![value.and_then(integer)])),
                false => Arc::new(StringArray::from(vec![value])),
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

/// Replaces `%XX` by the byte of that number, if the whole is valid UTF-8 then.
fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .filter(|h| bytes[at] == b'%' && h.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
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
