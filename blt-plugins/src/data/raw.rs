//! Whole rows, file by file in order: for a step that writes rows back with columns of its own.
//!
//! The rows come in pieces of limited size with all their columns, and beside them their documents as packed batches, in which
//! documents of many rows (and files) fill a batch together.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use blt_core::bytes::Batch;

use super::columns::{Chunk, ListColumn, Origin};
use super::error::DataError;
use super::format::{Batches, DataFile, UnitReader};
use super::pack::{Cutting, Laid, Packer, empty_batch};
use super::reader::Plan;
use super::{Document, Row};

/// Rows of a piece, at most.
const PIECE_ROWS: usize = 1024;
/// Bytes aimed at for a piece, by its record batch's average.
const PIECE_BYTES: usize = 4 << 20;
/// A batch is given before it is full when this many rows ...
const WAITING_ROWS: usize = 1 << 16;
/// ... or bytes of rows wait for it, so that rows without text don't pile up.
const WAITING_BYTES: usize = 64 << 20;

/// A file of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub path: PathBuf,
    /// As shown to users: relative to where the pipeline's paths start if it lies below, `/` between the parts.
    pub name: String,
    pub schema: SchemaRef,
    /// Of all parts.
    pub rows: u64,
    /// No document has more bytes than this, as far as the file tells without being read (a compressed Arrow file does not).
    pub document_bytes: u64,
}

impl Table {
    pub(super) fn of(file: &DataFile) -> Self {
        Table {
            path: file.found.path.clone(),
            name: file.found.name.clone(),
            schema: file.scan.schema.clone(),
            rows: file.scan.units.iter().map(|u| u.rows).sum(),
            document_bytes: file.scan.units.iter().map(|u| u.bytes).max().unwrap_or(0),
        }
    }
}

/// What comes next of whole rows.
#[derive(Clone, Debug)]
pub enum RawRows {
    /// Rows of a table that are in the requested part, with all columns, and each one's document: one of `rows` for each of
    /// `columns`.
    Rows { table: usize, columns: RecordBatch, rows: Vec<Row> },
    /// The table has no more rows.
    End(usize),
}

/// A stream of whole rows.
pub trait RowReader: Send {
    /// What comes next, or None after the last table's end.
    #[allow(clippy::should_implement_trait)]
    fn next(&mut self) -> Result<Option<RawRows>, DataError>;
}

/// A unit being read.
struct OpenUnit {
    /// In the index.
    unit: usize,
    batches: Batches,
    pieces: std::vec::IntoIter<RecordBatch>,
    /// Rows read so far, those of other parts included.
    read: u64,
}

struct OpenTable {
    table: usize,
    /// Units in the index that are still to come.
    units: Range<usize>,
    reader: Box<dyn UnitReader>,
    unit: Option<OpenUnit>,
}

/// A corpus's rows.
pub(super) struct Reader {
    plan: Plan,
    tables: VecDeque<usize>,
    open: Option<OpenTable>,
}

impl Reader {
    pub(super) fn new(plan: Plan, tables: &[usize]) -> Self {
        Reader { plan, tables: tables.iter().copied().collect(), open: None }
    }

    fn open(&self, table: usize) -> OpenTable {
        let index = &self.plan.index;
        let fields = index.files[table].scan.schema.fields();
        let columns: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        let first = |table: usize| index.units.partition_point(|u| u.file < table);
        let reader = self.plan.format.reader(&columns);
        OpenTable { table, units: first(table)..first(table + 1), reader, unit: None }
    }
}

impl RowReader for Reader {
    fn next(&mut self) -> Result<Option<RawRows>, DataError> {
        loop {
            if self.open.is_none() {
                let Some(table) = self.tables.pop_front() else { return Ok(None) };
                self.open = Some(self.open(table));
            }
            let open = self.open.as_mut().expect("opened above");
            let file = &self.plan.index.files[open.table];
            let Some(reading) = &mut open.unit else {
                let Some(unit) = open.units.next() else {
                    let table = open.table;
                    self.open = None;
                    return Ok(Some(RawRows::End(table)));
                };
                let at = &self.plan.index.units[unit];
                if at.rows > 0 {
                    let batches = open.reader.open(file, at.unit, std::slice::from_ref(&(0..at.rows)))?;
                    open.unit = Some(OpenUnit { unit, batches, pieces: Vec::new().into_iter(), read: 0 });
                }
                continue;
            };
            let at = &self.plan.index.units[reading.unit];
            let path = &file.found.path;
            let Some(piece) = reading.pieces.next() else {
                match reading.batches.next() {
                    Some(batch) => reading.pieces = pieces(&batch?).into_iter(),
                    None if reading.read == at.rows => open.unit = None,
                    // A damaged page can lose rows without any error of the decoder.
                    None => {
                        let place = format!("rows from {} on", at.first_file_row + reading.read);
                        let cause = "fewer rows than announced".into();
                        return Err(DataError::Corrupt { path: path.clone(), place, cause });
                    }
                }
                continue;
            };
            let wanted = &self.plan.wanted;
            let chunk = Chunk::new(&piece, wanted).ok_or_else(|| DataError::Changed { path: path.clone() })?;
            let (mut rows, mut kept) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(chunk.len()));
            for i in 0..chunk.len() {
                let of_unit = reading.read + i as u64;
                let origin = Origin { path, row: at.first_row + of_unit, file_row: at.first_file_row + of_unit };
                if let Some(row) = chunk.row(i, wanted, &origin)? {
                    rows.push(row);
                    kept.push(i as u32);
                }
            }
            reading.read += chunk.len() as u64;
            if rows.is_empty() {
                continue;
            }
            let columns = match rows.len() == piece.num_rows() {
                true => piece,
                false => take_record_batch(&piece, &UInt32Array::from(kept)).map_err(|e| DataError::read(path, e))?,
            };
            return Ok(Some(RawRows::Rows { table: open.table, columns, rows }));
        }
    }
}

