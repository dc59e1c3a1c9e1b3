//! Byte corpora: Parquet, Arrow IPC and text files as a stream of documents, and documents as
//! packed batches.
//!
//! A [`Source`] lists files of rows and reads their *row groups* (in Parquet row groups, in Arrow
//! IPC record batches, in text a file or some of its lines). A [`Corpus`] is a source of files in
//! one of three formats. One row group is read at a time, and of it only the columns that are
//! needed. So memory does not grow with the corpus: it holds a few MiB of a Parquet row group (with
//! its dictionary pages), one IPC record batch or one text file, and the shuffle buffer.
//!
//! A [`Reader`] reads the documents of a [`Portion`] in an [`Order`]; its [`Cursor`] is small and
//! enough to continue with the same sequence. A [`BatchReader`] packs documents into batches.
//! [`RowBatches`] does so too, and keeps the whole rows beside them for a step that writes them
//! with columns of its own: the rows of each [`FileSlice`] that a [`RowRequest`] chooses.
//!
//! ```
//! use blt_data::{BatchReader, Corpus, Packer, Request, SourceConfig, SourceKind};
//! # let dir = tempfile::tempdir()?;
//! # std::fs::write(dir.path().join("a.txt"), "one document")?;
//! let config = SourceConfig::new(SourceKind::Text { lines: false }, "*.txt", dir.path());
//! let corpus = std::sync::Arc::new(Corpus::new(config)?);
//! let packer = Packer::new(512, 4096)?;
//! let mut batches = BatchReader::new(corpus, Request::all(), packer)?;
//! while let Some(batch) = batches.next_batch()? {
//!     assert_eq!(batch.n_counted_bytes(), 12);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ahead;
mod columns;
mod corpus;
mod error;
mod formats;
mod layout;
mod memory;
mod nearest;
pub mod nested;
mod order;
mod pack;
mod pieces;
mod portion;
pub mod predicate;
mod raw;
mod reader;
mod request;
mod row_batches;
mod rows;
mod salvage;
mod source;
mod split;
mod splitmix;
pub mod storage;
mod stream;
#[cfg(test)]
mod tests;

/// The Arrow that a [`Source`] is written with.
pub use arrow;
pub use columns::is_text;
pub use corpus::{Corpus, SourceConfig, SourceKind};
pub use error::DataError;
pub use formats::caught;
pub use memory::{MemoryRows, in_memory};
pub use order::Order;
pub use pack::{BatchReader, BatchState, Packer, Packing, Pending};
pub use pieces::size_of;
pub use portion::Portion;
pub use raw::{RawRow, ReadRows, RowReader, count_rows, open_rows};
pub use reader::{Counts, Cursor, ReadDocuments, Reader};
pub use request::{Document, ListColumn, ListKind, Request, Row};
pub use row_batches::{Packed, PackedRows, RowBatches, RowState};
pub use rows::{FileSlice, OnError, RowError, RowRequest, RowShare, Unreadable};
pub use source::{Batches, GroupReader, RowFile, RowGroup, Source, WholeGroups};
pub use split::{BY_CONTENT, Split};
pub use stream::Stream;
