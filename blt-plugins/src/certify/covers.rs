//! `covers`: every byte of every held-out document is counted once, at what its prediction costs.

use super::draws::Draws;
use super::subject::{Said, Subject};
use super::verdict::Verdict;
use crate::sources::DocumentSource;
use blt_core::bytes::{EOS, OFFSET, VOCAB};
use blt_data::{Document, Portion, ReadDocuments, Request, Row};
use blt_graph::{StepCx, StepError};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;

/// Texts that are changed and batched, and the most bytes of one.
const TEXTS: usize = 16;
const TEXT_BYTES: usize = 512;

/// The held-out documents: lengths by row, and a few texts.
pub struct HeldOut {
    request: Request,
    lengths: BTreeMap<u64, usize>,
    texts: Vec<Vec<u8>>,
}

/// Calls `f` with each document that the source gives for a request.
///
/// # Errors
/// If the documents cannot be read.
pub fn each_document(
    source: &DocumentSource,
    request: &Request,
    mut f: impl FnMut(Document),
) -> Result<(), StepError> {
    let mut reader = source.handle.source.open(request)?;
    while let Some(row) = reader.next()? {
        if let Row::Document(document) = row {
            f(document);
        }
    }
    Ok(())
}

impl HeldOut {
    /// Reads the documents one by one, in another way than the batches that are measured.
    ///
    /// # Errors
    /// If they cannot be read, or hold no bytes.
    pub fn read(subject: &Subject, request: &Request, mut draws: Draws) -> Result<Self, StepError> {
        let source = subject.graph.source()?;
        let most = TEXT_BYTES.min(source.handle.span_bytes);
        let (mut lengths, mut texts, mut seen) = (BTreeMap::new(), Vec::new(), 0);
        each_document(source, request, |document| {
            lengths.insert(document.row, document.bytes.len());
            let text = || document.bytes[..document.bytes.len().min(most)].to_vec();
            // A sample of all: the n-th document takes a place with the chance of TEXTS in n.
            if document.bytes.is_empty() {
                return;
            }
            seen += 1;
            if texts.len() < TEXTS {
                texts.push(text());
            } else if let Some(place) = Some(draws.below(seen)).filter(|&place| place < TEXTS) {
                texts[place] = text();
            }
        })?;
        if texts.is_empty() {
            let what =
                format!("the {} documents hold no bytes; nothing can be claimed", request.portion);
            return Err(StepError::other(what));
        }
        Ok(HeldOut { request: request.clone(), lengths, texts })
    }

