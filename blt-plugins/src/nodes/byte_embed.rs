use crate::facilities::provide_streaming;
use crate::model::{session, with_params};
use crate::model_part::ModelPart;
use crate::node_size::NodeSize;
use crate::ports::{ByteStates, ByteStatesInfo, ByteStatesValue, Bytes, BytesInfo};
use blt_core::backend::{HASH_PRIMES, HashConfig};
use blt_core::bytes::Batch;
use blt_core::model;
use blt_core::params::ParamMaker;
use blt_core::sizes::{self, MAX_DIM, MAX_NGRAM, MAX_TABLE};
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
    #[range(1..=MAX_DIM)]
    pub dim: usize,
    /// n-gram sizes; an empty list has no hash tables.
    #[default((3..=8).collect())]
    #[range(1..=MAX_NGRAM)]
    pub ngrams: Vec<usize>,
    /// Rows of each hash table.
    #[default(4096)]
    #[range(1..=MAX_TABLE)]
    pub table: usize,
    /// Hash functions for each n-gram size.
    #[default(1)]
    #[range(1..=HASH_PRIMES.len())]
    pub functions: usize,
    /// The numbers in the hash tables before training: `normal` (truncated, of deviation
    /// `dim^-0.5`, as the embeddings of bytes) or `zero`. With `normal`, a row that no n-gram of
    /// the training documents reached adds noise to the bytes that read it later.
    #[default(TableInit::Normal)]
    #[schemars(schema_with = "blt_graph::words::<TableInit>")]
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

    fn make(&self, maker: &mut ParamMaker) -> model::ByteEmbed {
        let new = match self.table_init {
            TableInit::Normal => model::ByteEmbed::new,
            TableInit::Zero => model::ByteEmbed::with_zero_tables,
        };
        new(maker, self.dim, self.hash())
    }
}

#[node(example = "in: docs, dim: 64, ngrams: [3, 4, 5], table: 4096")]
impl Node for ByteEmbed {
    type In = Bytes;
    type Out = ByteStates;
    type State = model::ByteEmbed;

    fn check(&self, _: BytesInfo, cx: &CheckCx) -> Result<ByteStatesInfo, NodeError> {
        let rows = sizes::product(&[self.functions, self.ngrams.len(), self.table]);
        if rows.is_none_or(|rows| rows > MAX_TABLE as u64) {
            let rows = rows.map_or("more than 2^64".into(), |rows| rows.to_string());
            let msg = format!(
                "the hash tables have {rows} rows in all, and at most {MAX_TABLE} are allowed"
            );
            return Err(NodeError::param("table", msg));
        }
        NodeSize::state(cx, self.dim, |maker| self.make(maker));
        Ok(ByteStatesInfo { dim: self.dim })
    }

    fn role(&self, _: BytesInfo) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::Embedding(self.hash()).role()
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteEmbed, NodeError> {
        let part = with_params(cx, |maker| self.make(maker))?;
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
