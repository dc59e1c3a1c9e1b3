//! The contexts of each length, from sorted entries.

use super::entries::{Entry, suffix};

/// A byte that followed a context.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Its probability after the context, all orders interpolated.
    pub probability: f32,
    /// The number that the probability is made of: how often it followed one of the longest
    /// contexts, or how many longer contexts it followed.
    pub count: u32,
    /// The folds that it was seen in.
    pub folds: u16,
    pub byte: u8,
}

/// The contexts of one length, sorted.
#[derive(Default)]
pub struct Level {
    pub contexts: Vec<u64>,
    /// Where each context's pairs start.
    pub pairs_of: Vec<u32>,
    /// Where each context's children (the contexts of one byte more that end with it) start.
    pub children_of: Vec<u32>,
    pub pairs: Vec<Pair>,
}

/// Counts of a context that is being read.
struct Open {
    count: [u32; 256],
    /// Number of longer contexts.
    wider: [u32; 256],
    folds: [u16; 256],
    bytes: Vec<u8>,
}

impl Open {
    fn add(&mut self, byte: u8, count: u32, folds: u16) {
        let at = byte as usize;
        if self.folds[at] == 0 {
            self.bytes.push(byte);
        }
        self.count[at] = self.count[at].saturating_add(count);
        self.wider[at] = self.wider[at].saturating_add(1);
        self.folds[at] |= folds;
    }
}

/// The levels 0 to `order`.
pub fn levels(entries: &[Entry], order: usize) -> Vec<Level> {
    let open = || Open { count: [0; 256], wider: [0; 256], folds: [0; 256], bytes: Vec::new() };
    let mut builder = Builder {
        order,
        levels: (0..=order).map(|_| Level::default()).collect(),
        open: (0..=order).map(|_| open()).collect(),
    };
    builder.context(entries, 0);
    for depth in 0..=order {
        let children = builder.levels.get(depth + 1).map_or(0, |level| level.contexts.len());
        let level = &mut builder.levels[depth];
        level.pairs_of.push(level.pairs.len() as u32);
        level.children_of.push(children as u32);
    }
    builder.levels
}

struct Builder {
    order: usize,
    levels: Vec<Level>,
    open: Vec<Open>,
}

impl Builder {
    /// Adds the context of the last `depth` bytes of `entries`, which all end with it, after the
    /// longer contexts that end with it.
    fn context(&mut self, entries: &[Entry], depth: usize) {
        let children = self.levels.get(depth + 1).map_or(0, |level| level.contexts.len());
        // The longer contexts of one that was seen once say the same again.
        let once = entries.len() == 1 && entries[0].count == 1;
        let own = if once { 1 } else { entries.partition_point(|e| e.depth as usize == depth) };
        for e in &entries[..own] {
            self.open[depth].add(e.byte, e.count, e.folds);
        }
        let mut rest = &entries[own..];
        while let Some(first) = rest.first() {
            let child = suffix(first.context, depth + 1);
            let n = rest.partition_point(|e| suffix(e.context, depth + 1) <= child);
            self.context(&rest[..n], depth + 1);
            rest = &rest[n..];
        }
        self.close(suffix(entries[0].context, depth), depth, children);
    }

    fn close(&mut self, context: u64, depth: usize, children: usize) {
        let (shorter, open) = self.open.split_at_mut(depth);
        let open = &mut open[0];
        let level = &mut self.levels[depth];
        level.contexts.push(context);
        level.pairs_of.push(level.pairs.len() as u32);
        level.children_of.push(children as u32);
        open.bytes.sort_unstable();
        for byte in open.bytes.drain(..) {
            let at = byte as usize;
            let (count, folds) = (open.count[at], open.folds[at]);
            let used = if depth == self.order { count } else { open.wider[at] };
            level.pairs.push(Pair { probability: 0.0, count: used, folds, byte });
            if let Some(parent) = shorter.last_mut() {
                parent.add(byte, count, folds);
            }
            (open.count[at], open.wider[at], open.folds[at]) = (0, 0, 0);
        }
    }
}
