//! Errors of nodes and steps, as diagnostics that point at the document.

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Place};
use crate::error::{At, NodeError};
use crate::spec::Places;

crate::code! {
    /// A node or step does not take the value of a parameter.
    ///
    /// The value is of the right kind, and the node or step cannot work with it: it is out of range,
    /// or does not fit another value, such as a width that the heads do not divide. The help says
    /// what would do.
    pub(crate) PARAMETER_REFUSED = "BLT0401"
}

crate::code! {
    /// A node cannot work with what comes in.
    ///
    /// The type of the wire is right, and what is known of its values before any data is read, such
    /// as a width, does not fit the node.
    pub(crate) INPUT_REFUSED = "BLT0402"
}

crate::code! {
    /// A node or step cannot do its work.
    ///
    /// Something that is not one parameter or one input keeps it from working: the message says
    /// what.
    pub(crate) NODE_REFUSED = "BLT0403"
}

/// The kind of an error, if the node gives none.
fn code(at: &At) -> &'static Code {
    match at {
        At::Param(_) => &PARAMETER_REFUSED,
        At::Input(_) => &INPUT_REFUSED,
        At::Node => &NODE_REFUSED,
    }
}

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
    let mut diagnostic = error
        .code
        .unwrap_or_else(|| code(&error.at))
        .error(format!("{what}`{node}` ({entry}): {}", error.message()))
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
    let mut diagnostic = error
        .code
        .unwrap_or_else(|| code(&error.at))
        .error(format!("{what}step `run.{index}.{step}`: {}", error.message()))
        .at(place)
        .label(label)
        .help(error.help.as_deref());
    diagnostic.path = path.join(".");
    diagnostic
}
