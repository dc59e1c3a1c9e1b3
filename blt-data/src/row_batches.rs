//! Whole rows and, beside them, their documents as packed batches, in which documents of many rows
//! (and files) fill a batch together.
//!
//! One thread decodes row groups and another packs, each some pieces ahead of who computes.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use blt_core::bytes::Batch;

use crate::Document;
use crate::columns::ListColumn;
use crate::error::DataError;
use crate::pack::{Cutting, Laid, Packer, empty_batch};
use crate::raw::{RawRow, RawRows, RowReader, size_of};
use crate::rows::{RowError, Unreadable};

/// A batch is given before it is full when this many rows ...
const WAITING_ROWS: usize = 1 << 16;
/// ... or bytes of rows wait for it, so that rows without text don't pile up.
const WAITING_BYTES: usize = 64 << 20;
/// Pieces of rows that are decoded ahead of packing.
const PIECES_AHEAD: usize = 3;

/// What is known of a row before it is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowState {
    /// A document of so many bytes, which are in batches.
    Document(usize),
    Null,
    Failed(RowError),
}

/// Rows whose documents are in later batches.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Of the request.
    pub span: usize,
    /// With all columns.
    pub columns: RecordBatch,
    /// For each row its number in the corpus, ascending, and what it holds.
    pub documents: Vec<(u64, RowState)>,
}

/// What comes next of rows and batches.
#[derive(Clone, Debug)]
pub enum RawEvent {
    Rows(Rows),
    /// Spans of the rows given so far, in their order: each document's are complete before the next
    /// one's begin.
    Batch(Batch),
    /// Of the rows of this span that were given, or left out, since the last of these.
    Unreadable {
        span: usize,
        group: Unreadable,
    },
    /// All rows of the span were given; batches with their documents may follow.
    End {
        span: usize,
        groups_skipped: u64,
    },
}

/// What a thread of its own makes ahead of who takes it.
struct Ahead<T> {
    receiver: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// At most `ahead` (1 or more) wait to be taken.
    fn start(ahead: usize, mut make: impl FnMut() -> Option<T> + Send + 'static) -> Self {
        // One more waits in the thread's hand.
        let (sender, receiver) = sync_channel(ahead.saturating_sub(1));
        let thread = std::thread::spawn(move || {
            while let Some(made) = make() {
                // The receiver is gone when this was dropped.
                if sender.send(made).is_err() {
                    break;
                }
            }
        });
        Ahead { receiver: Some(receiver), thread: Some(thread) }
    }

    /// None at the end.
    fn next(&mut self) -> Option<T> {
        match self.receiver.as_ref().map(Receiver::recv) {
            Some(Ok(made)) => Some(made),
            // The thread ended: at the end, or by a panic, which goes on here.
            _ => match self.thread.take().map(JoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => None,
            },
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        // Dropping the receiver first ends a thread that waits to send.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic that no one waits for has nothing to tell.
            let _ = thread.join();
        }
    }
}

struct Packing {
    rows: Ahead<Result<RawRows, DataError>>,
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
        let enough = self.batch.len() >= self.packer.batch_bytes
            || rows >= WAITING_ROWS
            || bytes >= WAITING_BYTES;
        if enough && !self.batch.is_empty() {
            return Ok(Some(self.give()));
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        match self.rows.next().transpose() {
            Err(error) if self.batch.is_empty() => Err(error),
            Err(error) => {
                self.failed = Some(error);
                Ok(Some(self.give()))
            }
            Ok(None) if self.batch.is_empty() => Ok(None),
            Ok(None) => Ok(Some(self.give())),
            Ok(Some(RawRows::End { span, groups_skipped })) => {
                Ok(Some(RawEvent::End { span, groups_skipped }))
            }
            Ok(Some(RawRows::Unreadable { span, group })) => {
                Ok(Some(RawEvent::Unreadable { span, group }))
            }
            Ok(Some(RawRows::Rows { span, columns, rows })) => {
                self.waiting = (self.waiting.0 + rows.len(), self.waiting.1 + size_of(&columns));
                let mut documents = Vec::with_capacity(rows.len());
                for row in rows {
                    match row {
                        RawRow::Null(row) => documents.push((row, RowState::Null)),
                        RawRow::Failed(row, error) => {
                            documents.push((row, RowState::Failed(error)))
                        }
                        RawRow::Document(document) => {
                            documents
                                .push((document.row, RowState::Document(document.bytes.len())));
                            if !document.bytes.is_empty() || self.packer.keep_empty {
                                self.documents.push_back(document);
                            }
                        }
                    }
                }
                Ok(Some(RawEvent::Rows(Rows { span, columns, documents })))
            }
        }
    }
}

/// Rows and the packed batches of their documents, read on threads of their own.
pub struct RowBatches(Ahead<Result<RawEvent, DataError>>);

impl RowBatches {
    /// Reads up to `ahead` events (1 or more) ahead. `lists`: those that the reader was opened
    /// with.
    pub fn start(
        mut reader: Box<dyn RowReader>,
        packer: Packer,
        lists: Vec<ListColumn>,
        ahead: usize,
    ) -> Result<Self, DataError> {
        packer.check()?;
        let batch = empty_batch(&lists);
        let mut failed = false;
        let rows = Ahead::start(PIECES_AHEAD, move || {
            let next = if failed { None } else { reader.next().transpose() };
            failed = matches!(next, Some(Err(_)));
            next
        });
        let documents = VecDeque::new();
        let mut packing = Packing {
            rows,
            packer,
            lists,
            batch,
            cutting: None,
            documents,
            waiting: (0, 0),
            failed: None,
        };
        let mut failed = false;
        Ok(RowBatches(Ahead::start(ahead, move || {
            let next = if failed { None } else { packing.next().transpose() };
            failed = matches!(next, Some(Err(_)));
            next
        })))
    }

    /// What comes next, or None at the end (and after an error).
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, DataError> {
        self.0.next().transpose()
    }
}
