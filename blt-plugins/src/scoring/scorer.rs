//! Scores documents with the model, and writes them into parts.
//!
//! Reading, computing and writing overlap: some threads read and pack ahead, this thread computes,
//! and one thread writes. Documents of many rows, and of neighbouring units, share a batch. The
//! scores of a document do not depend on the other documents of its batch.

use super::columns::{Columns, RowScores, Scores};
use super::job::Job;
use super::outputs::Outputs;
use super::part::PartWriter;
use super::summary::Summary;
use super::units::{Unit, Units};
use super::writing::Writer;
use crate::ports::{Entropies, Loss, LossValue, Patches};
use crate::profile::NodeProfile;
use crate::trained_graph::TrainedGraph;
use arrow::array::RecordBatch;
use blt_core::bytes::{Batch, Span};
use blt_core::patch::PatchError;
use blt_data::{
    ListColumn, OnError, Packed, PackedRows, Packer, RowBatches, RowError, RowReader, RowState,
    Stream, open_rows,
};
use blt_graph::{RunFailed, StepError};
use std::collections::VecDeque;
use std::f64::consts::LN_2;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};

/// Most batches and pieces of rows that wait to be computed.
const EVENTS_AHEAD: usize = 8;
/// Most pieces of scored rows that wait to be written.
const PIECES_BEHIND: usize = 3;

/// The wires that give scores; `None` if the sub-graph has no such wire.
#[derive(Clone, Debug)]
pub struct Wires {
    /// Gives `nats` and `log_probs`.
    pub loss: Option<String>,
    /// Gives `n_patches` and `patch_lengths`.
    pub patches: Option<String>,
    /// Gives `entropies`.
    pub entropies: Option<String>,
}

/// Progress of scoring.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Rows scored.
    pub rows: u64,
    /// Bytes of their documents.
    pub bytes: u64,
    /// Nats of these bytes.
    pub nats: f64,
}

impl Seen {
    /// Bits per byte so far; `None` if there are no bytes.
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / LN_2 / self.bytes as f64)
    }
}

/// A model that scores documents.
pub struct Scorer {
    graph: TrainedGraph,
    wires: Wires,
    /// Goes on from documents, in place of scoring them.
    writer: Option<Writer>,
}

impl Scorer {
    /// A scorer with the model `graph`, which must have been built for `wires`.
    pub fn new(graph: TrainedGraph, wires: Wires) -> Self {
        Scorer { graph, wires, writer: None }
    }

    /// Documents are gone on from, in place of scored.
    pub(crate) fn writing(self, writer: Writer) -> Self {
        Scorer { writer: Some(writer), ..self }
    }

    /// The model.
    pub fn graph(&self) -> &TrainedGraph {
        &self.graph
    }

    /// Starts measuring the time and FLOPs of each node.
    pub(crate) fn profile(&self) -> Rc<NodeProfile> {
        self.graph.profile()
    }

    fn compute(
        &self,
        events: RowBatches,
        columns: Columns,
        on_error: OnError,
        give: impl FnMut(Stream<ScoredRows>) -> Result<(), StepError>,
        watch: &mut dyn FnMut(&Seen) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let (waiting, seen) = (VecDeque::new(), Seen::default());
        Computing { scorer: self, columns, on_error, waiting, seen, give }.run(events, watch)
    }

    /// Scores rows in memory. Returns the scores of each row, by batch.
    ///
    /// # Errors
    /// If a row cannot be read or scored, unless `on_error` is `null`.
    pub(crate) fn score_rows(
        &self,
        reader: Box<dyn RowReader>,
        columns: Columns,
        packer: Packer,
        lists: Vec<ListColumn>,
        on_error: OnError,
    ) -> Result<Vec<Vec<RowScores>>, StepError> {
        let events = RowBatches::start(reader, packer, lists, EVENTS_AHEAD)?;
        let mut spans: Vec<Vec<RowScores>> = Vec::new();
        let give = |next: Stream<ScoredRows>| {
            let span = next.span();
            spans.resize_with(spans.len().max(span + 1), Vec::new);
            // Batches in memory have no row groups that cannot be read.
            if let Stream::Rows { rows, .. } = next {
                spans[span].extend(rows.scores);
            }
            Ok(())
        };
        self.compute(events, columns, on_error, give, &mut |_| Ok(()))?;
        Ok(spans)
    }

