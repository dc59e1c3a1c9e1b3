//! Documents in order: row groups, the shuffle buffer, epochs, and the cursor that resumes them.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::columns::{Chunk, Origin, SPLIT_BY, Wanted, position};
use crate::error::DataError;
use crate::layout::Layout;
use crate::order::{Order, Rng, group_order};
use crate::request::{Document, Request, Row};
use crate::source::{Batches, GroupReader, Source, check_condition};
use crate::split::{Filter, Split};

/// The shuffle buffer counts as full at this many bytes of text, whatever its number of documents.
const BUFFER_BYTES: usize = 256 << 20;

/// What a reader has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents, the empty ones included.
    pub documents: u64,
    pub bytes: u64,
    /// Rows whose text is null.
    pub nulls: u64,
    /// Documents of no bytes.
    pub empty: u64,
}

impl Counts {
    fn add(&mut self, row: &Row) {
        match row {
            Row::Null(_) => self.nulls += 1,
            Row::Document(document) => {
                self.documents += 1;
                self.bytes += document.bytes.len() as u64;
                self.empty += document.bytes.is_empty() as u64;
            }
        }
    }
}

/// The position of a [`Reader`]. It holds row numbers and no text: some bytes for each buffered
/// document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// A digest of the source's row groups, the column, the split and the request, which the other
    /// fields depend on.
    pub layout: String,
    pub epoch: u64,
    /// How many row groups of the epoch's order are done.
    pub unit: usize,
    /// Rows that were read of the row group after them.
    pub rows: u64,
    /// The rows in the shuffle buffer, in its order.
    pub buffered: Vec<u64>,
    /// State of the generator that draws from the buffer.
    pub rng: u64,
    /// The last epoch is done.
    pub finished: bool,
    /// What was returned so far, in all epochs.
    pub counts: Counts,
    /// What was returned so far in this epoch.
    pub epoch_counts: Counts,
}

/// A request that was checked against the columns of a source.
struct Plan {
    layout: Layout,
    wanted: Wanted,
    request: Request,
    /// The source's name, for messages.
    source: String,
    /// See [`Cursor::layout`].
    digest: String,
}

impl Plan {
    fn new<S: Source + ?Sized>(source: &S, request: &Request) -> Result<Self, DataError> {
        let wanted = wanted(source, request)?;
        let layout = Layout::new(source.files()?)?;
        let mut hasher = blake3::Hasher::new();
        let settings = serde_json::to_vec(&(source.column(), source.split(), request));
        hasher.update(&settings.map_err(|e| DataError::Config { what: e.to_string() })?);
        hasher.update(source.condition().map_or_else(String::new, |c| c.to_string()).as_bytes());
        for group in &layout.groups {
            hasher.update(&(group.file as u64).to_le_bytes()).update(&group.rows.to_le_bytes());
        }
        let (source, digest) = (source.name(), hasher.finalize().to_hex().to_string());
        Ok(Plan { layout, wanted, request: request.clone(), source, digest })
    }
}

/// The columns that a request needs.
fn wanted<S: Source + ?Sized>(source: &S, request: &Request) -> Result<Wanted, DataError> {
    let config = |what: &str| Err(DataError::Config { what: what.into() });
    if request.epochs == Some(0) {
        return config("epochs is 0; expected 1 or more, or none for ever");
    }
    if matches!(request.order, Order::Shuffled { buffer: 0, .. }) {
        return config("the shuffle buffer holds 0 documents; expected 1 or more");
    }
    let split = source.split();
    let filter = Filter::new(split, request.portion, request.exclude_calibration)?;
    let (schema, path) = source.schema()?;
    // A mistyped split column is an error whichever portion is read.
    if let Some(column) = split.and_then(Split::column) {
        position(&schema, column, SPLIT_BY, &path)?;
    }
    check_condition(source)?;
    Wanted::resolve(&schema, &path, source.column(), source.condition(), filter, request)
}

/// Reads documents of any [`Source`].
pub trait ReadDocuments: Source {
    /// Checks a request against the files and their columns. Reads no rows.
    ///
    /// # Errors
    /// If a file, a column or a portion is missing, or a column's type does not fit.
    fn check(&self, request: &Request) -> Result<(), DataError> {
        wanted(self, request).map(|_| ())
    }

    /// Starts reading.
    ///
    /// # Errors
    /// As [`check`](ReadDocuments::check).
    fn open(&self, request: &Request) -> Result<Reader, DataError> {
        Reader::new(self, Plan::new(self, request)?)
    }

    /// Continues where `cursor` was taken, with the same sequence of rows.
    ///
    /// # Errors
    /// As [`check`](ReadDocuments::check), or if the cursor is of other data or another request.
    fn resume(&self, request: &Request, cursor: &Cursor) -> Result<Reader, DataError> {
        Reader::resume(self, Plan::new(self, request)?, cursor)
    }

