//! Probabilities from the counts of other folds, computed as they are read.

use super::levels::Pair;
use super::table::Counts;

/// A distribution over the next byte.
#[derive(Clone)]
pub struct Spread {
    /// What the probability of a byte is `scale` times of: bytes that did not follow a context need
    /// not be touched.
    shares: [f64; 256],
    scale: f64,
    /// The sum of `p ln p`.
    sum: f64,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { shares: [1.0 / 256.0; 256], scale: 1.0, sum: -256f64.ln() }
    }
}

impl Spread {
    /// Goes from the distribution after a context's parent to that after the context, whose pairs
    /// these are, without the fold `out`.
    fn narrow(&mut self, pairs: &[Pair], discounts: &[f32; 3], out: u16) {
        // Counts are shared out evenly among their folds; what is left of a fold is at least one.
        let left = |pair: &Pair| {
            let (all, kept) = (pair.folds.count_ones(), (pair.folds & !out).count_ones());
            (kept > 0).then(|| (pair.count as f64 * kept as f64 / all as f64).max(1.0))
        };
        let discount = |count: f64| discounts[(count.min(3.0) + 0.5) as usize - 1] as f64;
        let (mut total, mut discounted) = (0.0, 0.0);
        for count in pairs.iter().filter_map(left) {
            total += count;
            discounted += discount(count);
        }
        if total == 0.0 {
            return;
        }
        let escape = discounted / total;
        let scale = self.scale * escape;
        let (mut p_seen, mut q_seen, mut own) = (0.0, 0.0, 0.0);
        for pair in pairs {
            let Some(count) = left(pair) else { continue };
            let share = &mut self.shares[pair.byte as usize];
            let before = self.scale * *share;
            let p = (count - discount(count)) / total + escape * before;
            p_seen += before;
            q_seen += before * before.ln();
            own += p * p.ln();
            *share = p / scale;
        }
        let unseen = (1.0 - p_seen).max(0.0) * escape.ln() + (self.sum - q_seen).min(0.0);
        self.sum = own + escape * unseen;
        self.scale = scale;
    }

    /// In nats.
    pub fn entropy(&self) -> f32 {
        (-self.sum).max(0.0) as f32
    }

    pub fn probability(&self, byte: u8) -> f32 {
        (self.scale * self.shares[byte as usize]) as f32
    }
}

/// Reads counts without some of their folds.
pub struct Others {
    out: u16,
    /// The distributions after the empty context and those of one byte, by number of the context:
    /// they have the most pairs, and come again and again.
    short: Vec<Option<Box<Spread>>>,
    /// The last answer, and its context.
    last: Spread,
    of: Option<u32>,
}

impl Others {
    /// Leaves out the folds of the mask `out`.
    pub fn without(out: u16) -> Self {
        Others { out, short: vec![None; 257], last: Spread::default(), of: None }
    }

    /// The distribution after a context.
    pub fn after(&mut self, counts: &Counts, context: u32) -> &Spread {
        if self.of != Some(context) {
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
            let kept = |short: &Vec<Option<Box<Spread>>>, depth: usize| {
                chain.get(depth).is_some_and(|&context| short[context as usize].is_some())
            };
            let from = (0..2).rev().find(|&depth| kept(&self.short, depth));
            self.last = match from {
                Some(depth) => self.short[chain[depth] as usize].as_deref().cloned(),
                None => None,
            }
            .unwrap_or_default();
            let known = from.map_or(0, |depth| depth + 1);
            for (depth, &context) in chain.iter().enumerate().skip(known) {
                self.last.narrow(counts.pairs(context), &counts.discounts[depth], self.out);
                if depth < 2 {
                    self.short[context as usize] = Some(Box::new(self.last.clone()));
                }
            }
            self.of = Some(context);
        }
        &self.last
    }
}
