//! Parquet files, of whose row groups only the columns asked for are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::schema::types::TypePtr;

use super::file::{DataFile, Extent, Found, Group, Scan};
use super::parquet_footer;
use super::parquet_types::{as_bytes, int96_units, read_as, read_with};
use super::{Format, FormatReader, guard};
use crate::error::DataError;
use crate::predicate::ColumnStatistics;
use crate::source::Batches;
use crate::storage::{Fetching, Input, Location};

/// Rows decoded at a time, at most; fewer where documents are large.
const BATCH_ROWS: u64 = 1024;
/// Decoded bytes aimed at for a batch, by the row group's average.
const BATCH_BYTES: u64 = 1 << 20;
const MAGIC: &[u8; 4] = b"PAR1";

pub(crate) struct Parquet;

impl Format for Parquet {
    fn scan(&self, found: &Found) -> Result<Scan, DataError> {
        let Opened { input, metadata, types } = open(found)?;
        let units = decode(&input, &|| "INT96".into(), || int96_units(&input, &metadata));
        let schema = match units {
            Ok((schema, None)) => schema,
            Ok((_, Some(column))) => {
                let what = format!(
                    "its column `{column}` of INT96 has nanoseconds and dates beyond the years \
                     1677 to 2262, and no type of Arrow's holds both"
                );
                let help = "write the column as microseconds or nanoseconds";
                return Err(DataError::Unsupported { path: found.path.clone(), what, help });
            }
            // It is told where its rows are read.
            Err(DataError::Corrupt { .. }) => metadata.schema().clone(),
            Err(error) => return Err(error),
        };
        let mut groups = Vec::new();
        for (i, group) in metadata.metadata().row_groups().iter().enumerate() {
            let rows = u64::try_from(group.num_rows()).map_err(|_| DataError::Corrupt {
                path: found.path.clone(),
                place: "footer".into(),
                cause: format!("row group {i} has {} rows", group.num_rows()),
            })?;
            let bytes = group.total_byte_size().max(0) as u64;
            groups.push(Group { extent: Extent::RowGroup(i), rows, bytes });
        }
        let encrypted = parquet_footer::walk(&footer(&input)?).unwrap_or_default().encrypted;
        let encrypted = encrypted.into_iter().collect();
        Ok(Scan { schema, groups, dictionaries: Vec::new(), types: Some(types), encrypted })
    }

    fn contents(&self, found: &Found) -> Result<Option<blake3::Hash>, DataError> {
        let input = found.open()?;
        check_magic(&input)?;
        Ok(Some(blake3::hash(&footer(&input)?)))
    }

    fn statistics(
        &self,
        file: &DataFile,
        columns: &[String],
    ) -> Result<BTreeMap<String, ColumnStatistics>, DataError> {
        let path = &file.found.path;
        let Opened { metadata, .. } = open(&file.found)?;
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
                    statistics.is_some_and(|s| {
                        s.is_min_max_deprecated() && !s.is_min_max_backwards_compatible()
                    })
                };
                let int96 = parquet_schema.column(leaf).physical_type() == Physical::INT96;
                if int96 || groups.iter().any(misordered) {
                    return Ok(None);
                }
                let min = converter.row_group_mins(groups).map_err(|e| e.to_string())?;
                let max = converter.row_group_maxes(groups).map_err(|e| e.to_string())?;
                let nulls = converter.row_group_null_counts(groups).map_err(|e| e.to_string())?;
                let nulls = nulls
                    .iter()
                    .zip(groups)
                    .map(|(nulls, g)| (nulls, g.num_rows().max(0) as u64))
                    .collect();
                Ok(Some(ColumnStatistics { min, max, nulls }))
            })?;
            found.extend(statistics.map(|statistics| (column.clone(), statistics)));
        }
        Ok(found)
    }

    fn reader(&self, columns: &[String]) -> Box<dyn FormatReader> {
        Box::new(ParquetReader { columns: columns.to_vec(), open: None, ahead: None })
    }
}