    /// Scores the units `which` and writes their parts. Existing parts are replaced. Calls `watch`
    /// with the progress; an error of `watch` stops scoring. Returns the summary of each unit, in
    /// their order.
    ///
    /// # Errors
    /// Errors of `watch`; if a row cannot be read or scored, unless the job allows it; if a part
    /// cannot be written. Finished parts stay.
    pub fn score(
        &self,
        job: &Job,
        units: &Units,
        which: &[usize],
        outputs: &Outputs,
        watch: &mut dyn FnMut(&Seen) -> Result<(), StepError>,
    ) -> Result<Vec<Summary>, StepError> {
        let spans = which.iter().map(|&i| units.units[i].span.clone()).collect();
        let reader = open_rows(job.config.source.clone(), job.request(spans))
            .map_err(|e| self.graph.data_error(e))?;
        let lists = job.config.lists.clone();
        let events = RowBatches::start(reader, job.config.packer.clone(), lists, EVENTS_AHEAD)?;
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PIECES_BEHIND);
            let of_span: Vec<&Unit> = which.iter().map(|&i| &units.units[i]).collect();
            let writing =
                scope.spawn(move || write(job, &units.model, &of_span, outputs, &receiver));
            // If the writing thread fails, its error is reported in place of this one.
            let give =
                |next| sender.send(next).map_err(|_| StepError::other("writing ended early"));
            let computed = self.compute(events, job.columns, job.config.on_error, give, watch);
            drop(sender);
            match (computed, writing.join()) {
                (_, Err(panic)) => std::panic::resume_unwind(panic),
                // This error is why sending failed, if it did.
                (_, Ok(Err(error))) => Err(error),
                (Err(error), Ok(Ok(_))) => Err(error),
                (Ok(()), Ok(Ok(summaries))) => Ok(summaries),
            }
        })
    }
}

/// Rows with their scores, to be written.
struct ScoredRows {
    columns: RecordBatch,
    scores: Vec<RowScores>,
}

fn write(
    job: &Job,
    model: &str,
    units: &[&Unit],
    outputs: &Outputs,
    receiver: &Receiver<Stream<ScoredRows>>,
) -> Result<Vec<Summary>, StepError> {
    let mut part: Option<PartWriter> = None;
    let mut summaries = Vec::new();
    for next in receiver {
        let writer = match &mut part {
            Some(writer) => writer,
            None => part.insert(PartWriter::create(job, model, units[next.span()], outputs)?),
        };
        match next {
            Stream::Rows { rows, .. } => writer.write(&rows.columns, rows.scores)?,
            Stream::Unreadable { group, .. } => writer.unreadable(group),
            Stream::End { groups_skipped, .. } => {
                let done = part.take().map(|part| part.finish(groups_skipped));
                summaries.extend(done.transpose()?);
            }
        }
    }
    Ok(summaries)
}

/// Rows with documents that have not been scored yet.
struct OpenRows {
    rows: PackedRows,
    scores: Vec<RowScores>,
    /// Documents whose last span has not been scored yet.
    open: usize,
}

impl OpenRows {
    fn new(rows: PackedRows) -> Self {
        let new = |(_, state): &(u64, RowState)| match *state {
            RowState::Document(n) => {
                RowScores::Document(Scores { n_bytes: n as u64, ..Scores::default() })
            }
            RowState::Null => RowScores::Null,
            RowState::Failed(error) => RowScores::Failed(error),
        };
        let scores: Vec<RowScores> = rows.documents.iter().map(new).collect();
        OpenRows { open: scores.iter().filter_map(RowScores::scores).count(), rows, scores }
    }
}

struct Computing<'a, G> {
    scorer: &'a Scorer,
    columns: Columns,
    on_error: OnError,
    /// Pieces to be written, in order.
    waiting: VecDeque<Stream<OpenRows>>,
    seen: Seen,
    give: G,
}

/// The outputs of the graph for a batch.
struct Values {
    loss: Option<LossValue>,
    patches: Option<Rc<blt_core::patch::Patches>>,
    entropies: Option<Rc<Vec<f32>>>,
}

