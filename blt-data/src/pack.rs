//! Packing: documents cut into spans, spans laid end to end in batches.

use std::cmp::Reverse;
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

/// Which spans a batch takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Spans in the order in which they are read. The first that does not fit begins the next
    /// batch.
    #[default]
    NextFit,
    /// The next span of the oldest of 64 pending documents, and then, as long as one fits, the
    /// longest span that does. A document's last span may come before its others.
    BestFit,
}

impl Packing {
    /// Pending documents that a batch takes spans from, at most.
    fn window(self) -> usize {
        match self {
            Packing::NextFit => 1,
            Packing::BestFit => 64,
        }
    }

    fn is_next_fit(&self) -> bool {
        *self == Packing::NextFit
    }
}

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
    /// Which spans a batch takes. [`RowBatches`](crate::RowBatches) packs in order whatever it is.
    #[serde(default, skip_serializing_if = "Packing::is_next_fit")]
    pub packing: Packing,
}

impl Packer {
    /// No context, empty documents left out, packed in order.
    pub fn new(span_bytes: usize, batch_bytes: usize) -> Result<Self, DataError> {
        let packing = Packing::default();
        let packer =
            Packer { span_bytes, batch_bytes, context_bytes: 0, keep_empty: false, packing };
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

    /// The span that ends a document.
    fn last_span(&self, row: u64, n_bytes: usize) -> Span {
        let from = n_bytes.checked_sub(self.span_bytes + 1).map_or(0, |over| {
            let counted = self.span_bytes - self.context_bytes;
            self.span_bytes + over / counted * counted
        });
        self.span(row, n_bytes, from)
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
    /// Where the bytes end that no batch has counted, if the last span came before its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<usize>,
}

/// The position of a [`BatchReader`], enough to continue with the same batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchState {
    pub cursor: Cursor,
    /// The oldest document of which spans are still to come.
    pub pending: Option<Pending>,
    /// The other documents of which spans are still to come, in the order of reading.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Pending>,
    /// Batches returned so far.
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
            // The element before the first byte's is read as BOS's.
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
    /// The first byte of which the span is still to come, and where such bytes end.
    from: usize,
    end: usize,
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
        let (lists, end) = (lists.iter().map(take).collect(), document.bytes.len());
        Cutting { lists, document, from, end }
    }

    fn next_span(&self, packer: &Packer) -> Span {
        packer.span(self.document.row, self.document.bytes.len(), self.from)
    }

    /// The span that ends the document; None if it was laid before its turn.
    fn last_span(&self, packer: &Packer) -> Option<Span> {
        let n_bytes = self.document.bytes.len();
        (self.end == n_bytes).then(|| packer.last_span(self.document.row, n_bytes))
    }

    fn pending(&self) -> Pending {
        let end = (self.end != self.document.bytes.len()).then_some(self.end);
        Pending { row: self.document.row, from: self.from, end }
    }

    /// Lays the next span into the batch, if there is room.
    pub(crate) fn lay(&mut self, packer: &Packer, lists: &[ListColumn], batch: &mut Batch) -> Laid {
        let span = self.next_span(packer);
        if !batch.is_empty() && batch.len() + 1 + span.range.len() > packer.batch_bytes {
            return Laid::Full;
        }
        self.from = span.range.end;
        self.push(span, lists, batch);
        if self.from == self.end { Laid::Last } else { Laid::More }
    }

    /// Lays `span`, the one that ends the document, before its turn.
    fn lay_last(&mut self, span: Span, lists: &[ListColumn], batch: &mut Batch) -> Laid {
        self.end = span.range.start + span.context;
        self.push(span, lists, batch);
        if self.from == self.end { Laid::Last } else { Laid::More }
    }

    fn push(&self, span: Span, lists: &[ListColumn], batch: &mut Batch) {
        for (list, values) in lists.iter().zip(&self.lists) {
            batch.lists.entry(list.column.clone()).or_default().push(values.cut(&span.range));
        }
        let range = span.range.clone();
        batch.push(span, &self.document.bytes[range]);
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
    /// Documents of which spans are still to come, in the order of reading.
    pending: Vec<Cutting>,
    batches: u64,
}

impl Producer {
    fn state(&self) -> BatchState {
        let mut pending = self.pending.iter().map(Cutting::pending);
        let (cursor, oldest) = (self.reader.cursor(), pending.next());
        BatchState { cursor, pending: oldest, others: pending.collect(), batches: self.batches }
    }

