//! Packing: documents cut into spans, spans laid end to end in batches.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use blt_core::bytes::{Batch, Span};
use serde::{Deserialize, Serialize};

use crate::ahead::Ahead;
use crate::error::DataError;
use crate::reader::{Counts, Cursor, ReadDocuments, Reader};
use crate::request::{Document, ListColumn, ListKind, Request, Row};
use crate::source::Source;

/// How documents become batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packer {
    /// Bytes of a span, at most, its context included: a longer document is cut, the remainder
    /// last.
    pub span_bytes: usize,
    /// Ids of a batch (BOS of each span included), at most, unless one span alone has more.
    pub batch_bytes: usize,
    /// How many bytes before it a span after a document's first begins with, uncounted.
    pub context_bytes: usize,
    /// Empty documents become spans of BOS alone; else they are left out (the reader counts them).
    pub keep_empty: bool,
}

impl Packer {
    /// No context, empty documents left out.
    pub fn new(span_bytes: usize, batch_bytes: usize) -> Result<Self, DataError> {
        let packer = Packer { span_bytes, batch_bytes, context_bytes: 0, keep_empty: false };
        packer.check()?;
        Ok(packer)
    }

    /// Whether the numbers fit each other.
    pub fn check(&self) -> Result<(), DataError> {
        let what = if self.span_bytes == 0 {
            "span_bytes is 0; expected at least 1".to_string()
        } else if self.batch_bytes == 0 {
            "batch_bytes is 0; expected at least 1".to_string()
        } else if self.context_bytes >= self.span_bytes {
            format!(
                "context_bytes is {}; expected less than span_bytes ({})",
                self.context_bytes, self.span_bytes
            )
        } else {
            return Ok(());
        };
        Err(DataError::Config { what })
    }

    /// The span that counts a document's bytes from `from` on.
    fn span(&self, row: u64, n_bytes: usize, from: usize) -> Span {
        let context = self.context_bytes.min(from);
        let end = n_bytes.min(from - context + self.span_bytes);
        Span { row, range: from - context..end, context, last: end == n_bytes }
    }

    /// How many spans a document of `n_bytes` becomes, and how many ids in all.
    pub fn size(&self, n_bytes: usize) -> (usize, usize) {
        let (mut spans, mut ids, mut from) = (0, 0, 0);
        loop {
            let span = self.span(0, n_bytes, from);
            (spans, ids, from) = (spans + 1, ids + 1 + span.range.len(), span.range.end);
            if span.last {
                return (spans, ids);
            }
        }
    }
}

/// A document of which spans are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub row: u64,
    /// The first byte that no batch has counted.
    pub from: usize,
}

/// Where a [`BatchReader`] stands: enough to continue with the very same batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchState {
    pub cursor: Cursor,
    pub pending: Option<Pending>,
    /// Batches given so far.
    pub batches: u64,
}

/// A list column of a document, ready to be cut.
enum List {
    PerId(Vec<f32>),
    /// Ids (BOS is 0) at which patches start; with the unseen next byte, `known` ids in all.
    Starts {
        starts: Vec<usize>,
        known: usize,
    },
}

impl List {
    fn new(kind: ListKind, values: Vec<f32>) -> Self {
        match kind {
            ListKind::PerId => List::PerId(values),
            ListKind::PatchLengths => {
                let (mut starts, mut known) = (Vec::new(), 0);
                for length in values.into_iter().map(|v| v as usize).filter(|&length| length > 0) {
                    starts.push(known);
                    known += length;
                }
                List::Starts { starts, known }
            }
        }
    }

