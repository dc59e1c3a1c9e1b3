//! Whole rows, span by span in order: for a step that writes rows back with columns of its own.
//!
//! A span is some units (row groups, record batches) of a file. Its rows come in pieces of limited
//! size with all their columns; which of them come, a condition, a sample and a part say. A unit
//! that does not decode is an error, or its rows come without their documents and with nulls in the
//! columns that are lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;

use crate::columns::{Chunk, Origin, Wanted, position};
use crate::corpus::Index;
use crate::error::DataError;
use crate::formats::{Batches, DataFile, Format, UnitReader, reader};
use crate::predicate::{ColumnStatistics, Predicate, PredicateError};
use crate::rows::{OnError, RowError, RowRequest, Unreadable};
use crate::salvage::Salvage;
use crate::split::{Filter, Part, Split};
use crate::storage::Location;
use crate::{Document, Request, Row, SourceConfig};

/// Rows of a piece, at most.
const PIECE_ROWS: usize = 1024;
/// Bytes aimed at for a piece, by its record batch's average.
const PIECE_BYTES: usize = 1 << 20;

/// What stands in a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RawRow {
    Document(Document),
    /// A row (by its number in the corpus) whose text is null.
    Null(u64),
    Failed(u64, RowError),
}

/// What comes next of whole rows.
#[derive(Clone, Debug)]
pub enum RawRows {
    /// Rows of a span that were chosen, with all columns, and each one's document: one of `rows`
    /// for each of `columns`.
    Rows { span: usize, columns: RecordBatch, rows: Vec<RawRow> },
    /// Of rows that came, or were not chosen, since the last of these.
    Unreadable { span: usize, group: Unreadable },
    /// The span has no more rows. `groups_skipped`: those that by their statistics have none that
    /// the condition takes.
    End { span: usize, groups_skipped: u64 },
}

/// A stream of whole rows.
pub trait RowReader: Send {
    /// What comes next, or None after the last span's end.
    #[allow(clippy::should_implement_trait)]
    fn next(&mut self) -> Result<Option<RawRows>, DataError>;
}

/// A checked request on an indexed corpus.
pub(crate) struct RowPlan {
    format: Arc<dyn Format>,
    index: Arc<Index>,
    request: RowRequest,
    /// For each table with spans; None where its columns don't serve, and that is no error.
    wanted: BTreeMap<usize, Option<Wanted>>,
}

impl RowPlan {
    pub fn new(
        format: Arc<dyn Format>,
        index: Arc<Index>,
        config: &SourceConfig,
        request: RowRequest,
    ) -> Result<Self, DataError> {
        let filter = Filter::new(config.split.as_ref(), request.part, false)?;
        let documents = Request { lists: request.lists.clone(), ..Request::part(request.part) };
        if let Some(condition) = &request.condition {
            let schemas = index.files.iter().map(|f| f.schema.as_ref());
            condition
                .check(schemas)
                .map_err(|(at, error)| misfit(condition, &index.files[at].found.path, error))?;
        }
        let resolve = |file: &DataFile| {
            let path = &file.found.path;
            // A split column that is mistyped shows whichever part is read.
            if let Some(column) = config.split.as_ref().and_then(Split::column) {
                position(&file.schema, column, path)?;
            }
            Wanted::resolve(&file.schema, path, &config.column, filter.clone(), &documents)
        };
        // What part a row lies in may depend on the columns.
        let lenient = request.on_error == OnError::Null && request.part == Part::All;
        let mut wanted = BTreeMap::new();
        for span in &request.spans {
            let Some(file) =
                index.files.get(span.table).filter(|f| span.groups.end <= f.scan.units.len())
            else {
                let what = format!(
                    "table {} has no groups {:?}: the files are others",
                    span.table, span.groups
                );
                return Err(DataError::Config { what });
            };
            if wanted.contains_key(&span.table) {
                continue;
            }
            let serves = match resolve(file) {
                Ok(wanted) => Some(wanted),
                // A column that no file has is a mistake in its name.
                Err(DataError::NoSuchColumn { .. } | DataError::ColumnType { .. })
                    if lenient && index.files.iter().any(|f| resolve(f).is_ok()) =>
                {
                    None
                }
                Err(error) => return Err(error),
            };
            wanted.insert(span.table, serves);
        }
        Ok(RowPlan { format, index, request, wanted })
    }