/// The two magic numbers; without them it isn't a Parquet file, or a cut one.
fn check_magic(input: &Input) -> Result<(), DataError> {
    let path = input.location();
    let wrong = |cause: &str| DataError::WrongFormat {
        path: path.clone(),
        expected: "a Parquet file",
        cause: cause.into(),
    };
    if input.size() < 12 {
        return Err(wrong("it is shorter than any Parquet file"));
    }
    let (mut head, mut tail) = (*MAGIC, [0; 4]);
    input.read_exact_at(input.size() - 4, &mut tail)?;
    // Of an object, the beginning is a request more, and tells the same as the end, which is
    // fetched anyway.
    if !input.is_remote() || &tail != MAGIC {
        input.read_exact_at(0, &mut head)?;
    }
    match (&head, &tail) {
        (b"PARE", _) => Err(DataError::Unsupported {
            path: path.clone(),
            what: "it is encrypted, its footer too".into(),
            help: DECRYPT,
        }),
        (head, _) if head != MAGIC => Err(wrong("it does not begin with PAR1")),
        (_, tail) if tail != MAGIC => Err(wrong(
            "it does not end with PAR1, so it was cut off or never finished; write or fetch it again",
        )),
        _ => Ok(()),
    }
}

/// Bytes of an object's end that are fetched at once: most footers fit into them.
const TAIL_BYTES: u64 = 64 << 10;
/// Bytes of a row group that are fetched while the one before is decoded, at most: they are held in
/// memory.
const AHEAD_BYTES: u64 = 64 << 20;

const DECRYPT: &str = "there is no support for encrypted Parquet: write it again without";

/// The bytes of the footer, without its length and the magic number.
fn footer(input: &Input) -> Result<Bytes, DataError> {
    let end = input.size() - 8;
    let mut length = [0; 4];
    input.read_exact_at(end, &mut length)?;
    let length = u64::from(u32::from_le_bytes(length)).min(end);
    Ok(input.read_at(end - length..end)?)
}

struct Opened {
    input: Input,
    /// Its columns have the types that they are read as.
    metadata: ArrowReaderMetadata,
    /// The types of the columns in the file.
    types: TypePtr,
}

fn open(found: &Found) -> Result<Opened, DataError> {
    let input = found.open()?;
    let tail = input.size().saturating_sub(TAIL_BYTES)..input.size();
    let input = input.start(vec![tail]).wait()?;
    check_magic(&input)?;
    decode(&input, &|| "footer".into(), || {
        let options = ArrowReaderOptions::new();
        let metadata = match ArrowReaderMetadata::load(&input, options.clone()) {
            Ok(metadata) => metadata,
            Err(error) => {
                let footer = footer(&input).map_err(|e| ParquetError::External(Box::new(e)))?;
                let mended = parquet_footer::walk(&footer).and_then(|footer| footer.mended);
                let mended = mended.ok_or(error)?;
                let metadata = ParquetMetaDataReader::decode_metadata(&mended)?;
                ArrowReaderMetadata::try_new(Arc::new(metadata), options)?
            }
        };
        let types = metadata.parquet_schema().root_schema_ptr();
        Ok::<_, ParquetError>((read_as(metadata)?, types))
    })
    .map_err(|damage| {
        // Polars notes types that are its own.
        let skip = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let load = || ArrowReaderMetadata::load(&input, skip);
        match (damage, decode(&input, &|| "footer".into(), load)) {
            (DataError::Corrupt { path, cause, .. }, Ok(_)) => DataError::Unsupported {
                path,
                what: format!("the Arrow schema in its footer is not understood ({cause})"),
                help: "write the column that it names as another type",
            },
            (damage, _) => damage,
        }
    })
    .map(|(metadata, types)| Opened { input: input.clone(), metadata, types })
}

/// Runs a decoder over a file. That it cannot be read is not its damage, whatever the decoder makes
/// of it.
fn decode<T, E: std::fmt::Display>(
    input: &Input,
    place: &dyn Fn() -> String,
    decode: impl FnOnce() -> Result<T, E>,
) -> Result<T, DataError> {
    guard(input.location(), place, || decode().map_err(|e| e.to_string())).map_err(|damage| {
        match input.failure() {
            Some(failure) => failure.into(),
            None => damage,
        }
    })
}

