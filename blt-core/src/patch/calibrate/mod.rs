//! Finding the threshold that gives a wanted mean patch size.
//!
//! The mean counts bytes per patch, after the limits on lengths, BOS's own patches left out. It
//! grows with the threshold in steps, one for each value that the rule's statistic takes (an entropy, or
//! the difference of two neighbours). The search goes over those values, so it is exact and
//! deterministic, and the threshold lies midway between the two values it separates: as far as can
//! be from a start that rounding could move.

#[cfg(test)]
mod tests;

use super::limits::{LimitStream, Limits};
use super::patches::PatchError;
use super::rules::{EntropyRule, check_entropies, rises};
use super::stream::{EntropyStream, PatchStream};
use crate::bytes::{Batch, OFFSET};
use serde::{Deserialize, Serialize};

/// How far the reached mean may lie from the wanted one, relative to it.
pub const TOLERANCE: f64 = 0.02;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    #[error("bytes_per_patch is {0}; expected a finite number, at least 1")]
    Wanted(f64),
    #[error("there are no bytes to calibrate on ({documents} documents, all empty)")]
    NoBytes { documents: u64 },
    #[error("no threshold gives {wanted} bytes per patch within {tolerance} %: the nearest that can be reached {nearest} ({limits})",
        tolerance = 100.0 * .tolerance, nearest = nearest(.below, .above), limits = among(*.limits, *.documents, *.bytes))]
    Unreachable {
        wanted: f64,
        /// The nearest mean below the wanted one, and its threshold.
        below: Option<Reach>,
        /// The nearest mean above the wanted one, and its threshold.
        above: Option<Reach>,
        tolerance: f64,
        limits: Limits,
        documents: u64,
        bytes: u64,
    },
    #[error(transparent)]
    Patch(#[from] PatchError),
}

fn nearest(below: &Option<Reach>, above: &Option<Reach>) -> String {
    let one = |r: &Reach| format!("{:.4} (threshold {})", r.bytes_per_patch, r.threshold);
    match (below, above) {
        (Some(below), Some(above)) => format!("are {} and {}", one(below), one(above)),
        (Some(below), None) => format!("is the largest, {}", one(below)),
        (None, Some(above)) => format!("is the smallest, {}", one(above)),
        (None, None) => "is none".into(),
    }
}

fn among(limits: Limits, documents: u64, bytes: u64) -> String {
    format!(
        "{limits}, {documents} documents of {:.1} bytes in the mean",
        bytes as f64 / documents.max(1) as f64
    )
}

/// A threshold and the mean patch size it gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    pub threshold: f64,
    pub bytes_per_patch: f64,
}

/// Which threshold is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// Of [`EntropyRule::Global`].
    Global,
    /// Of [`EntropyRule::Relative`].
    Relative,
    /// The global one of [`EntropyRule::Both`], the relative one being given.
    GlobalOfBoth { relative: f64 },
    /// The relative one of [`EntropyRule::Both`], the global one being given.
    RelativeOfBoth { global: f64 },
    /// Of [`EntropyRule::Jump`].
    Jump { mean_bytes: usize },
}

impl Unknown {
    /// What to change of a rule whose thresholds are known: of both, the global one.
    pub fn of(rule: EntropyRule) -> Self {
        match rule {
            EntropyRule::Global { .. } => Unknown::Global,
            EntropyRule::Relative { .. } => Unknown::Relative,
            EntropyRule::Both { relative, .. } => Unknown::GlobalOfBoth { relative },
            EntropyRule::Jump { mean_bytes, .. } => Unknown::Jump { mean_bytes },
        }
    }

    /// The rule with `threshold` in the unknown's place.
    pub fn rule(self, threshold: f64) -> EntropyRule {
        match self {
            Unknown::Global => EntropyRule::Global { threshold },
            Unknown::Relative => EntropyRule::Relative { threshold },
            Unknown::GlobalOfBoth { relative } => EntropyRule::Both { global: threshold, relative },
            Unknown::RelativeOfBoth { global } => EntropyRule::Both { global, relative: threshold },
            Unknown::Jump { mean_bytes } => EntropyRule::Jump { threshold, mean_bytes },
        }
    }

