//! Parquet files: a unit is a row group, of which only the needed columns are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::RowGroupMetaData;

use super::error::DataError;
use super::files::Found;
use super::format::{Batches, DataFile, Extent, Format, Scan, Unit, UnitReader, guard};
use crate::predicate::ColumnStatistics;

/// Rows decoded at a time, at most; fewer where documents are large.
const BATCH_ROWS: u64 = 1024;
/// Decoded bytes aimed at for a batch, by the row group's average.
const BATCH_BYTES: u64 = 4 << 20;
const MAGIC: &[u8; 4] = b"PAR1";

pub(super) struct Parquet;

impl Format for Parquet {
    fn scan(&self, found: &Found) -> Result<Scan, DataError> {
        let (_, metadata) = open(&found.path)?;
        let mut units = Vec::new();
        for (i, group) in metadata.metadata().row_groups().iter().enumerate() {
            let rows = u64::try_from(group.num_rows()).map_err(|_| DataError::Corrupt {
                path: found.path.clone(),
                place: "footer".into(),
                cause: format!("row group {i} has {} rows", group.num_rows()),
            })?;
            let bytes = group.total_byte_size().max(0) as u64;
            units.push(Unit { extent: Extent::RowGroup(i), rows, bytes });
        }
        Ok(Scan { schema: metadata.schema().clone(), units, dictionaries: Vec::new() })
    }

    fn contents(&self, found: &Found) -> Result<Option<blake3::Hash>, DataError> {
        let mut file = File::open(&found.path).map_err(|e| DataError::read(&found.path, e))?;
        check_magic(&mut file, &found.path)?;
        let mut read = || -> std::io::Result<Vec<u8>> {
            let end = file.seek(SeekFrom::End(-8))?;
            let mut length = [0; 4];
            file.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length)).min(end);
            file.seek(SeekFrom::Start(end - length))?;
            let mut footer = Vec::new();
            file.by_ref().take(length).read_to_end(&mut footer)?;
            Ok(footer)
        };
        Ok(Some(blake3::hash(&read().map_err(|e| DataError::read(&found.path, e))?)))
    }

    fn statistics(&self, file: &DataFile, columns: &[String]) -> Result<BTreeMap<String, ColumnStatistics>, DataError> {
        let path = &file.found.path;
        let (_, metadata) = open(path)?;
        let (schema, parquet_schema) = (metadata.schema(), metadata.parquet_schema());
        let metadata = metadata.metadata();
        let (groups, orders) = (metadata.row_groups(), metadata.file_metadata().column_orders());
        let mut found = BTreeMap::new();
        for column in columns {
            let Ok(field) = schema.field_with_name(column) else { continue };
            if field.data_type().is_nested() {
                continue;
            }
            let statistics = guard(path, &|| "statistics".into(), || {
                let converter = StatisticsConverter::try_new(column, schema, parquet_schema)
                    .map_err(|e| e.to_string())?
                    .with_missing_null_counts_as_zero(false)
                    .with_column_orders(orders.map(Vec::as_slice));
                let Some(leaf) = converter.parquet_column_index() else { return Ok(None) };
                // Old writers ordered text as if its bytes were signed.
                let misordered = |g: &RowGroupMetaData| {
                    let statistics = g.column(leaf).statistics();
                    statistics.is_some_and(|s| s.is_min_max_deprecated() && !s.is_min_max_backwards_compatible())
                };
                if groups.iter().any(misordered) {
                    return Ok(None);
                }
                let min = converter.row_group_mins(groups).map_err(|e| e.to_string())?;
                let max = converter.row_group_maxes(groups).map_err(|e| e.to_string())?;
                let nulls = converter.row_group_null_counts(groups).map_err(|e| e.to_string())?;
                let nulls = nulls.iter().zip(groups).map(|(nulls, g)| (nulls, g.num_rows().max(0) as u64)).collect();
                Ok(Some(ColumnStatistics { min, max, nulls }))
            })?;
            found.extend(statistics.map(|statistics| (column.clone(), statistics)));
        }
        Ok(found)
    }

    fn reader(&self, columns: &[String]) -> Box<dyn UnitReader> {
        Box::new(ParquetReader { columns: columns.to_vec(), open: None })
    }
}

