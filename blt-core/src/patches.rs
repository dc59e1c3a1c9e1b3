//! Patches: starts into the packed byte axis.

use crate::bytes::Batch;

/// A batch's patches. In each span, ids 0 (BOS) and 1 (the first byte) always start one, so that BOS is a patch of its
/// own: the decoder's shift needs it.
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

    /// Builds from a flag for each id (does it start a patch?), forcing ids 0 and 1 of each span. `[n]`, `[spans]`.
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

    /// The patch each id lies in, `[n]`.
    pub fn owner(&self) -> Vec<u32> {
        let mut owner = Vec::with_capacity(self.n_ids);
        for (p, &end) in self.offsets()[1..].iter().enumerate() {
            owner.resize(end, p as u32);
        }
        owner
    }

    /// The patch whose latent each id reads in the decoder: the last one that ended before the *next* byte's patch, `[n]`.
    ///
    /// For an id inside a patch that is the patch before its own; for a patch's last id it is its own.
    pub fn decoder_reads(&self, batch_offsets: &[usize]) -> Vec<u32> {
        let owner = self.owner();
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