impl Values {
    /// Adds the outputs of a span to the scores of its document, without the bytes that the span
    /// before it had too.
    fn add(&self, batch: &Batch, s: usize, columns: &Columns, scores: &mut Scores) {
        let span = &batch.spans[s];
        let (start, end) = (batch.offsets[s], batch.offsets[s + 1]);
        let is_first = span.range.start + span.context == 0;
        if is_first {
            // Reserved at once, because a list that grows is copied.
            scores.log_probs.reserve_exact(if columns.log_probs {
                scores.n_bytes as usize
            } else {
                0
            });
            scores.entropies.reserve_exact(if columns.entropies {
                scores.n_bytes as usize + 1
            } else {
                0
            });
        }
        if let Some(loss) = &self.loss {
            // The nats at an id belong to the byte after it.
            let nats = &loss.nats[start + span.context..end - 1];
            scores.nats += nats.iter().map(|&x| x as f64).sum::<f64>();
            if columns.log_probs {
                scores.log_probs.extend(nats.iter().map(|x| 0.0 - x));
            }
        }
        // The first id that counts: BOS of the document, or the first byte that no earlier span
        // had.
        let first = if is_first { start } else { start + 1 + span.context };
        if let Some(entropies) = self.entropies.as_ref().filter(|_| columns.entropies) {
            scores.entropies.extend_from_slice(&entropies[first..end]);
        }
        if let Some(patches) = &self.patches {
            scores.n_patches += patches.n_counted(batch, s) as u64;
            if columns.patch_lengths {
                let starts = &patches.starts[patches.span_offsets[s]..patches.span_offsets[s + 1]];
                let counted = starts[starts.partition_point(|&i| i < first)..].iter();
                scores.starts.extend(counted.map(|i| (span.range.start + i - start) as u64));
            }
        }
    }
}

/// The row of a span. The search starts at `at`, which is moved to the row.
fn row_of<'a>(
    waiting: &'a mut VecDeque<Stream<OpenRows>>,
    at: &mut usize,
    span: &Span,
) -> Result<(&'a mut OpenRows, usize), StepError> {
    let found = waiting.iter().enumerate().skip(*at).find_map(|(place, waiting)| match waiting {
        Stream::Rows { rows: open, .. } => {
            let row = open.rows.documents.binary_search_by_key(&span.row, |(row, _)| *row).ok()?;
            Some((place, row))
        }
        Stream::Unreadable { .. } | Stream::End { .. } => None,
    });
    match found.map(|(place, row)| (place, row, waiting.get_mut(place))) {
        Some((place, row, Some(Stream::Rows { rows: open, .. }))) => {
            *at = place;
            Ok((open, row))
        }
        _ => Err(StepError::other(format!("row {} was scored and not read", span.row))),
    }
}

