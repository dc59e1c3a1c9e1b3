//! Reading text byte by byte.

use super::entries::suffix;
use super::held_out::HeadHash;
use super::others::Others;
use super::table::Counts;
use std::ops::Deref;

/// The model's state in a span: what it says of the next byte. `C` is how it holds the counts: a
/// reference, or a shared pointer.
pub struct CountsStream<C: Deref<Target = Counts>> {
    counts: C,
    /// The last bytes, the last one in the highest bits.
    bytes: u64,
    head: HeadHash,
    /// The longest known context that the bytes so far end with, and its length.
    context: u32,
    depth: usize,
    /// Set while the span has begun as a fitted one.
    others: Option<Box<Others>>,
}

impl<C: Deref<Target = Counts>> CountsStream<C> {
    /// At the start of a span.
    pub fn new(counts: C) -> Self {
        let head = HeadHash::default();
        CountsStream { counts, bytes: 0, head, context: 0, depth: 0, others: None }
    }

    /// The state at the start of another span.
    pub fn again(&self) -> Self
    where
        C: Clone,
    {
        CountsStream::new(self.counts.clone())
    }

    /// Takes the next byte of the span.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.bytes = self.bytes >> 8 | (byte as u64) << 56;
        if let Some(hash) = self.head.push(byte) {
            // A longer head says more surely whether the span was fitted.
            let left_out = self.counts.heads.left_out(hash);
            self.others = left_out.map(|fold| Box::new(Others::without(fold)));
        }
        // A context that is known has all its own ends known, so that the next one is at most a
        // byte longer than the last.
        self.depth = (self.depth + 1).min(self.counts.config().order);
        loop {
            if let Some(found) = self.counts.find(suffix(self.bytes, self.depth), self.depth) {
                self.context = found;
                return;
            }
            self.depth -= 1;
        }
    }

    /// Entropy of the next byte, in nats.
    #[inline]
    pub fn entropy(&mut self) -> f32 {
        match &mut self.others {
            None => self.counts.context(self.context).entropy,
            Some(others) => others.after(&self.counts, self.context).entropy(),
        }
    }

    /// Negative log likelihood of `byte` as the next one, in nats.
    #[inline]
    pub fn nats(&mut self, byte: u8) -> f32 {
        let p = match &mut self.others {
            None => self.counts.probability(self.context, byte),
            Some(others) => others.after(&self.counts, self.context).probability(byte),
        };
        -p.max(f32::MIN_POSITIVE).ln()
    }

    /// Writes the natural logarithm of the probability of each next byte.
    pub fn log_probabilities(&mut self, out: &mut [f32]) {
        let mut p = [0.0; 256];
        match &mut self.others {
            None => self.counts.probabilities(self.context, &mut p),
            Some(others) => {
                let after = others.after(&self.counts, self.context);
                p = std::array::from_fn(|byte| after.probability(byte as u8));
            }
        }
        out.iter_mut().zip(p).for_each(|(out, p)| *out = p.max(f32::MIN_POSITIVE).ln());
    }
}
