//! The three sources differ in the format they read; the rest is one implementation.

use crate::facilities::{SourceHandle, provide};
use crate::ports::{Bytes, BytesInfo};
use blt_data::predicate::Predicate;
use blt_data::storage::Location;
use blt_data::{Corpus, SourceConfig, SourceKind, Split};
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One path or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Paths {
    One(String),
    Many(Vec<String>),
}

impl<P: Into<String>> From<P> for Paths {
    fn from(path: P) -> Self {
        Paths::One(path.into())
    }
}

impl Paths {
    fn list(&self) -> Vec<String> {
        match self {
            Paths::One(path) => vec![path.clone()],
            Paths::Many(paths) => paths.clone(),
        }
    }
}

/// What the three have in common once their parameters are read.
struct Common<'a> {
    paths: &'a Paths,
    column: &'a str,
    split: &'a Option<Split>,
    condition: &'a Option<String>,
    span_bytes: usize,
    shuffle_buffer: usize,
}

impl Common<'_> {
    fn check(&self, cx: &CheckCx) -> Result<BytesInfo, NodeError> {
        let paths = self.paths.list();
        if paths.is_empty() || paths.iter().any(|p| p.trim().is_empty()) {
            return Err(NodeError::param("path", "a source reads at least one path")
                .help("a file, a folder or a glob"));
        }
        for path in &paths {
            Location::parse(path, cx.base_dir).map_err(|e| NodeError::param("path", e))?;
        }
        if self.column.is_empty() {
            return Err(NodeError::param("column", "the column's name is empty"));
        }
        if let Some(split) = self.split {
            for (name, value) in [("valid", split.valid), ("calibration", split.calibration)] {
                if !(0.0..1.0).contains(&value) {
                    let msg = format!(
                        "{name} is a share of the documents, at least 0 and below 1, not {value}"
                    );
                    return Err(NodeError::param(format!("split.{name}"), msg));
                }
            }
        }
        self.condition()?;
        Ok(BytesInfo { source: cx.node.to_owned() })
    }

    fn condition(&self) -> Result<Option<Predicate>, NodeError> {
        let parse = |text: &String| Predicate::parse(text);
        let condition = self.condition.as_ref().map(parse).transpose();
        condition.map_err(|error| NodeError::param("where", error))
    }

    fn build(&self, kind: SourceKind, cx: &mut BuildCx) -> Result<(), NodeError> {
        let config = SourceConfig {
            kind,
            paths: self.paths.list(),
            base_dir: cx.base_dir.to_owned(),
            column: self.column.to_owned(),
            split: Some(self.split.clone().unwrap_or_default()),
            condition: self.condition()?,
            extensions: None,
        };
        let source = Arc::new(Corpus::new(config)?);
        let (span_bytes, shuffle_buffer) = (self.span_bytes, self.shuffle_buffer);
        provide(cx, SourceHandle { source, span_bytes, shuffle_buffer });
        Ok(())
    }
}

macro_rules! source_node {
    ($name:ident, |$this:ident| $kind:expr, $column:expr, $condition:expr, $example:literal) => {
        impl $name {
            fn kind(&self) -> SourceKind {
                #[allow(unused_variables)]
                let $this = self;
                $kind
            }

            fn common(&self) -> Common<'_> {
                #[allow(unused_variables)]
                let $this = self;
                Common {
                    paths: &self.path,
                    column: $column,
                    split: &self.split,
                    condition: $condition,
                    span_bytes: self.span_bytes,
                    shuffle_buffer: self.shuffle_buffer,
                }
            }
        }

        #[node(example = $example)]
        impl Node for $name {
            type In = ();
            type Out = Bytes;

            fn check(&self, _: (), cx: &CheckCx) -> Result<BytesInfo, NodeError> {
                self.common().check(cx)
            }

            fn build(&self, _: (), cx: &mut BuildCx) -> Result<(), NodeError> {
                self.common().build(self.kind(), cx)
            }
        }
    };
}

/// Documents from a column of Parquet files.
///
/// The column is of type Utf8, LargeUtf8, Utf8View, Binary, LargeBinary or BinaryView, or a
/// dictionary of one of these. Row groups are read one after the other, so that memory does not
/// grow with the data. Only the columns that the graph needs are read.
#[params]
pub struct ParquetBytes {
    /// A file, a folder (read to the bottom, sorted) or a glob, or a list of them; relative to the
    /// pipeline's file, or a URL of one (`s3://`, `gs://`, `az://`, `https://`).
    pub path: Paths,
    #[shared]
    pub column: String,
    /// Which rows are read, a condition on the columns: `lang = 'en' and n_bytes >= 100`. The others
    /// are left out as if they were not there.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    #[shared]
    pub split: Option<Split>,
    #[shared]
    pub span_bytes: usize,
    #[shared]
    pub shuffle_buffer: usize,
}

source_node!(
    ParquetBytes,
    |this| SourceKind::Parquet,
    &this.column,
    &this.condition,
    "path: corpus/sample.parquet, column: text, where: domain = 'prose', split: {valid: 0.1, by: id}"
);

/// Documents from a column of Arrow IPC files or streams.
///
/// The column is of a type that `ParquetBytes` reads. Record batches are read one after the other.
#[params]
pub struct ArrowBytes {
    /// A file, a folder (read to the bottom, sorted) or a glob, or a list of them; relative to the
    /// pipeline's file.
    pub path: Paths,
    #[shared]
    pub column: String,
    /// Which rows are read, a condition on the columns: `lang = 'en' and n_bytes >= 100`. The others
    /// are left out as if they were not there.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    #[shared]
    pub split: Option<Split>,
    #[shared]
    pub span_bytes: usize,
    #[shared]
    pub shuffle_buffer: usize,
}

source_node!(
    ArrowBytes,
    |this| SourceKind::ArrowIpc,
    &this.column,
    &this.condition,
    "path: corpus.arrow, column: text, split: {valid: 0.1, by: content}"
);

/// Text files: each file is a document, or each line of it.
#[params]
pub struct TextFiles {
    /// A file, a folder (its `.txt` files) or a glob, or a list of them; relative to the
    /// pipeline's file.
    pub path: Paths,
    /// Each line is a document, without its newline.
    #[default(false)]
    pub lines: bool,
    /// How documents are divided: `{valid: 0.1, by: path}` holds a tenth out, by the hash of the
    /// `path` or of the `content`.
    pub split: Option<Split>,
    #[shared]
    pub span_bytes: usize,
    #[shared]
    pub shuffle_buffer: usize,
}

source_node!(
    TextFiles,
    |this| SourceKind::Text { lines: this.lines },
    "text",
    &None,
    "path: 'docs/**/*.txt', split: {valid: 0.1, by: path}"
);
