//! Reads batches of documents from a graph's sources.

use super::TrainedGraph;
use crate::facilities;
use crate::sources::{DocumentSource, sources};
use blt_core::bytes::Batch;
use blt_data::{BatchReader, BatchState, Counts, DataError, ListColumn, Packer, Request};
use blt_graph::{Diagnostic, Diagnostics, NodeError, StepCx, StepError};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::rc::Rc;

impl TrainedGraph {
    /// Makes `source`, if given, the source node that documents are read from. Their batches are
    /// still given to the graph's own source node.
    ///
    /// # Errors
    /// If that node is not a source of documents.
    pub fn read_from(&mut self, cx: &StepCx, source: Option<&str>) -> Result<(), StepError> {
        if let Some(node) = source {
            let found = sources(cx.plan(), &[node])?.pop().ok_or_else(|| {
                StepError::other(format!("node `{node}` provides no `SourceHandle`"))
            })?;
            self.read_from = Some(found);
        }
        Ok(())
    }

    /// The source that documents are read from: the graph's only source, or the one that was given
    /// to [`read_from`](TrainedGraph::read_from).
    ///
    /// # Errors
    /// If the graph has no source, or several; [`sources`](TrainedGraph::sources) returns them all.
    pub fn source(&self) -> Result<&DocumentSource, StepError> {
        match &self.read_from {
            Some(source) => Ok(source),
            None => Ok(self.own_source()?),
        }
    }

    /// All sources of the graph, in graph order.
    pub fn sources(&self) -> &[DocumentSource] {
        &self.sources
    }

    pub(super) fn own_source(&self) -> Result<&DocumentSource, Diagnostics> {
        only(self.sources.iter().collect(), &self.goals)
    }

    /// The list columns that nodes read in addition to the bytes.
    pub fn lists(&self) -> Vec<ListColumn> {
        let mut lists: Vec<ListColumn> = Vec::new();
        for (_, facilities) in facilities::of_graph(&self.live) {
            lists.extend(facilities.list_column().filter(|list| !lists.contains(list)).cloned());
        }
        lists
    }

    /// Opens the documents of the [`source`](TrainedGraph::source) as batches of at most
    /// `batch_bytes` ids, with the list columns that nodes read.
    ///
    /// # Errors
    /// If the source cannot answer the request.
    pub fn batches(&self, request: Request, batch_bytes: usize) -> Result<Batches<'_>, StepError> {
        let source = self.source()?;
        self.read(source, request, Packer::new(source.handle.span_bytes, batch_bytes)?, None)
    }

    /// Opens batches as [`batches`](TrainedGraph::batches) does, and continues after the batch at
    /// which `state` was taken.
    ///
    /// # Errors
    /// If the source cannot answer the request, or has changed.
    pub fn resume_batches(
        &self,
        request: Request,
        batch_bytes: usize,
        state: &BatchState,
    ) -> Result<Batches<'_>, StepError> {
        let source = self.source()?;
        self.read(source, request, Packer::new(source.handle.span_bytes, batch_bytes)?, Some(state))
    }

    /// Opens batches of one of the graph's [`sources`](TrainedGraph::sources), packed by `packer`.
    ///
    /// # Errors
    /// If the source cannot answer the request.
    pub fn batches_of<'a>(
        &'a self,
        source: &'a DocumentSource,
        request: Request,
        packer: Packer,
    ) -> Result<Batches<'a>, StepError> {
        self.read(source, request, packer, None)
    }

    pub(crate) fn read<'a>(
        &'a self,
        source: &'a DocumentSource,
        request: Request,
        packer: Packer,
        state: Option<&BatchState>,
    ) -> Result<Batches<'a>, StepError> {
        let request = Request { lists: self.lists(), ..request };
        let documents = source.handle.source.clone();
        let reader = match state {
            None => BatchReader::new(documents, request, packer),
            Some(state) => BatchReader::restore(documents, request, packer, state),
        };
        let reader = reader.map_err(|e| self.error_of(source, e))?;
        Ok(Batches { reader, graph: self, source })
    }

    /// Points an error of reading documents at the node at fault: the
    /// [`source`](TrainedGraph::source), or the node that reads a list column.
    pub fn data_error(&self, error: DataError) -> StepError {
        match self.source() {
            Ok(source) => self.error_of(source, error),
            Err(_) => StepError::other(error),
        }
    }

    fn error_of(&self, source: &DocumentSource, error: DataError) -> StepError {
        let plan = self.live.plan();
        if let DataError::NoSuchColumn { column, .. }
        | DataError::ColumnType { column, .. }
        | DataError::NullList { column, .. }
        | DataError::ListLength { column, .. }
        | DataError::ListValue { column, .. } = &error
            && let Some((node, _)) = facilities::of_graph(&self.live)
                .find(|(_, f)| f.list_column().is_some_and(|list| list.column == *column))
        {
            let error = NodeError::param("column", error);
            return StepError::Document(plan.diagnose(&node, &error).into());
        }
        source.error(plan, error)
    }
}

/// The only one of `sources`, the sources of `goals`.
pub(super) fn only<'a, S: Borrow<str>>(
    sources: Vec<&'a DocumentSource>,
    goals: &[S],
) -> Result<&'a DocumentSource, Diagnostics> {
    match sources.as_slice() {
        [source] => Ok(source),
        _ => Err(Diagnostic::error(format!(
            "`{}` reads from {} sources; a step reads from one",
            goals.join("`, `"),
            sources.len()
        ))
        .into()),
    }
}

/// Reads batches of a source's documents. Errors point at the node at fault.
pub struct Batches<'a> {
    reader: BatchReader,
    graph: &'a TrainedGraph,
    source: &'a DocumentSource,
}

impl Batches<'_> {
    /// Reads up to `batches` batches ahead on another thread.
    pub fn read_ahead(self, batches: usize) -> Self {
        Batches { reader: self.reader.read_ahead(batches), ..self }
    }

    /// Returns the next batch; `None` at the end of the documents.
    ///
    /// # Errors
    /// If the batch cannot be read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Rc<Batch>>, StepError> {
        let batch = self.reader.next_batch();
        Ok(batch.map_err(|e| self.graph.error_of(self.source, e))?.map(Rc::new))
    }

    /// Returns the next batch of documents that are read in a loop.
    ///
    /// # Errors
    /// If the batch cannot be read, or there are no documents.
    pub fn next_or_end(&mut self) -> Result<Rc<Batch>, StepError> {
        self.next()?.ok_or_else(|| StepError::other("the training documents ran out"))
    }

    /// The requested scalar columns, for each span of the batch returned last.
    pub fn scalars(&self) -> &[BTreeMap<String, Option<String>>] {
        self.reader.scalars()
    }

    /// Counts of the documents read so far.
    pub fn counts(&self) -> Counts {
        self.reader.counts()
    }

    /// The position after the batch returned last, for [`TrainedGraph::resume_batches`].
    pub fn state(&self) -> &BatchState {
        self.reader.state()
    }
}
