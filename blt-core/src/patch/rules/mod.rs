//! The rules that cut bytes into patches, each from a packed [`Batch`] to [`Patches`].
//!
//! Positions count a span's ids: 0 is BOS, t is the span's t-th byte. Positions 0 and 1 start a
//! patch under every rule, so BOS is a patch of its own. `entropy[t]` is the entropy in nats of the
//! byte that follows id t, given the ids up to t.
//!
//! A rule is *incremental* if whether position t + 1 starts a patch depends on ids up to t alone.
//! Then a prefix computes what the whole text did, [`Patches::next_starts`] included, and the model
//! may generate byte by byte. Every function here is, and has a form in
//! [`stream`](super::stream) that makes the same patches byte by byte. Patches from
//! lists ([`Patches::from_lengths`], [`Patches::from_byte_starts`]) make no such promise.
//!
//! `max_patch_length` splits what a rule made, greedily from the left ([`Patches::split`]), and
//! keeps a rule incremental; so do the other [`Limits`](super::Limits).

#[cfg(test)]
mod tests;

use super::patches::{PatchError, Patches, PatchesBuilder};
use crate::bytes::{BOS, Batch, OFFSET};
use crate::planted::{Bug, planted};
use crate::simd::multiversion;
use serde::{Deserialize, Serialize};

/// Which positions start a patch, given entropies. Entropies and thresholds are in nats and
/// compared as f32 (strictly, so an entropy equal to the threshold starts nothing).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntropyRule {
    /// Position t + 1 (t >= 1) starts a patch iff `entropy[t] > threshold`.
    Global { threshold: f64 },
    /// Position t + 1 (t >= 1) starts a patch iff `entropy[t] - entropy[t - 1] > threshold`
    /// (approximate monotonicity).
    Relative { threshold: f64 },
    /// Both must hold.
    Both { global: f64, relative: f64 },
    /// Position t + 1 (t >= 1) starts a patch iff `entropy[t] - mean[t - 1] > threshold`, where
    /// `mean` is the running mean of the entropies: `mean[0] = entropy[0]`, and `mean[t] = (1 - a)
    /// mean[t - 1] + a entropy[t]` with `a = 1 / mean_bytes`. With `mean_bytes` 1 it is `Relative`.
    Jump { threshold: f64, mean_bytes: usize },
}

impl std::fmt::Display for EntropyRule {
    /// As the parameters of an entropy patcher are written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntropyRule::Global { threshold } => {
                write!(f, "`rule: global, threshold: {threshold}`")
            }
            EntropyRule::Relative { threshold } => {
                write!(f, "`rule: relative, relative_threshold: {threshold}`")
            }
            EntropyRule::Both { global, relative } => {
                write!(f, "`rule: both, threshold: {global}, relative_threshold: {relative}`")
            }
            EntropyRule::Jump { threshold, mean_bytes } => {
                write!(f, "`rule: jump, relative_threshold: {threshold}, mean_bytes: {mean_bytes}`")
            }
        }
    }
}

impl EntropyRule {
    /// A threshold that is NaN or infinite is an error.
    pub(crate) fn check(self) -> Result<(), PatchError> {
        let finite = |name, value: f64| match (value as f32).is_finite() {
            true => Ok(()),
            false => Err(PatchError::ThresholdNotFinite { name, value }),
        };
        match self {
            EntropyRule::Global { threshold } => finite("the global threshold", threshold),
            EntropyRule::Relative { threshold } => finite("the relative threshold", threshold),
            EntropyRule::Both { global, relative } => finite("the global threshold", global)
                .and(finite("the relative threshold", relative)),
            EntropyRule::Jump { mean_bytes: 0, .. } => Err(PatchError::ZeroMeanBytes),
            EntropyRule::Jump { threshold, .. } => finite("the relative threshold", threshold),
        }
    }

    /// The mean that an entropy's rise is measured against: of a relative rule, the entropy before.
    pub(crate) fn mean(self, bos_entropy: f32) -> RunningMean {
        let bytes = match self {
            EntropyRule::Jump { mean_bytes, .. } => mean_bytes,
            _ => 1,
        };
        RunningMean { mean: bos_entropy, share: 1.0 / bytes as f32 }
    }
}

/// An exponential mean of the entropies of a span so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningMean {
    mean: f32,
    share: f32,
}

impl RunningMean {
    /// How far the next entropy is above the mean; takes it in.
    pub fn rise(&mut self, entropy: f32) -> f32 {
        let rise = entropy - self.mean;
        self.mean = (1.0 - self.share) * self.mean + self.share * entropy;
        rise
    }
}

/// The rises of a span's entropies above their running mean, `[n]`, BOS's own (0) first.
pub(crate) fn rises(rule: EntropyRule, entropies: &[f32]) -> impl Iterator<Item = f32> {
    let mut mean = rule.mean(entropies.first().copied().unwrap_or_default());
    let rest = entropies.iter().skip(1).map(move |&entropy| mean.rise(entropy));
    entropies.first().map(|_| 0.0).into_iter().chain(rest)
}