    /// All of a file's columns.
    fn columns(&self, table: usize) -> Vec<String> {
        self.index.files[table].schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    /// The columns on which it depends whether a row is chosen.
    fn choosing(&self, table: usize) -> Vec<String> {
        let schema = &self.index.files[table].schema;
        let mut columns = self.request.condition.as_ref().map_or(Vec::new(), |c| c.columns(schema));
        if self.request.part != Part::All {
            columns.extend(self.wanted[&table].iter().flat_map(|w| w.columns.clone()));
        }
        columns.sort();
        columns.dedup();
        columns
    }

    /// Which groups of a table may have rows that the condition takes.
    fn may_match(&self, table: usize) -> Result<Vec<bool>, DataError> {
        let file = &self.index.files[table];
        let n = file.scan.units.len();
        let Some(condition) = &self.request.condition else { return Ok(vec![true; n]) };
        let mut statistics = self.format.statistics(file, &condition.columns(&file.schema))?;
        let mut of = |column: &str| {
            let partition = file.partitions.iter().find(|p| p.field.name() == column);
            match partition {
                Some(partition) => {
                    let nulls = partition.value.null_count() as u64;
                    let value = arrow::compute::take(
                        &partition.value,
                        &UInt32Array::from(vec![0; n]),
                        None,
                    )
                    .ok()?;
                    let nulls =
                        file.scan.units.iter().map(|u| (Some(nulls * u.rows), u.rows)).collect();
                    Some(ColumnStatistics { min: value.clone(), max: value, nulls })
                }
                None => statistics.remove(column).inspect(|s| {
                    // A condition may name a column twice.
                    let again = ColumnStatistics {
                        min: s.min.clone(),
                        max: s.max.clone(),
                        nulls: s.nulls.clone(),
                    };
                    statistics.insert(column.to_owned(), again);
                }),
            }
        };
        let may = condition.may_match(n, &mut of);
        may.map_err(|error| misfit(condition, &file.found.path, error))
    }
}

/// Rows of a unit as they are read.
enum Reading {
    Whole(Batches),
    /// After an error.
    Salvaged {
        rest: Salvage,
        from: u64,
        cause: String,
    },
}

/// A unit being read.
struct OpenUnit {
    /// In the index.
    unit: usize,
    reading: Reading,
    pieces: std::vec::IntoIter<RecordBatch>,
    /// Rows read so far, those that are not chosen included.
    read: u64,
}

struct OpenSpan {
    span: usize,
    /// Units in the index that are still to come.
    units: VecDeque<usize>,
    columns: Vec<String>,
    reader: Box<dyn UnitReader>,
    unit: Option<OpenUnit>,
    /// Rows that may still be chosen.
    left: u64,
    groups_skipped: u64,
    sampled: Option<Box<dyn Fn(u64) -> bool + Send>>,
}

/// Rows that were chosen of a piece.
struct Chosen {
    piece: RecordBatch,
    kept: Vec<u32>,
    /// Of the piece's first row in its unit.
    first: u64,
    unit: usize,
    salvaged: bool,
}

enum Next {
    Chosen(Chosen),
    Unreadable(Unreadable),
    End { groups_skipped: u64 },
}

/// A corpus's rows.
pub(crate) struct Reader {
    plan: RowPlan,
    /// The next span to open.
    next: usize,
    open: Option<OpenSpan>,
    /// Only to choose rows, and not to give them.
    counts: bool,
    /// The table whose statistics were read last, and which of its groups may match.
    may_match: Option<(usize, Vec<bool>)>,
}

impl Reader {
    pub(crate) fn new(plan: RowPlan, counts: bool) -> Self {
        Reader { plan, next: 0, open: None, counts, may_match: None }
    }

