//! What streams remember: rows of keys and values, and where patches ended.

use super::stream::{MAX_REWIND, Rewind};

/// Rows of a document, one for each of its ids or patches; those that no one will read again are
/// forgotten.
pub(super) struct Memory {
    width: usize,
    /// Rows `first..`, contiguous.
    rows: Vec<f32>,
    first: usize,
}

impl Memory {
    pub fn new(width: usize) -> Self {
        Memory { width, rows: Vec::new(), first: 0 }
    }

    /// Rows so far, the forgotten ones too.
    pub fn len(&self) -> usize {
        self.first + self.rows.len() / self.width
    }

    pub fn extend(&mut self, rows: &[f32]) {
        self.rows.extend_from_slice(rows);
    }

    /// Rows `from..to`.
    pub fn rows(&self, from: usize, to: usize) -> &[f32] {
        &self.rows[(from - self.first) * self.width..(to - self.first) * self.width]
    }

    /// Nobody will read rows before `from`, unless after a rewind. The rows move once they are half
    /// of what is held, so that each moves once.
    pub fn forget(&mut self, from: usize) {
        let from = from.saturating_sub(MAX_REWIND);
        if from > self.first && (from - self.first) * self.width > self.rows.len() / 2 {
            self.rows.drain(..(from - self.first) * self.width);
            self.first = from;
        }
    }

    pub fn truncate(&mut self, len: usize) {
        self.rows.truncate(len.saturating_sub(self.first) * self.width);
    }
}

/// After which ids of a document its patches ended.
#[derive(Default)]
pub(super) struct PatchEnds {
    /// Ids up to the end of each patch.
    ends: Vec<usize>,
}

impl PatchEnds {
    /// Patches so far.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// A patch ended with `ids` ids in all.
    pub fn push(&mut self, ids: usize) {
        self.ends.push(ids);
    }

    /// The first id of the patch that id `id` lies in, or would.
    pub fn start(&self, id: usize) -> usize {
        match self.ends.partition_point(|&end| end <= id) {
            0 => 0,
            after => self.ends[after - 1],
        }
    }
}

impl Rewind for PatchEnds {
    fn rewind(&mut self, ids: usize) {
        self.ends.truncate(self.ends.partition_point(|&end| end <= ids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_is_kept_and_no_more_than_twice_that() {
        let mut memory = Memory::new(2);
        let window = 10;
        for i in 0..1000usize {
            memory.extend(&[i as f32, 0.5]);
            let from = (i + 1).saturating_sub(window);
            assert_eq!(memory.rows(from, i + 1)[0], from as f32);
            memory.forget(from);
            assert!(memory.rows.len() <= 2 * 2 * (window + MAX_REWIND + 1));
        }
        memory.truncate(1000 - MAX_REWIND);
        let (from, to) = (1000 - MAX_REWIND - window, 1000 - MAX_REWIND);
        assert_eq!(memory.len(), to);
        assert_eq!(memory.rows(from, to)[0], from as f32);
    }

    #[test]
    fn patches_are_found_by_their_ids() {
        let mut ends = PatchEnds::default();
        [1, 4, 5].into_iter().for_each(|ids| ends.push(ids));
        assert_eq!([0, 1, 3, 4, 5, 9].map(|id| ends.start(id)), [0, 1, 1, 4, 5, 5]);
        ends.rewind(4);
        assert_eq!(ends.len(), 2);
    }
}
