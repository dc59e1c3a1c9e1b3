//! Finds the sources that a step reads, checks them before the first step, and points their errors
//! at the document.

use crate::facilities::{self, SourceHandle};
use crate::plan_queries::outputs_of;
use crate::ports::Bytes;
use blt_data::{DataError, ReadDocuments, Request};
use blt_graph::{Live, NodeError, Plan, PlannedNode, StepCx, StepError, World};

/// A node that is a source of documents.
#[derive(Clone)]
pub struct DocumentSource {
    /// The node's name.
    pub node: String,
    /// The source that the node provides.
    pub handle: SourceHandle,
}

impl DocumentSource {
    /// Points an error of the source at the parameter of its node that is at fault.
    pub fn error(&self, plan: &Plan, error: DataError) -> StepError {
        source_error(plan, &self.node, error)
    }
}

/// The nodes of the sub-graph of `goals` that are sources of bytes.
///
/// # Errors
/// If the plan does not have a goal.
pub fn source_nodes<'a>(plan: &'a Plan, goals: &[&str]) -> Result<Vec<&'a str>, NodeError> {
    let is_source = |node: &&PlannedNode| {
        node.entry.inputs.is_empty() && outputs_of::<Bytes>(node).next().is_some()
    };
    Ok(plan.needs(goals)?.into_iter().filter(is_source).map(|node| node.name.as_str()).collect())
}

/// Checks that a step's parameter `source`, if given, names a node that gives bytes and has no
/// inputs.
///
/// # Errors
/// If it does not.
pub fn check_source(plan: &Plan, source: Option<&str>) -> Result<(), NodeError> {
    let Some(source) = source else { return Ok(()) };
    let goal = plan.goal(source)?;
    match goal.is::<Bytes>() && goal.node.entry.inputs.is_empty() {
        true => Ok(()),
        false => Err(NodeError::param("source", format!("`{source}` is not a source of bytes"))),
    }
}

/// The source that `node` of a built graph provides, if any.
pub fn source_of(live: &Live, node: &str) -> Option<DocumentSource> {
    let handle = facilities::of_node(live, node).find_map(|f| f.source().cloned())?;
    Some(DocumentSource { node: node.to_owned(), handle })
}

/// The sources that `goals` read. Other nodes are not built.
///
/// # Errors
/// If the plan does not have a goal, or a source cannot be built.
pub fn sources(plan: &Plan, goals: &[&str]) -> Result<Vec<DocumentSource>, StepError> {
    let mut sources = Vec::new();
    for node in source_nodes(plan, goals)? {
        sources.extend(source_of(&Live::build(plan, &[node], World::new())?, node));
    }
    Ok(sources)
}

/// Fingerprints of the data that `goals` read, one for each source.
///
/// # Errors
/// If the data cannot be found or read.
pub fn fingerprints(cx: &StepCx, goals: &[&str]) -> Result<Vec<String>, StepError> {
    let print = |source: DocumentSource| match source.handle.source.fingerprint() {
        Ok(print) => Ok(format!("{} {print}", source.node)),
        Err(e) => Err(source.error(cx.plan(), e)),
    };
    sources(cx.plan(), goals)?.into_iter().map(print).collect()
}

/// Checks that the sources of `goals` can answer a request: files, columns and the portion exist.
/// Reads no rows.
///
/// # Errors
/// If a source cannot answer the request.
pub fn check_sources(cx: &StepCx, goals: &[&str], request: &Request) -> Result<(), StepError> {
    let check = |source: DocumentSource| {
        source.handle.source.check(request).map_err(|e| source.error(cx.plan(), e))
    };
    sources(cx.plan(), goals)?.into_iter().try_for_each(check)
}

/// Points an error of the source `node` at the parameter of the node that is at fault.
fn source_error(plan: &Plan, node: &str, error: DataError) -> StepError {
    let error = match error.parameter() {
        Some(at) => NodeError::param(at, error),
        None => NodeError::other(error),
    };
    StepError::Document(plan.diagnose(node, &error).into())
}