impl<G: FnMut(Stream<ScoredRows>) -> Result<(), StepError>> Computing<'_, G> {
    fn run(
        mut self,
        mut batches: RowBatches,
        watch: &mut dyn FnMut(&Seen) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        loop {
            let next = batches.next().map_err(|e| self.scorer.graph.data_error(e))?;
            let Some(next) = next else { return Ok(()) };
            match next {
                Packed::Rows(next) => self.waiting.push_back(next.map(OpenRows::new)),
                Packed::Batch(batch) => self.score(batch)?,
            }
            self.hand_over()?;
            watch(&self.seen)?;
        }
    }

    fn score(&mut self, mut batch: Batch) -> Result<(), StepError> {
        if let Some(writer) = &self.scorer.writer {
            return self.write(writer, &batch);
        }
        while !batch.is_empty() {
            let whole = Rc::new(batch);
            match self.values(&whole) {
                Ok(values) => return self.add(&whole, &values),
                Err(failed) => match failed.cause::<PatchError>() {
                    // Only one document failed: the rest of the batch is scored without it.
                    Some(&PatchError::EntropyNotFinite { row, .. })
                        if self.on_error == OnError::Null =>
                    {
                        self.fail(&whole, row)?;
                        batch = whole.without_row(row);
                    }
                    _ => return Err(failed.into()),
                },
            }
        }
        Ok(())
    }

    /// Goes on from the documents of a batch.
    fn write(&mut self, writer: &Writer, batch: &Batch) -> Result<(), StepError> {
        let texts = writer.write(&self.scorer.graph, batch)?;
        let mut at = 0;
        for (span, text) in batch.spans.iter().zip(texts) {
            let (open, i) = row_of(&mut self.waiting, &mut at, span)?;
            open.open -= 1;
            if let RowScores::Document(scores) = &mut open.scores[i] {
                scores.n_bytes = text.bytes.len() as u64;
                scores.generated = Some(text);
            }
        }
        Ok(())
    }

    /// The outputs of the graph for a batch.
    fn values(&self, batch: &Rc<Batch>) -> Result<Values, RunFailed> {
        let Scorer { graph, wires: Wires { loss, patches, entropies }, .. } = self.scorer;
        let entropies = entropies.as_ref().filter(|_| self.columns.entropies);
        let goals: Vec<&String> = loss.iter().chain(patches).chain(entropies).collect();
        let mut found = graph.run(batch, &goals)?;
        Ok(Values {
            loss: loss.as_ref().map(|wire| found.take::<Loss>(wire)).transpose()?,
            patches: patches.as_ref().map(|wire| found.take::<Patches>(wire)).transpose()?,
            entropies: entropies.map(|wire| found.take::<Entropies>(wire)).transpose()?,
        })
    }

    /// Adds the outputs of the graph for a batch to the scores of the rows.
    fn add(&mut self, batch: &Batch, values: &Values) -> Result<(), StepError> {
        let lengths = [
            values.loss.as_ref().map(|l| l.nats.len()),
            values.entropies.as_ref().map(|e| e.len()),
        ];
        if let Some(found) = lengths.into_iter().flatten().find(|&n| n != batch.len()) {
            let msg = format!("the goal gives {found} numbers for a batch of {} ids", batch.len());
            return Err(StepError::other(msg)
                .help("a loss that scores has its nats at every id, and entropies too"));
        }
        // Spans come in the order of their rows, which wait in the same order.
        let mut at = 0;
        for (s, span) in batch.spans.iter().enumerate() {
            let (open, i) = row_of(&mut self.waiting, &mut at, span)?;
            if span.last {
                open.open -= 1;
            }
            let scores = match &mut open.scores[i] {
                RowScores::Document(scores) => scores,
                // An earlier span of the document failed.
                RowScores::Failed(_) => continue,
                RowScores::Null => {
                    return Err(StepError::other(format!(
                        "row {} has no document, and was scored",
                        span.row
                    )));
                }
            };
            values.add(batch, s, &self.columns, scores);
            if span.last && !scores.nats.is_finite() {
                if self.on_error == OnError::Fail {
                    let msg = format!("the loss of the document in row {} is not finite", span.row);
                    return Err(StepError::other(msg).help(
                        "with `on_error: null` such documents get null scores, and are counted",
                    ));
                }
                open.scores[i] = RowScores::Failed(RowError::NotFinite);
            }
        }
        Ok(())
    }

    /// Records that a document of a batch cannot be scored.
    fn fail(&mut self, batch: &Batch, row: u64) -> Result<(), StepError> {
        let mut at = 0;
        for span in batch.spans.iter().filter(|span| span.row == row) {
            let (open, i) = row_of(&mut self.waiting, &mut at, span)?;
            open.scores[i] = RowScores::Failed(RowError::NotFinite);
            open.open -= usize::from(span.last);
        }
        Ok(())
    }

    /// Hands over scored rows that no unscored rows precede.
    fn hand_over(&mut self) -> Result<(), StepError> {
        let is_scored =
            |next: &Stream<OpenRows>| !matches!(next, Stream::Rows { rows, .. } if rows.open > 0);
        while self.waiting.front().is_some_and(is_scored)
            && let Some(next) = self.waiting.pop_front()
        {
            let next = next.map(|OpenRows { rows, scores, .. }| {
                self.seen.rows += scores.len() as u64;
                for scores in scores.iter().filter_map(RowScores::scores) {
                    self.seen.bytes += scores.n_bytes;
                    self.seen.nats += scores.nats;
                }
                ScoredRows { columns: rows.columns, scores }
            });
            (self.give)(next)?;
        }
        Ok(())
    }
}