    /// What is compared with the unknown threshold at a position whose id before has entropy
    /// `last`, and the id before that `before`; None where the given threshold alone forbids a
    /// start.
    fn statistic(self, before: f32, last: f32) -> Option<f32> {
        match self {
            // Of a jump's rises, which `find` puts in the entropies' place.
            Unknown::Global | Unknown::Jump { .. } => Some(last),
            Unknown::Relative => Some(last - before),
            Unknown::GlobalOfBoth { relative } => (last - before > relative as f32).then_some(last),
            Unknown::RelativeOfBoth { global } => (last > global as f32).then_some(last - before),
        }
    }
}

/// A threshold that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// The rule with the threshold in it.
    pub rule: EntropyRule,
    /// The threshold that was found: the shortest decimal of the f32 that is compared, so it comes
    /// through text unchanged.
    pub threshold: f64,
    pub wanted_bytes_per_patch: f64,
    /// The mean that it gives on the documents used.
    pub bytes_per_patch: f64,
    #[serde(flatten)]
    pub limits: Limits,
    /// Documents used (begun, where the cap cut one off).
    pub documents: u64,
    /// Bytes used; BOS and context left out.
    pub bytes: u64,
    /// Patches that these bytes make; BOS's own left out.
    pub patches: u64,
    /// Standard error of `bytes_per_patch` over documents: how far the mean of as many other
    /// documents of this kind may lie from it. None for a single document, which tells nothing
    /// of others.
    #[serde(default)]
    pub standard_error: Option<f64>,
}

/// The entropies to calibrate on: those of documents that the entropy model did not train on.
#[derive(Clone, Debug)]
pub struct Calibration {
    entropies: Vec<f32>,
    /// The byte of each id, 0 for BOS.
    text: Vec<u8>,
    /// `[spans + 1]`
    offsets: Vec<usize>,
    /// `[spans]`
    contexts: Vec<usize>,
    /// `[spans]`: which document a span is of. Long documents' spans lie side by side, so a change
    /// of it is a document's end.
    document: Vec<u64>,
    documents: u64,
    bytes: u64,
    cap_bytes: Option<u64>,
}

impl Default for Calibration {
    fn default() -> Self {
        Self::new()
    }
}

impl Calibration {
    /// Takes everything it is given: five bytes of memory for each id.
    pub fn new() -> Self {
        Calibration {
            entropies: Vec::new(),
            text: Vec::new(),
            offsets: vec![0],
            contexts: Vec::new(),
            document: Vec::new(),
            documents: 0,
            bytes: 0,
            cap_bytes: None,
        }
    }

    /// Takes whole spans until `cap_bytes` bytes are reached, and ignores what comes after.
    pub fn with_cap(cap_bytes: u64) -> Self {
        Calibration { cap_bytes: Some(cap_bytes), ..Self::new() }
    }

    /// No more is taken.
    pub fn is_full(&self) -> bool {
        self.cap_bytes.is_some_and(|cap| self.bytes >= cap)
    }

    /// Adds a batch's entropies, `[n]`. Errors as [`crate::patch::entropy_patches`].
    pub fn push(&mut self, batch: &Batch, entropies: &[f32]) -> Result<(), PatchError> {
        check_entropies(batch, entropies)?;
        for (s, span) in batch.spans.iter().enumerate() {
            if self.is_full() {
                break;
            }
            self.entropies.extend_from_slice(&entropies[batch.offsets[s]..batch.offsets[s + 1]]);
            self.text.extend(batch.span_ids(s).iter().map(|id| id.saturating_sub(OFFSET) as u8));
            self.offsets.push(self.entropies.len());
            self.contexts.push(span.context);
            self.bytes += (span.range.len() - span.context) as u64;
            self.documents += (span.range.start == 0) as u64;
            self.document.push(span.row);
        }
        Ok(())
    }

    /// Those of the documents whose rows are `chosen`.
    pub fn of_rows(&self, chosen: impl Fn(u64) -> bool) -> Self {
        let mut some = Self::new();
        let (mut last, ends) = (None, self.offsets.windows(2));
        for ((o, &context), &row) in ends.zip(&self.contexts).zip(&self.document) {
            if !chosen(row) {
                continue;
            }
            some.entropies.extend_from_slice(&self.entropies[o[0]..o[1]]);
            some.text.extend_from_slice(&self.text[o[0]..o[1]]);
            some.offsets.push(some.entropies.len());
            some.contexts.push(context);
            some.bytes += (o[1] - o[0] - 1 - context) as u64;
            some.documents += (last.replace(row) != Some(row)) as u64;
            some.document.push(row);
        }
        some
    }

