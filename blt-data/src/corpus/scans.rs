//! Looking at files before their rows are read.

use std::collections::VecDeque;

use crate::corpus::files::Found;
use crate::error::DataError;
use crate::formats::{Format, Scan};

/// Objects that are looked at together: each takes a request or two, which are mostly waited for.
const SCANS_AT_A_TIME: usize = 32;

/// The scans of files, in their order; those of objects some at a time.
pub(crate) struct Scans<'a> {
    format: &'a dyn Format,
    found: &'a [Found],
    ready: VecDeque<Result<Scan, DataError>>,
}

impl<'a> Scans<'a> {
    pub fn new(format: &'a dyn Format, found: &'a [Found]) -> Self {
        Scans { format, found, ready: VecDeque::new() }
    }

    /// That of the file at `at`: 0 at first, and one more each time.
    pub fn next(&mut self, at: usize) -> Result<Scan, DataError> {
        if let Some(ready) = self.ready.pop_front() {
            return ready;
        }
        let (format, found) = (self.format, &self.found[at]);
        if !found.is_remote() {
            return format.scan(found);
        }
        let window =
            self.found[at..].iter().take_while(|found| found.is_remote()).take(SCANS_AT_A_TIME);
        self.ready = std::thread::scope(|scope| {
            let threads: Vec<_> =
                window.map(|found| scope.spawn(move || format.scan(found))).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        self.ready.pop_front().unwrap_or_else(|| format.scan(found))
    }
}