    /// The list of a span of these bytes, which reads as if the span were a document.
    fn cut(&self, range: &Range<usize>) -> Vec<f32> {
        let n_ids = range.len() + 1;
        match self {
            // The element before the first byte's stands for BOS.
            List::PerId(values) => values[range.start..range.end + 1].to_vec(),
            List::Starts { starts, known } => {
                // A document's id i is the span's id i - range.start; BOS and the first byte always
                // start a patch.
                let mut cut: Vec<usize> = vec![0, 1];
                let after = starts.partition_point(|&s| s < range.start + 2);
                cut.extend(
                    starts[after..].iter().map(|s| s - range.start).take_while(|&s| s <= n_ids),
                );
                // Is it known whether the byte after the span starts a patch?
                let end = n_ids + (*known > range.end + 1) as usize;
                cut.retain(|&s| s < end);
                cut.push(end);
                cut.windows(2).map(|w| (w[1] - w[0]) as f32).collect()
            }
        }
    }
}

/// A document being cut.
pub(crate) struct Cutting {
    document: Document,
    lists: Vec<List>,
    from: usize,
}

/// What became of a document's next span.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Laid {
    /// It is in the batch, and others follow.
    More,
    /// It is in the batch, and was the last.
    Last,
    /// It waits for the next batch.
    Full,
}

/// A batch without spans that is to have these columns of lists.
pub(crate) fn empty_batch(lists: &[ListColumn]) -> Batch {
    let lists = lists.iter().map(|list| (list.column.clone(), Vec::new())).collect();
    Batch { lists, ..Batch::new() }
}

impl Cutting {
    pub(crate) fn new(mut document: Document, lists: &[ListColumn], from: usize) -> Self {
        let take = |list: &ListColumn| {
            List::new(
                list.kind,
                document.lists.get_mut(&list.column).map(std::mem::take).unwrap_or_default(),
            )
        };
        Cutting { lists: lists.iter().map(take).collect(), document, from }
    }

    /// Lays the next span into the batch, if there is room.
    pub(crate) fn lay(&mut self, packer: &Packer, lists: &[ListColumn], batch: &mut Batch) -> Laid {
        let span = packer.span(self.document.row, self.document.bytes.len(), self.from);
        if !batch.is_empty() && batch.len() + 1 + span.range.len() > packer.batch_bytes {
            return Laid::Full;
        }
        for (list, values) in lists.iter().zip(&self.lists) {
            batch.lists.entry(list.column.clone()).or_default().push(values.cut(&span.range));
        }
        self.from = span.range.end;
        let (last, range) = (span.last, span.range.clone());
        batch.push(span, &self.document.bytes[range]);
        if last { Laid::Last } else { Laid::More }
    }
}

/// A batch with what came beside it.
struct Packed {
    batch: Batch,
    scalars: Vec<BTreeMap<String, Option<String>>>,
}

/// A batch, or None at the end, and the state after it.
type Next = Result<(Option<Packed>, BatchState), DataError>;

/// Makes batches on the thread it is called from.
struct Producer {
    reader: Reader,
    packer: Packer,
    lists: Vec<ListColumn>,
    cutting: Option<Cutting>,
    batches: u64,
}

impl Producer {
    fn state(&self) -> BatchState {
        let pending = self.cutting.as_ref().map(|c| Pending { row: c.document.row, from: c.from });
        BatchState { cursor: self.reader.cursor(), pending, batches: self.batches }
    }

    fn next(&mut self) -> Next {
        let (mut batch, mut scalars) = (empty_batch(&self.lists), Vec::new());
        while batch.len() < self.packer.batch_bytes {
            let cutting = match &mut self.cutting {
                Some(cutting) => cutting,
                None => match self.reader.next()? {
                    None => break,
                    Some(Row::Null(_)) => continue,
                    Some(Row::Document(d)) if d.bytes.is_empty() && !self.packer.keep_empty => {
                        continue;
                    }
                    Some(Row::Document(d)) => self.cutting.insert(Cutting::new(d, &self.lists, 0)),
                },
            };
            let laid = cutting.lay(&self.packer, &self.lists, &mut batch);
            if laid == Laid::Full {
                break;
            }
            scalars.push(cutting.document.scalars.clone());
            if laid == Laid::Last {
                self.cutting = None;
            }
        }
        if batch.is_empty() {
            return Ok((None, self.state()));
        }
        self.batches += 1;
        Ok((Some(Packed { batch, scalars }), self.state()))
    }
}