    /// The mean patch size that `rule` gives; None without a patch.
    pub fn mean(&self, rule: EntropyRule, limits: Limits) -> Option<f64> {
        let patches: u64 = self.spans().map(|span| streamed(span, rule, limits)).sum();
        (patches > 0).then(|| self.bytes as f64 / patches as f64)
    }

    /// Finds the threshold whose mean patch size is nearest to `bytes_per_patch`; an error if it is
    /// not within [`TOLERANCE`].
    pub fn find(
        &self,
        unknown: Unknown,
        bytes_per_patch: f64,
        limits: impl Into<Limits>,
    ) -> Result<Calibrated, CalibrationError> {
        self.find_within(TOLERANCE, unknown, bytes_per_patch, limits.into())
    }

    /// As [`find`](Calibration::find), with another tolerance, relative to `bytes_per_patch`.
    pub fn find_within(
        &self,
        tolerance: f64,
        unknown: Unknown,
        bytes_per_patch: f64,
        limits: Limits,
    ) -> Result<Calibrated, CalibrationError> {
        if !(bytes_per_patch >= 1.0 && bytes_per_patch.is_finite()) {
            return Err(CalibrationError::Wanted(bytes_per_patch));
        }
        limits.check()?;
        unknown.rule(0.0).check()?;
        if self.bytes == 0 {
            return Err(CalibrationError::NoBytes { documents: self.documents });
        }
        if let Unknown::Jump { .. } = unknown {
            // The global rule, of rises above the running mean.
            let rises = self.spans().flat_map(|(e, ..)| rises(unknown.rule(0.0), e)).collect();
            let rises = Calibration { entropies: rises, ..self.clone() };
            let found = rises.find_within(tolerance, Unknown::Global, bytes_per_patch, limits)?;
            return Ok(Calibrated { rule: unknown.rule(found.threshold), ..found });
        }
        let values = self.distinct_statistics(unknown);
        // Class c starts a patch at the values from `values[c]` up: from class 0 (all of them) to
        // `values.len()` (none).
        let count = |c: usize| self.count(unknown, threshold(&values, c), limits);
        let mean = |patches: u64| self.bytes as f64 / patches as f64;

        // The mean does not fall from class to class (with a shortest length beside a longest one,
        // hardly ever); find the first that reaches the wanted one.
        let (mut low, mut high) = (0, values.len() + 1);
        while low < high {
            let middle = (low + high) / 2;
            match mean(count(middle)) >= bytes_per_patch {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let at = |c: usize| {
            let patches = count(c);
            (
                Reach {
                    threshold: shortest_decimal(threshold(&values, c)),
                    bytes_per_patch: mean(patches),
                },
                patches,
            )
        };
        let below = low.checked_sub(1).map(at);
        let above = (low <= values.len()).then(|| at(low));

        let error =
            |(reach, _): &(Reach, u64)| (reach.bytes_per_patch / bytes_per_patch - 1.0).abs();
        // min_by keeps the first of equals, the smaller patches.
        let nearest =
            [below, above].into_iter().flatten().min_by(|a, b| error(a).total_cmp(&error(b)));
        match nearest {
            Some(found) if error(&found) <= tolerance => Ok(Calibrated {
                rule: unknown.rule(found.0.threshold),
                threshold: found.0.threshold,
                wanted_bytes_per_patch: bytes_per_patch,
                bytes_per_patch: found.0.bytes_per_patch,
                limits,
                documents: self.documents,
                bytes: self.bytes,
                patches: found.1,
                standard_error: self.standard_error(unknown, found.0.threshold as f32, limits),
            }),
            _ => Err(CalibrationError::Unreachable {
                wanted: bytes_per_patch,
                below: below.map(|(reach, _)| reach),
                above: above.map(|(reach, _)| reach),
                tolerance,
                limits,
                documents: self.documents,
                bytes: self.bytes,
            }),
        }
    }

    /// The entropies and bytes of each span, BOS first, with its context.
    fn spans(&self) -> impl Iterator<Item = (&[f32], &[u8], usize)> {
        let spans = self.offsets.windows(2).zip(&self.contexts);
        spans.map(|(o, &c)| (&self.entropies[o[0]..o[1]], &self.text[o[0]..o[1]], c))
    }

    /// The values, ascending, that the unknown threshold may separate.
    fn distinct_statistics(&self, unknown: Unknown) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.entropies.len());
        for (e, ..) in self.spans() {
            // Position p, from 2 to the last, is decided by entropies p - 1 and p - 2; the last
            // entropy decides no position.
            values
                .extend(e[..e.len() - 1].windows(2).filter_map(|w| unknown.statistic(w[0], w[1])));
        }
        values.sort_unstable_by(f32::total_cmp);
        values.dedup();
        values
    }

