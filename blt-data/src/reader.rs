//! The stream of documents: units in order, the shuffle buffer, epochs, and the cursor that resumes
//! them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::columns::{Chunk, Origin, Wanted};
use crate::corpus::Index;
use crate::error::DataError;
use crate::formats::{Batches, Format, UnitReader, reader};
use crate::order::{Order, Rng, unit_order};
use crate::{Document, DocumentReader, Request, Row};

/// The shuffle buffer counts as full at this many bytes of text, whatever its number of documents.
const BUFFER_BYTES: usize = 256 << 20;

/// What a reader has given.
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

/// Where a [`DocumentReader`] stands. It holds row numbers and no text: some bytes for each
/// buffered document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Digest of the corpus's division into units, the column, the split and the request: what the
    /// rest means.
    pub layout: String,
    pub epoch: u64,
    /// How many units of the epoch's order are done.
    pub unit: usize,
    /// Rows read of the unit after them.
    pub rows: u64,
    /// The rows in the shuffle buffer, in its order.
    pub buffered: Vec<u64>,
    /// State of the generator that draws from the buffer.
    pub rng: u64,
    /// The last epoch is done.
    pub finished: bool,
    /// Given so far, over all epochs.
    pub counts: Counts,
    /// Given so far in this epoch.
    pub epoch_counts: Counts,
}

/// A checked request on an indexed corpus.
pub(crate) struct Plan {
    pub format: Arc<dyn Format>,
    pub index: Arc<Index>,
    pub wanted: Wanted,
    pub request: Request,
    /// The paths, for messages.
    pub corpus: String,
    pub layout: String,
}

/// The rows of some ranges of a unit.
struct UnitRows {
    unit: usize,
    /// The rows still to come, in the unit.
    rows: std::iter::Flatten<std::vec::IntoIter<Range<u64>>>,
    batches: Batches,
    chunk: Option<(Chunk, usize)>,
}

impl UnitRows {
    fn open(
        plan: &Plan,
        reader: &mut dyn UnitReader,
        unit: usize,
        ranges: Vec<Range<u64>>,
    ) -> Result<Self, DataError> {
        let at = &plan.index.units[unit];
        let batches = match ranges.iter().all(Range::is_empty) {
            true => Box::new(std::iter::empty()),
            false => reader.open(&plan.index.files[at.file], at.unit, &ranges)?,
        };
        Ok(UnitRows { unit, rows: ranges.into_iter().flatten(), batches, chunk: None })
    }