enum Feed {
    Here(Box<Producer>),
    Ahead(Ahead<Next>),
    /// The end, or the error that ended it.
    Over(Option<DataError>),
}

/// Packed batches of a source's documents.
pub struct BatchReader {
    feed: Feed,
    state: BatchState,
    scalars: Vec<BTreeMap<String, Option<String>>>,
}

impl BatchReader {
    /// Starts at the beginning.
    pub fn new(
        source: Arc<dyn Source>,
        request: Request,
        packer: Packer,
    ) -> Result<Self, DataError> {
        packer.check()?;
        let reader = source.open(&request)?;
        Ok(Self::from(Producer { reader, packer, lists: request.lists, cutting: None, batches: 0 }))
    }

    /// Continues after the batch that `state` was taken at.
    pub fn restore(
        source: Arc<dyn Source>,
        request: Request,
        packer: Packer,
        state: &BatchState,
    ) -> Result<Self, DataError> {
        packer.check()?;
        let reader = source.resume(&request, &state.cursor)?;
        let mut cutting = None;
        if let Some(Pending { row, from }) = state.pending {
            match source.fetch(&request, &[row])?.pop() {
                Some(Row::Document(document)) if from <= document.bytes.len() => {
                    cutting = Some(Cutting::new(document, &request.lists, from));
                }
                _ => {
                    return Err(DataError::Cursor {
                        what: format!("row {row} has no byte {from}"),
                    });
                }
            }
        }
        Ok(Self::from(Producer {
            reader,
            packer,
            lists: request.lists,
            cutting,
            batches: state.batches,
        }))
    }

    fn from(producer: Producer) -> Self {
        BatchReader {
            state: producer.state(),
            feed: Feed::Here(Box::new(producer)),
            scalars: Vec::new(),
        }
    }

    /// Reads up to `batches` batches (1 or more) ahead, on a thread of its own. The same batches
    /// and states come out.
    pub fn read_ahead(mut self, batches: usize) -> Self {
        let mut producer = match std::mem::replace(&mut self.feed, Feed::Over(None)) {
            Feed::Here(producer) => producer,
            other => {
                self.feed = other;
                return self;
            }
        };
        let is_last = |next: &Next| !matches!(next, Ok((Some(_), _)));
        self.feed = Feed::Ahead(Ahead::start(batches, is_last, move || producer.next()));
        self
    }

    /// The next batch, or None at the end of the last epoch. After an error, the same error.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        let next = match &mut self.feed {
            Feed::Here(producer) => producer.next(),
            Feed::Ahead(ahead) => ahead.next().unwrap_or_else(|| Ok((None, self.state.clone()))),
            Feed::Over(None) => Ok((None, self.state.clone())),
            Feed::Over(Some(error)) => Err(error.clone()),
        };
        let (packed, state) = next.inspect_err(|error| self.end(Some(error.clone())))?;
        self.state = state;
        match packed {
            Some(Packed { batch, scalars }) => {
                self.scalars = scalars;
                Ok(Some(batch))
            }
            None => {
                self.end(None);
                Ok(None)
            }
        }
    }

    fn end(&mut self, error: Option<DataError>) {
        self.scalars.clear();
        self.feed = Feed::Over(error);
    }

    /// Where the reader stands: after the batch last given (and at the end, after the last row),
    /// whatever was read ahead.
    pub fn state(&self) -> &BatchState {
        &self.state
    }

    /// What went into the batches given, with the rows read on the way: a document of which spans
    /// are pending is counted whole.
    pub fn counts(&self) -> Counts {
        self.state.cursor.counts
    }

    /// The requested scalar columns for each span of the batch last given.
    pub fn scalars(&self) -> &[BTreeMap<String, Option<String>>] {
        &self.scalars
    }
}