/// # Errors
/// If one of the columns is encrypted.
pub(crate) fn encrypted(
    path: &Location,
    encrypted: &[String],
    columns: &[String],
) -> Result<(), DataError> {
    match encrypted.iter().find(|name| columns.contains(name)) {
        Some(name) => Err(DataError::Unsupported {
            path: path.clone(),
            what: format!("its column `{name}` is encrypted"),
            help: DECRYPT,
        }),
        None => Ok(()),
    }
}

struct ParquetReader {
    columns: Vec<String>,
    open: Option<(Input, ArrowReaderMetadata)>,
    /// A row group of the open file that is on its way.
    ahead: Option<(usize, Fetching)>,
}

impl ParquetReader {
    /// What is to be fetched of an object for a group: its column chunks that are needed. None if
    /// they lie outside of it.
    fn chunks(&self, file: &DataFile, group: usize) -> Option<Vec<Range<u64>>> {
        let (input, metadata) = self.open.as_ref()?;
        if !input.is_remote() {
            return Some(Vec::new());
        }
        let mask = ProjectionMask::roots(metadata.parquet_schema(), file.projection(&self.columns));
        let columns = metadata.metadata().row_groups().get(group)?.columns().iter().enumerate();
        let range = |column: &ColumnChunkMetaData| {
            let start =
                column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let (start, length) =
                (u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?);
            let end = start.checked_add(length).filter(|end| *end <= input.size())?;
            Some(start..end)
        };
        columns
            .filter(|(leaf, _)| mask.leaf_included(*leaf))
            .map(|(_, column)| range(column))
            .collect()
    }
}

impl FormatReader for ParquetReader {
    fn open(
        &mut self,
        file: &DataFile,
        at: usize,
        ranges: &[Range<u64>],
    ) -> Result<Batches, DataError> {
        let path = &file.found.path;
        let Group { extent: Extent::RowGroup(group), rows, .. } = file.scan.groups[at] else {
            unreachable!("a row group of a Parquet file is one");
        };
        if self.open.as_ref().is_none_or(|(open, _)| open.location() != path) {
            let Opened { input, metadata, .. } = open(&file.found)?;
            // A file that changed has other columns.
            let metadata = guard(path, &|| "columns".into(), || {
                read_with(&metadata, &file.scan.schema).map_err(|e| e.to_string())
            });
            let metadata = metadata.map_err(|_| DataError::Changed { path: path.clone() })?;
            (self.open, self.ahead) = (Some((input, metadata)), None);
        }
        encrypted(path, &file.scan.encrypted, &self.columns)?;
        let ahead = self.ahead.take().filter(|(of, _)| *of == group);
        let chunks = self.chunks(file, group);
        let (input, metadata) = self.open.as_ref().expect("opened above");
        let changed = || DataError::Changed { path: path.clone() };
        let group_metadata = metadata.metadata().row_groups().get(group).ok_or_else(changed)?;
        if group_metadata.num_rows() as u64 != rows || metadata.schema() != &file.scan.schema {
            return Err(changed());
        }
        let mask = ProjectionMask::roots(metadata.parquet_schema(), file.projection(&self.columns));
        let columns = group_metadata
            .columns()
            .iter()
            .enumerate()
            .filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes: u64 = columns.map(|(_, column)| decoded_bytes(column)).sum();
        let batch_rows = (BATCH_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, BATCH_ROWS);
        let before: u64 = file.scan.groups[..at].iter().map(|u| u.rows).sum();
        let input = match (ahead, chunks) {
            (Some((_, fetching)), _) => fetching.wait()?,
            // More is fetched piece by piece as it is decoded.
            (None, Some(chunks)) if size_of(&chunks) > AHEAD_BYTES => input.clone(),
            (None, Some(chunks)) => input.start(chunks).wait()?,
            (None, None) => {
                let cause = "its footer tells of bytes outside of the file".into();
                return Err(DataError::Corrupt {
                    path: path.clone(),
                    place: format!("row group {group}"),
                    cause,
                });
            }
        };
        let mut batches = GroupBatches {
            input,
            metadata: metadata.clone(),
            group,
            before,
            mask,
            ranges: ranges.to_vec(),
            rows,
            batch_rows,
            reader: None,
            at: 0,
        };
        batches.reader = Some(batches.build()?);
        Ok(Box::new(batches))
    }

