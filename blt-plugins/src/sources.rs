//! The sources that a step reads: which nodes they are, what they are checked for before the first
//! step, and where an error of theirs points.

use crate::facilities::{self, SourceHandle};
use crate::plan_queries::outputs_of;
use crate::ports::Bytes;
use blt_data::{DataError, ReadDocuments, Request};
use blt_graph::{Live, NodeError, Plan, PlannedNode, StepCx, StepError, World};

/// A source of documents: a node, and what it provides.
#[derive(Clone)]
pub struct DocumentSource {
    /// The node's name.
    pub node: String,
    /// What it provides.
    pub handle: SourceHandle,
}

impl DocumentSource {
    /// An error of the source, pointing at the parameter of its node that is at fault.
    pub fn error(&self, plan: &Plan, error: DataError) -> StepError {
        source_error(plan, &self.node, error)
    }
}

/// The nodes of the sub-graph of `goals` that are sources of bytes.
///
/// # Errors
/// A goal that the plan does not have.
pub fn source_nodes<'a>(plan: &'a Plan, goals: &[&str]) -> Result<Vec<&'a str>, NodeError> {
    let is_source = |node: &&PlannedNode| {
        node.entry.inputs.is_empty() && outputs_of::<Bytes>(node).next().is_some()
    };
    Ok(plan.needs(goals)?.into_iter().filter(is_source).map(|node| node.name.as_str()).collect())
}

/// A step's parameter `source` must name a node that gives bytes and reads nothing.
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

/// The source that `node` of a built graph provides.
pub fn source_of(live: &Live, node: &str) -> Option<DocumentSource> {
    let handle = facilities::of_node(live, node).find_map(|f| f.source().cloned())?;
    Some(DocumentSource { node: node.to_owned(), handle })
}

/// The sources that `goals` read. The rest of the graph is not built.
///
/// # Errors
/// A goal that the plan does not have, or what a source answers while it is built.
pub fn sources(plan: &Plan, goals: &[&str]) -> Result<Vec<DocumentSource>, StepError> {
    let mut sources = Vec::new();
    for node in source_nodes(plan, goals)? {
        sources.extend(source_of(&Live::build(plan, &[node], World::new())?, node));
    }
    Ok(sources)
}

/// Digests of the data that `goals` read.
///
/// # Errors
/// If they cannot be found or read.
pub fn fingerprints(cx: &StepCx, goals: &[&str]) -> Result<Vec<String>, StepError> {
    let print = |source: DocumentSource| match source.handle.source.fingerprint() {
        Ok(print) => Ok(format!("{} {print}", source.node)),
        Err(e) => Err(source.error(cx.plan(), e)),
    };
    sources(cx.plan(), goals)?.into_iter().map(print).collect()
}

/// Refuses a request that the sources of `goals` cannot answer (no such file or column, no such
/// part), before any step starts. Reads no rows.
///
/// # Errors
/// What the sources answer.
pub fn check_sources(cx: &StepCx, goals: &[&str], request: &Request) -> Result<(), StepError> {
    let check = |source: DocumentSource| {
        source.handle.source.check(request).map_err(|e| source.error(cx.plan(), e))
    };
    sources(cx.plan(), goals)?.into_iter().try_for_each(check)
}

/// An error of the source `node`, pointing at the node's parameter that is at fault.
fn source_error(plan: &Plan, node: &str, error: DataError) -> StepError {
    let error = match error.parameter() {
        Some(at) => NodeError::param(at, error),
        None => NodeError::other(error),
    };
    StepError::Document(plan.diagnose(node, &error).into())
}
