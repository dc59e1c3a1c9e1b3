//! One pass over documents.

use super::config::{CountsConfig, CountsError};
use super::entries::{Entry, merge, prune, sort, suffix};
use super::held_out::{HEADS, HeadHash, Heads, fold};
use super::table::Counts;
use crate::bytes::{Batch, OFFSET};

/// Entries that are gathered before they are sorted, at most.
const CHUNK: usize = 1 << 21;

/// Gathers counts.
///
/// The same batches in the same order give the same counts on any number of threads.
pub struct Fit {
    config: CountsConfig,
    heads: Heads,
    gathered: Vec<Entry>,
    chunk: usize,
    /// Sorted lists, each at least twice as long as the next.
    runs: Vec<Vec<Entry>>,
    /// Most entries of all runs.
    limit: usize,
}

impl Fit {
    /// # Errors
    /// Sizes out of range.
    pub fn new(config: CountsConfig) -> Result<Self, CountsError> {
        config.check()?;
        let entries = config.memory / size_of::<Entry>();
        let chunk = CHUNK.min(entries / 4);
        Ok(Fit {
            config,
            heads: Heads::default(),
            gathered: Vec::new(),
            chunk,
            runs: Vec::new(),
            limit: entries / 2,
        })
    }

    /// Counts the bytes of a batch's spans.
    pub fn push(&mut self, batch: &Batch) {
        for (s, span) in batch.spans.iter().enumerate() {
            let mut head = HeadHash::default();
            let (mut context, mut folds) = (0u64, 0u16);
            for (t, &id) in batch.span_ids(s)[1..].iter().enumerate() {
                let byte = (id - OFFSET) as u8;
                // An earlier span has counted the bytes of the overlap.
                if t >= HEADS[0].max(span.context) {
                    let (context, depth) = (suffix(context, self.config.order), self.config.order);
                    self.gathered.push(Entry {
                        context,
                        count: 1,
                        folds,
                        byte,
                        depth: depth as u8,
                    });
                }
                if let Some(hash) = head.push(byte) {
                    self.heads.insert(hash);
                    folds = fold(hash);
                }
                context = context >> 8 | (byte as u64) << 56;
            }
            if self.gathered.len() >= self.chunk {
                self.flush();
            }
        }
    }

    /// Sorts what was gathered, and merges lists of similar length.
    fn flush(&mut self) {
        let mut run = std::mem::take(&mut self.gathered);
        sort(&mut run);
        while let Some(last) = self.runs.pop_if(|last| last.len() < 2 * run.len()) {
            run = merge(&last, &run);
        }
        self.runs.push(run);
        if self.runs.iter().map(Vec::len).sum::<usize>() > self.limit {
            let mut all = self.merged();
            if all.len() > self.limit {
                prune(&mut all, self.limit / 4 * 3);
            }
            self.runs = vec![all];
        }
        self.gathered = Vec::with_capacity(self.chunk);
    }

    fn merged(&mut self) -> Vec<Entry> {
        let runs = std::mem::take(&mut self.runs).into_iter().rev();
        runs.reduce(|a, b| merge(&a, &b)).unwrap_or_default()
    }

    /// The model. Counts that take more than the memory bound are pruned
    /// ([`CountsConfig::memory`]).
    ///
    /// # Errors
    /// If nothing was counted.
    pub fn finish(mut self) -> Result<Counts, CountsError> {
        self.flush();
        let entries = self.merged();
        if entries.is_empty() {
            return Err(CountsError::Empty);
        }
        Ok(Counts::within(entries, self.heads, self.config))
    }
}