    fn open(&mut self, at: usize) -> Result<OpenSpan, DataError> {
        let (plan, span) = (&self.plan, &self.plan.request.spans[at]);
        let may = match &self.may_match {
            Some((table, may)) if *table == span.table => may,
            _ => &self.may_match.insert((span.table, plan.may_match(span.table)?)).1,
        };
        let may = &may[span.groups.clone()];
        let columns =
            if self.counts { plan.choosing(span.table) } else { plan.columns(span.table) };
        let first = plan.index.units.partition_point(|u| u.file < span.table);
        let units = span
            .groups
            .clone()
            .zip(may)
            .filter(|(_, may)| **may)
            .map(|(group, _)| first + group)
            .collect();
        let name = &plan.index.files[span.table].found.name;
        Ok(OpenSpan {
            span: at,
            units,
            reader: reader(&*plan.format, &columns),
            columns,
            unit: None,
            left: span.limit.unwrap_or(u64::MAX),
            groups_skipped: may.iter().filter(|may| !**may).count() as u64,
            sampled: plan
                .request
                .sample
                .map(|s| Box::new(s.of_file(name)) as Box<dyn Fn(u64) -> bool + Send>),
        })
    }

    /// What comes next, with its span.
    fn advance(&mut self) -> Result<Option<(usize, Next)>, DataError> {
        if self.open.is_none() {
            if self.next == self.plan.request.spans.len() {
                return Ok(None);
            }
            self.open = Some(self.open(self.next)?);
            self.next += 1;
        }
        let open = self.open.as_mut().expect("opened above");
        let next = open.advance(&self.plan)?;
        let span = open.span;
        if matches!(next, Next::End { .. }) {
            self.open = None;
        }
        Ok(Some((span, next)))
    }
}

impl OpenSpan {
    fn advance(&mut self, plan: &RowPlan) -> Result<Next, DataError> {
        loop {
            if self.left == 0 {
                return Ok(Next::End { groups_skipped: self.groups_skipped });
            }
            let Some(reading) = &mut self.unit else {
                let Some(unit) = self.units.pop_front() else {
                    return Ok(Next::End { groups_skipped: self.groups_skipped });
                };
                let at = &plan.index.units[unit];
                if at.rows > 0 {
                    let file = &plan.index.files[at.file];
                    let batches =
                        self.reader.open(file, at.unit, std::slice::from_ref(&(0..at.rows)));
                    let reading = match batches {
                        Ok(batches) => Reading::Whole(batches),
                        Err(error) => salvage(plan, &self.columns, unit, 0, error)?,
                    };
                    if let Some(next) = self.units.front().map(|&unit| &plan.index.units[unit]) {
                        self.reader.will_open(file, next.unit);
                    }
                    self.unit =
                        Some(OpenUnit { unit, reading, pieces: Vec::new().into_iter(), read: 0 });
                }
                continue;
            };
            let at = &plan.index.units[reading.unit];
            let file = &plan.index.files[at.file];
            let Some(piece) = reading.pieces.next() else {
                match &mut reading.reading {
                    Reading::Whole(batches) => {
                        let error = match batches.next() {
                            Some(Ok(batch)) => {
                                reading.pieces = pieces(&batch).into_iter();
                                continue;
                            }
                            None if reading.read == at.rows => {
                                self.unit = None;
                                continue;
                            }
                            // A damaged page can lose rows without any error of the decoder.
                            None => DataError::Corrupt {
                                path: file.found.path.clone(),
                                place: format!("rows from {} on", at.first_file_row + reading.read),
                                cause: "fewer rows than announced".into(),
                            },
                            Some(Err(error)) => error,
                        };
                        reading.reading =
                            salvage(plan, &self.columns, reading.unit, reading.read, error)?;
                    }
                    Reading::Salvaged { rest, from, cause } => match rest.next()? {
                        Some(batch) => reading.pieces = pieces(&batch).into_iter(),
                        None => {
                            let rows = at.first_file_row + *from..at.first_file_row + at.rows;
                            let (columns, cause) = (rest.lost(), std::mem::take(cause));
                            let unreadable = Unreadable { group: at.unit, rows, columns, cause };
                            self.unit = None;
                            return Ok(Next::Unreadable(unreadable));
                        }
                    },
                }
                continue;
            };
            let (unit, first) = (reading.unit, reading.read);
            let salvaged = matches!(reading.reading, Reading::Salvaged { .. });
            reading.read += piece.num_rows() as u64;
            let kept = self.choose(plan, &piece, unit, first)?;
            if !kept.is_empty() {
                return Ok(Next::Chosen(Chosen { piece, kept, first, unit, salvaged }));
            }
        }
    }

