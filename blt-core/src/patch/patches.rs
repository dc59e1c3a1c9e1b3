//! Patches: starts into the packed byte axis.
//!
//! [`crate::patch`] has the rules that make them; here is what every rule ends in.

use crate::bytes::Batch;
use crate::planted::{Bug, planted};
use std::collections::BTreeMap;

/// Why patches cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    #[error(
        "{found} entropies for {expected} byte ids (there must be one for each id, BOS included)"
    )]
    EntropyCount { expected: usize, found: usize },
    /// `position` counts the document's ids, BOS first: 0 is BOS's, t is that of the document's
    /// byte t - 1.
    #[error(
        "row {row}: the entropy at position {position} (BOS is position 0) is {value}; expected a finite number of nats"
    )]
    EntropyNotFinite { row: u64, position: usize, value: f32 },
    #[error("{name} is {value}; expected a finite number")]
    ThresholdNotFinite { name: &'static str, value: f64 },
    #[error("a stride of 0 bytes; expected at least 1")]
    ZeroStride,
    #[error("max_patch_length is 0; expected at least 1")]
    ZeroMaxPatchLength,
    #[error("mean_bytes is 0; expected at least 1")]
    ZeroMeanBytes,
    #[error("min_patch_length is 0; expected at least 1")]
    ZeroMinPatchLength,
    #[error("min_patch_length is {min} and max_patch_length {max}; expected no more than that")]
    MinAboveMax { min: usize, max: usize },
    #[error("{found} lists of {what} for {expected} spans")]
    ListCount { what: &'static str, expected: usize, found: usize },
    #[error("row {row}: patch length {index} is {value}; expected a whole number of bytes")]
    LengthNotWhole { row: u64, index: usize, value: f32 },
    #[error(
        "row {row}: the first patch is {found} ids long; expected 1, BOS alone (the decoder's shift needs it)"
    )]
    FirstLength { row: u64, found: usize },
    #[error("row {row}: the patch lengths sum to {found}; expected {expected} (BOS and {n_bytes} bytes), or one more for the unseen next byte", n_bytes = expected - 1)]
    LengthSum { row: u64, expected: usize, found: usize },
    #[error(
        "row {row}: patch start {index} is byte {start}, in a text of {n_bytes} bytes after start {previous:?}; starts must ascend and lie inside"
    )]
    Start { row: u64, index: usize, start: usize, previous: Option<usize>, n_bytes: usize },
}

/// A batch's patches. In each span, ids 0 (BOS) and 1 (the first byte) always start one, so that
/// BOS is a patch of its own: the decoder's shift needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// First id of each patch on the packed axis, ascending; `[n_patches]`.
    pub starts: Vec<usize>,
    /// Patches of span s are `span_offsets[s]..span_offsets[s + 1]`; `[spans + 1]`.
    pub span_offsets: Vec<usize>,
    /// Would the byte after the span's last one start a patch? `[spans]`.
    pub next_starts: Vec<bool>,
    /// Ids in all (the end of the last patch).
    pub n_ids: usize,
}

impl Patches {
    pub fn n_patches(&self) -> usize {
        self.starts.len()
    }

    /// `[n_patches + 1]`: patch p is ids `offsets[p]..offsets[p + 1]`.
    pub fn offsets(&self) -> Vec<usize> {
        self.starts.iter().copied().chain([self.n_ids]).collect()
    }

    /// Builds from a flag for each id (does it start a patch?), forcing ids 0 and 1 of each span.
    /// `[n]`, `[spans]`.
    pub fn from_flags(batch: &Batch, starts: &[bool], next_starts: Vec<bool>) -> Self {
        assert_eq!(starts.len(), batch.len());
        assert_eq!(next_starts.len(), batch.n_spans());
        let mut patches =
            Patches { starts: Vec::new(), span_offsets: vec![0], next_starts, n_ids: batch.len() };
        for s in 0..batch.n_spans() {
            let (a, b) = (batch.offsets[s], batch.offsets[s + 1]);
            patches.starts.extend((a..b).filter(|&i| i < a + 2 || starts[i]));
            if b - a == 1 {
                patches.next_starts[s] = true;
            }
            patches.span_offsets.push(patches.starts.len());
        }
        patches
    }

