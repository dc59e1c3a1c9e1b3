//! The column `report.cluster`, whose values are clusters of documents.

use crate::sources::sources;
use blt_data::{ReadDocuments, Request, Row};
use blt_graph::{Plan, StepCx, StepError};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The column, where the report asks for clusters.
pub fn cluster_column(plan: &Plan) -> Option<&str> {
    plan.spec.report.get("cluster")?.as_str()
}

/// Requests that have passed, of which variants and seeds of a run ask the same.
static PASSED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

blt_graph::code! {
    /// Documents have no such cluster.
    ///
    /// `report.cluster` names a column that every source of an evaluation has, with a value in each
    /// row. Documents of one value count as one observation.
    pub CLUSTER = "BLT0603"
}

/// Checks that each document of a request has a cluster; reads them once. Returns what a step's key
/// depends on.
///
/// # Errors
/// If the sources of `goals` do not have the column, or it is null for a document.
pub fn check_clusters(
    cx: &StepCx,
    goals: &[&str],
    column: &str,
    request: Request,
) -> Result<String, StepError> {
    let request = Request { scalars: vec![column.to_owned()], ..request };
    let refuse = |message: String, help: Option<String>| {
        StepError::Document(cx.plan().spec.diagnose(
            &CLUSTER,
            &["report", "cluster"],
            message,
            help,
        ))
    };
    for found in sources(cx.plan(), goals)? {
        let error = |e| found.error(cx.plan(), e);
        let source = &found.handle.source;
        // The rest of the request was checked before, so the column is at fault.
        source.check(&request).map_err(|e| refuse(e.to_string(), None))?;
        let asked = format!(
            "{} {}",
            source.fingerprint().map_err(error)?,
            serde_json::to_string(&request)?
        );
        if PASSED.lock().unwrap_or_else(PoisonError::into_inner).contains(&asked) {
            continue;
        }
        let mut rows = source.open(&request).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let Row::Document(document) = row else { continue };
            if document.scalars.get(column).is_none_or(Option::is_none) {
                let message = format!(
                    "column `{column}` is null in row {} of `{}`, and a document without a cluster has no place in an interval",
                    document.row, found.node
                );
                let help = "give each document that `evaluate` reads a value, or leave `report.cluster` out: then each document is a cluster of its own";
                return Err(refuse(message, Some(help.to_owned())));
            }
        }
        PASSED.lock().unwrap_or_else(PoisonError::into_inner).insert(asked);
    }
    Ok(format!("cluster {column}"))
}