/// Positions are examined this many at a time, a multiple of 64: their flags and starts stay in the
/// first-level cache.
const CHUNK: usize = 1024;

/// Makes patches of a rule that looks at most two ids back. `flags(first, out)` writes into
/// `out[i]` whether packed position `first + i` starts a patch (0 or 1), and is asked only for
/// positions from a span's third id up to the one after its last.
fn patches_by_flags(batch: &Batch, flags: impl Fn(usize, &mut [u8])) -> Patches {
    let mut patches = PatchesBuilder::new(batch);
    let mut flag = [0u8; CHUNK];
    let mut found = [0usize; CHUNK];
    for span in batch.offsets.windows(2) {
        let (a, b) = (span[0], span[1]);
        patches.starts.extend(a..b.min(a + 2));
        for first in (a + 2..b).step_by(CHUNK) {
            let asked = CHUNK.min(b - first);
            flags(first, &mut flag[..asked]);
            flag[asked..].fill(0);
            let mut count = 0;
            for (first, flags) in (first..).step_by(64).zip(flag.as_chunks::<64>().0) {
                // A branch for each flag would be mispredicted at every other start; of bits, one
                // is at each word's end.
                let mut left = bits(flags);
                while left != 0 {
                    found[count] = first + left.trailing_zeros() as usize;
                    count += 1;
                    left &= left - 1;
                }
            }
            patches.starts.extend_from_slice(&found[..count]);
        }
        patches.next = match b - a {
            1 => true,
            _ => {
                flags(b, &mut flag[..1]);
                flag[0] != 0
            }
        };
        patches.end_span();
    }
    patches.finish()
}