    /// Reads until as many documents are pending as a batch may take spans from.
    fn read(&mut self) -> Result<(), DataError> {
        while self.pending.len() < self.packer.packing.window() {
            match self.reader.next()? {
                None => break,
                Some(Row::Null(_)) => {}
                Some(Row::Document(d)) if d.bytes.is_empty() && !self.packer.keep_empty => {}
                Some(Row::Document(d)) => self.pending.push(Cutting::new(d, &self.lists, 0)),
            }
        }
        Ok(())
    }

    /// The place of the document that gives the next span to a batch of `filled` ids, and that span
    /// if it comes before its turn. None if no document is pending, or no span fits.
    fn choose(&self, filled: usize) -> Option<(usize, Option<Span>)> {
        if filled == 0 || self.packer.packing == Packing::NextFit {
            return (!self.pending.is_empty()).then_some((0, None));
        }
        let spans = self.pending.iter().enumerate().flat_map(|(at, cutting)| {
            let next = (at, None, cutting.next_span(&self.packer).range.len());
            let last = cutting.last_span(&self.packer);
            let last = last.map(|span| (at, Some(span.clone()), span.range.len()));
            [Some(next), last].into_iter().flatten()
        });
        let fitting = spans.filter(|(.., bytes)| filled + 1 + bytes <= self.packer.batch_bytes);
        // Of spans of one length the oldest document's.
        fitting.min_by_key(|(.., bytes)| Reverse(*bytes)).map(|(at, span, _)| (at, span))
    }

    fn next(&mut self) -> Next {
        let (mut batch, mut scalars) = (empty_batch(&self.lists), Vec::new());
        while batch.len() < self.packer.batch_bytes {
            self.read()?;
            let Some((at, before_turn)) = self.choose(batch.len()) else { break };
            let cutting = &mut self.pending[at];
            let laid = match before_turn {
                None => cutting.lay(&self.packer, &self.lists, &mut batch),
                Some(span) => cutting.lay_last(span, &self.lists, &mut batch),
            };
            if laid == Laid::Full {
                break;
            }
            scalars.push(cutting.document.scalars.clone());
            if laid == Laid::Last {
                self.pending.remove(at);
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
        let (lists, pending) = (request.lists, Vec::new());
        Ok(Self::from(Producer { reader, packer, lists, pending, batches: 0 }))
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
        let pending: Vec<Pending> = state.pending.iter().chain(&state.others).copied().collect();
        let rows: Vec<u64> = pending.iter().map(|pending| pending.row).collect();
        let cut = |(row, Pending { row: number, from, end }): (Row, Pending)| match row {
            Row::Document(document) if from.max(end.unwrap_or(0)) <= document.bytes.len() => {
                let cutting = Cutting::new(document, &request.lists, from);
                Ok(Cutting { end: end.unwrap_or(cutting.end), ..cutting })
            }
            _ => Err(DataError::Cursor { what: format!("row {number} has no byte {from}") }),
        };
        let fetched = source.fetch(&request, &rows)?.into_iter();
        let pending = fetched.zip(pending).map(cut).collect::<Result<_, _>>()?;
        let (lists, batches) = (request.lists, state.batches);
        Ok(Self::from(Producer { reader, packer, lists, pending, batches }))
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

    /// The position after the batch last returned, or at the end after the last row. Batches that
    /// were read ahead do not count.
    pub fn state(&self) -> &BatchState {
        &self.state
    }

    /// What went into the batches given, with the rows read on the way: a document of which spans
    /// are pending is counted whole.
    pub fn counts(&self) -> Counts {
        self.state.cursor.counts
    }

    /// The requested scalar columns for each span of the batch last returned.
    pub fn scalars(&self) -> &[BTreeMap<String, Option<String>>] {
        &self.scalars
    }
}
