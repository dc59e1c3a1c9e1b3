use crate::facilities::provide;
use crate::ports::{Bytes, BytesInfo, Entropies};
use blt_core::bytes::Batch;
use blt_data::{ListColumn, ListKind};
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use std::rc::Rc;

/// Entropies computed elsewhere, from a list column of the input file.
///
/// A list of float16, float32 or float64, in nats. Element 0 belongs to BOS; a row has `n_bytes +
/// 1` elements (one more, for EOS, is accepted and unused). float16 values are compared as float32.
#[params]
pub struct ColumnEntropies {
    /// The list column.
    pub column: String,
}

#[node(example = "in: docs, column: entropies")]
impl Node for ColumnEntropies {
    type In = Bytes;
    type Out = Entropies;

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<(), NodeError> {
        if self.column.is_empty() {
            return Err(NodeError::param("column", "the column's name is empty"));
        }
        Ok(())
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<(), NodeError> {
        provide(cx, ListColumn { column: self.column.clone(), kind: ListKind::PerId });
        Ok(())
    }

    fn run(&self, _: &(), batch: Rc<Batch>, _: &RunCx) -> Result<Rc<Vec<f32>>, NodeError> {
        let lists = batch.lists.get(&self.column).ok_or_else(|| {
            NodeError::param("column", format!("the source did not read column `{}`", self.column))
        })?;
        let mut entropies = Vec::with_capacity(batch.len());
        for (s, list) in lists.iter().enumerate() {
            let n = batch.offsets[s + 1] - batch.offsets[s];
            if list.len() < n {
                let row = batch.spans[s].row;
                return Err(NodeError::param(
                    "column",
                    format!(
                        "row {row}: {} entropies for a span of {n} ids (BOS and its bytes)",
                        list.len()
                    ),
                ));
            }
            entropies.extend_from_slice(&list[..n]);
        }
        Ok(Rc::new(entropies))
    }
}
