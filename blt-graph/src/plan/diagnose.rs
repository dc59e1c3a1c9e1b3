//! Errors of nodes and steps, as diagnostics that point at the document.

use crate::diagnostic::{Diagnostic, Place};
use crate::error::{At, NodeError};
use crate::spec::Places;

/// The place that a diagnostic about `path` points at, and a label. The label is empty unless the
/// value at `path` is a default; then it reports that. `depth` is the length of the path of a
/// parameter.
fn pointed(places: &Places, path: &[&str], depth: usize) -> (Option<Place>, String) {
    let full: Vec<String> = path.iter().map(ToString::to_string).collect();
    let written = (depth..=full.len()).rev().any(|length| places.0.contains_key(&full[..length]));
    let label = if written || path.len() < depth {
        String::new()
    } else {
        format!("`{}` is not given here, and has its default", path[depth - 1])
    };
    (places.value(path), label)
}

pub(crate) fn node_diagnostic(
    places: &Places,
    node: &str,
    entry: &str,
    error: &NodeError,
) -> Diagnostic {
    let mut path = vec!["graph", node];
    let what = match &error.at {
        At::Param(name) => {
            path.extend(name.split('.'));
            format!("`{name}` of ")
        }
        At::Input(port) => {
            path.extend(["in", port]);
            format!("input `{port}` of ")
        }
        At::Node => String::new(),
    };
    let (place, label) = if matches!(error.at, At::Input(_)) {
        (places.value(&path), String::new())
    } else {
        pointed(places, &path, 3)
    };
    let mut diagnostic =
        Diagnostic::error(format!("{what}`{node}` ({entry}): {}", error.message()))
            .at(place)
            .label(label)
            .help(error.help.as_deref());
    diagnostic.path = path.join(".");
    diagnostic
}

pub(crate) fn step_diagnostic(
    places: &Places,
    index: usize,
    step: &str,
    error: &NodeError,
) -> Diagnostic {
    let index = index.to_string();
    let mut path = vec!["run", index.as_str(), step];
    let what = match &error.at {
        At::Param(name) | At::Input(name) => {
            path.extend(name.split('.'));
            format!("`{name}` of ")
        }
        At::Node => String::new(),
    };
    let (place, label) = pointed(places, &path, 4);
    let mut diagnostic =
        Diagnostic::error(format!("{what}step `run.{index}.{step}`: {}", error.message()))
            .at(place)
            .label(label)
            .help(error.help.as_deref());
    diagnostic.path = path.join(".");
    diagnostic
}
