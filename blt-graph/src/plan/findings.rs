//! What checking finds: where a wire or goal leads, which parameters are unknown or missing, and
//! how each mistake is said.

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Place, list, nearest};
use crate::node::{At, NodeError};
use crate::plan::PlannedNode;
use crate::registry::{NodeEntry, ParamError};
use crate::schema;
use crate::spec::Places;

pub(crate) fn not_given(node: &PlannedNode, port: usize) -> String {
    format!(
        "`{}` ({}) gives no `{}` with these parameters",
        node.name, node.entry.name, node.entry.outputs[port]
    )
}

/// Nodes, as [`find_port`] sees them.
pub(crate) trait Named {
    fn name(&self) -> &str;
    fn entry(&self) -> &'static NodeEntry;
}

impl Named for PlannedNode {
    fn name(&self) -> &str {
        &self.name
    }
    fn entry(&self) -> &'static NodeEntry {
        self.entry
    }
}

/// Why a wire leads nowhere.
pub(crate) struct Missing {
    pub message: String,
    pub suggestion: Option<String>,
    pub note: Option<String>,
}

impl Missing {
    pub fn into_error(self) -> NodeError {
        let error = NodeError::other(self.message);
        match self.suggestion {
            Some(suggestion) => error.help(format!("did you mean `{suggestion}`?")),
            None => error,
        }
    }
}

/// The node and output that the wire `node` or `node.port` names.
pub(crate) fn find_port<N: Named>(wire: &str, nodes: &[N]) -> Result<(usize, usize), Missing> {
    let (name, port) = match wire.split_once('.') {
        Some((name, port)) => (name, Some(port)),
        None => (wire, None),
    };
    let Some(index) = nodes.iter().position(|node| node.name() == name) else {
        let near = nearest(name, nodes.iter().map(Named::name));
        return Err(Missing {
            message: format!("the graph has no node `{name}`"),
            suggestion: near
                .map(|near| port.map_or_else(|| near.to_string(), |port| format!("{near}.{port}"))),
            note: near
                .is_none()
                .then(|| format!("its nodes are {}", list(nodes.iter().map(Named::name)))),
        });
    };
    let outputs = nodes[index].entry().outputs;
    let Some(port) = port else { return Ok((index, 0)) };
    match outputs.iter().position(|output| *output == port) {
        Some(port) => Ok((index, port)),
        None => Err(Missing {
            message: format!("`{name}` ({}) has no output `{port}`", nodes[index].entry().name),
            suggestion: nearest(port, outputs.iter().copied()).map(|near| format!("{name}.{near}")),
            note: Some(format!("its outputs: {}", list(outputs.iter().copied()))),
        }),
    }
}

/// Where a diagnostic about `path` points, and a label that says so if the value there is a
/// default.
pub(crate) fn pointed(places: &Places, path: &[&str], depth: usize) -> (Option<Place>, String) {
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

/// Finds unknown and missing parameters. `path` is where they stand; `what` names their owner.
pub(crate) fn check_params(
    schema: &Value,
    params: &Map<String, Value>,
    places: &Places,
    path: &[&str],
    what: &str,
    found: &mut Vec<Diagnostic>,
) -> bool {
    let before = found.len();
    let known = schema::params(schema);
    let unknown = schema::unknown_keys(schema, params);
    let missing: Vec<_> =
        known.iter().filter(|p| p.required && !params.contains_key(&p.name)).collect();
    for (key, siblings) in &unknown {
        let full: Vec<&str> = path.iter().copied().chain(key.iter().map(String::as_str)).collect();
        let (last, parents) = key.split_last().expect("an unknown key has a name");
        // What is given already was not meant by another key.
        let free = |name: &&str| !parents.is_empty() || !params.contains_key(*name);
        let near = nearest(last, siblings.iter().map(String::as_str).filter(free));
        let owner = if parents.is_empty() {
            what.to_string()
        } else {
            format!("`{}` of {what}", parents.join("."))
        };
        let kind = if parents.is_empty() { "parameter" } else { "key" };
        let mut diagnostic = Diagnostic::error(format!("{owner} has no {kind} `{last}`"))
            .at(places.key(&full).or_else(|| places.value(&full)))
            .suggest(near);
        if near.is_none() {
            diagnostic = diagnostic.note(match siblings.as_slice() {
                [] => format!("{owner} takes none"),
                siblings => format!("it takes {}", list(siblings.iter().map(String::as_str))),
            });
        }
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    for param in missing {
        let full: Vec<&str> = path.iter().copied().chain([param.name.as_str()]).collect();
        // Most often it is there, misspelt: then that is already said, with the right name.
        let misspelt =
            |key: &[String]| key.len() == 1 && nearest(&key[0], [param.name.as_str()]).is_some();
        if unknown.iter().any(|(key, _)| misspelt(key)) {
            continue;
        }
        let first_line = param.doc.lines().next().unwrap_or_default();
        let mut diagnostic =
            Diagnostic::error(format!("{what} needs the parameter `{}`", param.name))
                .at(places.key(path).or_else(|| places.value(path)))
                .help(Some(format!("`{}` is {}: {first_line}", param.name, param.kind)));
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    found.len() == before
}

/// serde's complaint about a value, as a diagnostic that points at the value.
pub(crate) fn param_diagnostic(
    schema: &Value,
    places: &Places,
    path: &[&str],
    what: &str,
    error: &ParamError,
) -> Diagnostic {
    let full: Vec<&str> =
        path.iter().copied().chain(error.path.iter().map(String::as_str)).collect();
    let owner = if error.path.is_empty() {
        what.to_string()
    } else {
        format!("`{}` of {what}", error.path.join("."))
    };
    let message = in_words(&error.message);
    let mut diagnostic = Diagnostic::error(format!("{owner}: {message}")).at(places.value(&full));
    if let [name] = error.path.as_slice()
        && let Some(param) = schema::params(schema).iter().find(|param| param.name == *name)
    {
        diagnostic = diagnostic.note(format!("`{name}` is {}", param.kind));
    }
    if let Some(rest) = error.message.strip_prefix("unknown variant `") {
        let mut quoted = rest.split('`');
        let given = quoted.next().unwrap_or_default();
        let options: Vec<&str> = quoted.skip(1).step_by(2).collect();
        diagnostic = diagnostic.suggest(nearest(given, options));
    }
    diagnostic.path = full.join(".");
    diagnostic
}

/// serde's message with Rust's number types in words.
pub(crate) fn in_words(message: &str) -> String {
    let Some((head, kind)) = message.rsplit_once("expected ") else { return message.to_string() };
    let kind = match kind {
        "f64" | "f32" => "a number",
        "usize" | "u64" | "u32" | "u16" | "u8" => "an integer >= 0",
        "isize" | "i64" | "i32" | "i16" | "i8" => "an integer",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other,
    };
    format!("{head}expected {kind}")
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