    fn will_open(&mut self, file: &DataFile, at: usize) {
        let Some((input, _)) = self.open.as_ref().filter(|(input, _)| input.is_remote()) else {
            return;
        };
        let Extent::RowGroup(group) = file.scan.groups[at].extent else { return };
        let chunks = self.chunks(file, group).filter(|chunks| size_of(chunks) <= AHEAD_BYTES);
        self.ahead = chunks.map(|chunks| (group, input.start(chunks)));
    }
}

/// Bytes of a column chunk's values, about: of text in a dictionary those of every row, where the
/// file says.
fn decoded_bytes(column: &ColumnChunkMetaData) -> u64 {
    let unencoded = column.unencoded_byte_array_data_bytes().unwrap_or(0);
    column.uncompressed_size().max(unencoded).max(0) as u64
}

fn size_of(chunks: &[Range<u64>]) -> u64 {
    chunks.iter().map(|chunk| chunk.end - chunk.start).sum()
}

/// Rows `ranges` of a row group.
struct GroupBatches {
    input: Input,
    metadata: ArrowReaderMetadata,
    group: usize,
    /// Rows of the file before the group.
    before: u64,
    mask: ProjectionMask,
    ranges: Vec<Range<u64>>,
    /// Of the group.
    rows: u64,
    batch_rows: u64,
    /// None after an error: what state the decoder was left in is unknown.
    reader: Option<ParquetRecordBatchReader>,
    /// Rows returned so far.
    at: u64,
}

impl GroupBatches {
    /// The place of the next batch in the file.
    fn place(&self) -> String {
        let rows = self
            .ranges
            .iter()
            .cloned()
            .flatten()
            .skip(self.at as usize)
            .take(self.batch_rows as usize);
        let (first, last) = rows.fold((u64::MAX, 0), |(first, _), row| (first.min(row), row));
        match first {
            u64::MAX => format!("row group {}", self.group),
            _ => format!(
                "row group {}, rows {} to {}",
                self.group,
                self.before + first,
                self.before + last
            ),
        }
    }

    /// A decoder of the rows that were not returned yet.
    fn build(&self) -> Result<ParquetRecordBatchReader, DataError> {
        let mut skip = self.at;
        let left: Vec<Range<usize>> = self
            .ranges
            .iter()
            .map(|range| {
                let from = (range.start + skip).min(range.end);
                skip -= from - range.start;
                from as usize..range.end as usize
            })
            .filter(|range| !range.is_empty())
            .collect();
        decode(&self.input, &|| self.place(), || {
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
                self.input.clone(),
                self.metadata.clone(),
            )
            .with_row_groups(vec![self.group])
            .with_projection(self.mask.clone())
            .with_batch_size(self.batch_rows as usize);
            if !matches!(&left[..], [all] if *all == (0..self.rows as usize)) {
                let selection =
                    RowSelection::from_consecutive_ranges(left.iter().cloned(), self.rows as usize);
                builder = builder.with_row_selection(selection);
            }
            builder.build()
        })
    }

    fn decode_next(&mut self) -> Option<Result<RecordBatch, DataError>> {
        let mut reader = self.reader.take()?;
        let batch =
            decode(&self.input, &|| self.place(), || reader.next().transpose()).transpose()?;
        if let Ok(batch) = &batch {
            self.at += batch.num_rows() as u64;
            self.reader = Some(reader);
        }
        Some(batch)
    }
}

impl Iterator for GroupBatches {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut next = self.decode_next();
        // One string that is no UTF-8 costs no other: text is read as bytes from there on.
        if matches!(&next, Some(Err(DataError::Corrupt { cause, .. })) if cause.contains("UTF-8")) {
            let bytes = decode(&self.input, &|| self.place(), || as_bytes(&self.metadata));
            match bytes.and_then(|metadata| {
                self.metadata = metadata;
                self.build()
            }) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => return Some(Err(error)),
            }
            next = self.decode_next();
        }
        // Documents far larger than the group's others may be too much for one array together, and
        // that is no damage.
        let together = matches!(&next, Some(Err(DataError::Corrupt { cause, .. })) if cause.contains("overflow"));
        if !together || self.batch_rows == 1 {
            return next;
        }
        self.batch_rows = 1;
        match self.build() {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => return Some(Err(error)),
        }
        self.decode_next()
    }
}
