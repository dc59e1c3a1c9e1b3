//! Reading: whole ranges of bytes, or from a place on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::location::{Entry, Location, StorageError};
use super::remote;

/// Read at a time of an object that is read from a place on.
const BLOCK: u64 = 4 << 20;

/// An open file. Its clones share what is known of it, and where a local one's are read.
///
/// As a [`ChunkReader`] it remembers why it could not be read: what a decoder makes of that is not
/// to be taken for damage of the file.
#[derive(Clone)]
pub struct Input {
    location: Location,
    size: u64,
    bytes: Source,
    failed: Arc<Mutex<Option<StorageError>>>,
}

#[derive(Clone)]
enum Source {
    File(Arc<File>),
    /// And what was fetched of it, by where it begins.
    Object(remote::Object, Vec<(u64, Bytes)>),
}

impl Input {
    /// Of an object, nothing is read yet.
    pub fn open(entry: &Entry) -> Result<Self, StorageError> {
        let location = entry.location.clone();
        let (size, bytes) = match &location {
            Location::Local(path) => {
                let failed = |e: io::Error| StorageError::failed("read", path.display(), e);
                let file = File::open(path).map_err(failed)?;
                (file.metadata().map_err(failed)?.len(), Source::File(Arc::new(file)))
            }
            Location::Remote(url) => (
                entry.size,
                Source::Object(remote::Object::new(url, entry.tag.clone())?, Vec::new()),
            ),
        };
        Ok(Input { location, size, bytes, failed: Arc::default() })
    }

    pub fn location(&self) -> &Location {
        &self.location
    }

    /// In bytes. Of an object, as it was found.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn is_remote(&self) -> bool {
        matches!(self.bytes, Source::Object(..))
    }

    /// Fills `to` with the bytes from `at` on.
    pub fn read_exact_at(&self, at: u64, to: &mut [u8]) -> Result<(), StorageError> {
        match &self.bytes {
            Source::File(file) => {
                let mut file = &**file;
                let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(to));
                read.map_err(|e| StorageError::failed("read", &self.location, e))
            }
            Source::Object(..) => {
                to.copy_from_slice(&self.read_at(at..at + to.len() as u64)?);
                Ok(())
            }
        }
    }

    /// The bytes of a range, which is within the file.
    pub fn read_at(&self, range: Range<u64>) -> Result<Bytes, StorageError> {
        match &self.bytes {
            Source::File(_) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                self.read_exact_at(range.start, &mut bytes)?;
                Ok(bytes.into())
            }
            Source::Object(object, held) => {
                if let Some(bytes) = in_held(held, &range) {
                    return Ok(bytes);
                }
                let fetched = object.start(vec![range]).wait()?;
                fetched
                    .into_iter()
                    .next()
                    .ok_or_else(|| StorageError::failed("read", &self.location, "no answer"))
            }
        }
    }

    /// Begins to fetch these ranges; of a local file, nothing is to be fetched.
    pub fn start(&self, ranges: Vec<Range<u64>>) -> Fetching {
        let answer = match &self.bytes {
            Source::File(_) => None,
            Source::Object(object, _) => Some((object.start(ranges.clone()), ranges)),
        };
        Fetching { input: self.clone(), answer }
    }

    /// Reads from a place on, to the end.
    pub fn reader(&self, at: u64) -> Result<InputReader, StorageError> {
        Ok(match &self.bytes {
            Source::File(file) => {
                let failed = |e: io::Error| StorageError::failed("read", &self.location, e);
                let mut file = file.try_clone().map_err(failed)?;
                file.seek(SeekFrom::Start(at)).map_err(failed)?;
                InputReader::File(io::BufReader::new(file), self.clone())
            }
            Source::Object(..) => {
                InputReader::Object { input: self.clone(), at, block: Bytes::new() }
            }
        })
    }

    /// Why a [`ChunkReader`] of this file could not read, if that was so.
    pub fn failure(&self) -> Option<StorageError> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn fail(&self, error: StorageError) -> StorageError {
        self.failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error).clone()
    }
}

