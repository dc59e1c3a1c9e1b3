//! Incremental patchers, byte by byte: for each rule of [`patch`](super) a state that reads one
//! byte of a span at a time.
//!
//! A [`PatchStream`] cannot look ahead, whatever it does: it is asked whether a byte starts a patch
//! before that byte exists. The rules' packed forms are fast on whole batches; that the two forms
//! make the same patches is tested for every registered patcher (`tests/causality.rs`).

use super::patches::{Patches, PatchesBuilder};
use super::rules::{EntropyRule, RunningMean, space_like};
use crate::bytes::{BOS, Batch, OFFSET};

/// The state of an incremental patcher in one span: what it remembers of the bytes so far.
pub trait PatchStream {
    /// Reads the next byte of the span; returns whether the byte after it starts a patch. Takes
    /// constant time.
    ///
    /// `entropy`, in nats, is that of the byte after `byte`, given all bytes up to `byte`; `None`
    /// where the patcher reads no entropies.
    ///
    /// The answer after a span's last byte is the [`next_starts`](Patches::next_starts) of the
    /// span. The first byte of a span starts a patch whatever a patcher returns, and no patcher is
    /// asked.
    fn push(&mut self, byte: u8, entropy: Option<f32>) -> bool;
}

impl<S: PatchStream + ?Sized> PatchStream for Box<S> {
    fn push(&mut self, byte: u8, entropy: Option<f32>) -> bool {
        (**self).push(byte, entropy)
    }
}

/// [`byte_patches`](super::byte_patches): every byte starts a patch.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteStream;

impl PatchStream for ByteStream {
    fn push(&mut self, _: u8, _: Option<f32>) -> bool {
        true
    }
}

/// Patches of `stride` bytes, a whole number ([`stride_patches`](super::stride_patches)) or not:
/// patch k starts at byte `floor(k * stride)`, counted from 0.
#[derive(Clone, Copy, Debug)]
pub struct StrideStream {
    stride: f64,
    /// Bytes read.
    read: usize,
    /// The patch to start next, and at which byte.
    next: (u64, usize),
}

impl StrideStream {
    /// `stride` is finite, and at least 1.
    pub fn new(stride: f64) -> Self {
        StrideStream { stride, read: 0, next: (1, stride as usize) }
    }
}

impl PatchStream for StrideStream {
    fn push(&mut self, _: u8, _: Option<f32>) -> bool {
        self.read += 1;
        let starts = self.read == self.next.1;
        if starts {
            let k = self.next.0 + 1;
            self.next = (k, (k as f64 * self.stride) as usize);
        }
        starts
    }
}

/// White space near a grid of `stride` bytes. The text is divided into cells of `stride` bytes,
/// each with a point of the grid, a multiple of `stride`, in its middle. In each cell, the first
/// byte that follows white space starts a patch; in a cell without one, none does.
///
/// Of the borders after white space in a cell, the one nearest to the point may be a later one, but
/// nobody knows before it has come.
#[derive(Clone, Copy, Debug)]
pub struct SpaceGridStream {
    stride: f64,
    /// Bytes read.
    read: usize,
    /// The cell of the last border.
    cell: f64,
}

impl SpaceGridStream {
    /// `stride` is in bytes, finite, and at least 1.
    pub fn new(stride: f64) -> Self {
        SpaceGridStream { stride, read: 0, cell: 0.0 }
    }
}

impl PatchStream for SpaceGridStream {
    fn push(&mut self, byte: u8, _: Option<f32>) -> bool {
        self.read += 1;
        let cell = (self.read as f64 / self.stride).round();
        let starts = matches!(byte, b'\t'..=b'\r' | b' ') && cell > self.cell;
        if starts {
            self.cell = cell;
        }
        starts
    }
}

/// [`space_patches`](super::space_patches): a patch starts after a space-like byte that
/// does not follow another.
#[derive(Clone, Copy, Debug)]
pub struct SpaceStream {
    after_space: bool,
}

impl Default for SpaceStream {
    fn default() -> Self {
        SpaceStream { after_space: space_like(BOS) }
    }
}

impl PatchStream for SpaceStream {
    fn push(&mut self, byte: u8, _: Option<f32>) -> bool {
        let space = space_like(byte as u16 + OFFSET);
        let after_space = std::mem::replace(&mut self.after_space, space);
        space && !after_space
    }
}

/// [`entropy_patches`](super::entropy_patches): a patch starts where the entropy, or its
/// rise, is above a threshold.
#[derive(Clone, Copy, Debug)]
pub struct EntropyStream {
    rule: EntropyRule,
    mean: RunningMean,
}

impl EntropyStream {
    /// `bos_entropy`, in nats, is that of the span's first byte, given BOS alone.
    pub fn new(rule: EntropyRule, bos_entropy: f32) -> Self {
        EntropyStream { rule, mean: rule.mean(bos_entropy) }
    }
}