    /// Builds from patch lengths that were computed elsewhere: one list a span, BOS's patch (1
    /// long) first.
    ///
    /// A list sums to the span's ids, or to one more for the unseen next byte: as a patch of its
    /// own it says that the next byte starts one, inside the last patch it says that it does
    /// not. A list that leaves the next byte out says nothing of it, and none is taken to start
    /// there (as that of the Hugging Face layout). Zeros are skipped, wherever they stand.
    pub fn from_lengths(batch: &Batch, lengths: &[Vec<f32>]) -> Result<Self, PatchError> {
        /// Whole numbers beyond this are not exact in f32.
        const MAX_EXACT: f32 = (1u32 << 24) as f32;
        check_lists("patch lengths", batch, lengths.len())?;
        let mut patches = PatchesBuilder::new(batch);
        for (s, list) in lengths.iter().enumerate() {
            let row = batch.spans[s].row;
            let n = batch.offsets[s + 1] - batch.offsets[s];
            let (mut end, mut count) = (0usize, 0usize);
            for (index, &value) in list.iter().enumerate() {
                if !(0.0..=MAX_EXACT).contains(&value) || value.fract() != 0.0 {
                    return Err(PatchError::LengthNotWhole { row, index, value });
                }
                let length = value as usize;
                if length == 0 {
                    continue;
                }
                if count == 0 && length != 1 {
                    return Err(PatchError::FirstLength { row, found: length });
                }
                if end < n {
                    patches.starts.push(batch.offsets[s] + end);
                }
                // The last patch to be read decides; it holds the next byte iff the sum is n + 1,
                // which is checked below.
                patches.next = end == n;
                end += length;
                count += 1;
            }
            if end != n && end != n + 1 {
                return Err(PatchError::LengthSum { row, expected: n, found: end });
            }
            patches.next |= n == 1;
            patches.end_span();
        }
        Ok(patches.finish())
    }

    /// Builds from the byte offsets at which patches start, one list a span, counted from the
    /// span's first byte (BOS is not counted); byte 0 may be listed or left out. `next_starts`:
    /// what to say of the byte after each span.
    pub fn from_byte_starts(
        batch: &Batch,
        starts: &[Vec<usize>],
        next_starts: bool,
    ) -> Result<Self, PatchError> {
        check_lists("patch starts", batch, starts.len())?;
        let mut patches = PatchesBuilder::new(batch);
        for (s, list) in starts.iter().enumerate() {
            let (a, b) = (batch.offsets[s], batch.offsets[s + 1]);
            patches.starts.extend(a..b.min(a + 2));
            let mut previous = None;
            for (index, &start) in list.iter().enumerate() {
                let n_bytes = b - a - 1;
                if start >= n_bytes || previous.is_some_and(|p| p >= start) {
                    return Err(PatchError::Start {
                        row: batch.spans[s].row,
                        index,
                        start,
                        previous,
                        n_bytes,
                    });
                }
                if start > 0 {
                    patches.starts.push(a + 1 + start);
                }
                previous = Some(start);
            }
            patches.next = next_starts || b - a == 1;
            patches.end_span();
        }
        Ok(patches.finish())
    }

    /// Splits every patch that is longer than `max_patch_length`, greedily from the left: m, m,
    /// ..., remainder. A span that ends with a full patch of m gets `next_starts`, since
    /// whatever follows would start the next piece.
    pub fn split(self, max_patch_length: usize) -> Result<Self, PatchError> {
        if max_patch_length == 0 {
            return Err(PatchError::ZeroMaxPatchLength);
        }
        let m = max_patch_length;
        let mut split = Patches {
            starts: Vec::with_capacity(self.starts.len().max(self.n_ids / m) * 5 / 4),
            span_offsets: Vec::with_capacity(self.span_offsets.len()),
            next_starts: self.next_starts,
            n_ids: self.n_ids,
        };
        split.span_offsets.push(0);
        for (s, patches) in self.span_offsets.windows(2).enumerate() {
            let starts = &self.starts[patches[0]..patches[1]];
            let span_end = self.starts.get(patches[1]).copied().unwrap_or(self.n_ids);
            let ends = starts.iter().skip(1).chain([&span_end]);
            for (&start, &end) in starts.iter().zip(ends) {
                split.starts.push(start);
                let mut piece = start;
                while end - piece > m {
                    piece += m;
                    split.starts.push(piece);
                }
            }
            split.next_starts[s] |=
                starts.last().is_some_and(|&start| (span_end - start).is_multiple_of(m));
            split.span_offsets.push(split.starts.len());
        }
        Ok(split)
    }

