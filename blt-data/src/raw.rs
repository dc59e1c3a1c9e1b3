//! Whole rows, slice by slice in order, for a step that writes them with columns of its own.
//!
//! A slice is some row groups of a file. Its rows are read in pieces of limited size, with all
//! columns; a condition, a share and a portion choose among them. A row group that does not decode
//! is an error, or its rows are read without their documents and with nulls in the columns that are
//! lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use crate::columns::{Chunk, Origin, SPLIT_BY, Wanted, position};
use crate::error::DataError;
use crate::formats::parquet::encrypted;
use crate::layout::Layout;
use crate::pieces::pieces;
use crate::portion::Portion;
use crate::predicate::{Predicate, PredicateError};
use crate::request::{Document, Request, Row};
use crate::rows::{OnError, RowError, RowRequest, Unreadable};
use crate::salvage::Salvage;
use crate::source::{Batches, GroupReader, RowFile, Source, check_condition};
use crate::split::{Filter, Split};
use crate::storage::Location;
use crate::stream::Stream;

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum RawRow {
    Document(Document),
    /// The number of a row whose text is null.
    Null(u64),
    Failed(u64, RowError),
}

/// Rows that were read.
#[derive(Clone, Debug)]
pub struct ReadRows {
    /// The columns of the file that were asked for.
    pub columns: RecordBatch,
    /// The document of each row of `columns`.
    pub documents: Vec<RawRow>,
}

/// A stream of whole rows.
pub trait RowReader: Send {
    /// What comes next, or None after the end of the last slice.
    #[allow(clippy::should_implement_trait)]
    fn next(&mut self) -> Result<Option<Stream<ReadRows>>, DataError>;
}

/// A request that was checked against the columns of a source.
struct RowPlan {
    source: Arc<dyn Source>,
    layout: Layout,
    request: RowRequest,
    /// For each file with slices; None if its columns do not fit, where that is no error.
    wanted: BTreeMap<usize, Option<Wanted>>,
}

impl RowPlan {
    fn new(source: Arc<dyn Source>, mut request: RowRequest) -> Result<Self, DataError> {
        let layout = Layout::new(source.files()?)?;
        let files = &layout.files;
        let filter = Filter::new(source.split(), request.portion, false)?;
        let documents =
            Request { lists: request.lists.clone(), ..Request::portion(request.portion) };
        if let Some(condition) = &request.condition {
            condition
                .check(files.iter().map(|f| f.schema.as_ref()))
                .map_err(|(at, error)| misfit(condition, &files[at].path, error))?;
        }
        check_condition(&*source)?;
        if let Some(own) = source.condition() {
            request.condition =
                Some(request.condition.map_or(own.clone(), |asked| own.and(&asked)));
        }
        let resolve = |file: &RowFile| {
            // A mistyped split column is an error whichever portion is read.
            if let Some(column) = source.split().and_then(Split::column) {
                position(&file.schema, column, SPLIT_BY, &file.path)?;
            }
            Wanted::resolve(
                &file.schema,
                &file.path,
                source.column(),
                None,
                filter.clone(),
                &documents,
            )
        };
        // The portion of a row may depend on the columns.
        let lenient = request.on_error == OnError::Null && request.portion == Portion::All;
        let mut wanted = BTreeMap::new();
        for slice in &request.slices {
            let Some(file) = files.get(slice.file).filter(|f| slice.groups.end <= f.groups.len())
            else {
                let what = format!(
                    "file {} has no row groups {:?}: the files have changed",
                    slice.file, slice.groups
                );
                return Err(DataError::Config { what });
            };
            if wanted.contains_key(&slice.file) {
                continue;
            }
            let fits = match resolve(file) {
                Ok(wanted) => Some(wanted),
                // A column that no file has is a mistake in its name.
                Err(DataError::NoSuchColumn { .. } | DataError::ColumnType { .. })
                    if lenient && files.iter().any(|f| resolve(f).is_ok()) =>
                {
                    None
                }
                Err(error) => return Err(error),
            };
            wanted.insert(slice.file, fits);
        }
        let plan = RowPlan { source, layout, request, wanted };
        for &at in plan.wanted.keys() {
            let file = &plan.layout.files[at];
            encrypted(&file.path, &file.encrypted, &plan.columns(at))?;
        }
        Ok(plan)
    }

