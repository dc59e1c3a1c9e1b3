//! Whole rows and, beside them, their documents as packed batches, in which documents of many rows
//! (and files) fill a batch together.
//!
//! One thread decodes row groups and another packs, each some pieces ahead of who computes.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use blt_core::bytes::Batch;

use crate::ahead::Ahead;
use crate::error::DataError;
use crate::pack::{Cutting, Laid, Packer, empty_batch};
use crate::raw::{RawRow, ReadRows, RowReader, size_of};
use crate::request::{Document, ListColumn};
use crate::rows::RowError;
use crate::stream::Stream;

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
pub struct PackedRows {
    /// All columns of the file.
    pub columns: RecordBatch,
    /// Of each row its number in the corpus, ascending, and what is known of its document.
    pub documents: Vec<(u64, RowState)>,
}

/// What comes next: rows, or a batch of documents of the rows that came.
#[derive(Clone, Debug)]
pub enum Packed {
    Rows(Stream<PackedRows>),
    /// Spans of documents, in the order of their rows: all spans of a document come before the
    /// first one of the next.
    Batch(Batch),
}

type Read = Result<Option<Stream<ReadRows>>, DataError>;
type Next = Result<Option<Packed>, DataError>;

struct Packing {
    rows: Ahead<Read>,
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
    fn give(&mut self) -> Packed {
        self.waiting = (0, 0);
        Packed::Batch(std::mem::replace(&mut self.batch, empty_batch(&self.lists)))
    }

    fn next(&mut self) -> Next {
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
        match self.rows.next().unwrap_or(Ok(None)) {
            Err(error) if self.batch.is_empty() => Err(error),
            Err(error) => {
                self.failed = Some(error);
                Ok(Some(self.give()))
            }
            Ok(None) if self.batch.is_empty() => Ok(None),
            Ok(None) => Ok(Some(self.give())),
            Ok(Some(next)) => Ok(Some(Packed::Rows(next.map(|rows| self.take(rows))))),
        }
    }

    /// Keeps the documents of rows for the batches that follow.
    fn take(&mut self, ReadRows { columns, documents }: ReadRows) -> PackedRows {
        self.waiting = (self.waiting.0 + documents.len(), self.waiting.1 + size_of(&columns));
        let mut state = |row| match row {
            RawRow::Null(row) => (row, RowState::Null),
            RawRow::Failed(row, error) => (row, RowState::Failed(error)),
            RawRow::Document(document) => {
                let state = (document.row, RowState::Document(document.bytes.len()));
                if !document.bytes.is_empty() || self.packer.keep_empty {
                    self.documents.push_back(document);
                }
                state
            }
        };
        let documents = documents.into_iter().map(&mut state).collect();
        PackedRows { columns, documents }
    }
}

/// Rows and the packed batches of their documents, read on threads of their own.
pub struct RowBatches(Ahead<Next>);

impl RowBatches {
    /// Reads up to `ahead` of what comes next (1 or more) in advance. `lists`: those that the reader was opened
    /// with.
    pub fn start(
        mut reader: Box<dyn RowReader>,
        packer: Packer,
        lists: Vec<ListColumn>,
        ahead: usize,
    ) -> Result<Self, DataError> {
        packer.check()?;
        let batch = empty_batch(&lists);
        let is_last = |next: &Read| !matches!(next, Ok(Some(_)));
        let rows = Ahead::start(PIECES_AHEAD, is_last, move || reader.next());
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
        let is_last = |next: &Next| !matches!(next, Ok(Some(_)));
        Ok(RowBatches(Ahead::start(ahead, is_last, move || packing.next())))
    }

    /// What comes next, or None at the end (and after an error).
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Next {
        self.0.next().unwrap_or(Ok(None))
    }
}
