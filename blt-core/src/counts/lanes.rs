//! Look-ups for several places of a span at once.
//!
//! A look-up is a few loads from tables far larger than a cache, and a place's loads do not wait
//! for those of another place. So each step is made for [`LANES`] places before the next step, and
//! the processor waits for all of them together.

use super::entries::suffix;
use super::table::Counts;

/// Places that are looked up together.
const LANES: usize = 16;

impl Counts {
    /// After each byte of a span, the longest known context that the bytes so far end with. It is
    /// what [`CountsStream::push`](super::CountsStream::push) finds, byte by byte.
    pub(super) fn contexts_of(&self, bytes: &[u8]) -> Vec<u32> {
        let order = self.config().order;
        let mut found = Vec::with_capacity(bytes.len());
        let (mut key, mut before) = (0u64, 0);
        for (chunk, bytes) in bytes.chunks(LANES).enumerate() {
            let (mut keys, mut depths) = ([0; LANES], [0; LANES]);
            for (i, &byte) in bytes.iter().enumerate() {
                key = key >> 8 | (byte as u64) << 56;
                (keys[i], depths[i]) = (key, order.min(LANES * chunk + i + 1));
            }
            let contexts = self.longest(&keys, &mut depths, bytes.len());
            for (&context, &depth) in contexts.iter().zip(&depths).take(bytes.len()) {
                // A byte at a time, a context grows by one byte at most.
                let mut context = context;
                for _ in before + 1..depth {
                    context = self.parent(context);
                }
                before = depth.min(before + 1);
                found.push(context);
            }
        }
        found
    }

    /// The longest known ends of `n` keys, and their lengths in `depths`, which begin as the
    /// longest that may be.
    fn longest(&self, keys: &[u64; LANES], depths: &mut [usize; LANES], n: usize) -> [u32; LANES] {
        let mut found = [0; LANES];
        let mut open = [0; LANES];
        (0..n).for_each(|i| open[i] = i);
        let mut n = n;
        while n > 0 {
            let mut probes = [Default::default(); LANES];
            for (probe, &i) in probes.iter_mut().zip(&open[..n]) {
                *probe = self.probe(suffix(keys[i], depths[i]), depths[i]);
            }
            let mut left = 0;
            for at in 0..n {
                let i = open[at];
                match self.found(probes[at], suffix(keys[i], depths[i]), depths[i]) {
                    Some(context) => found[i] = context,
                    None => {
                        depths[i] -= 1;
                        open[left] = i;
                        left += 1;
                    }
                }
            }
            n = left;
        }
        found
    }

    /// The probability of each byte after its context.
    pub(super) fn probabilities_of(&self, contexts: &[u32], bytes: &[u8], out: &mut [f32]) {
        for ((contexts, bytes), out) in
            contexts.chunks(LANES).zip(bytes.chunks(LANES)).zip(out.chunks_mut(LANES))
        {
            let mut open = [(0, 0, 1.0f32); LANES];
            contexts.iter().enumerate().for_each(|(i, &context)| open[i] = (i, context, 1.0));
            let mut n = contexts.len();
            while n > 0 {
                let mut pairs = [&[][..]; LANES];
                for (pairs, &(_, context, _)) in pairs.iter_mut().zip(&open[..n]) {
                    *pairs = self.pairs(context);
                }
                let mut left = 0;
                for at in 0..n {
                    let (i, context, escape) = open[at];
                    match self.step(pairs[at], context, bytes[i], escape) {
                        Ok(p) => out[i] = p,
                        Err((parent, escape)) => {
                            open[left] = (i, parent, escape);
                            left += 1;
                        }
                    }
                }
                n = left;
            }
        }
    }
}