    /// Reads single rows by their numbers, in the order of `rows`.
    ///
    /// # Errors
    /// If a row is not in the request's portion, or cannot be read.
    fn fetch(&self, request: &Request, rows: &[u64]) -> Result<Vec<Row>, DataError> {
        fetch(self, &Plan::new(self, request)?, rows)
    }
}

impl<S: Source + ?Sized> ReadDocuments for S {}

/// The rows of some ranges of a row group.
struct GroupRows {
    /// Its place in the layout.
    group: usize,
    /// The rows that are still to come, by their numbers in the row group.
    rows: std::iter::Flatten<std::vec::IntoIter<Range<u64>>>,
    batches: Batches,
    chunk: Option<(Chunk, usize)>,
}

impl GroupRows {
    fn open(
        plan: &Plan,
        reader: &mut dyn GroupReader,
        group: usize,
        ranges: Vec<Range<u64>>,
    ) -> Result<Self, DataError> {
        let at = &plan.layout.groups[group];
        let batches = match ranges.iter().all(Range::is_empty) {
            true => Box::new(std::iter::empty()),
            false => reader.open(at.file, at.group, &ranges)?,
        };
        Ok(GroupRows { group, rows: ranges.into_iter().flatten(), batches, chunk: None })
    }

    /// The next row: its number in the row group and, if it is in the portion, its content.
    fn next(&mut self, plan: &Plan) -> Result<Option<(u64, Option<Row>)>, DataError> {
        let at = &plan.layout.groups[self.group];
        let path = plan.layout.path(at);
        let Some(row) = self.rows.next() else { return Ok(None) };
        while self.chunk.as_ref().is_none_or(|(chunk, used)| *used == chunk.len()) {
            // A damaged page can lose rows without any error of the decoder.
            let batch = self.batches.next().unwrap_or_else(|| {
                let place = format!("rows from {} on", at.first_file_row + row);
                Err(DataError::Corrupt {
                    path: path.clone(),
                    place,
                    cause: "fewer rows than announced".into(),
                })
            })?;
            let chunk = Chunk::new(&batch, &plan.wanted)
                .ok_or_else(|| DataError::Changed { path: path.clone() })?;
            self.chunk = Some((chunk, 0));
        }
        let (chunk, used) = self.chunk.as_mut().expect("filled above");
        let origin = Origin { path, row: at.first_row + row, file_row: at.first_file_row + row };
        let content = chunk.row(*used, &plan.wanted, &origin)?;
        *used += 1;
        Ok(Some((row, content)))
    }
}

/// Single rows, in the order asked for.
fn fetch<S: Source + ?Sized>(source: &S, plan: &Plan, rows: &[u64]) -> Result<Vec<Row>, DataError> {
    let groups = &plan.layout.groups;
    let mut by_group: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for &row in rows {
        if row >= plan.layout.rows {
            return Err(DataError::NoSuchRow { row, rows: plan.layout.rows });
        }
        // The last group that begins at or before the row; an empty one begins where the next does.
        let group = groups.partition_point(|g| g.first_row <= row) - 1;
        by_group.entry(group).or_default().push(row - groups[group].first_row);
    }
    let mut reader = source.reader(&plan.wanted.columns)?;
    let mut found = BTreeMap::new();
    for (group, mut rows) in by_group {
        rows.sort();
        rows.dedup();
        let mut rows = GroupRows::open(
            plan,
            &mut *reader,
            group,
            rows.into_iter().map(|r| r..r + 1).collect(),
        )?;
        while let Some((row, content)) = rows.next(plan)? {
            let row = groups[group].first_row + row;
            let what = || format!("row {row} is not in the {} part", plan.request.portion);
            found.insert(row, content.ok_or_else(|| DataError::Cursor { what: what() })?);
        }
    }
    Ok(rows.iter().map(|row| found[row].clone()).collect())
}

/// Reads the rows of a portion, in the order of its request. See [`ReadDocuments`].
pub struct Reader {
    plan: Plan,
    groups: Box<dyn GroupReader>,
    /// The epoch's row groups, by their places in the layout.
    order: Vec<u32>,
    open: Option<GroupRows>,
    buffer: Vec<Document>,
    buffer_bytes: usize,
    rng: Rng,
    epoch: u64,
    /// How many of `order` are done.
    group: usize,
    /// Rows that were read of the row group after them.
    rows: u64,
    finished: bool,
    counts: Counts,
    epoch_counts: Counts,
    failed: Option<DataError>,
}

impl Reader {
    fn new<S: Source + ?Sized>(source: &S, plan: Plan) -> Result<Self, DataError> {
        let groups = source.reader(&plan.wanted.columns)?;
        let mut reader = Reader {
            groups,
            plan,
            order: Vec::new(),
            open: None,
            buffer: Vec::new(),
            buffer_bytes: 0,
            rng: Rng(0),
            epoch: 0,
            group: 0,
            rows: 0,
            finished: false,
            counts: Counts::default(),
            epoch_counts: Counts::default(),
            failed: None,
        };
        reader.begin_epoch(0);
        Ok(reader)
    }