    /// The columns of a file that are read.
    fn columns(&self, file: usize) -> Vec<String> {
        let names = self.layout.files[file].schema.fields().iter().map(|f| f.name());
        let Some(columns) = &self.request.columns else { return names.cloned().collect() };
        let mut needed = self.choosing(file);
        needed.extend(self.wanted[&file].iter().flat_map(|wanted| wanted.columns.clone()));
        names.filter(|name| columns.contains(name) || needed.contains(name)).cloned().collect()
    }

    /// The columns that decide which rows are chosen.
    fn choosing(&self, file: usize) -> Vec<String> {
        let schema = &self.layout.files[file].schema;
        let mut columns = self.request.condition.as_ref().map_or(Vec::new(), |c| c.columns(schema));
        if self.request.portion != Portion::All {
            columns.extend(self.wanted[&file].iter().flat_map(|w| w.columns.clone()));
        }
        columns.sort();
        columns.dedup();
        columns
    }

    /// Which row groups of a file may have rows that the condition is true for.
    fn may_match(&self, at: usize) -> Result<Vec<bool>, DataError> {
        let file = &self.layout.files[at];
        let n = file.groups.len();
        let Some(condition) = &self.request.condition else { return Ok(vec![true; n]) };
        let statistics = self.source.statistics(at, &condition.columns(&file.schema))?;
        // A condition may name a column twice.
        let may = condition.may_match(n, &mut |column: &str| statistics.get(column).cloned());
        may.map_err(|error| misfit(condition, &file.path, error))
    }
}

/// Rows of a row group as they are read.
enum Reading {
    Whole(Batches),
    /// After an error.
    Salvaged {
        rest: Salvage,
        from: u64,
        cause: String,
    },
}

/// A row group that is being read.
struct OpenGroup {
    /// Its place in the layout.
    group: usize,
    reading: Reading,
    pieces: std::vec::IntoIter<RecordBatch>,
    /// Rows read so far, those that are not chosen included.
    read: u64,
}

struct OpenSpan {
    span: usize,
    /// The row groups that are still to come, by their places in the layout.
    groups: VecDeque<usize>,
    columns: Vec<String>,
    reader: Box<dyn GroupReader>,
    group: Option<OpenGroup>,
    /// Rows that may still be chosen.
    left: u64,
    groups_skipped: u64,
    drawn: Option<Box<dyn Fn(u64) -> bool + Send>>,
}

/// Rows that were chosen of a piece.
struct Chosen {
    piece: RecordBatch,
    kept: Vec<u32>,
    /// The number of the piece's first row in its row group.
    first: u64,
    /// The row group's place in the layout.
    group: usize,
    salvaged: bool,
}

/// Reads rows of a source.
struct Rows {
    plan: RowPlan,
    /// The number of the slice that is opened next.
    next: usize,
    open: Option<OpenSpan>,
    /// Whether rows are only counted; only the columns that choose them are read then.
    counts: bool,
    /// The file whose statistics were read last, and which of its row groups may match.
    may_match: Option<(usize, Vec<bool>)>,
}

impl Rows {
    fn new(plan: RowPlan, counts: bool) -> Self {
        Rows { plan, next: 0, open: None, counts, may_match: None }
    }

    fn open(&mut self, at: usize) -> Result<OpenSpan, DataError> {
        let (plan, slice) = (&self.plan, &self.plan.request.slices[at]);
        let may = match &self.may_match {
            Some((file, may)) if *file == slice.file => may,
            _ => &self.may_match.insert((slice.file, plan.may_match(slice.file)?)).1,
        };
        let may = &may[slice.groups.clone()];
        let columns =
            if self.counts { plan.choosing(slice.file) } else { plan.columns(slice.file) };
        let first = plan.layout.first_group(slice.file);
        let groups = slice
            .groups
            .clone()
            .zip(may)
            .filter(|(_, may)| **may)
            .map(|(group, _)| first + group)
            .collect();
        let name = &plan.layout.files[slice.file].name;
        Ok(OpenSpan {
            span: at,
            groups,
            reader: plan.source.reader(&columns)?,
            columns,
            group: None,
            left: slice.limit.unwrap_or(u64::MAX),
            groups_skipped: may.iter().filter(|may| !**may).count() as u64,
            drawn: plan
                .request
                .row_share
                .map(|s| Box::new(s.of_file(name)) as Box<dyn Fn(u64) -> bool + Send>),
        })
    }

