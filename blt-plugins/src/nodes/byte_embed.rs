use crate::model::{session, with_params};
use crate::ports::{ByteStates, ByteStatesInfo, ByteStatesValue, Bytes, BytesInfo};
use blt_core::backend::{HASH_PRIMES, HashConfig};
use blt_core::bytes::Batch;
use blt_core::model;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Byte embeddings plus hash n-gram embeddings.
///
/// Each n-gram of the last n ids that ends at a byte is hashed into a table of its own for each
/// (function, n), and the rows are summed onto the byte's embedding, without normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByteEmbed {
    /// Width of the byte states.
    pub dim: usize,
    /// n-gram sizes; an empty list has no hash tables.
    #[serde(default = "default_ngrams")]
    pub ngrams: Vec<usize>,
    /// Rows of each hash table.
    #[serde(default = "default_table")]
    pub table: usize,
    /// Hash functions for each n-gram size, 1 to 11.
    #[serde(default = "default_functions")]
    pub functions: usize,
}

fn default_ngrams() -> Vec<usize> {
    (3..=8).collect()
}

fn default_table() -> usize {
    4096
}

fn default_functions() -> usize {
    1
}

impl ByteEmbed {
    /// All else at its default.
    pub fn new(dim: usize) -> Self {
        ByteEmbed {
            dim,
            ngrams: default_ngrams(),
            table: default_table(),
            functions: default_functions(),
        }
    }

    pub(crate) fn hash(&self) -> Option<HashConfig> {
        (!self.ngrams.is_empty()).then(|| HashConfig {
            sizes: self.ngrams.clone(),
            functions: self.functions,
            vocab: self.table,
        })
    }
}

impl Node for ByteEmbed {
    const NAME: &'static str = "ByteEmbed";
    const INPUTS: &'static [&'static str] = &["bytes"];
    const OUTPUTS: &'static [&'static str] = &["bytes"];
    const EXAMPLE: &'static str =
        "{node: ByteEmbed, in: docs, dim: 64, ngrams: [3, 4, 5], table: 4096}";
    type In = Bytes;
    type Out = ByteStates;
    type State = model::ByteEmbed;

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<ByteStatesInfo, NodeError> {
        if self.dim == 0 {
            return Err(NodeError::param("dim", "dim must be at least 1"));
        }
        if let Some(n) = self.ngrams.iter().find(|&&n| n == 0) {
            return Err(NodeError::param(
                "ngrams",
                format!("an n-gram has at least one byte, not {n}"),
            ));
        }
        if !self.ngrams.is_empty() && self.table == 0 {
            return Err(NodeError::param("table", "a hash table has at least one row")
                .help("for no tables: `ngrams: []`"));
        }
        if self.functions == 0 || self.functions > HASH_PRIMES.len() {
            let msg =
                format!("there are {} hash functions, not {}", HASH_PRIMES.len(), self.functions);
            return Err(NodeError::param("functions", msg));
        }
        let rows =
            self.functions.checked_mul(self.ngrams.len()).and_then(|t| t.checked_mul(self.table));
        if rows.is_none_or(|rows| rows > u32::MAX as usize) {
            return Err(NodeError::param(
                "table",
                "the hash tables have more than 2^32 rows in all",
            ));
        }
        Ok(ByteStatesInfo { dim: self.dim })
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteEmbed, NodeError> {
        with_params(cx, |maker| model::ByteEmbed::new(maker, self.dim, self.hash()))
    }

    fn run(
        &self,
        part: &model::ByteEmbed,
        batch: Rc<Batch>,
        cx: &RunCx,
    ) -> Result<ByteStatesValue, NodeError> {
        Ok(ByteStatesValue { states: part.forward(&session(cx), &batch)?, batch })
    }
}

blt_graph::node!(ByteEmbed);
