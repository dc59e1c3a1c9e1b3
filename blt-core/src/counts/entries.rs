//! Counts as a sorted list: what is gathered, merged, pruned and written.

use rayon::slice::ParallelSliceMut;

/// How often `byte` followed a context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The bytes before, the last one in the highest bits; 0 beyond `depth` bytes.
    pub context: u64,
    pub count: u32,
    /// The folds that it was seen in.
    pub folds: u16,
    pub byte: u8,
    /// Bytes of the context.
    pub depth: u8,
}

impl Entry {
    /// A context stands before the longer contexts that end with it.
    pub fn key(&self) -> (u64, u8, u8) {
        (self.context, self.depth, self.byte)
    }

    fn absorb(&mut self, other: &Entry) {
        self.count = self.count.saturating_add(other.count);
        self.folds |= other.folds;
    }
}

/// The last `depth` bytes of a context.
#[inline]
pub fn suffix(context: u64, depth: usize) -> u64 {
    if depth == 0 { 0 } else { context & u64::MAX << (64 - 8 * depth) }
}

/// Sorts entries, and adds up those of one context and byte.
pub fn sort(entries: &mut Vec<Entry>) {
    entries.par_sort_unstable_by_key(Entry::key);
    entries.dedup_by(|next, kept| {
        let same = next.key() == kept.key();
        if same {
            kept.absorb(next);
        }
        same
    });
}

/// Merges two sorted lists.
pub fn merge(a: &[Entry], b: &[Entry]) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        let (of_x, of_y) = (x.key() <= y.key(), y.key() <= x.key());
        let mut entry = if of_x { x } else { y };
        if of_x && of_y {
            entry.absorb(&y);
        }
        merged.push(entry);
        i += of_x as usize;
        j += of_y as usize;
    }
    merged.extend_from_slice(&a[i..]);
    merged.extend_from_slice(&b[j..]);
    merged
}

/// Shortens rare contexts, the longest first, until at most `limit` entries are left (256 or more):
/// what was seen once loses a byte of its context, from the longest contexts to those of one byte,
/// then what was seen at most twice, four times, and so on.
pub fn prune(entries: &mut Vec<Entry>, limit: usize) {
    let longest = entries.iter().map(|e| e.depth).max().unwrap_or(0);
    let mut rare = 1u32;
    while entries.len() > limit {
        for depth in (1..=longest).rev() {
            for entry in entries.iter_mut().filter(|e| e.depth == depth && e.count <= rare) {
                entry.depth -= 1;
                entry.context = suffix(entry.context, entry.depth as usize);
            }
            sort(entries);
            if entries.len() <= limit {
                return;
            }
        }
        rare = rare.saturating_mul(2);
    }
}