impl PatchStream for EntropyStream {
    /// # Panics
    /// Without an entropy.
    fn push(&mut self, _: u8, entropy: Option<f32>) -> bool {
        let last = entropy.expect("an entropy patcher is given an entropy with each byte");
        let rise = self.mean.rise(last);
        match self.rule {
            EntropyRule::Global { threshold } => last > threshold as f32,
            EntropyRule::Relative { threshold } | EntropyRule::Jump { threshold, .. } => {
                rise > threshold as f32
            }
            EntropyRule::Both { global, relative } => {
                last > global as f32 && rise > relative as f32
            }
        }
    }
}

/// Makes a batch's patches by pushing its bytes, span by span. `entropies` is `[n]`, one for each
/// id of the batch, BOS included. `begin` makes the state for a new span; it is given the entropy
/// of BOS, that of the span's first byte.
pub fn stream_patches<S: PatchStream>(
    batch: &Batch,
    entropies: Option<&[f32]>,
    begin: impl Fn(Option<f32>) -> S,
) -> Patches {
    let mut patches = PatchesBuilder::new(batch);
    for span in batch.offsets.windows(2) {
        let (a, b) = (span[0], span[1]);
        let entropy = |i: usize| entropies.map(|entropies| entropies[i]);
        let mut stream = begin(entropy(a));
        patches.starts.push(a);
        // Whether id i starts a patch; the first byte does.
        let mut starts = true;
        for i in a + 1..b {
            if starts {
                patches.starts.push(i);
            }
            starts = stream.push((batch.ids[i] - OFFSET) as u8, entropy(i));
        }
        patches.next = starts;
        patches.end_span();
    }
    patches.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::{self, LimitStream};

    #[test]
    fn a_stream_makes_the_patches_of_its_rule() {
        let texts = ["ab  cd, 한글\n\nx", "", "a", "one two"];
        let batch = Batch::from_documents(texts.map(str::as_bytes));
        let entropies: Vec<f32> = (0..batch.len()).map(|i| (i * 7919 % 13) as f32 / 4.0).collect();
        assert_eq!(stream_patches(&batch, None, |_| ByteStream), patch::byte_patches(&batch));
        assert_eq!(
            stream_patches(&batch, None, |_| SpaceStream::default()),
            patch::space_patches(&batch)
        );
        for stride in 1..5 {
            assert_eq!(
                stream_patches(&batch, None, |_| StrideStream::new(stride as f64)),
                patch::stride_patches(&batch, stride).unwrap()
            );
        }
        for rule in [
            EntropyRule::Global { threshold: 1.0 },
            EntropyRule::Relative { threshold: 0.25 },
            EntropyRule::Both { global: 1.0, relative: 0.25 },
            EntropyRule::Jump { threshold: 0.25, mean_bytes: 3 },
        ] {
            for max in [None, Some(1), Some(3)] {
                let stream = |bos: Option<f32>| {
                    LimitStream::new(EntropyStream::new(rule, bos.unwrap()), max)
                };
                assert_eq!(
                    stream_patches(&batch, Some(&entropies), stream),
                    patch::entropy_patches(&batch, &entropies, rule, max).unwrap()
                );
            }
        }
    }

    /// The bytes at which patches start, counted from the span's first.
    fn starts<S: PatchStream>(text: &[u8], stream: impl Fn() -> S) -> Vec<usize> {
        let patches = stream_patches(&Batch::from_documents([text]), None, |_| stream());
        patches.starts[1..].iter().map(|i| i - 1).collect()
    }

    #[test]
    fn a_stride_may_be_a_fraction() {
        let of = |stride| starts(&[b'x'; 23], || StrideStream::new(stride));
        assert_eq!(of(5.5), [0, 5, 11, 16, 22]);
        assert_eq!(of(1.5), [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]);
        assert_eq!(of(1e300), [0]);
        assert_eq!(starts(&[b'x'; 55_000], || StrideStream::new(5.5)).len(), 10_000);
    }

    #[test]
    fn a_grid_takes_the_first_white_space_of_each_cell() {
        let of = |text: &str, stride| starts(text.as_bytes(), || SpaceGridStream::new(stride));
        // Points at 6, 12, 18, ...; cells from 3, 9, 15, ...
        // White space before bytes 2, 5, 8, 18, 20 and 22.
        assert_eq!(of("a bc de fghijklmn o p q", 6.0), [0, 5, 18, 22]);
        assert_eq!(of("abcdefghijklmnop", 6.0), [0]);
        // Every word is longer than a cell: each is a patch.
        assert_eq!(of("one two three", 1.0), [0, 4, 8]);
    }
}
