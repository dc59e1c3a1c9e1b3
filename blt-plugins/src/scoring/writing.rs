//! Goes on from documents, in place of scoring them.

use crate::trained_graph::TrainedGraph;
use blt_core::bytes::Batch;
use blt_core::decoding::{Decoder, Generate, Limits, Text, write_texts};
use blt_graph::StepError;

/// Texts to write after documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Writes {
    /// How ids are drawn; each row of the source draws for itself.
    pub options: Generate,
    pub limits: Limits,
}

/// A model that goes on from documents.
pub(crate) struct Writer {
    decoder: Decoder,
    writes: Writes,
}

impl Writer {
    /// Of a graph that was built for the wire `logits`.
    ///
    /// # Errors
    /// If a node cannot run id by id.
    pub fn new(graph: &TrainedGraph, logits: &str, writes: Writes) -> Result<Self, StepError> {
        Ok(Writer { decoder: graph.decoder(logits)?, writes })
    }

    /// The texts after the spans of a batch, each a whole document.
    ///
    /// # Errors
    /// If a number is not finite where it must be.
    pub fn write(&self, graph: &TrainedGraph, batch: &Batch) -> Result<Vec<Text>, StepError> {
        let Writes { options, limits } = &self.writes;
        let prompts: Vec<_> =
            batch.spans.iter().enumerate().map(|(s, span)| (span.row, batch.bytes(s))).collect();
        write_texts(&self.decoder, options, limits, &prompts).map_err(|e| graph.decoding_error(e))
    }
}
