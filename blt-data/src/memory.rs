//! Rows that are in memory already: record batches, each a span.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use crate::columns::{Chunk, Origin, Wanted};
use crate::error::DataError;
use crate::pieces::pieces;
use crate::portion::Portion;
use crate::raw::{RawRow, ReadRows, RowReader, content};
use crate::request::{ListColumn, Request};
use crate::rows::OnError;
use crate::split::Filter;
use crate::storage::Location;
use crate::stream::Stream;

/// How errors name what is read.
pub fn in_memory() -> Location {
    Location::Local("the record batch".into())
}

/// A [`RowReader`] of record batches of one schema: the rows of each come under its number as the
/// span, all of them in order.
pub struct MemoryRows {
    wanted: Wanted,
    on_error: OnError,
    batches: VecDeque<RecordBatch>,
    /// The number of the batch that is read now or next.
    span: usize,
    /// Pieces that are left of it; None before the first.
    pieces: Option<VecDeque<RecordBatch>>,
    /// In the batch.
    span_row: u64,
    row: u64,
}

impl MemoryRows {
    /// `column`: the one of text or binary that holds the documents. `lists`: columns of lists that
    /// the model reads.
    ///
    /// # Errors
    /// If a column is missing, or its type does not serve.
    pub fn new(
        schema: &Schema,
        batches: Vec<RecordBatch>,
        column: &str,
        lists: &[ListColumn],
        on_error: OnError,
    ) -> Result<Self, DataError> {
        let request = Request { lists: lists.to_vec(), ..Request::all() };
        let filter = Filter::new(None, Portion::All, false)?;
        let wanted = Wanted::resolve(schema, &in_memory(), column, None, filter, &request)?;
        Ok(MemoryRows {
            wanted,
            on_error,
            batches: batches.into(),
            span: 0,
            pieces: None,
            span_row: 0,
            row: 0,
        })
    }
}

impl RowReader for MemoryRows {
    fn next(&mut self) -> Result<Option<Stream<ReadRows>>, DataError> {
        let Some(pieces_left) = &mut self.pieces else {
            let Some(batch) = self.batches.pop_front() else { return Ok(None) };
            (self.pieces, self.span_row) = (Some(pieces(&batch).into()), 0);
            return self.next();
        };
        let span = self.span;
        let Some(columns) = pieces_left.pop_front() else {
            (self.pieces, self.span) = (None, span + 1);
            return Ok(Some(Stream::End { span, groups_skipped: 0 }));
        };
        let path = &in_memory();
        let chunk = Chunk::new(&columns, &self.wanted).ok_or_else(|| DataError::Config {
            what: "record batches of one stream have different columns".into(),
        })?;
        let row = |i: usize| {
            let origin =
                Origin { path, row: self.row + i as u64, file_row: self.span_row + i as u64 };
            content(&chunk, i, &self.wanted, &origin, self.on_error)
        };
        let documents = (0..columns.num_rows()).map(row).collect::<Result<Vec<RawRow>, _>>()?;
        self.row += documents.len() as u64;
        self.span_row += documents.len() as u64;
        Ok(Some(Stream::Rows { span, rows: ReadRows { columns, documents } }))
    }
}
