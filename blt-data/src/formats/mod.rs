//! File formats: reading a file's schema and row groups, and then a row group as record batches.

pub(crate) mod arrow_ipc;
pub(crate) mod file;
pub(crate) mod parquet;
mod parquet_footer;
mod parquet_types;
pub(crate) mod text;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use arrow::datatypes::SchemaRef;

use self::file::{DataFile, Found, Scan};
use crate::error::DataError;
use crate::predicate::ColumnStatistics;
use crate::source::Batches;
use crate::storage::Location;

/// A file format.
pub(crate) trait Format: Send + Sync {
    /// The schema, if it is the same for every file of the format.
    fn fixed_schema(&self) -> Option<SchemaRef> {
        None
    }

    /// Reads the schema and where the row groups are; no values.
    fn scan(&self, file: &Found) -> Result<Scan, DataError>;

    /// A digest of the file's own table of contents (its footer), if it has one.
    fn contents(&self, file: &Found) -> Result<Option<blake3::Hash>, DataError>;

    /// Statistics of these columns, an element for each row group. Columns without
    /// statistics are left out.
    fn statistics(
        &self,
        file: &DataFile,
        columns: &[String],
    ) -> Result<BTreeMap<String, ColumnStatistics>, DataError> {
        let _ = (file, columns);
        Ok(BTreeMap::new())
    }

    /// Starts a reader of these columns; those that are not in a file are left out.
    fn reader(&self, columns: &[String]) -> Box<dyn FormatReader>;
}

/// Reads row groups, and keeps the last file open.
pub(crate) trait FormatReader: Send {
    /// Reads the rows of `ranges` (ascending, within the row group) in batches of limited size.
    fn open(
        &mut self,
        file: &DataFile,
        group: usize,
        ranges: &[Range<u64>],
    ) -> Result<Batches, DataError>;

    /// Starts fetching the row group that is opened next, which is of the file that is open.
    fn will_open(&mut self, file: &DataFile, group: usize) {
        let _ = (file, group);
    }
}

thread_local! {
    /// Whether a panic of this thread is caught and becomes an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder over bytes that may be damaged. Some checks in the decoding crates panic; here
/// that becomes an error.
pub(crate) fn guard<T>(
    path: &Location,
    place: &dyn Fn() -> String,
    decode: impl FnOnce() -> Result<T, String>,
) -> Result<T, DataError> {
    let damage = |cause| DataError::Corrupt { path: path.clone(), place: place(), cause };
    caught(decode).map_err(damage)
}

/// What `decode` gives, or as an error the text of its panic, which is not printed.
///
/// # Errors
/// Those of `decode`.
pub fn caught<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let nested = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(nested);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text
            .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_else(|| "it cannot be decoded".into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_decoder_is_an_error() {
        let place = || "footer".to_string();
        let fails = |decode: fn() -> Result<(), String>| {
            guard(&Location::Local("a.parquet".into()), &place, decode).unwrap_err().to_string()
        };
        assert!(
            fails(|| panic!("offset {} out of range", 3))
                .contains("a.parquet is damaged in its footer: offset 3")
        );
        assert!(fails(|| Err("short".into())).contains("footer: short"));
        assert!(!GUARDED.get());
    }
}