    /// The rows of a piece that are asked for: those that the condition takes, of them those of the
    /// part, of them the sample, of them the first ones.
    fn choose(
        &mut self,
        plan: &RowPlan,
        piece: &RecordBatch,
        unit: usize,
        first: u64,
    ) -> Result<Vec<u32>, DataError> {
        let at = &plan.index.units[unit];
        let path = &plan.index.files[at.file].found.path;
        let taken = match &plan.request.condition {
            Some(condition) => {
                let taken = condition.evaluate(piece);
                Some(taken.map_err(|error| misfit(condition, path, error))?)
            }
            None => None,
        };
        let wanted = plan.wanted[&at.file].as_ref().filter(|_| plan.request.part != Part::All);
        let chunk = match wanted {
            Some(wanted) => {
                let chunk = Chunk::new(piece, wanted)
                    .ok_or_else(|| DataError::Changed { path: path.clone() })?;
                Some((chunk, wanted))
            }
            None => None,
        };
        let mut kept = Vec::new();
        for i in 0..piece.num_rows() {
            let asked = taken.as_ref().is_none_or(|t| t[i])
                && chunk.as_ref().is_none_or(|(chunk, wanted)| chunk.admits(i, wanted))
                && self.sampled.as_ref().is_none_or(|s| s(at.first_file_row + first + i as u64));
            if asked && self.left > 0 {
                self.left -= 1;
                kept.push(i as u32);
            }
        }
        Ok(kept)
    }
}

fn misfit(condition: &Predicate, path: &Location, error: PredicateError) -> DataError {
    DataError::Predicate {
        condition: condition.to_string(),
        path: path.clone(),
        error: Box::new(error),
    }
}

/// What to do about a unit that cannot be read from a row on.
fn salvage(
    plan: &RowPlan,
    columns: &[String],
    unit: usize,
    from: u64,
    error: DataError,
) -> Result<Reading, DataError> {
    match error {
        DataError::Corrupt { cause, .. } if plan.request.on_error == OnError::Null => {
            let at = &plan.index.units[unit];
            let rest =
                Salvage::new(&*plan.format, &plan.index.files[at.file], at.unit, columns, from)?;
            Ok(Reading::Salvaged { rest, from, cause })
        }
        error => Err(error),
    }
}

/// Row `i` of a chunk.
pub(crate) fn content(
    chunk: &Chunk,
    i: usize,
    wanted: &Wanted,
    origin: &Origin,
    on_error: OnError,
) -> Result<RawRow, DataError> {
    match chunk.content(i, wanted, origin) {
        Ok(Row::Document(document)) => Ok(RawRow::Document(document)),
        Ok(Row::Null(row)) => Ok(RawRow::Null(row)),
        Err(_) if on_error == OnError::Null => {
            Ok(RawRow::Failed(origin.row, RowError::InvalidList))
        }
        Err(error) => Err(error),
    }
}

impl Chosen {
    fn rows(&self, plan: &RowPlan) -> Result<Vec<RawRow>, DataError> {
        let at = &plan.index.units[self.unit];
        let path = &plan.index.files[at.file].found.path;
        let (wanted, mut chunk) = (plan.wanted[&at.file].as_ref(), None);
        if let Some(wanted) = wanted.filter(|_| !self.salvaged) {
            let of_piece = Chunk::new(&self.piece, wanted)
                .ok_or_else(|| DataError::Changed { path: path.clone() })?;
            chunk = Some((of_piece, wanted));
        }
        let row = |&i: &u32| {
            let of_unit = self.first + u64::from(i);
            let origin =
                Origin { path, row: at.first_row + of_unit, file_row: at.first_file_row + of_unit };
            let Some((chunk, wanted)) = &chunk else {
                let error = if self.salvaged { RowError::Unreadable } else { RowError::NoColumn };
                return Ok(RawRow::Failed(origin.row, error));
            };
            content(chunk, i as usize, wanted, &origin, plan.request.on_error)
        };
        self.kept.iter().map(row).collect()
    }
}

impl RowReader for Reader {
    fn next(&mut self) -> Result<Option<RawRows>, DataError> {
        let Some((span, next)) = self.advance()? else { return Ok(None) };
        Ok(Some(match next {
            Next::End { groups_skipped } => RawRows::End { span, groups_skipped },
            Next::Unreadable(group) => RawRows::Unreadable { span, group },
            Next::Chosen(chosen) => {
                let rows = chosen.rows(&self.plan)?;
                let path = &self.plan.index.files[self.plan.request.spans[span].table].found.path;
                let columns = match rows.len() == chosen.piece.num_rows() {
                    true => chosen.piece,
                    false => take_record_batch(&chosen.piece, &UInt32Array::from(chosen.kept))
                        .map_err(|e| DataError::read(path, e))?,
                };
                RawRows::Rows { span, columns, rows }
            }
        }))
    }
}

/// See [`Source::count_rows`](crate::Source::count_rows).
pub(crate) fn count(plan: RowPlan, at_most: u64) -> Result<Vec<u64>, DataError> {
    let (mut counts, mut all) = (vec![0; plan.request.spans.len()], 0);
    let mut reader = Reader::new(plan, true);
    for (at, count_at) in counts.iter_mut().enumerate() {
        if all >= at_most {
            break;
        }
        let (plan, span) = (&reader.plan, &reader.plan.request.spans[at]);
        let units = plan.index.units.partition_point(|u| u.file < span.table);
        let units = &plan.index.units[units + span.groups.start..units + span.groups.end];
        let count = if plan.choosing(span.table).is_empty() {
            // By the numbers of the rows alone.
            let rows: u64 = units.iter().map(|u| u.rows).sum();
            let chosen = match plan.request.sample {
                Some(sample) => {
                    let sampled = sample.of_file(&plan.index.files[span.table].found.name);
                    let first = units.first().map_or(0, |u| u.first_file_row);
                    (first..first + rows).filter(|row| sampled(*row)).count() as u64
                }
                None => rows,
            };
            chosen.min(span.limit.unwrap_or(u64::MAX))
        } else {
            let limit = (at_most - all).min(span.limit.unwrap_or(u64::MAX));
            let mut open = reader.open(at)?;
            open.left = limit;
            let mut count = 0;
            loop {
                match open.advance(&reader.plan)? {
                    Next::Chosen(chosen) => count += chosen.kept.len() as u64,
                    Next::Unreadable(_) => {}
                    Next::End { .. } => break count,
                }
            }
        };
        *count_at = count;
        all += count;
    }
    Ok(counts)
}

/// Bytes of a record batch's own rows, about: dictionaries, which it may share with others, count
/// whole.
pub fn size_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(size_of_array).sum()
}