    pub fn texts(&self) -> Vec<Vec<u8>> {
        self.texts.clone()
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    pub fn n_documents(&self) -> u64 {
        self.lengths.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.lengths.values().map(|&bytes| bytes as u64).sum()
    }
}

/// What the loss says of all held-out documents.
pub struct Covered {
    pub verdict: Verdict,
    pub bits: f64,
    /// The mean probability of ids that are neither a byte nor the end; `None` without logits.
    pub outside: Option<f64>,
}

#[derive(Default)]
struct Sums {
    claimed: f64,
    predicted: f64,
    outside: f64,
    rows: u64,
    /// Bytes that count other nats than their prediction says, and the first of them.
    other: u64,
    first: Option<String>,
    /// By row: the next byte to be counted.
    next: BTreeMap<u64, usize>,
}

/// Measures the held-out documents as an evaluation does.
///
/// # Errors
/// If the documents cannot be read, or the graph does not run.
pub fn measure(
    cx: &StepCx,
    subject: &Subject,
    held_out: &HeldOut,
    batch_bytes: usize,
) -> Result<Covered, StepError> {
    let mut batches = subject.graph.batches(held_out.request.clone(), batch_bytes)?;
    let mut sums = Sums::default();
    let mut wrong = None;
    while let Some(batch) = batches.next()? {
        if cx.interrupted() {
            return Err(StepError::Interrupted);
        }
        let said = subject.of_batch(&batch)?;
        for (s, (span, said)) in batch.spans.iter().zip(&said).enumerate() {
            let counted = sums.next.entry(span.row).or_default();
            let from = span.range.start + span.context;
            if from != *counted {
                wrong.get_or_insert_with(|| {
                    format!("row {}: bytes {from}.. are counted after byte {counted}", span.row)
                });
            }
            *counted = span.range.end;
            sums.add(span.row, span.range.start, &batch.bytes(s), said);
        }
    }
    let uncounted = held_out.lengths.iter().find_map(|(row, &bytes)| {
        let counted = sums.next.get(row).copied().unwrap_or_default();
        (counted != bytes).then(|| format!("row {row}: {counted} of {bytes} bytes are counted"))
    });
    let foreign = sums.next.keys().find(|row| !held_out.lengths.contains_key(row));
    let wrong = wrong
        .or(uncounted)
        .or_else(|| foreign.map(|row| format!("row {row} is counted, and not held out")))
        .or_else(|| sums.not_as_predicted());
    let file = whole_file(subject, held_out)?;
    let wrong = wrong.or_else(|| {
        let (all, parts) = file?;
        (all != parts).then(|| {
            format!("training and held-out documents have {parts} bytes, and the file {all}")
        })
    });
    let tried =
        format!("{} bytes in {} documents, one by one", held_out.bytes(), held_out.n_documents());
    let mut found = format!("each byte counts once: {:.1} bits", sums.claimed / LN_2);
    if sums.rows > 0 {
        found += &format!("; predictions say {:.1}", sums.predicted / LN_2);
    }
    if let Some((all, _)) = file {
        found += &format!("; with training documents these are the file's {all} bytes");
    }
    Ok(Covered {
        verdict: Verdict::of("covers", tried, wrong, found),
        bits: sums.claimed / LN_2,
        outside: (sums.rows > 0).then(|| sums.outside / sums.rows as f64),
    })
}

impl Sums {
    fn add(&mut self, row: u64, start: usize, bytes: &[u8], said: &Said) {
        for (place, (&byte, &nats)) in bytes.iter().zip(&said.nats).enumerate() {
            self.claimed += f64::from(nats);
            let Some(logits) = said.row(place) else { continue };
            let predicted = Prediction::of(logits);
            let own = predicted.nats(usize::from(u16::from(byte) + OFFSET));
            self.predicted += own;
            self.outside += predicted.outside();
            self.rows += 1;
            // Rounding of f32, in the logits and in the sum over them.
            let as_predicted = (own - f64::from(nats)).abs() <= 1e-3 * (1.0 + own.abs());
            if !as_predicted {
                self.other += 1;
                self.first.get_or_insert_with(|| {
                    format!("byte {} of row {row} counts {nats} nats, not {own:.4}", start + place)
                });
            }
        }
    }

    fn not_as_predicted(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!("{} bytes do not count what their prediction says: {first}", self.other))
    }
}

/// Bytes of the whole file, and of its training and held-out documents together; `None` where the
/// held-out documents are not one portion of it.
fn whole_file(subject: &Subject, held_out: &HeldOut) -> Result<Option<(u64, u64)>, StepError> {
    if held_out.request.portion != Portion::Valid || held_out.request.limit.is_some() {
        return Ok(None);
    }
    let source = subject.graph.source()?;
    let bytes = |portion| -> Result<u64, StepError> {
        let mut bytes = 0;
        each_document(source, &Request::portion(portion), |d| bytes += d.bytes.len() as u64)?;
        Ok(bytes)
    };
    Ok(Some((bytes(Portion::All)?, bytes(Portion::Train)? + held_out.bytes())))
}

/// A row of logits as probabilities, in f64.
pub struct Prediction<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> Prediction<'a> {
    pub fn of(logits: &'a [f32]) -> Self {
        let most = logits.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(f64::from(x)));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
        Prediction { logits, log_sum: most + sum.ln() }
    }

    pub fn nats(&self, id: usize) -> f64 {
        self.log_sum - f64::from(self.logits[id])
    }

    /// The probability of ids that are no byte.
    pub fn not_bytes(&self) -> f64 {
        (0..usize::from(OFFSET)).map(|id| (-self.nats(id)).exp()).sum()
    }

    /// The probability of ids that are neither a byte nor the end.
    pub fn outside(&self) -> f64 {
        debug_assert_eq!(self.logits.len(), VOCAB);
        self.not_bytes() - (-self.nats(usize::from(EOS))).exp()
    }
}
