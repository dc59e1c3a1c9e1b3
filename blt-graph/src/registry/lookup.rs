//! Lookup of nodes and steps by name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::diagnostic::{Diagnostic, list, nearest};
use crate::registry::{NodeEntry, Origin, StepEntry};

crate::code! {
    /// No node or step has this name.
    ///
    /// `blt-run nodes` and `blt-run steps` list what is linked into the program. A plugin's nodes
    /// are in the plugin's own program, or in one that names its crate (`use my_plugin as _;`).
    pub(crate) UNKNOWN_KIND = "BLT0210"
}

crate::code! {
    /// Two nodes or steps of the program have one name.
    ///
    /// Two crates, or two places of one, registered it. Rename one, or link only one of the crates.
    pub(crate) SAME_NAME = "BLT0701"
}

/// Every registered node, by name. Two nodes of one name are both listed; [`duplicates`] reports
/// them.
pub fn nodes() -> Vec<&'static NodeEntry> {
    let mut nodes: Vec<_> = inventory::iter::<NodeEntry>.into_iter().collect();
    nodes.sort_by_key(|entry| (entry.name, entry.origin.krate, entry.origin.file));
    nodes
}

/// Every registered step, by name.
pub fn steps() -> Vec<&'static StepEntry> {
    let mut steps: Vec<_> = inventory::iter::<StepEntry>.into_iter().collect();
    steps.sort_by_key(|entry| (entry.name, entry.origin.krate, entry.origin.file));
    steps
}

/// The node called `name`.
pub fn find(name: &str) -> Option<&'static NodeEntry> {
    static NODES: LazyLock<BTreeMap<&str, &NodeEntry>> =
        LazyLock::new(|| nodes().into_iter().rev().map(|entry| (entry.name, entry)).collect());
    NODES.get(name).copied()
}

/// The step called `name`.
pub fn find_step(name: &str) -> Option<&'static StepEntry> {
    static STEPS: LazyLock<BTreeMap<&str, &StepEntry>> =
        LazyLock::new(|| steps().into_iter().rev().map(|entry| (entry.name, entry)).collect());
    STEPS.get(name).copied()
}

/// An error for each name that two nodes, or two steps, claim.
pub fn duplicates() -> Vec<Diagnostic> {
    let nodes = nodes().into_iter().map(|entry| ("node", entry.name, entry.origin));
    let steps = steps().into_iter().map(|entry| ("step", entry.name, entry.origin));
    let mut by_name: BTreeMap<_, Vec<Origin>> = BTreeMap::new();
    for (kind, name, origin) in nodes.chain(steps) {
        by_name.entry((kind, name)).or_default().push(origin);
    }
    by_name
        .into_iter()
        .filter(|(_, origins)| origins.len() > 1)
        .map(|((kind, name), origins)| {
            let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
            SAME_NAME
                .error(format!("two {kind}s are called `{name}`: {}", origins.join(" and ")))
                .help(Some("rename one, or link only one of the crates"))
        })
        .collect()
}

/// The error for a node or step that is not registered; it has no place yet.
pub(crate) fn unknown(kind: &str, name: &str) -> Diagnostic {
    let names: Vec<&str> = if kind == "node" {
        nodes().iter().map(|e| e.name).collect()
    } else {
        steps().iter().map(|e| e.name).collect()
    };
    let near = nearest(name, names.iter().copied());
    let linked = "is its crate linked (`use my_plugin as _;`)?";
    let diagnostic = UNKNOWN_KIND.error(format!("no {kind} is called `{name}`")).suggest(near);
    if near.is_some() {
        diagnostic.help(Some(linked))
    } else {
        let mut distinct = names.clone();
        distinct.dedup();
        diagnostic.note(format!("{kind}s: {}", list(distinct))).help(Some(linked))
    }
}