/// Bit i is `flags[i]`, which is 0 or 1.
fn bits(flags: &[u8; 64]) -> u64 {
    let eights = flags.as_chunks::<8>().0.iter().zip((0..).step_by(8));
    // The product moves the lowest bit of byte i to bit 56 + i, and no other bits meet there.
    eights.fold(0, |word, (eight, at)| {
        word | (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << at
    })
}

/// Every id is a patch.
pub fn byte_patches(batch: &Batch) -> Patches {
    let mut patches = PatchesBuilder::new(batch);
    for span in batch.offsets.windows(2) {
        patches.starts.extend(span[0]..span[1]);
        patches.next = true;
        patches.end_span();
    }
    patches.finish()
}

/// BOS alone, then patches of `stride` bytes, the last one shorter where the bytes don't divide:
/// position t starts one iff t = 0 or t = 1 modulo `stride`.
pub fn stride_patches(batch: &Batch, stride: usize) -> Result<Patches, PatchError> {
    if stride == 0 {
        return Err(PatchError::ZeroStride);
    }
    let mut patches = PatchesBuilder::new(batch);
    for span in batch.offsets.windows(2) {
        let (a, b) = (span[0], span[1]);
        patches.starts.push(a);
        patches.starts.extend((a + 1..b).step_by(stride));
        patches.next = (b - a - 1).is_multiple_of(stride);
        patches.end_span();
    }
    Ok(patches.finish())
}

/// A patch starts after each space-like byte that does not follow another: `"a, b"` is BOS, `"a,"`,
/// `" b"`.
///
/// Space-like are ASCII bytes that are neither letters nor digits, the leading bytes of multi-byte
/// UTF-8 characters (0xC0 and up; continuation bytes 0x80 to 0xBF are not) and ids below 4, BOS
/// among them. Position t + 1 (t >= 1) starts a patch iff id t is space-like and id t - 1 is not,
/// or id t is below 4.
pub fn space_patches(batch: &Batch) -> Patches {
    let ids = &batch.ids;
    patches_by_flags(batch, |first, out| space_flags(&ids[first - 1..], &ids[first - 2..], out))
}

multiversion! {
    fn space_flags(last: &[u16], before: &[u16], out: &mut [u8]) {
        for ((out, &last), &before) in out.iter_mut().zip(last).zip(before) {
            *out = (space_like(last) & !space_like(before) | (last < OFFSET)) as u8;
        }
    }
}

/// Branchless (`&`, `|`), so that loops over it become SIMD.
#[inline(always)]
pub(crate) fn space_like(id: u16) -> bool {
    let byte = id.wrapping_sub(OFFSET);
    let digit = byte.wrapping_sub(b'0' as u16) < 10;
    let letter = (byte | 0x20).wrapping_sub(b'a' as u16) < 26;
    let continuation = byte.wrapping_sub(0x80) < 0x40;
    !(digit | letter | continuation)
}

/// The patches of an entropy rule, before any limit. Rule and entropies were checked.
pub(crate) fn rule_patches(batch: &Batch, entropies: &[f32], rule: EntropyRule) -> Patches {
    let e = entropies;
    match rule {
        EntropyRule::Global { threshold } => {
            let threshold = threshold as f32;
            // Of finite numbers, `>= threshold` is `> threshold.next_down()`.
            let threshold =
                if planted(Bug::EntropyTies) { threshold.next_down() } else { threshold };
            patches_by_flags(batch, |first, out| global_flags(&e[first - 1..], threshold, out))
        }
        EntropyRule::Relative { threshold } => {
            let threshold = threshold as f32;
            patches_by_flags(batch, |first, out| {
                relative_flags(&e[first - 1..], &e[first - 2..], threshold, out)
            })
        }
        EntropyRule::Both { global, relative } => {
            let (global, relative) = (global as f32, relative as f32);
            patches_by_flags(batch, |first, out| {
                both_flags(&e[first - 1..], &e[first - 2..], global, relative, out)
            })
        }
        EntropyRule::Jump { threshold, .. } => {
            let threshold = threshold as f32;
            let spans = batch.offsets.windows(2).map(|o| &e[o[0]..o[1]]);
            let rises: Vec<f32> = spans.flat_map(|e| rises(rule, e)).collect();
            patches_by_flags(batch, |first, out| global_flags(&rises[first - 1..], threshold, out))
        }
    }
}

multiversion! {
    fn global_flags(last: &[f32], threshold: f32, out: &mut [u8]) {
        for (out, &last) in out.iter_mut().zip(last) {
            *out = (last > threshold) as u8;
        }
    }
}

multiversion! {
    fn relative_flags(last: &[f32], before: &[f32], threshold: f32, out: &mut [u8]) {
        for ((out, &last), &before) in out.iter_mut().zip(last).zip(before) {
            *out = (last - before > threshold) as u8;
        }
    }
}

multiversion! {
    fn both_flags(last: &[f32], before: &[f32], global: f32, relative: f32, out: &mut [u8]) {
        for ((out, &last), &before) in out.iter_mut().zip(last).zip(before) {
            *out = ((last > global) & (last - before > relative)) as u8;
        }
    }
}

multiversion! {
    fn all_finite(values: &[f32]) -> bool {
        values.iter().fold(true, |all, x| all & (x.abs() < f32::INFINITY))
    }
}

/// There is one entropy for each id and all are finite.
pub(crate) fn check_entropies(batch: &Batch, entropies: &[f32]) -> Result<(), PatchError> {
    if entropies.len() != batch.len() {
        return Err(PatchError::EntropyCount { expected: batch.len(), found: entropies.len() });
    }
    // By chunks without an early exit inside, which SIMD can do; the culprit is looked for only if
    // there is one.
    if entropies.chunks(4 * CHUNK).all(all_finite) {
        return Ok(());
    }
    let (i, &value) =
        entropies.iter().enumerate().find(|(_, e)| !e.is_finite()).expect("a chunk was not finite");
    let s = batch.offsets.partition_point(|&offset| offset <= i) - 1;
    let span = &batch.spans[s];
    Err(PatchError::EntropyNotFinite {
        row: span.row,
        position: span.range.start + i - batch.offsets[s],
        value,
    })
}

/// The batch that an entropy model reads so that its context begins anew, as after BOS, at the byte
/// after each newline (the paper's cure for entropies that drift in long, repetitive texts).
///
/// Each line becomes a span of its own: BOS and the line's bytes without its newline. The newline
/// itself is not read: nothing of its line follows it, and what the model says after it is what it
/// says after the next line's BOS. So that BOS stands exactly where the newline stood, and the
/// entropies of the batch returned are, element for element, those of the original: at a byte, the
/// entropy after that byte in its line; at a newline, the entropy of a line's first byte after a
/// fresh BOS.
///
/// `"a\nb"`: BOS a \n b becomes BOS a | BOS b. An empty line is a BOS alone; a text that ends with
/// a newline ends with one too.
///
/// The number of ids is unchanged. Each line's span keeps the row, and the range of its bytes in
/// the document.
pub fn newline_reset(batch: &Batch) -> Batch {
    const NEWLINE: u16 = b'\n' as u16 + OFFSET;
    let mut lines = Batch {
        ids: batch.ids.iter().map(|&id| if id == NEWLINE { BOS } else { id }).collect(),
        offsets: Vec::with_capacity(batch.offsets.len()),
        ..Batch::default()
    };
    lines.offsets.push(0);
    for (s, span) in batch.spans.iter().enumerate() {
        let (a, b) = (batch.offsets[s], batch.offsets[s + 1]);
        let newlines = (a..b).filter(|&i| batch.ids[i] == NEWLINE);
        let mut line_start = a;
        for line_end in newlines.chain([b]) {
            // The line's bytes are ids line_start + 1 .. line_end; id i of the span is byte i - a -
            // 1 of its range.
            let skipped = line_start - a;
            let n_bytes = line_end - line_start - 1;
            lines.offsets.push(line_end);
            lines.spans.push(crate::bytes::Span {
                row: span.row,
                range: span.range.start + skipped..span.range.start + skipped + n_bytes,
                context: span.context.saturating_sub(skipped).min(n_bytes),
                last: span.last && line_end == b,
            });
            line_start = line_end;
        }
    }
    lines
}
