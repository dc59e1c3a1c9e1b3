//! Scanning files: reading their schemas and where their row groups are.

use std::collections::VecDeque;

use crate::error::DataError;
use crate::formats::Format;
use crate::formats::file::{Found, Scan};

/// How many objects are scanned at a time: a scan is a request or two, which mostly wait.
const SCANS_AT_A_TIME: usize = 32;

/// Scans files in their order, objects on a store several at a time.
pub(crate) struct Scans<'a> {
    format: &'a dyn Format,
    found: &'a [Found],
    ready: VecDeque<Result<Scan, DataError>>,
}

impl<'a> Scans<'a> {
    pub fn new(format: &'a dyn Format, found: &'a [Found]) -> Self {
        Scans { format, found, ready: VecDeque::new() }
    }

    /// Scans the file at `at`, which is 0 in the first call and one more in each call after it.
    pub fn next(&mut self, at: usize) -> Result<Scan, DataError> {
        if let Some(ready) = self.ready.pop_front() {
            return ready;
        }
        let (format, found) = (self.format, &self.found[at]);
        if !found.is_remote() {
            return scan(format, found);
        }
        let window =
            self.found[at..].iter().take_while(|found| found.is_remote()).take(SCANS_AT_A_TIME);
        self.ready = std::thread::scope(|scope| {
            let threads: Vec<_> =
                window.map(|found| scope.spawn(move || scan(format, found))).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        self.ready.pop_front().unwrap_or_else(|| scan(format, found))
    }
}

/// What stands in a repository for a file that Git LFS keeps elsewhere, and how long it can be.
const LFS_POINTER: (&[u8], u64) = (b"version https://git-lfs.github.com/spec/", 1024);

fn scan(format: &dyn Format, found: &Found) -> Result<Scan, DataError> {
    let (begins, most) = LFS_POINTER;
    if (begins.len() as u64..most).contains(&found.size)
        && found.open()?.read_at(0..begins.len() as u64)? == begins
    {
        return Err(DataError::Unsupported {
            path: found.path.clone(),
            what: "it is a pointer of Git LFS, which stands for the file".into(),
            help: "fetch the file with `git lfs pull`",
        });
    }
    format.scan(found)
}
