//! Reading batches.

use super::held_out::{HEADS, HeadHash};
use super::others::Others;
use super::stream::CountsStream;
use super::table::Counts;
use crate::bytes::{Batch, OFFSET, VOCAB};
use rayon::prelude::*;

/// Logit of an id that is no byte: counts never predict one.
pub(crate) const NO_BYTE: f32 = -100.0;

impl Counts {
    /// Entropy of the next byte in nats, `[n]`.
    pub fn entropies(&self, batch: &Batch) -> Vec<f32> {
        let plain = |contexts: &[u32], _: usize, out: &mut [f32]| {
            out.iter_mut().zip(contexts).for_each(|(out, &c)| *out = self.context(c).entropy);
        };
        self.by_span(batch, plain, |others, context, _| others.after(self, context).entropy())
    }

    /// Nats of `targets` (`[n]`), 0 where nothing is predicted.
    pub fn nats(&self, batch: &Batch, targets: &[Option<u16>]) -> Vec<f32> {
        let byte = |at: usize| targets[at].map_or(0, |id| id.saturating_sub(OFFSET) as u8);
        let nats = |at: usize, p: f32| match targets[at] {
            None => 0.0,
            Some(id) if id < OFFSET => -NO_BYTE,
            Some(_) => -p.max(f32::MIN_POSITIVE).ln(),
        };
        let plain = |contexts: &[u32], start: usize, out: &mut [f32]| {
            let bytes: Vec<u8> = (start..start + out.len()).map(byte).collect();
            self.probabilities_of(contexts, &bytes, out);
            out.iter_mut().enumerate().for_each(|(i, p)| *p = nats(start + i, *p));
        };
        let fitted = |others: &mut Others, context, at| {
            nats(at, others.after(self, context).probability(byte(at)))
        };
        self.by_span(batch, plain, fitted)
    }

    /// Natural logarithms of the probabilities of the next id, `[n, 260]`.
    pub fn logits(&self, batch: &Batch) -> Vec<f32> {
        let mut out = vec![0.0; batch.len() * VOCAB];
        spans_of(batch, &mut out, VOCAB).into_par_iter().for_each(|(s, rows)| {
            let mut stream = CountsStream::new(self);
            for (row, &id) in rows.chunks_exact_mut(VOCAB).zip(batch.span_ids(s)) {
                if id >= OFFSET {
                    stream.push((id - OFFSET) as u8);
                }
                let (others, bytes) = row.split_at_mut(OFFSET as usize);
                others.fill(NO_BYTE);
                stream.log_probabilities(bytes);
            }
        });
        out
    }

    /// A number for each id. `plain` fills those of places that are read from all counts, given
    /// their contexts and the first one's place in the batch; `fitted` gives that of a place of a
    /// span that was fitted.
    fn by_span(
        &self,
        batch: &Batch,
        plain: impl Fn(&[u32], usize, &mut [f32]) + Sync,
        fitted: impl Fn(&mut Others, u32, usize) -> f32 + Sync,
    ) -> Vec<f32> {
        let mut out = vec![0.0; batch.len()];
        spans_of(batch, &mut out, 1).into_par_iter().for_each(|(s, out)| {
            let (start, bytes) = (batch.offsets[s], batch.bytes(s));
            let mut contexts = vec![0];
            contexts.append(&mut self.contexts_of(&bytes));
            let mut head = HeadHash::default();
            let heads = bytes.iter().take(HEADS[1]).map(|&byte| head.push(byte));
            let mut parts = vec![(0, None)];
            parts.extend(
                heads.enumerate().filter_map(|(t, hash)| Some((t + 1, self.heads.left_out(hash?)))),
            );
            let ends = parts.iter().skip(1).map(|part| part.0).chain([out.len()]);
            for (&(from, left_out), to) in parts.iter().zip(ends) {
                let (contexts, out) = (&contexts[from..to], &mut out[from..to]);
                match left_out.map(Others::without) {
                    None => plain(contexts, start + from, out),
                    Some(mut others) => {
                        for (i, (out, &context)) in out.iter_mut().zip(contexts).enumerate() {
                            *out = fitted(&mut others, context, start + from + i);
                        }
                    }
                }
            }
        });
        out
    }
}

/// The rows of each span, of `width` numbers an id.
fn spans_of<'a>(
    batch: &Batch,
    mut out: &'a mut [f32],
    width: usize,
) -> Vec<(usize, &'a mut [f32])> {
    let mut spans = Vec::with_capacity(batch.n_spans());
    for (s, span) in batch.offsets.windows(2).enumerate() {
        let (rows, later) = out.split_at_mut((span[1] - span[0]) * width);
        spans.push((s, rows));
        out = later;
    }
    spans
}
