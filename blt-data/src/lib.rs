//! Byte corpora: Parquet, Arrow IPC and text files as a stream of documents, and documents as
//! packed batches.
//!
//! A [`Corpus`] is files in one of three formats. It is divided into *units* (row groups, record
//! batches, text files), and one unit at a time is read, in its needed columns only, so that memory
//! does not grow with the corpus: it is a few MiB of a Parquet row group (with its dictionary
//! pages), one IPC record batch or one text file, and the shuffle buffer. A [`DocumentReader`]
//! gives the documents of a [`Part`] in an [`Order`]; its [`Cursor`] is where it stands, small, and
//! enough to continue with the very same sequence. A [`BatchReader`] packs documents into batches;
//! [`RowBatches`] does, and brings the whole rows along, for who writes them back: a [`RowSpan`] at
//! a time, as a [`RowRequest`] chooses them.
//!
//! ```
//! use blt_data::{BatchReader, Corpus, Packer, Request, Source, SourceConfig, SourceKind};
//! # let dir = tempfile::tempdir()?;
//! # std::fs::write(dir.path().join("a.txt"), "one document")?;
//! let config = SourceConfig::new(SourceKind::Text { lines: false }, "*.txt", dir.path());
//! let corpus = std::sync::Arc::new(Corpus::new(config)?);
//! println!("{}", corpus.describe()?);
//! let packer = Packer::new(512, 4096)?;
//! let mut batches = BatchReader::new(corpus, Request::all(), packer)?;
//! while let Some(batch) = batches.next_batch()? {
//!     assert_eq!(batch.n_counted_bytes(), 12);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod columns;
mod corpus;
mod error;
mod formats;
mod memory;
mod order;
mod pack;
pub mod predicate;
mod raw;
mod reader;
mod row_batches;
mod rows;
mod salvage;
mod source;
mod split;
pub mod storage;
#[cfg(test)]
mod tests;

pub use columns::{ListColumn, ListKind, is_text};
pub use corpus::Corpus;
pub use error::DataError;
pub use memory::{MemoryRows, in_memory};
pub use order::Order;
pub use pack::{BatchReader, BatchState, Packer, Pending};
pub use raw::{RawRow, RawRows, RowReader, size_of};
pub use reader::{Counts, Cursor};
pub use row_batches::{RawEvent, RowBatches, RowState, Rows};
pub use rows::{Group, OnError, RowError, RowRequest, RowSpan, Sample, Table, Unreadable};
pub use source::{
    Column, Description, Document, DocumentReader, Request, Row, Source, SourceConfig, SourceKind,
};
pub use split::{BY_CONTENT, Part, Split};
