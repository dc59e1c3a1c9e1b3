//! Sources from files to documents and batches. Every file is written here, but one whose pages
//! carry checksums, which the Rust writer does not write: `fixtures/page_checksum.parquet`, a
//! binary column `text` of two rows ("first document", "second document") by pyarrow's
//! `write_table(..., write_page_checksum=True, compression="none")`.

mod conditions;
mod damage;
mod lists;
mod odd;
mod order;
mod packing;
mod types;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::*;

/// A batch of named columns.
fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )
    .unwrap()
}

/// `id` (row number) and `text`.
fn texts(rows: &[Option<&str>]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.len() as i64));
    batch(vec![("id", ids), ("text", Arc::new(StringArray::from(rows.to_vec())))])
}

fn write_parquet(path: &Path, batch: &RecordBatch, group_rows: usize) {
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn write_ipc(path: &Path, batches: &[RecordBatch], stream: bool) {
    let file = std::fs::File::create(path).unwrap();
    if stream {
        let mut writer = StreamWriter::try_new(file, &batches[0].schema()).unwrap();
        batches.iter().for_each(|b| writer.write(b).unwrap());
        writer.finish().unwrap();
    } else {
        let mut writer = FileWriter::try_new(file, &batches[0].schema()).unwrap();
        batches.iter().for_each(|b| writer.write(b).unwrap());
        writer.finish().unwrap();
    }
}

fn parquet_corpus(dir: &Path) -> SourceConfig {
    SourceConfig::new(SourceKind::Parquet, "*.parquet", dir)
}

fn rows(source: &impl Source, request: &Request) -> Result<Vec<Row>, DataError> {
    let mut reader = source.open(request)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next()? {
        rows.push(row);
    }
    Ok(rows)
}

fn read(config: SourceConfig, request: &Request) -> Result<Vec<Row>, DataError> {
    rows(&Corpus::new(config)?, request)
}

/// The bytes of documents, None for nulls.
fn contents(rows: &[Row]) -> Vec<Option<Vec<u8>>> {
    rows.iter()
        .map(|row| match row {
            Row::Document(document) => Some(document.bytes.clone()),
            Row::Null(_) => None,
        })
        .collect()
}

fn row_numbers(rows: &[Row]) -> Vec<u64> {
    rows.iter()
        .map(|row| match row {
            Row::Document(document) => document.row,
            Row::Null(row) => *row,
        })
        .collect()
}