    /// The next row: its number in the unit and, if it is in the part, its content.
    fn next(&mut self, plan: &Plan) -> Result<Option<(u64, Option<Row>)>, DataError> {
        let at = &plan.index.units[self.unit];
        let path = &plan.index.files[at.file].found.path;
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
pub(crate) fn fetch(plan: &Plan, rows: &[u64]) -> Result<Vec<Row>, DataError> {
    let mut by_unit: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for &row in rows {
        if row >= plan.index.rows {
            return Err(DataError::NoSuchRow { row, rows: plan.index.rows });
        }
        // The last unit that begins at or before the row; empty units begin where the next does.
        let unit = plan.index.units.partition_point(|u| u.first_row <= row) - 1;
        by_unit.entry(unit).or_default().push(row - plan.index.units[unit].first_row);
    }
    let mut reader = reader(&*plan.format, &plan.wanted.columns);
    let mut found = BTreeMap::new();
    for (unit, mut rows) in by_unit {
        rows.sort();
        rows.dedup();
        let mut rows =
            UnitRows::open(plan, &mut *reader, unit, rows.into_iter().map(|r| r..r + 1).collect())?;
        while let Some((row, content)) = rows.next(plan)? {
            let row = plan.index.units[unit].first_row + row;
            let what = || format!("row {row} is not in the {} part", plan.request.part);
            found.insert(row, content.ok_or_else(|| DataError::Cursor { what: what() })?);
        }
    }
    Ok(rows.iter().map(|row| found[row].clone()).collect())
}

pub(crate) struct Reader {
    plan: Plan,
    units: Box<dyn UnitReader>,
    order: Vec<u32>,
    open: Option<UnitRows>,
    buffer: Vec<Document>,
    buffer_bytes: usize,
    rng: Rng,
    epoch: u64,
    /// How many of `order` are done.
    unit: usize,
    /// Rows read of the unit after them.
    rows: u64,
    finished: bool,
    counts: Counts,
    epoch_counts: Counts,
    failed: Option<DataError>,
}

impl Reader {
    pub(crate) fn new(plan: Plan) -> Self {
        let units = reader(&*plan.format, &plan.wanted.columns);
        let mut reader = Reader {
            units,
            plan,
            order: Vec::new(),
            open: None,
            buffer: Vec::new(),
            buffer_bytes: 0,
            rng: Rng(0),
            epoch: 0,
            unit: 0,
            rows: 0,
            finished: false,
            counts: Counts::default(),
            epoch_counts: Counts::default(),
            failed: None,
        };
        reader.begin_epoch(0);
        reader
    }

    pub(crate) fn resume(plan: Plan, cursor: &Cursor) -> Result<Self, DataError> {
        let wrong = |what: String| DataError::Cursor { what };
        if cursor.layout != plan.layout {
            return Err(wrong("files, rows, column, split or request are others".into()));
        }
        let mut reader = Reader::new(plan);
        if cursor.epoch > 0 {
            reader.begin_epoch(cursor.epoch);
        }
        let rows_there =
            reader.order.get(cursor.unit).map_or(0, |&u| reader.plan.index.units[u as usize].rows);
        if cursor.unit > reader.order.len() || cursor.rows > rows_there {
            return Err(wrong(format!(
                "unit {}, row {} is past the end",
                cursor.unit, cursor.rows
            )));
        }
        for row in fetch(&reader.plan, &cursor.buffered)? {
            let Row::Document(document) = row else {
                return Err(wrong("a buffered row is null".into()));
            };
            reader.buffer_bytes += document.bytes.len();
            reader.buffer.push(document);
        }
        reader.rng = Rng(cursor.rng);
        (reader.unit, reader.rows, reader.finished) = (cursor.unit, cursor.rows, cursor.finished);
        (reader.counts, reader.epoch_counts) = (cursor.counts, cursor.epoch_counts);
        Ok(reader)
    }

    fn begin_epoch(&mut self, epoch: u64) {
        let order = &self.plan.request.order;
        self.order = unit_order(order, epoch, self.plan.index.units.len());
        if let Order::Shuffled { seed, .. } = *order {
            self.rng = Rng::new(seed, epoch, "buffer");
        }
        (self.epoch, self.unit, self.rows, self.open) = (epoch, 0, 0, None);
        self.epoch_counts = Counts::default();
    }

    /// The next row of the epoch that is in the part, unshuffled within its unit.
    fn read(&mut self) -> Result<Option<Row>, DataError> {
        while let Some(&unit) = self.order.get(self.unit) {
            if self.open.is_none() {
                let rows = self.rows..self.plan.index.units[unit as usize].rows;
                self.open =
                    Some(UnitRows::open(&self.plan, &mut *self.units, unit as usize, vec![rows])?);
            }
            let open = self.open.as_mut().expect("opened above");
            match open.next(&self.plan)? {
                Some((row, content)) => {
                    self.rows = row + 1;
                    if content.is_some() {
                        return Ok(content);
                    }
                }
                None => (self.unit, self.rows, self.open) = (self.unit + 1, 0, None),
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
            let (corpus, part) = (self.plan.corpus.clone(), self.plan.request.part);
            let Counts { documents, bytes, nulls, .. } = self.epoch_counts;
            if documents == 0 {
                return Err(DataError::Empty { corpus, part, rows: self.plan.index.rows, nulls });
            }
            match self.plan.request.epochs {
                // Endless reading for its bytes would never return.
                None if bytes == 0 => return Err(DataError::NoBytes { corpus, part, documents }),
                Some(epochs) if self.epoch + 1 >= epochs => self.finished = true,
                _ => self.begin_epoch(self.epoch + 1),
            }
        }
        Ok(None)
    }
}

impl DocumentReader for Reader {
    fn next(&mut self) -> Result<Option<Row>, DataError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.plan.request.limit.is_some_and(|limit| self.counts.documents >= limit) {
            return Ok(None);
        }
        self.advance().inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            layout: self.plan.layout.clone(),
            epoch: self.epoch,
            unit: self.unit,
            rows: self.rows,
            buffered: self.buffer.iter().map(|d| d.row).collect(),
            rng: self.rng.0,
            finished: self.finished,
            counts: self.counts,
            epoch_counts: self.epoch_counts,
        }
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}