    fn resume<S: Source + ?Sized>(
        source: &S,
        plan: Plan,
        cursor: &Cursor,
    ) -> Result<Self, DataError> {
        let wrong = |what: String| DataError::Cursor { what };
        if cursor.layout != plan.digest {
            return Err(wrong("files, rows, column, split or request are others".into()));
        }
        let mut reader = Reader::new(source, plan)?;
        if cursor.epoch > 0 {
            reader.begin_epoch(cursor.epoch);
        }
        let rows_there = reader
            .order
            .get(cursor.unit)
            .map_or(0, |&g| reader.plan.layout.groups[g as usize].rows);
        if cursor.unit > reader.order.len() || cursor.rows > rows_there {
            return Err(wrong(format!(
                "unit {}, row {} is past the end",
                cursor.unit, cursor.rows
            )));
        }
        for row in fetch(source, &reader.plan, &cursor.buffered)? {
            let Row::Document(document) = row else {
                return Err(wrong("a buffered row is null".into()));
            };
            reader.buffer_bytes += document.bytes.len();
            reader.buffer.push(document);
        }
        reader.rng = Rng(cursor.rng);
        (reader.group, reader.rows, reader.finished) = (cursor.unit, cursor.rows, cursor.finished);
        (reader.counts, reader.epoch_counts) = (cursor.counts, cursor.epoch_counts);
        Ok(reader)
    }

    fn begin_epoch(&mut self, epoch: u64) {
        let order = &self.plan.request.order;
        self.order = group_order(order, epoch, self.plan.layout.groups.len());
        if let Order::Shuffled { seed, .. } = *order {
            self.rng = Rng::new(seed, epoch, "buffer");
        }
        (self.epoch, self.group, self.rows, self.open) = (epoch, 0, 0, None);
        self.epoch_counts = Counts::default();
    }

    /// The next row of the epoch that is in the portion, not shuffled within its row group.
    fn read(&mut self) -> Result<Option<Row>, DataError> {
        while let Some(&group) = self.order.get(self.group) {
            let group = group as usize;
            if self.open.is_none() {
                let rows = self.rows..self.plan.layout.groups[group].rows;
                self.open =
                    Some(GroupRows::open(&self.plan, &mut *self.groups, group, vec![rows])?);
            }
            let open = self.open.as_mut().expect("opened above");
            match open.next(&self.plan)? {
                Some((row, content)) => {
                    self.rows = row + 1;
                    if content.is_some() {
                        return Ok(content);
                    }
                }
                None => (self.group, self.rows, self.open) = (self.group + 1, 0, None),
            }
        }
        Ok(None)
    }

    /// The next row of the epoch, shuffled.
    fn draw(&mut self) -> Result<Option<Row>, DataError> {
        let capacity = match self.plan.request.order {
            Order::Sequential => return self.read(),
            Order::Shuffled { buffer, .. } => buffer,
        };
        while self.buffer.len() < capacity
            && (self.buffer.is_empty() || self.buffer_bytes < BUFFER_BYTES)
        {
            match self.read()? {
                Some(Row::Document(document)) => {
                    self.buffer_bytes += document.bytes.len();
                    self.buffer.push(document);
                }
                // A null has nothing to shuffle.
                Some(null) => return Ok(Some(null)),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let drawn = self.rng.below(self.buffer.len());
        let document = self.buffer.swap_remove(drawn);
        self.buffer_bytes -= document.bytes.len();
        Ok(Some(Row::Document(document)))
    }

    fn advance(&mut self) -> Result<Option<Row>, DataError> {
        while !self.finished {
            if let Some(row) = self.draw()? {
                self.counts.add(&row);
                self.epoch_counts.add(&row);
                return Ok(Some(row));
            }
            let (corpus, portion) = (self.plan.source.clone(), self.plan.request.portion);
            let Counts { documents, bytes, nulls, .. } = self.epoch_counts;
            if documents == 0 {
                return Err(DataError::Empty {
                    corpus,
                    portion,
                    rows: self.plan.layout.rows,
                    nulls,
                });
            }
            match self.plan.request.epochs {
                // Endless reading for its bytes would never return.
                None if bytes == 0 => {
                    return Err(DataError::NoBytes { corpus, portion, documents });
                }
                Some(epochs) if self.epoch + 1 >= epochs => self.finished = true,
                _ => self.begin_epoch(self.epoch + 1),
            }
        }
        Ok(None)
    }

    /// The next row of the portion, or None at the end of the last epoch. After an error, the same
    /// error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Row>, DataError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.plan.request.limit.is_some_and(|limit| self.counts.documents >= limit) {
            return Ok(None);
        }
        self.advance().inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// The position after the row last returned.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            layout: self.plan.digest.clone(),
            epoch: self.epoch,
            unit: self.group,
            rows: self.rows,
            buffered: self.buffer.iter().map(|d| d.row).collect(),
            rng: self.rng.0,
            finished: self.finished,
            counts: self.counts,
            epoch_counts: self.epoch_counts,
        }
    }

    /// What was returned so far, in all epochs.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
