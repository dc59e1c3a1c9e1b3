//! Errors of reading a source. Each message names what is wrong, where, what was expected and what
//! to do.

use std::path::PathBuf;

use crate::portion::Portion;
use crate::predicate::PredicateError;
use crate::storage::{Location, StorageError};

/// Why a corpus could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error("no such file or folder: {path} (relative paths start at {base}); check `path`")]
    NoSuchFile { path: Location, base: PathBuf },

    #[error("the glob `{pattern}` matches no file (it starts at {base}); check `path`")]
    NoMatch { pattern: String, base: PathBuf },

    #[error("`{pattern}` is not a glob: {cause}; `*`, `?`, `**` and `[...]` are understood")]
    BadGlob { pattern: String, cause: String },

    #[error("the folder {path} holds no file that ends in {}; name the files by a glob if they end otherwise", .extensions.join(", "))]
    EmptyFolder { path: Location, extensions: Vec<String> },

    #[error(
        "{path} is neither a file nor a folder; a corpus is read from files that can be read again"
    )]
    NotAFile { path: Location },

    #[error("cannot read {path}: {cause}")]
    Read { path: Location, cause: String },

    #[error(transparent)]
    Storage(#[from] StorageError),

    #[error("a setting of the source is wrong: {what}")]
    Config { what: String },

    /// What a source answers about a parameter of its own.
    #[error("{what}")]
    Parameter { parameter: &'static str, what: String },

    #[error("no column `{column}` in {path}{}; its columns: {}",
        .nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default(), .columns.join(", "))]
    NoSuchColumn {
        column: String,
        /// The parameter of the source that names the column; None if the request names it.
        parameter: Option<&'static str>,
        path: Location,
        nearest: Option<String>,
        columns: Vec<String>,
    },

    #[error("column `{column}` of {path} is {found}, but {expected}")]
    ColumnType {
        column: String,
        /// The parameter of the source that names the column; None if the request names it.
        parameter: Option<&'static str>,
        path: Location,
        found: String,
        expected: &'static str,
    },

    #[error(
        "{path} and {first} have different columns: `{column}` is {found} in the one and {expected} in the other; \
         a corpus of several files has one schema, so write them alike or read them apart"
    )]
    SchemaDiffers {
        path: Location,
        first: Location,
        column: String,
        found: String,
        expected: String,
    },

    #[error("{path} is not {expected}: {cause}")]
    WrongFormat { path: Location, expected: &'static str, cause: String },

    #[error("{path} is damaged in its {place}: {cause}; write or fetch the file again")]
    Corrupt { path: Location, place: String, cause: String },

    #[error("{path} cannot be read: {what}; {help}")]
    Unsupported { path: Location, what: String, help: &'static str },

    #[error("{path} changed while it was being read; start again, with the file left alone")]
    Changed { path: Location },

    #[error(
        "the {portion} part of {corpus} has no documents (rows read: {rows}, of them null in this part: {nulls}); \
         check `path`, `column` and `split`"
    )]
    Empty { corpus: String, portion: Portion, rows: u64, nulls: u64 },

    #[error(
        "the {portion} part of {corpus} has no bytes: all of its {documents} documents are empty; check `path` and `column`"
    )]
    NoBytes { corpus: String, portion: Portion, documents: u64 },

    #[error("`{condition}` does not fit the columns of {path}: {error}")]
    Predicate { condition: String, path: Location, error: Box<PredicateError> },

    #[error("no row {row}: the corpus has {rows} rows")]
    NoSuchRow { row: u64, rows: u64 },

    #[error(
        "column `{column}` is null in row {row} ({path}, row {file_row}), whose text is not; a list was expected"
    )]
    NullList { column: String, row: u64, path: Location, file_row: u64 },

    #[error(
        "column `{column}` has {found} in row {row} ({path}, row {file_row}), a document of {n_bytes} bytes; expected {expected}"
    )]
    ListLength {
        column: String,
        row: u64,
        path: Location,
        file_row: u64,
        n_bytes: usize,
        found: String,
        expected: &'static str,
    },

    #[error(
        "column `{column}` has {found} as element {element} in row {row} ({path}, row {file_row}); expected {expected}"
    )]
    ListValue {
        column: String,
        row: u64,
        path: Location,
        file_row: u64,
        element: usize,
        found: String,
        expected: &'static str,
    },

    #[error(
        "the {portion} part was asked for, but the source has no {missing}; give it one, such as {example}"
    )]
    NoSplit { portion: Portion, missing: &'static str, example: &'static str },

    #[error(
        "the saved reading position does not fit this corpus: {what}; it can only continue on the data and settings it came from"
    )]
    Cursor { what: String },
}

impl DataError {
    /// The source's parameter at fault, dots between the names of nested ones: `path`, `column`,
    /// `split` or `split.by` of the sources of this crate; what [`DataError::Parameter`] names of
    /// another. None if no parameter of the source is at fault, but the request or the data.
    pub fn parameter(&self) -> Option<&'static str> {
        match self {
            DataError::NoSuchColumn { parameter, .. } | DataError::ColumnType { parameter, .. } => {
                *parameter
            }
            DataError::Parameter { parameter, .. } => Some(parameter),
            DataError::NoSplit { .. } => Some("split"),
            DataError::NoSuchFile { .. }
            | DataError::NoMatch { .. }
            | DataError::BadGlob { .. }
            | DataError::EmptyFolder { .. }
            | DataError::NotAFile { .. }
            | DataError::Read { .. }
            | DataError::Storage(_)
            | DataError::SchemaDiffers { .. }
            | DataError::WrongFormat { .. }
            | DataError::Corrupt { .. }
            | DataError::Unsupported { .. }
            | DataError::Changed { .. }
            | DataError::Empty { .. }
            | DataError::NoBytes { .. } => Some("path"),
            DataError::Config { .. }
            | DataError::Predicate { .. }
            | DataError::NoSuchRow { .. }
            | DataError::NullList { .. }
            | DataError::ListLength { .. }
            | DataError::ListValue { .. }
            | DataError::Cursor { .. } => None,
        }
    }

    pub(crate) fn read(path: &Location, cause: impl ToString) -> Self {
        DataError::Read { path: path.clone(), cause: cause.to_string() }
    }
}