fn size_of_array(array: &ArrayRef) -> usize {
    let of_views = |views: &[u128]| {
        views.iter().map(|view| std::mem::size_of::<u128>() + *view as u32 as usize).sum()
    };
    let of_range = |values: &ArrayRef, from: usize, to: usize| {
        size_of_array(&values.slice(from, to - from)) + array.len() * 8
    };
    match array.data_type() {
        DataType::Utf8View => of_views(array.as_string_view().views()),
        DataType::BinaryView => of_views(array.as_binary_view().views()),
        DataType::List(_) => {
            let (list, n) = (array.as_list::<i32>(), array.len());
            of_range(
                list.values(),
                list.value_offsets()[0] as usize,
                list.value_offsets()[n] as usize,
            )
        }
        DataType::LargeList(_) => {
            let (list, n) = (array.as_list::<i64>(), array.len());
            of_range(
                list.values(),
                list.value_offsets()[0] as usize,
                list.value_offsets()[n] as usize,
            )
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(size_of_array).sum(),
        _ => array
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

/// Cuts a batch by its rows' mean size: an IPC file's one batch may be all of the file.
pub(crate) fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let n = batch.num_rows();
    let rows = (PIECE_BYTES / (size_of(batch) / n.max(1)).max(1)).clamp(1, PIECE_ROWS);
    (0..n).step_by(rows).map(|from| batch.slice(from, rows.min(n - from))).collect()
}