    /// [`Patches::split`] where there is a `max_patch_length`.
    pub fn split_if(self, max_patch_length: Option<usize>) -> Result<Self, PatchError> {
        match max_patch_length {
            Some(max) => self.split(max),
            None => Ok(self),
        }
    }

    /// Lengths of span s's patches in ids, BOS's own (1) first; they sum to the span's ids.
    pub fn span_lengths(&self, s: usize) -> impl Iterator<Item = usize> + '_ {
        (self.span_offsets[s]..self.span_offsets[s + 1])
            .map(|p| self.starts.get(p + 1).copied().unwrap_or(self.n_ids) - self.starts[p])
    }

    /// How many of span s's patches count: BOS's own does not, nor does one that starts in the
    /// span's context (an earlier span counted it).
    pub fn n_counted(&self, batch: &Batch, s: usize) -> usize {
        let starts = &self.starts[self.span_offsets[s]..self.span_offsets[s + 1]];
        let first_counted = batch.offsets[s] + 1 + batch.spans[s].context;
        starts.len() - starts.partition_point(|&i| i < first_counted)
    }

    /// The patch each id lies in, `[n]`.
    pub fn owner(&self) -> Vec<u32> {
        let mut owner = Vec::with_capacity(self.n_ids);
        for (p, &end) in self.offsets()[1..].iter().enumerate() {
            owner.resize(end, p as u32);
        }
        owner
    }

    /// The patch whose latent each id reads in the decoder: the last one that ended before the
    /// *next* byte's patch, `[n]`.
    ///
    /// For an id inside a patch that is the patch before its own; for a patch's last id it is its
    /// own.
    pub fn decoder_reads(&self, batch_offsets: &[usize]) -> Vec<u32> {
        let owner = self.owner();
        if planted(Bug::DecoderShift) {
            return owner;
        }
        let mut reads = Vec::with_capacity(self.n_ids);
        for (s, span) in batch_offsets.windows(2).enumerate() {
            for i in span[0]..span[1] {
                let next = match i + 1 < span[1] {
                    true => owner[i + 1],
                    false => owner[i] + self.next_starts[s] as u32,
                };
                reads.push(next - 1);
            }
        }
        reads
    }
}

fn check_lists(what: &'static str, batch: &Batch, found: usize) -> Result<(), PatchError> {
    match found == batch.n_spans() {
        true => Ok(()),
        false => Err(PatchError::ListCount { what, expected: batch.n_spans(), found }),
    }
}

/// Fills [`Patches`] span by span: push into `starts`, set `next`, then
/// [`end_span`](PatchesBuilder::end_span).
pub(crate) struct PatchesBuilder {
    pub starts: Vec<usize>,
    /// Of the span in hand: would the byte after it start a patch?
    pub next: bool,
    span_offsets: Vec<usize>,
    next_starts: Vec<bool>,
    n_ids: usize,
}

impl PatchesBuilder {
    pub fn new(batch: &Batch) -> Self {
        let mut span_offsets = Vec::with_capacity(batch.n_spans() + 1);
        span_offsets.push(0);
        PatchesBuilder {
            starts: Vec::with_capacity(batch.len() / 4),
            next: false,
            span_offsets,
            next_starts: Vec::with_capacity(batch.n_spans()),
            n_ids: batch.len(),
        }
    }

    pub fn end_span(&mut self) {
        self.span_offsets.push(self.starts.len());
        self.next_starts.push(std::mem::take(&mut self.next));
    }

    pub fn finish(self) -> Patches {
        let PatchesBuilder { starts, next: _, span_offsets, next_starts, n_ids } = self;
        Patches { starts, span_offsets, next_starts, n_ids }
    }
}

/// Sizes of the patches that count ([`Patches::n_counted`]): how many, how long, how they are
/// distributed.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PatchStats {
    /// Patches; BOS's own are left out.
    pub patches: u64,
    /// Bytes; BOS and context are left out.
    pub bytes: u64,
    /// Patches by their length in bytes.
    pub histogram: BTreeMap<usize, u64>,
}

