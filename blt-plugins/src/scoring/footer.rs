//! The footer of a part, which records what the part holds.

use super::summary::Summary;
use super::units::FOOTER_KEY;
use blt_data::caught;
use blt_data::storage::{Entry, Input, StorageError};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

/// Bytes at the end of a part that are read at first; they hold most footers whole.
const FOOTER_BYTES: u64 = 64 << 10;

/// What a part stores under [`FOOTER_KEY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// [`FORMAT`](super::units::FORMAT).
    pub format: u32,
    /// The program that wrote the part, and its arithmetic.
    pub version: String,
    /// A digest of the model.
    pub model: String,
    /// [`Unit::key`](super::Unit::key).
    pub key: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    /// Row groups of the input file.
    pub groups: Range<usize>,
    /// Counts and sums of the rows.
    pub summary: Summary,
    /// The bytes of the part before its metadata.
    #[serde(default)]
    pub data: Option<Data>,
}

/// How many bytes there are, and their hash, 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    pub bytes: u64,
    pub blake3: String,
}

/// A file that is written, and the hash of what was written so far.
pub struct Hashed<W> {
    file: W,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl<W> Hashed<W> {
    pub fn new(file: W) -> Self {
        Hashed { file, bytes: 0, hasher: blake3::Hasher::new() }
    }

    pub fn so_far(&self) -> Data {
        Data { bytes: self.bytes, blake3: self.hasher.finalize().to_string() }
    }

    pub fn into_inner(self) -> W {
        self.file
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Footer {
    /// Whether the bytes of the part at `path` are those that were written.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn stands(&self, path: &Path) -> io::Result<bool> {
        let Some(data) = &self.data else { return Ok(true) };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?.take(data.bytes))?;
        Ok(hasher.finalize().to_string() == data.blake3)
    }

    /// Reads the footer of a part. The inner error says why the file is not a part.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(entry: &Entry) -> Result<Result<Self, String>, StorageError> {
        let end = entry.size.saturating_sub(FOOTER_BYTES)..entry.size;
        let input = Input::open(entry)?.start(std::iter::once(end).collect()).wait()?;
        let load = || ArrowReaderMetadata::load(&input, ArrowReaderOptions::new());
        let read = || -> Result<Footer, Box<dyn std::error::Error>> {
            let metadata = caught(|| load().map_err(|e| e.to_string()))?;
            let pairs = metadata.metadata().file_metadata().key_value_metadata();
            let ours = pairs.into_iter().flatten().find(|pair| pair.key == FOOTER_KEY);
            let text = ours
                .and_then(|pair| pair.value.as_deref())
                .ok_or("its footer says nothing of scores")?;
            Ok(serde_json::from_str(text)?)
        };
        match read() {
            Ok(footer) => Ok(Ok(footer)),
            Err(e) => input.failure().map_or_else(|| Ok(Err(e.to_string())), Err),
        }
    }
}