fn in_held(held: &[(u64, Bytes)], range: &Range<u64>) -> Option<Bytes> {
    held.iter().find_map(|(start, bytes)| {
        let (from, to) = (range.start.checked_sub(*start)?, range.end.checked_sub(*start)?);
        (to <= bytes.len() as u64).then(|| bytes.slice(from as usize..to as usize))
    })
}

/// An answer to come, and the ranges that it will be of.
type Asked = (remote::Answer<Vec<Bytes>>, Vec<Range<u64>>);

/// Ranges on their way.
pub struct Fetching {
    input: Input,
    answer: Option<Asked>,
}

impl Fetching {
    /// Waits; the input then has these ranges without another request.
    pub fn wait(self) -> Result<Input, StorageError> {
        let mut input = self.input;
        if let (Some((answer, ranges)), Source::Object(_, held)) = (self.answer, &mut input.bytes) {
            *held = ranges.into_iter().map(|r| r.start).zip(answer.wait()?).collect();
        }
        Ok(input)
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Input {
    type T = InputReader;

    fn get_read(&self, start: u64) -> Result<InputReader, ParquetError> {
        self.reader(start).map_err(|e| ParquetError::External(Box::new(self.fail(e))))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if let Source::File(file) = &self.bytes {
            return file.get_bytes(start, length).inspect_err(|e| {
                // Beyond the end is damage, or a file that was cut meanwhile.
                if let ParquetError::External(e) = e {
                    self.fail(StorageError::failed("read", &self.location, e));
                }
            });
        }
        let end = start.checked_add(length as u64).filter(|end| *end <= self.size);
        let Some(end) = end else {
            let size = self.size;
            return Err(ParquetError::EOF(format!(
                "{length} bytes from {start} on are not in a file of {size}"
            )));
        };
        self.read_at(start..end).map_err(|e| ParquetError::External(Box::new(self.fail(e))))
    }
}

/// Bytes from a place on.
pub enum InputReader {
    File(io::BufReader<File>, Input),
    Object { input: Input, at: u64, block: Bytes },
}

impl Read for InputReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            InputReader::File(file, input) => file.read(to).inspect_err(|e| {
                if e.kind() != io::ErrorKind::Interrupted {
                    input.fail(StorageError::failed("read", &input.location, e));
                }
            }),
            InputReader::Object { input, at, block } => {
                if block.is_empty() && *at < input.size {
                    *block = input.next_block(*at).map_err(|e| io::Error::other(input.fail(e)))?;
                    *at += block.len() as u64;
                }
                let n = block.len().min(to.len());
                to[..n].copy_from_slice(&block.split_to(n));
                Ok(n)
            }
        }
    }
}

impl Input {
    /// What is there from `at` on: all that was fetched there, else the next block.
    fn next_block(&self, at: u64) -> Result<Bytes, StorageError> {
        if let Source::Object(_, held) = &self.bytes {
            let here = held
                .iter()
                .find(|(start, bytes)| (*start..*start + bytes.len() as u64).contains(&at));
            if let Some((start, bytes)) = here {
                return Ok(bytes.slice((at - start) as usize..));
            }
        }
        self.read_at(at..self.size.min(at + BLOCK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "0123456789").unwrap();
        let entry = Location::from(path.clone()).entry().unwrap().unwrap();
        let input = Input::open(&entry).unwrap();
        assert_eq!(input.get_bytes(2, 3).unwrap(), "234");
        let mut rest = String::new();
        input.get_read(7).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "789");
        // Beyond the end is damage: nothing failed.
        assert!(
            matches!(input.get_bytes(8, 3), Err(ParquetError::EOF(_))) && input.failure().is_none()
        );

        // A file that is open for writing alone can't be read, nor can a folder.
        let unreadable = [
            std::fs::OpenOptions::new().append(true).open(&path).unwrap(),
            File::open(dir.path()).unwrap(),
        ];
        for file in unreadable {
            let bytes = Source::File(Arc::new(file));
            let input = Input { bytes, failed: Arc::default(), ..input.clone() };
            assert!(input.get_bytes(2, 3).is_err());
            assert!(matches!(input.failure(), Some(StorageError::Failed { action: "read", .. })));
            let input = Input { failed: Arc::default(), ..input.clone() };
            assert!(input.get_read(7).unwrap().read_to_string(&mut rest).is_err());
            assert!(input.failure().is_some());
        }
    }
}