    /// How many patches count under `threshold`: [`crate::patch::Patches::n_counted`] without
    /// building them.
    fn count(&self, unknown: Unknown, threshold: f32, limits: Limits) -> u64 {
        self.counts(unknown, threshold, limits).sum()
    }

    /// The standard error of bytes per patch over documents, as that of a ratio's estimate.
    fn standard_error(&self, unknown: Unknown, threshold: f32, limits: Limits) -> Option<f64> {
        // (bytes, patches) of each document.
        let mut documents: Vec<(f64, f64)> = Vec::new();
        let mut last = None;
        let spans = self.spans().zip(&self.document).zip(self.counts(unknown, threshold, limits));
        for (((e, _, context), document), patches) in spans {
            if last.replace(document) != Some(document) {
                documents.push((0.0, 0.0));
            }
            if let Some((bytes, n)) = documents.last_mut() {
                *bytes += (e.len() - 1 - context) as f64;
                *n += patches as f64;
            }
        }
        let n = documents.len() as f64;
        let (bytes, patches) =
            documents.iter().fold((0.0, 0.0), |sum, d| (sum.0 + d.0, sum.1 + d.1));
        let squares: f64 = documents.iter().map(|d| (d.0 - bytes / patches * d.1).powi(2)).sum();
        (documents.len() > 1).then(|| (n / (n - 1.0) * squares).sqrt() / patches)
    }

    /// [`Self::count`] of each span.
    fn counts(
        &self,
        unknown: Unknown,
        threshold: f32,
        limits: Limits,
    ) -> impl Iterator<Item = u64> + '_ {
        let max = limits.max_patch_length.unwrap_or(usize::MAX);
        let rule = unknown.rule(threshold as f64);
        self.spans().map(move |(e, text, context)| {
            let mut total = 0;
            if e.len() == 1 {
                return 0;
            }
            if !limits.only_split() {
                return streamed((e, text, context), rule, limits);
            }
            let first_counted = 1 + context;
            // Pieces of a patch `start..end` that start at `first_counted` or later.
            let pieces = |start: usize, end: usize| {
                (end - start).div_ceil(max)
                    - first_counted.clamp(start, end).abs_diff(start).div_ceil(max)
            };
            let mut start = 1;
            for (i, w) in e[..e.len() - 1].windows(2).enumerate() {
                if unknown.statistic(w[0], w[1]).is_some_and(|value| value > threshold) {
                    total += pieces(start, i + 2) as u64;
                    start = i + 2;
                }
            }
            total + pieces(start, e.len()) as u64
        })
    }
}

/// How many patches count in a span of these entropies and bytes, BOS first, and this context.
fn streamed(
    (entropies, text, context): (&[f32], &[u8], usize),
    rule: EntropyRule,
    limits: Limits,
) -> u64 {
    let mut stream = LimitStream::new(EntropyStream::new(rule, entropies[0]), limits);
    let (mut count, mut starts) = (0, true);
    for i in 1..entropies.len() {
        count += (starts && i > context) as u64;
        starts = stream.push(text[i], Some(entropies[i]));
    }
    count
}

/// A threshold that `values[c..]` exceed and `values[..c]` do not: midway between neighbours, and 1
/// nat beyond the ends.
fn threshold(values: &[f32], c: usize) -> f32 {
    match (c.checked_sub(1).map(|below| values[below]), values.get(c)) {
        (Some(below), Some(&above)) => {
            // Halved before adding, so that nothing overflows. Between neighbouring floats the
            // midpoint rounds to one of them; only the lower separates.
            let middle = below / 2.0 + above / 2.0;
            if middle >= below && middle < above { middle } else { below }
        }
        (None, Some(&above)) => (above - 1.0).min(above.next_down()),
        (Some(below), None) => below + 1.0,
        (None, None) => 0.0,
    }
}

/// The f64 of the shortest decimal that names `x`: casts back to `x`, and reads and prints as those
/// few digits in any JSON or YAML library (`x as f64` has up to 17 digits, which not all of them
/// keep).
fn shortest_decimal(x: f32) -> f64 {
    x.to_string().parse().expect("a float's own digits")
}
