use crate::facilities::provide_streaming;
use crate::model::{session, with_params};
use crate::model_part::ModelPart;
use crate::ports::{ByteStates, ByteStatesInfo, ByteStatesValue, Bytes, BytesInfo};
use blt_core::backend::{HASH_PRIMES, HashConfig};
use blt_core::bytes::Batch;
use blt_core::model;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::rc::Rc;

/// Byte embeddings plus hash n-gram embeddings.
///
/// For each n in `ngrams` and each hash function, the last n ids up to a byte are hashed to a row
/// of a table of their own. The rows are added to the byte's embedding, without normalisation.
#[params]
pub struct ByteEmbed {
    /// Width of the byte states.
    pub dim: usize,
    /// n-gram sizes; an empty list has no hash tables.
    #[default((3..=8).collect())]
    pub ngrams: Vec<usize>,
    /// Rows of each hash table.
    #[default(4096)]
    pub table: usize,
    /// Hash functions for each n-gram size, 1 to 11.
    #[default(1)]
    pub functions: usize,
    /// The numbers in the hash tables before training: `normal` (truncated, of deviation
    /// `dim^-0.5`, as the embeddings of bytes) or `zero`. With `normal`, a row that no n-gram of
    /// the training documents reached adds noise to the bytes that read it later.
    #[default(TableInit::Normal)]
    #[schemars(with = "String")]
    pub table_init: TableInit,
}

/// The numbers in hash tables before training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableInit {
    Normal,
    Zero,
}

impl ByteEmbed {
    fn hash(&self) -> Option<HashConfig> {
        (!self.ngrams.is_empty()).then(|| HashConfig {
            sizes: self.ngrams.clone(),
            functions: self.functions,
            vocab: self.table,
        })
    }
}

#[node(example = "in: docs, dim: 64, ngrams: [3, 4, 5], table: 4096")]
impl Node for ByteEmbed {
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

    fn role(&self, _: BytesInfo) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::Embedding(self.hash()).role()
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteEmbed, NodeError> {
        let new = match self.table_init {
            TableInit::Normal => model::ByteEmbed::new,
            TableInit::Zero => model::ByteEmbed::with_zero_tables,
        };
        let part = with_params(cx, |maker| new(maker, self.dim, self.hash()))?;
        let decodes = part.clone();
        provide_streaming(cx, move |backend| decodes.streaming(backend));
        Ok(part)
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
