//! Probabilities from the counts of other folds, computed as they are read.

use super::levels::Pair;
use super::table::Counts;

/// A distribution over the next byte.
#[derive(Clone)]
pub struct Spread {
    p: [f32; 256],
    /// `p ln p`
    q: [f32; 256],
}

impl Spread {
    fn uniform() -> Self {
        let p = 1.0 / 256f32;
        Spread { p: [p; 256], q: [p * p.ln(); 256] }
    }

    /// Goes from the distribution after a context's parent to that after the context, whose pairs
    /// these are, without the folds `out`.
    fn narrow(&mut self, pairs: &[Pair], discounts: &[f32; 3], out: u16) {
        // Counts are shared out evenly among their folds; what is left of a fold is at least one.
        let left = |pair: &Pair| {
            let (all, kept) = (pair.folds.count_ones(), (pair.folds & !out).count_ones());
            (kept > 0).then(|| (pair.count as f32 * kept as f32 / all as f32).max(1.0))
        };
        let discount = |count: f32| discounts[(count.min(3.0).round() as usize).max(1) - 1];
        let (mut total, mut discounted) = (0.0, 0.0);
        for count in pairs.iter().filter_map(left) {
            total += count;
            discounted += discount(count);
        }
        if total == 0.0 {
            return;
        }
        let escape = discounted / total;
        let ln = escape.ln();
        for (p, q) in self.p.iter_mut().zip(&mut self.q) {
            *q = escape * (*q + ln * *p);
            *p *= escape;
        }
        for pair in pairs {
            if let Some(count) = left(pair) {
                let p = self.p[pair.byte as usize] + (count - discount(count)) / total;
                (self.p[pair.byte as usize], self.q[pair.byte as usize]) = (p, p * p.ln());
            }
        }
    }

    /// In nats.
    pub fn entropy(&self) -> f32 {
        let mut sums = [0f32; 8];
        for q in self.q.chunks_exact(8) {
            sums.iter_mut().zip(q).for_each(|(sum, q)| *sum += q);
        }
        (-sums.iter().sum::<f32>()).max(0.0)
    }

    pub fn probability(&self, byte: u8) -> f32 {
        self.p[byte as usize]
    }
}

/// Reads counts without some of their folds.
#[derive(Default)]
pub struct Others {
    out: u16,
    /// The distributions after the empty context and those of one byte, by number of the context:
    /// they have the most pairs, and come again and again.
    short: Vec<Option<Box<Spread>>>,
    /// The last answer.
    last: Option<(u32, Box<Spread>)>,
}

impl Others {
    /// Leaves out the folds of a mask as well.
    pub fn leave_out(&mut self, folds: u16) {
        if self.out & folds != folds {
            *self = Others { out: self.out | folds, short: vec![None; 257], last: None };
        }
    }

    /// The distribution after a context.
    pub fn after(&mut self, counts: &Counts, context: u32) -> &Spread {
        if self.last.as_ref().is_none_or(|(of, _)| *of != context) {
            let mut chain = [0; 10];
            let mut depth = 0;
            chain[0] = context;
            while chain[depth] != 0 {
                chain[depth + 1] = counts.parent(chain[depth]);
                depth += 1;
            }
            // Contexts from the empty one on.
            let chain = &mut chain[..=depth];
            chain.reverse();
            let mut spread = Spread::uniform();
            for (depth, &context) in chain.iter().enumerate() {
                let known = if depth < 2 { &self.short[context as usize] } else { &None };
                if let Some(known) = known {
                    spread.clone_from(known);
                    continue;
                }
                spread.narrow(counts.pairs(context), &counts.discounts[depth], self.out);
                if depth < 2 {
                    self.short[context as usize] = Some(Box::new(spread.clone()));
                }
            }
            self.last = Some((context, Box::new(spread)));
        }
        &self.last.as_ref().expect("set above").1
    }
}
