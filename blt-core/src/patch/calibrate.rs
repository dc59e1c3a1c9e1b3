//! Finding the threshold that gives a wanted mean patch size.
//!
//! The mean counts bytes per patch, after `max_patch_length`, BOS's own patches left out. It grows
//! with the threshold in steps, one for each value that the rule's statistic takes (an entropy, or
//! the difference of two neighbours). The search goes over those values, so it is exact and
//! deterministic, and the threshold lies midway between the two values it separates: as far as can
//! be from a start that rounding could move.

use super::patches::PatchError;
use super::rules::{EntropyRule, check_entropies};
use crate::bytes::Batch;
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
        tolerance = 100.0 * TOLERANCE, nearest = nearest(.below, .above), limits = limits(*.max_patch_length, *.documents, *.bytes))]
    Unreachable {
        wanted: f64,
        /// The nearest mean below the wanted one, and its threshold.
        below: Option<Reach>,
        /// The nearest mean above the wanted one, and its threshold.
        above: Option<Reach>,
        max_patch_length: Option<usize>,
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

fn limits(max_patch_length: Option<usize>, documents: u64, bytes: u64) -> String {
    let max =
        max_patch_length.map_or("no max_patch_length".into(), |m| format!("max_patch_length {m}"));
    format!(
        "{max}, {documents} documents of {:.1} bytes in the mean",
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
}

impl Unknown {
    /// The rule with `threshold` in the unknown's place.
    pub fn rule(self, threshold: f64) -> EntropyRule {
        match self {
            Unknown::Global => EntropyRule::Global { threshold },
            Unknown::Relative => EntropyRule::Relative { threshold },
            Unknown::GlobalOfBoth { relative } => EntropyRule::Both { global: threshold, relative },
            Unknown::RelativeOfBoth { global } => EntropyRule::Both { global, relative: threshold },
        }
    }

    /// What is compared with the unknown threshold at a position whose id before has entropy
    /// `last`, and the id before that `before`; None where the given threshold alone forbids a
    /// start.
    fn statistic(self, before: f32, last: f32) -> Option<f32> {
        match self {
            Unknown::Global => Some(last),
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
    pub max_patch_length: Option<usize>,
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
    /// Takes everything it is given: four bytes of memory for each id.
    pub fn new() -> Self {
        Calibration {
            entropies: Vec::new(),
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
            self.offsets.push(self.entropies.len());
            self.contexts.push(span.context);
            self.bytes += (span.range.len() - span.context) as u64;
            self.documents += (span.range.start == 0) as u64;
            self.document.push(span.row);
        }
        Ok(())
    }

    /// Finds the threshold whose mean patch size is nearest to `bytes_per_patch`; an error if it is
    /// not within [`TOLERANCE`].
    pub fn find(
        &self,
        unknown: Unknown,
        bytes_per_patch: f64,
        max_patch_length: Option<usize>,
    ) -> Result<Calibrated, CalibrationError> {
        if !(bytes_per_patch >= 1.0 && bytes_per_patch.is_finite()) {
            return Err(CalibrationError::Wanted(bytes_per_patch));
        }
        if max_patch_length == Some(0) {
            return Err(PatchError::ZeroMaxPatchLength.into());
        }
        unknown.rule(0.0).check()?;
        if self.bytes == 0 {
            return Err(CalibrationError::NoBytes { documents: self.documents });
        }
        let values = self.distinct_statistics(unknown);
        // Class c starts a patch at the values from `values[c]` up: from class 0 (all of them) to
        // `values.len()` (none).
        let count = |c: usize| self.count(unknown, threshold(&values, c), max_patch_length);
        let mean = |patches: u64| self.bytes as f64 / patches as f64;

        // The mean does not fall from class to class; find the first that reaches the wanted one.
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
            Some(found) if error(&found) <= TOLERANCE => Ok(Calibrated {
                rule: unknown.rule(found.0.threshold),
                threshold: found.0.threshold,
                wanted_bytes_per_patch: bytes_per_patch,
                bytes_per_patch: found.0.bytes_per_patch,
                max_patch_length,
                documents: self.documents,
                bytes: self.bytes,
                patches: found.1,
                standard_error: self.standard_error(
                    unknown,
                    found.0.threshold as f32,
                    max_patch_length,
                ),
            }),
            _ => Err(CalibrationError::Unreachable {
                wanted: bytes_per_patch,
                below: below.map(|(reach, _)| reach),
                above: above.map(|(reach, _)| reach),
                max_patch_length,
                documents: self.documents,
                bytes: self.bytes,
            }),
        }
    }

    /// The entropies of each span with its context, BOS first.
    fn spans(&self) -> impl Iterator<Item = (&[f32], usize)> {
        self.offsets
            .windows(2)
            .zip(&self.contexts)
            .map(|(o, &context)| (&self.entropies[o[0]..o[1]], context))
    }

    /// The values, ascending, that the unknown threshold may separate.
    fn distinct_statistics(&self, unknown: Unknown) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.entropies.len());
        for (e, _) in self.spans() {
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
    fn count(&self, unknown: Unknown, threshold: f32, max_patch_length: Option<usize>) -> u64 {
        self.counts(unknown, threshold, max_patch_length).sum()
    }

    /// The standard error of bytes per patch over documents, as that of a ratio's estimate.
    fn standard_error(
        &self,
        unknown: Unknown,
        threshold: f32,
        max_patch_length: Option<usize>,
    ) -> Option<f64> {
        // (bytes, patches) of each document.
        let mut documents: Vec<(f64, f64)> = Vec::new();
        let mut last = None;
        let spans =
            self.spans().zip(&self.document).zip(self.counts(unknown, threshold, max_patch_length));
        for (((e, context), document), patches) in spans {
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
        max_patch_length: Option<usize>,
    ) -> impl Iterator<Item = u64> + '_ {
        let max = max_patch_length.unwrap_or(usize::MAX);
        self.spans().map(move |(e, context)| {
            let mut total = 0;
            if e.len() == 1 {
                return 0;
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
                    total += pieces(start, i + 2);
                    start = i + 2;
                }
            }
            total += pieces(start, e.len());
            total as u64
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Span;
    use crate::patch::PatchStats;
    use crate::patch::entropy_patches;
    use proptest::prelude::*;

    /// Documents of `lengths` bytes; entropies fill the batch in order.
    fn set(lengths: &[usize], entropies: &[f32]) -> (Batch, Calibration) {
        let texts: Vec<Vec<u8>> = lengths.iter().map(|&n| vec![b'x'; n]).collect();
        let batch = Batch::from_documents(texts.iter().map(|t| &t[..]));
        let mut calibration = Calibration::new();
        calibration.push(&batch, entropies).unwrap();
        (batch, calibration)
    }

    #[test]
    fn the_threshold_lies_midway() {
        //                             BOS  1    2    3    4    5    6
        let (_, c) = set(&[6], &[9.0, 1.0, 3.0, 1.0, 5.0, 2.0, 7.0]);
        // Positions 2..=6 are decided by 1, 3, 1, 5, 2; the last entropy decides nothing here.
        let found = c.find(Unknown::Global, 3.0, None).unwrap();
        assert_eq!((found.threshold, found.bytes_per_patch, found.patches), (4.0, 3.0, 2));
        assert_eq!((found.documents, found.bytes), (1, 6));
        assert_eq!(found.rule, EntropyRule::Global { threshold: 4.0 });
        assert_eq!(c.find(Unknown::Global, 2.0, None).unwrap().threshold, 2.5);
        assert_eq!(c.find(Unknown::Global, 1.5, None).unwrap().threshold, 1.5);
        // The ends: every byte a patch, and one patch.
        assert_eq!(c.find(Unknown::Global, 1.0, None).unwrap().threshold, 0.0);
        assert_eq!(c.find(Unknown::Global, 6.0, None).unwrap().threshold, 6.0);
        // Differences from position 1: -8, 2, -2, 4, -3.
        let found = c.find(Unknown::Relative, 3.0, None).unwrap();
        assert_eq!((found.threshold, found.rule), (3.0, EntropyRule::Relative { threshold: 3.0 }));
    }

    #[test]
    fn its_standard_error_is_over_documents() {
        let (_, c) =
            set(&[6, 6], &[9.0, 1.0, 1.0, 5.0, 1.0, 1.0, 9.0, 9.0, 5.0, 5.0, 5.0, 1.0, 1.0, 9.0]);
        let found = c.find(Unknown::Global, 2.0, None).unwrap();
        // 2 and 4 patches of 6 bytes each: residuals 6 - 2 * 2 and 6 - 2 * 4, so sqrt(2 / 1 * 8) /
        // 6.
        assert_eq!(
            (found.threshold, found.patches, found.standard_error),
            (3.0, 6, Some(4.0 / 6.0))
        );
        let (_, one) = set(&[6], &[9.0, 1.0, 1.0, 5.0, 1.0, 1.0, 9.0]);
        assert_eq!(one.find(Unknown::Global, 3.0, None).unwrap().standard_error, None);
    }

    #[test]
    fn with_both_rules_one_threshold_is_given() {
        let (_, c) = set(&[6], &[0.0, 1.0, 3.0, 4.0, 2.0, 5.0, 9.0]);
        // (entropy, difference) for positions 2..=6: (1,1) (3,2) (4,1) (2,-2) (5,3).
        let found = c.find(Unknown::GlobalOfBoth { relative: 1.5 }, 3.0, None).unwrap();
        assert_eq!(
            (found.threshold, found.rule),
            (4.0, EntropyRule::Both { global: 4.0, relative: 1.5 })
        );
        let found = c.find(Unknown::RelativeOfBoth { global: 2.5 }, 2.0, None).unwrap();
        assert_eq!(
            (found.threshold, found.rule),
            (1.5, EntropyRule::Both { global: 2.5, relative: 1.5 })
        );
        // The given one alone already forbids most starts: patches can't be smaller than 2.
        let error = c.find(Unknown::GlobalOfBoth { relative: 1.5 }, 1.5, None).unwrap_err();
        let CalibrationError::Unreachable { below: None, above: Some(above), .. } = error else {
            panic!("{error}")
        };
        assert_eq!(above, Reach { threshold: 2.0, bytes_per_patch: 2.0 });
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        // All entropies tie: one patch, or one a byte.
        let (_, ties) = set(&[8], &[2.0; 9]);
        let error = ties.find(Unknown::Global, 4.0, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no threshold gives 4 bytes per patch within 2 %: the nearest that can be reached are 1.0000 (threshold 1) and \
             8.0000 (threshold 3) (no max_patch_length, 1 documents of 8.0 bytes in the mean)"
        );
        // A maximum below the wanted size.
        let (_, c) = set(&[6], &[9.0, 1.0, 3.0, 1.0, 5.0, 2.0, 7.0]);
        let error = c.find(Unknown::Global, 4.0, Some(3)).unwrap_err();
        assert!(error.to_string().contains("is the largest, 3.0000"), "{error}");
        assert!(error.to_string().contains("max_patch_length 3"), "{error}");
        // Documents of one byte.
        let (_, c) = set(&[1, 1, 0], &[1.0, 2.0, 1.0, 2.0, 1.0]);
        let error = c.find(Unknown::Global, 2.0, None).unwrap_err();
        assert!(error.to_string().contains("is the largest, 1.0000"), "{error}");
        assert!(error.to_string().contains("3 documents of 0.7 bytes"), "{error}");
        let found = c.find(Unknown::Relative, 1.0, None).unwrap();
        assert_eq!((found.patches, found.bytes), (2, 2));
        // Nothing at all.
        let (_, c) = set(&[0, 0], &[1.0, 1.0]);
        assert_eq!(
            c.find(Unknown::Global, 2.0, None),
            Err(CalibrationError::NoBytes { documents: 2 })
        );
        for wanted in [0.5, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                c.find(Unknown::Global, wanted, None),
                Err(CalibrationError::Wanted(_))
            ));
        }
        let given = Unknown::GlobalOfBoth { relative: f64::NAN };
        assert!(matches!(
            ties.find(given, 2.0, None),
            Err(CalibrationError::Patch(PatchError::ThresholdNotFinite { .. }))
        ));
        assert_eq!(
            ties.find(Unknown::Global, 2.0, Some(0)),
            Err(PatchError::ZeroMaxPatchLength.into())
        );
    }

    #[test]
    fn the_maximum_counts() {
        // Without a start, 12 bytes in patches of 4 are 4 in the mean: the maximum alone reaches
        // it.
        let (_, c) = set(&[12], &[1.0; 13]);
        let found = c.find(Unknown::Global, 4.0, Some(4)).unwrap();
        assert_eq!((found.bytes_per_patch, found.patches, found.threshold), (4.0, 3, 2.0));
    }

    #[test]
    fn a_cap_takes_whole_spans_until_it_is_reached() {
        let batch = Batch::from_documents([&b"aaa"[..], b"bbb", b"ccc"]);
        let entropies: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut c = Calibration::with_cap(4);
        assert!(!c.is_full());
        c.push(&batch, &entropies).unwrap();
        assert!(c.is_full());
        c.push(&batch, &entropies).unwrap();
        assert_eq!((c.bytes, c.documents, c.entropies.len()), (6, 2, 8));
        let mut c = Calibration::new();
        let error = c.push(&batch, &[f32::NAN; 12]).unwrap_err();
        assert!(matches!(error, PatchError::EntropyNotFinite { row: 0, position: 0, .. }));
        assert!(matches!(
            c.push(&batch, &[]),
            Err(PatchError::EntropyCount { expected: 12, found: 0 })
        ));
    }

    #[test]
    fn midpoints_separate_even_neighbouring_floats() {
        let neighbours = [1.0f32, 1.0f32.next_up(), 1.0f32.next_up().next_up()];
        for c in 0..=3 {
            let t = threshold(&neighbours, c);
            assert_eq!(neighbours.iter().filter(|&&v| v > t).count(), 3 - c);
        }
        assert_eq!(threshold(&[f32::MIN, f32::MAX], 1), 0.0);
        // One less than 2^30 is 2^30 in f32.
        let large = (1u32 << 30) as f32;
        assert!(threshold(&[large], 0) < large);
    }

    #[test]
    fn thresholds_keep_their_f32_as_decimals() {
        for x in [0.1f32, 1.3354421, f32::MIN_POSITIVE, f32::MAX, -2.75, 1e-40, 16777217.0] {
            assert_eq!(shortest_decimal(x) as f32, x);
        }
        assert_eq!(shortest_decimal(0.1), 0.1);
    }

    fn unknowns() -> [Unknown; 4] {
        let (relative, global) = (-0.4, 0.3);
        [
            Unknown::Global,
            Unknown::Relative,
            Unknown::GlobalOfBoth { relative },
            Unknown::RelativeOfBoth { global },
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// On random entropies with few ties the wanted size is reached, what is reported is what the patcher does, and the
        /// threshold survives JSON.
        #[test]
        fn random_entropies_reach_the_wanted_size(
            entropies in prop::collection::vec(0.0f32..4.0, 3000),
            wanted in 2.5f64..12.0,
            max in prop::option::of(20usize..60),
        ) {
            let (batch, c) = set(&[998, 0, 1, 998, 997], &entropies[..2999]);
            for unknown in unknowns() {
                let found = c.find(unknown, wanted, max).unwrap();
                prop_assert!((found.bytes_per_patch / wanted - 1.0).abs() <= TOLERANCE);
                let read: Calibrated = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
                prop_assert_eq!((read.rule, read.threshold), (found.rule, found.threshold));
                let patches = entropy_patches(&batch, &entropies[..2999], read.rule, max).unwrap();
                let stats = PatchStats::of(&batch, &patches);
                prop_assert_eq!(stats.mean(), Some(found.bytes_per_patch));
                prop_assert_eq!((stats.patches, stats.bytes), (found.patches, found.bytes));
            }
        }

        /// Nothing that was passed over is nearer: compared with every threshold there is, ties and maximum included.
        #[test]
        fn no_threshold_is_nearer(
            entropies in prop::collection::vec((0u8..6).prop_map(f32::from), 30),
            wanted in 1.0f64..8.0,
            max in prop::option::of(1usize..6),
        ) {
            let (batch, c) = set(&[12, 0, 9, 5], &entropies);
            for unknown in unknowns() {
                let mean = |t: f64| {
                    let p = entropy_patches(&batch, &entropies, unknown.rule(t), max).unwrap();
                    PatchStats::of(&batch, &p).mean().unwrap()
                };
                let error = |m: f64| (m / wanted - 1.0).abs();
                let best = (-14..14).map(|t| error(mean(t as f64 / 2.0 + 0.25))).fold(f64::INFINITY, f64::min);
                match c.find(unknown, wanted, max) {
                    Ok(found) => {
                        prop_assert_eq!(mean(found.threshold), found.bytes_per_patch);
                        prop_assert_eq!(error(found.bytes_per_patch), best);
                    }
                    Err(CalibrationError::Unreachable { below, above, .. }) => {
                        prop_assert!(best > TOLERANCE);
                        let reached: Vec<Reach> = below.into_iter().chain(above).collect();
                        prop_assert!(reached.iter().all(|r| mean(r.threshold) == r.bytes_per_patch));
                        prop_assert!(below.is_none_or(|r| r.bytes_per_patch < wanted));
                        prop_assert!(above.is_none_or(|r| r.bytes_per_patch >= wanted));
                        prop_assert!(reached.iter().any(|r| error(r.bytes_per_patch) == best));
                    }
                    Err(other) => prop_assert!(false, "{}", other),
                }
            }
        }

        /// The count without building agrees with the patches built, context included.
        #[test]
        fn counting_is_what_patches_count(
            pieces in prop::collection::vec((prop::collection::vec((0u8..6).prop_map(f32::from), 1..30), 0usize..30), 1..4),
            max in prop::option::of(1usize..6),
            t in 0u8..6,
        ) {
            let mut batch = Batch::new();
            let mut entropies = Vec::new();
            for (e, context) in &pieces {
                let n = e.len() - 1;
                batch.push(Span { row: 0, range: 0..n, context: *context.min(&n), last: true }, &vec![b'x'; n]);
                entropies.extend(e);
            }
            let mut c = Calibration::new();
            c.push(&batch, &entropies).unwrap();
            for unknown in unknowns() {
                let p = entropy_patches(&batch, &entropies, unknown.rule(t as f64), max).unwrap();
                prop_assert_eq!(c.count(unknown, t as f32, max), PatchStats::of(&batch, &p).patches);
            }
        }
    }
}