    /// What comes next.
    fn advance(&mut self) -> Result<Option<Stream<Chosen>>, DataError> {
        if self.open.is_none() {
            if self.next == self.plan.request.slices.len() {
                return Ok(None);
            }
            self.open = Some(self.open(self.next)?);
            self.next += 1;
        }
        let open = self.open.as_mut().expect("opened above");
        let next = open.advance(&self.plan)?;
        if matches!(next, Stream::End { .. }) {
            self.open = None;
        }
        Ok(Some(next))
    }
}

impl OpenSpan {
    fn advance(&mut self, plan: &RowPlan) -> Result<Stream<Chosen>, DataError> {
        let span = self.span;
        loop {
            if self.left == 0 {
                return Ok(Stream::End { span, groups_skipped: self.groups_skipped });
            }
            let Some(reading) = &mut self.group else {
                let Some(group) = self.groups.pop_front() else {
                    return Ok(Stream::End { span, groups_skipped: self.groups_skipped });
                };
                let at = &plan.layout.groups[group];
                if at.rows > 0 {
                    let batches =
                        self.reader.open(at.file, at.group, std::slice::from_ref(&(0..at.rows)));
                    let reading = match batches {
                        Ok(batches) => Reading::Whole(batches),
                        Err(error) => salvage(plan, &self.columns, group, 0, error)?,
                    };
                    if let Some(next) = self.groups.front().map(|&group| &plan.layout.groups[group])
                    {
                        self.reader.will_open(next.file, next.group);
                    }
                    self.group =
                        Some(OpenGroup { group, reading, pieces: Vec::new().into_iter(), read: 0 });
                }
                continue;
            };
            let at = &plan.layout.groups[reading.group];
            let Some(piece) = reading.pieces.next() else {
                match &mut reading.reading {
                    Reading::Whole(batches) => {
                        let error = match batches.next() {
                            Some(Ok(batch)) => {
                                reading.pieces = pieces(&batch).into_iter();
                                continue;
                            }
                            None if reading.read == at.rows => {
                                self.group = None;
                                continue;
                            }
                            // A damaged page can lose rows without any error of the decoder.
                            None => DataError::Corrupt {
                                path: plan.layout.path(at).clone(),
                                place: format!("rows from {} on", at.first_file_row + reading.read),
                                cause: "fewer rows than announced".into(),
                            },
                            Some(Err(error)) => error,
                        };
                        reading.reading =
                            salvage(plan, &self.columns, reading.group, reading.read, error)?;
                    }
                    Reading::Salvaged { rest, from, cause } => match rest.next()? {
                        Some(batch) => reading.pieces = pieces(&batch).into_iter(),
                        None => {
                            let rows = at.first_file_row + *from..at.first_file_row + at.rows;
                            let (columns, cause) = (rest.lost(), std::mem::take(cause));
                            let unreadable = Unreadable { group: at.group, rows, columns, cause };
                            self.group = None;
                            return Ok(Stream::Unreadable { span, group: unreadable });
                        }
                    },
                }
                continue;
            };
            let (group, first) = (reading.group, reading.read);
            let salvaged = matches!(reading.reading, Reading::Salvaged { .. });
            reading.read += piece.num_rows() as u64;
            let kept = self.choose(plan, &piece, group, first)?;
            if !kept.is_empty() {
                return Ok(Stream::Rows {
                    span,
                    rows: Chosen { piece, kept, first, group, salvaged },
                });
            }
        }
    }