/// Bytes of a record batch's own rows, about: what it shares with others (dictionaries, buffers of views) counts whole.
fn size_of(batch: &RecordBatch) -> usize {
    let column = |c: &dyn Array| c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size());
    batch.columns().iter().map(|c| column(c.as_ref())).sum()
}

/// Cuts a batch by its rows' mean size: an IPC file's one batch may be all of the file.
fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let n = batch.num_rows();
    let rows = (PIECE_BYTES / (size_of(batch) / n.max(1)).max(1)).clamp(1, PIECE_ROWS);
    (0..n).step_by(rows).map(|from| batch.slice(from, rows.min(n - from))).collect()
}

/// Rows whose documents are in later batches.
#[derive(Clone, Debug)]
pub struct Rows {
    pub table: usize,
    /// With all columns.
    pub columns: RecordBatch,
    /// For each row its number in the corpus, ascending, and the bytes of its document; None for null.
    pub documents: Vec<(u64, Option<usize>)>,
}

/// What comes next of rows and batches.
#[derive(Clone, Debug)]
pub enum RawEvent {
    Rows(Rows),
    /// Spans of the rows given so far, in their order: each document's are complete before the next one's begin.
    Batch(Batch),
    /// All rows of the table were given; batches with their documents may follow.
    End(usize),
}

struct Packing {
    reader: Box<dyn RowReader>,
    packer: Packer,
    lists: Vec<ListColumn>,
    batch: Batch,
    cutting: Option<Cutting>,
    documents: VecDeque<Document>,
    /// Rows, and their bytes, since the last batch.
    waiting: (usize, usize),
    /// Why reading ended: told after what was read before it.
    failed: Option<DataError>,
}

impl Packing {
    fn give(&mut self) -> RawEvent {
        self.waiting = (0, 0);
        RawEvent::Batch(std::mem::replace(&mut self.batch, empty_batch(&self.lists)))
    }

    fn next(&mut self) -> Result<Option<RawEvent>, DataError> {
        loop {
            if self.cutting.is_none() {
                self.cutting = self.documents.pop_front().map(|d| Cutting::new(d, &self.lists, 0));
            }
            let Some(cutting) = &mut self.cutting else { break };
            match cutting.lay(&self.packer, &self.lists, &mut self.batch) {
                Laid::More => {}
                Laid::Last => self.cutting = None,
                Laid::Full => return Ok(Some(self.give())),
            }
        }
        let (rows, bytes) = self.waiting;
        let enough = self.batch.len() >= self.packer.batch_bytes || rows >= WAITING_ROWS || bytes >= WAITING_BYTES;
        if enough && !self.batch.is_empty() {
            return Ok(Some(self.give()));
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        match self.reader.next() {
            Err(error) if self.batch.is_empty() => Err(error),
            Err(error) => {
                self.failed = Some(error);
                Ok(Some(self.give()))
            }
            Ok(None) if self.batch.is_empty() => Ok(None),
            Ok(None) => Ok(Some(self.give())),
            Ok(Some(RawRows::End(table))) => Ok(Some(RawEvent::End(table))),
            Ok(Some(RawRows::Rows { table, columns, rows })) => {
                self.waiting = (self.waiting.0 + rows.len(), self.waiting.1 + size_of(&columns));
                let mut documents = Vec::with_capacity(rows.len());
                for row in rows {
                    match row {
                        Row::Null(row) => documents.push((row, None)),
                        Row::Document(document) => {
                            documents.push((document.row, Some(document.bytes.len())));
                            if !document.bytes.is_empty() || self.packer.keep_empty {
                                self.documents.push_back(document);
                            }
                        }
                    }
                }
                Ok(Some(RawEvent::Rows(Rows { table, columns, documents })))
            }
        }
    }
}

/// Rows and the packed batches of their documents, read on a thread of its own.
pub struct RowBatches {
    events: Option<Receiver<Result<RawEvent, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl RowBatches {
    /// Reads up to `ahead` events (1 or more) ahead. `lists`: those that the reader was opened with.
    pub fn start(
        reader: Box<dyn RowReader>,
        packer: Packer,
        lists: Vec<ListColumn>,
        ahead: usize,
    ) -> Result<Self, DataError> {
        packer.check()?;
        let batch = empty_batch(&lists);
        let documents = VecDeque::new();
        let mut packing =
            Packing { reader, packer, lists, batch, cutting: None, documents, waiting: (0, 0), failed: None };
        // One more waits in the thread's hand.
        let (sender, receiver) = sync_channel(ahead.saturating_sub(1));
        let thread = std::thread::spawn(move || {
            while let Some(event) = packing.next().transpose() {
                let failed = event.is_err();
                // The receiver is gone when this was dropped.
                if sender.send(event).is_err() || failed {
                    break;
                }
            }
        });
        Ok(RowBatches { events: Some(receiver), thread: Some(thread) })
    }

    /// What comes next, or None at the end (and after an error).
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, DataError> {
        match self.events.as_ref().map(Receiver::recv) {
            Some(Ok(event)) => event.map(Some),
            // The thread ended: at the end, or by a panic, which goes on here.
            _ => match self.thread.take().map(JoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => Ok(None),
            },
        }
    }
}

impl Drop for RowBatches {
    fn drop(&mut self) {
        // Dropping the receiver first ends a thread that waits to send.
        self.events = None;
        if let Some(thread) = self.thread.take() {
            // A panic that no one waits for has nothing to tell.
            let _ = thread.join();
        }
    }
}
