//! Reading batches.

use super::stream::CountsStream;
use super::table::Counts;
use crate::bytes::{Batch, OFFSET, VOCAB};
use rayon::prelude::*;

/// Logit of an id that is no byte: counts never predict one.
pub(crate) const NO_BYTE: f32 = -100.0;

impl Counts {
    /// Entropy of the next byte in nats, `[n]`.
    pub fn entropies(&self, batch: &Batch) -> Vec<f32> {
        self.of_spans(batch, 1, |stream, _, out| out[0] = stream.entropy())
    }

    /// Nats of `targets` (`[n]`), 0 where nothing is predicted.
    pub fn nats(&self, batch: &Batch, targets: &[Option<u16>]) -> Vec<f32> {
        self.of_spans(batch, 1, |stream, at, out| {
            out[0] = match targets[at] {
                None => 0.0,
                Some(id) if id < OFFSET => -NO_BYTE,
                Some(id) => stream.nats((id - OFFSET) as u8),
            };
        })
    }

    /// Natural logarithms of the probabilities of the next id, `[n, 260]`.
    pub fn logits(&self, batch: &Batch) -> Vec<f32> {
        self.of_spans(batch, VOCAB, |stream, _, out| {
            let (others, bytes) = out.split_at_mut(OFFSET as usize);
            others.fill(NO_BYTE);
            stream.log_probabilities(bytes);
        })
    }

    /// Fills a row of `width` for each id. `read` is given the state after the id, and the id's
    /// place in the batch.
    fn of_spans(
        &self,
        batch: &Batch,
        width: usize,
        read: impl Fn(&mut CountsStream<&Counts>, usize, &mut [f32]) + Sync,
    ) -> Vec<f32> {
        let mut out = vec![0.0; batch.len() * width];
        let mut rest = out.as_mut_slice();
        let mut spans = Vec::with_capacity(batch.n_spans());
        for span in batch.offsets.windows(2) {
            let (rows, later) = rest.split_at_mut((span[1] - span[0]) * width);
            spans.push((span[0], rows));
            rest = later;
        }
        spans.into_par_iter().for_each(|(start, rows)| {
            let mut stream = CountsStream::new(self);
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                if i > 0 {
                    stream.push((batch.ids[start + i] - OFFSET) as u8);
                }
                read(&mut stream, start + i, row);
            }
        });
        out
    }
}
