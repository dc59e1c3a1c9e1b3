use blt::data::{Corpus, SourceConfig, SourceKind};
use blt::prelude::*;
use std::sync::Arc;

/// The files of a folder whose names end in one of some suffixes; each is a document.
#[params]
pub struct CodeFiles {
    /// The folder, which is searched to the bottom.
    path: String,
    /// How the names of its files end: `[.rs, .toml]`.
    suffixes: Vec<String>,
    #[shared]
    split: Option<Split>,
    #[shared]
    span_bytes: usize,
    #[shared]
    shuffle_buffer: usize,
}

#[node(example = "path: src, suffixes: [.rs], split: {valid: 0.1, by: path}")]
impl Node for CodeFiles {
    type In = ();
    type Out = port::Bytes;

    fn check(&self, _: (), cx: &CheckCx) -> Result<BytesInfo, NodeError> {
        if self.suffixes.is_empty() {
            return Err(NodeError::param("suffixes", "no suffix is given"));
        }
        Ok(BytesInfo { source: cx.node.to_owned() })
    }

    fn build(&self, _: (), cx: &mut BuildCx) -> Result<(), NodeError> {
        let config = SourceConfig {
            split: Some(self.split.clone().unwrap_or_default()),
            extensions: Some(self.suffixes.clone()),
            ..SourceConfig::new(SourceKind::Text { lines: false }, &self.path, cx.base_dir)
        };
        let source = Arc::new(Corpus::new(config)?);
        let (span_bytes, shuffle_buffer) = (self.span_bytes, self.shuffle_buffer);
        provide(cx, SourceHandle { source, span_bytes, shuffle_buffer });
        Ok(())
    }
}