/// The two magic numbers; without them it isn't a Parquet file, or a cut one.
fn check_magic(file: &mut File, path: &Path) -> Result<(), DataError> {
    let mut ends = || -> std::io::Result<Option<([u8; 4], [u8; 4])>> {
        let (mut head, mut tail) = ([0; 4], [0; 4]);
        if file.seek(SeekFrom::End(0))? < 12 {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut head)?;
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut tail)?;
        Ok(Some((head, tail)))
    };
    let wrong =
        |cause: &str| DataError::WrongFormat { path: path.into(), expected: "a Parquet file", cause: cause.into() };
    match ends().map_err(|e| DataError::read(path, e))? {
        None => Err(wrong("it is shorter than any Parquet file")),
        Some((head, _)) if &head == b"PARE" => Err(wrong("its footer is encrypted, which is not supported")),
        Some((head, _)) if &head != MAGIC => Err(wrong("it does not begin with PAR1")),
        Some((_, tail)) if &tail != MAGIC => {
            Err(wrong("it does not end with PAR1, so it was cut off or never finished; write or fetch it again"))
        }
        Some(_) => Ok(()),
    }
}

fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), DataError> {
    let mut file = File::open(path).map_err(|e| DataError::read(path, e))?;
    check_magic(&mut file, path)?;
    let metadata = guard(path, &|| "footer".into(), || {
        ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| e.to_string())
    })?;
    Ok((file, metadata))
}

struct ParquetReader {
    columns: Vec<String>,
    open: Option<(PathBuf, File, ArrowReaderMetadata)>,
}

impl UnitReader for ParquetReader {
    fn open(&mut self, file: &DataFile, unit: usize, ranges: &[Range<u64>]) -> Result<Batches, DataError> {
        let path = &file.found.path;
        let Unit { extent: Extent::RowGroup(group), rows, .. } = file.scan.units[unit] else {
            unreachable!("a Parquet unit is a row group");
        };
        if self.open.as_ref().is_none_or(|(open, ..)| open != path) {
            let (handle, metadata) = open(path)?;
            self.open = Some((path.clone(), handle, metadata));
        }
        let (_, handle, metadata) = self.open.as_ref().expect("opened above");
        let changed = || DataError::Changed { path: path.clone() };
        let group_metadata = metadata.metadata().row_groups().get(group).ok_or_else(changed)?;
        if group_metadata.num_rows() as u64 != rows || metadata.schema() != &file.scan.schema {
            return Err(changed());
        }
        let mask = ProjectionMask::roots(metadata.parquet_schema(), file.projection(&self.columns));
        let columns = group_metadata.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes: u64 = columns.map(|(_, column)| column.uncompressed_size().max(0) as u64).sum();
        let batch_rows = (BATCH_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, BATCH_ROWS);
        let place = {
            let before: u64 = file.scan.units[..unit].iter().map(|u| u.rows).sum();
            let ranges = ranges.to_vec();
            move |at: u64| {
                let rows = ranges.iter().cloned().flatten().skip(at as usize).take(batch_rows as usize);
                let (first, last) = rows.fold((u64::MAX, 0), |(first, _), row| (first.min(row), row));
                match first {
                    u64::MAX => format!("row group {group}"),
                    _ => format!("row group {group}, rows {} to {}", before + first, before + last),
                }
            }
        };
        let reader = guard(path, &|| place(0), || {
            let handle = handle.try_clone().map_err(|e| e.to_string())?;
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, metadata.clone())
                .with_row_groups(vec![group])
                .with_projection(mask)
                .with_batch_size(batch_rows as usize);
            if !matches!(ranges, [all] if *all == (0..rows)) {
                let ranges = ranges.iter().map(|r| r.start as usize..r.end as usize);
                builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, rows as usize));
            }
            builder.build().map_err(|e| e.to_string())
        })?;
        let (reader, path) = (Some(reader), path.clone());
        Ok(Box::new(GroupBatches { reader, path, place: Box::new(place), at: 0 }))
    }
}

struct GroupBatches {
    /// None after an error: what state the decoder was left in is unknown.
    reader: Option<ParquetRecordBatchReader>,
    path: PathBuf,
    place: Box<dyn Fn(u64) -> String + Send>,
    /// Rows given so far.
    at: u64,
}

impl Iterator for GroupBatches {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let place = || (self.place)(self.at);
        match guard(&self.path, &place, || reader.next().transpose().map_err(|e| e.to_string())) {
            Ok(batch) => {
                self.at += batch.as_ref().map_or(0, |b| b.num_rows() as u64);
                batch.map(Ok)
            }
            Err(error) => {
                self.reader = None;
                Some(Err(error))
            }
        }
    }
}