    /// The chosen rows of a piece: those that the condition is true for, of them those of the
    /// portion, of them the drawn ones, of them the first ones up to the limit.
    fn choose(
        &mut self,
        plan: &RowPlan,
        piece: &RecordBatch,
        group: usize,
        first: u64,
    ) -> Result<Vec<u32>, DataError> {
        let at = &plan.layout.groups[group];
        let path = plan.layout.path(at);
        let taken = match &plan.request.condition {
            Some(condition) => {
                let taken = condition.evaluate(piece);
                Some(taken.map_err(|error| misfit(condition, path, error))?)
            }
            None => None,
        };
        let wanted =
            plan.wanted[&at.file].as_ref().filter(|_| plan.request.portion != Portion::All);
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
                && self.drawn.as_ref().is_none_or(|s| s(at.first_file_row + first + i as u64));
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

/// Reads what is left of a row group that does not decode from a row on, unless that is an error.
fn salvage(
    plan: &RowPlan,
    columns: &[String],
    group: usize,
    from: u64,
    error: DataError,
) -> Result<Reading, DataError> {
    match error {
        DataError::Corrupt { cause, .. } if plan.request.on_error == OnError::Null => {
            let at = &plan.layout.groups[group];
            let file = &plan.layout.files[at.file];
            let rest = Salvage::new(&*plan.source, file, (at.file, at.group), columns, from)?;
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
    fn read(self, plan: &RowPlan) -> Result<ReadRows, DataError> {
        let at = &plan.layout.groups[self.group];
        let path = plan.layout.path(at);
        let (wanted, mut chunk) = (plan.wanted[&at.file].as_ref(), None);
        if let Some(wanted) = wanted.filter(|_| !self.salvaged) {
            let of_piece = Chunk::new(&self.piece, wanted)
                .ok_or_else(|| DataError::Changed { path: path.clone() })?;
            chunk = Some((of_piece, wanted));
        }
        let row = |&i: &u32| {
            let in_group = self.first + u64::from(i);
            let origin = Origin {
                path,
                row: at.first_row + in_group,
                file_row: at.first_file_row + in_group,
            };
            let Some((chunk, wanted)) = &chunk else {
                let error = if self.salvaged { RowError::Unreadable } else { RowError::NoColumn };
                return Ok(RawRow::Failed(origin.row, error));
            };
            content(chunk, i as usize, wanted, &origin, plan.request.on_error)
        };
        let documents = self.kept.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let columns = match documents.len() == self.piece.num_rows() {
            true => self.piece,
            false => take_record_batch(&self.piece, &UInt32Array::from(self.kept))
                .map_err(|e| DataError::read(path, e))?,
        };
        Ok(ReadRows { columns, documents })
    }
}

impl RowReader for Rows {
    fn next(&mut self) -> Result<Option<Stream<ReadRows>>, DataError> {
        let Some(next) = self.advance()? else { return Ok(None) };
        next.try_map(|chosen| chosen.read(&self.plan)).map(Some)
    }
}

/// Starts reading whole rows, with all columns, of slices of the source's files.
///
/// # Errors
/// If the request does not fit the files' columns. Reads no rows.
pub fn open_rows(
    source: Arc<dyn Source>,
    request: RowRequest,
) -> Result<Box<dyn RowReader>, DataError> {
    Ok(Box::new(Rows::new(RowPlan::new(source, request)?, false)))
}

/// How many rows [`open_rows`] reads of each slice. Stops once `at_most` rows were counted; the
/// slices after that are counted as 0. Only the columns that choose rows are read.
///
/// # Errors
/// As [`open_rows`], or if a row cannot be read.
pub fn count_rows(
    source: Arc<dyn Source>,
    request: RowRequest,
    at_most: u64,
) -> Result<Vec<u64>, DataError> {
    let (mut counts, mut all) = (vec![0; request.slices.len()], 0);
    let mut reader = Rows::new(RowPlan::new(source, request)?, true);
    for (at, count_at) in counts.iter_mut().enumerate() {
        if all >= at_most {
            break;
        }
        let (plan, slice) = (&reader.plan, &reader.plan.request.slices[at]);
        let unconditional = plan.request.condition.is_none();
        let count = if unconditional && plan.choosing(slice.file).is_empty() {
            // The rows' numbers suffice. A condition decides even where the file has none of its
            // columns, which are null there.
            let first = plan.layout.first_group(slice.file);
            let groups = &plan.layout.groups[first + slice.groups.start..first + slice.groups.end];
            let rows: u64 = groups.iter().map(|g| g.rows).sum();
            let chosen = match plan.request.row_share {
                Some(share) => {
                    let drawn = share.of_file(&plan.layout.files[slice.file].name);
                    let first = groups.first().map_or(0, |g| g.first_file_row);
                    (first..first + rows).filter(|row| drawn(*row)).count() as u64
                }
                None => rows,
            };
            chosen.min(slice.limit.unwrap_or(u64::MAX))
        } else {
            let limit = (at_most - all).min(slice.limit.unwrap_or(u64::MAX));
            let mut open = reader.open(at)?;
            open.left = limit;
            let mut count = 0;
            loop {
                match open.advance(&reader.plan)? {
                    Stream::Rows { rows: chosen, .. } => count += chosen.kept.len() as u64,
                    Stream::Unreadable { .. } => {}
                    Stream::End { .. } => break count,
                }
            }
        };
        *count_at = count;
        all += count;
    }
    Ok(counts)
}