impl PatchStats {
    pub fn of(batch: &Batch, patches: &Patches) -> Self {
        let mut stats = PatchStats::default();
        stats.add(batch, patches);
        stats
    }

    pub fn add(&mut self, batch: &Batch, patches: &Patches) {
        self.bytes += batch.n_counted_bytes() as u64;
        for s in 0..batch.n_spans() {
            let not_counted =
                patches.span_offsets[s + 1] - patches.span_offsets[s] - patches.n_counted(batch, s);
            for length in patches.span_lengths(s).skip(not_counted) {
                self.patches += 1;
                *self.histogram.entry(length).or_default() += 1;
            }
        }
    }

    pub fn merge(&mut self, other: &PatchStats) {
        self.patches += other.patches;
        self.bytes += other.bytes;
        for (&length, &count) in &other.histogram {
            *self.histogram.entry(length).or_default() += count;
        }
    }

    /// Bytes per patch; None without a patch.
    pub fn mean(&self) -> Option<f64> {
        (self.patches > 0).then(|| self.bytes as f64 / self.patches as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Span;

    fn batch(documents: &[&str]) -> Batch {
        Batch::from_documents(documents.iter().map(|d| d.as_bytes()))
    }

    #[test]
    fn lengths_may_leave_the_next_byte_out_or_say_where_it_goes() {
        let b = batch(&["abcd", "abcd", "abcd", "abcd", "", ""]);
        let lists = [
            vec![1.0, 3.0, 1.0],           // nothing said of the next byte
            vec![1.0, 3.0, 1.0, 1.0],      // it starts a patch
            vec![1.0, 3.0, 2.0, 0.0, 0.0], // it lies in the last one
            vec![1.0, 0.0, 4.0, 0.0, 1.0],
            vec![1.0],
            vec![1.0, 1.0, 0.0],
        ];
        let p = Patches::from_lengths(&b, &lists).unwrap();
        assert_eq!(p.starts, [0, 1, 4, 5, 6, 9, 10, 11, 14, 15, 16, 20, 21]);
        assert_eq!(p.span_offsets, [0, 3, 6, 9, 11, 12, 13]);
        assert_eq!(p.next_starts, [false, true, false, true, true, true]);
        assert_eq!(p.n_ids, b.len());
        assert_eq!(p.span_lengths(1).collect::<Vec<_>>(), [1, 3, 1]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused_by_row() {
        let b = batch(&["ab", "abc"]);
        let from =
            |second: Vec<f32>| Patches::from_lengths(&b, &[vec![1.0, 2.0], second]).unwrap_err();
        assert_eq!(from(vec![2.0, 2.0]), PatchError::FirstLength { row: 1, found: 2 });
        assert_eq!(from(vec![0.0, 4.0]), PatchError::FirstLength { row: 1, found: 4 });
        assert_eq!(from(vec![1.0, 2.0]), PatchError::LengthSum { row: 1, expected: 4, found: 3 });
        assert_eq!(
            from(vec![1.0, 3.0, 1.0, 1.0]),
            PatchError::LengthSum { row: 1, expected: 4, found: 6 }
        );
        assert_eq!(from(vec![]), PatchError::LengthSum { row: 1, expected: 4, found: 0 });
        assert_eq!(
            from(vec![1.0, 1.5, 1.5]),
            PatchError::LengthNotWhole { row: 1, index: 1, value: 1.5 }
        );
        assert_eq!(
            from(vec![1.0, -1.0, 4.0]),
            PatchError::LengthNotWhole { row: 1, index: 1, value: -1.0 }
        );
        assert!(matches!(
            from(vec![1.0, f32::NAN]),
            PatchError::LengthNotWhole { row: 1, index: 1, .. }
        ));
        assert_eq!(
            Patches::from_lengths(&b, &[]).unwrap_err(),
            PatchError::ListCount { what: "patch lengths", expected: 2, found: 0 }
        );
        assert!(from(vec![1.0, 2.0]).to_string().contains("expected 4 (BOS and 3 bytes)"));
    }

    #[test]
    fn byte_starts_count_from_the_first_byte() {
        let b = batch(&["abcd", "", "x"]);
        let p = Patches::from_byte_starts(&b, &[vec![0, 2, 3], vec![], vec![]], true).unwrap();
        assert_eq!(p.starts, [0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(p.next_starts, [true; 3]);
        assert_eq!(
            Patches::from_byte_starts(&b, &[vec![], vec![], vec![]], false).unwrap().next_starts,
            [false, true, false]
        );
        let bad = |list: Vec<usize>| {
            Patches::from_byte_starts(&b, &[list, vec![], vec![]], true).unwrap_err()
        };
        assert_eq!(
            bad(vec![0, 4]),
            PatchError::Start { row: 0, index: 1, start: 4, previous: Some(0), n_bytes: 4 }
        );
        assert_eq!(
            bad(vec![2, 2]),
            PatchError::Start { row: 0, index: 1, start: 2, previous: Some(2), n_bytes: 4 }
        );
    }

    #[test]
    fn splitting_is_greedy_from_the_left_and_tells_the_next_byte() {
        let b = batch(&["abcdefghij", "abcdefgh", "abcd", "abcd", ""]);
        let natural = || {
            let lists = [
                vec![1.0, 10.0],
                vec![1.0, 8.0],
                vec![1.0, 1.0, 3.0],
                vec![1.0, 1.0, 3.0, 1.0],
                vec![1.0],
            ];
            Patches::from_lengths(&b, &lists).unwrap()
        };
        let p = natural().split(4).unwrap();
        let lengths: Vec<Vec<usize>> = (0..5).map(|s| p.span_lengths(s).collect()).collect();
        assert_eq!(
            lengths,
            [vec![1, 4, 4, 2], vec![1, 4, 4], vec![1, 1, 3], vec![1, 1, 3], vec![1]]
        );
        // A full last patch closes itself; a shorter one is closed only if the rule said so.
        assert_eq!(p.next_starts, [false, true, false, true, true]);
        assert_eq!(natural().split(1).unwrap().starts, (0..b.len()).collect::<Vec<_>>());
        assert_eq!(natural().split(1).unwrap().next_starts, [true; 5]);
        assert_eq!(natural().split(100).unwrap(), natural());
        assert_eq!(natural().split(usize::MAX).unwrap(), natural());
        assert_eq!(natural().split(0), Err(PatchError::ZeroMaxPatchLength));
    }

    #[test]
    fn stats_leave_out_bos_and_context() {
        let b = batch(&["abcdef", "ab", ""]);
        let p = Patches::from_lengths(&b, &[vec![1.0, 1.0, 2.0, 3.0], vec![1.0, 2.0], vec![1.0]])
            .unwrap();
        let stats = PatchStats::of(&b, &p);
        assert_eq!((stats.patches, stats.bytes), (4, 8));
        assert_eq!(stats.mean(), Some(2.0));
        assert_eq!(stats.histogram, BTreeMap::from([(1, 1), (2, 2), (3, 1)]));

        let mut piece = Batch::new();
        piece.push(Span { row: 0, range: 4..10, context: 3, last: true }, b"efghij");
        let p = Patches::from_lengths(&piece, &[vec![1.0, 2.0, 2.0, 2.0]]).unwrap();
        // Bytes e-g are context; the patch "gh" starts there and was counted by the span before.
        assert_eq!(p.n_counted(&piece, 0), 1);
        let mut sum = stats.clone();
        sum.merge(&PatchStats::of(&piece, &p));
        assert_eq!((sum.patches, sum.bytes), (5, 11));
        assert_eq!(sum.histogram[&2], 3);

        assert_eq!(PatchStats::default().mean(), None);
        let json = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<PatchStats>(&json).unwrap(), stats);
    }

    #[test]
    fn the_decoder_reads_the_last_patch_that_ended_before_the_next_bytes() {
        let b = batch(&["abcd", "ab"]);
        let p = Patches::from_lengths(&b, &[vec![1.0, 2.0, 2.0, 1.0], vec![1.0, 2.0]]).unwrap();
        // Spans: [BOS][ab][cd] with the next byte starting a patch, [BOS][ab] without.
        assert_eq!(p.decoder_reads(&b.offsets), [0, 0, 1, 1, 2, 3, 3, 3]);
    }
}
