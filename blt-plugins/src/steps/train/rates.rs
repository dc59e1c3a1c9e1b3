//! `lr_by`: which parameters learn at another rate.

use crate::trained_graph::NodeParam;
use blt_graph::diagnostic::nearest;
use blt_graph::{NodeError, Plan};
use std::collections::BTreeMap;

/// Checks the names that stand for nodes. Names of parameters have dots, and are known when the
/// graph is built.
pub fn check(lr_by: &BTreeMap<String, f64>, plan: &Plan, goal: &str) -> Result<(), NodeError> {
    let nodes: Vec<&str> = plan.needs(&[goal])?.into_iter().map(|node| &*node.name).collect();
    match lr_by.keys().find(|name| !name.contains('.') && !nodes.contains(&name.as_str())) {
        Some(name) => Err(unknown(name, nodes)),
        None => Ok(()),
    }
}

/// The factor of each of `params`.
pub fn of(lr_by: &BTreeMap<String, f64>, params: &[NodeParam]) -> Result<Vec<f64>, NodeError> {
    for name in lr_by.keys() {
        if !params.iter().any(|p| p.node == *name || begins(&p.canonical.name, name)) {
            let nodes = params.iter().map(|p| p.node.as_str());
            let parts = params.iter().flat_map(|p| beginnings(&p.canonical.name));
            return Err(unknown(name, nodes.chain(parts)));
        }
    }
    let factor = |p: &NodeParam| {
        let named = lr_by.iter().filter(|(name, _)| begins(&p.canonical.name, name));
        let longest = named.max_by_key(|(name, _)| name.len()).map(|(_, factor)| factor);
        *longest.or_else(|| lr_by.get(&p.node)).unwrap_or(&1.0)
    };
    Ok(params.iter().map(factor).collect())
}

/// Whether `beginning` is a parameter's name, or the part of it before some dot.
fn begins(name: &str, beginning: &str) -> bool {
    beginnings(name).any(|part| part == beginning)
}

fn beginnings(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[..dot]).chain([name])
}

fn unknown<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> NodeError {
    let msg = format!("no node with parameters and no parameter's name begins with `{name}`");
    let error = NodeError::param("lr_by", msg);
    match nearest(name, names) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help("a key is a node's name, or a parameter's name up to some dot"),
    }
}
