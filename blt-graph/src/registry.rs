//! Every node and step that is linked into the program, by name: lookup, help, and the test that
//! walks them.
//!
//! One line beside a node's `impl` registers it: [`node!`](crate::node!), or
//! [`step!`](crate::step!) for a step. There is no central list. A linker drops a crate that no
//! code names, so a program says `use my_plugin as _;`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

use serde_json::Value;

use crate::diagnostic::{Diagnostic, Diagnostics, list, nearest};
use crate::node::{AnyNode, Node};
use crate::port::{Ports, SlotType};
use crate::schema::{self, Param};
use crate::step::{AnyStep, Step};

/// Keys of a node in YAML that are not parameters.
pub const RESERVED: [&str; 3] = ["node", "in", "doc"];

/// Registers a [`Node`]: `blt_graph::node!(StridePatch);`
#[macro_export]
macro_rules! node {
    ($node:ty) => {
        $crate::inventory::submit! {
            $crate::registry::NodeEntry::of::<$node>($crate::registry::Origin {
                krate: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                file: file!(),
                line: line!(),
            })
        }
    };
}

/// Registers a [`Step`]: `blt_graph::step!(Train);`
#[macro_export]
macro_rules! step {
    ($step:ty) => {
        $crate::inventory::submit! {
            $crate::registry::StepEntry::of::<$step>($crate::registry::Origin {
                krate: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                file: file!(),
                line: line!(),
            })
        }
    };
}

/// Where a node or step was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The crate's name.
    pub krate: &'static str,
    /// The crate's version.
    pub version: &'static str,
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({}:{})", self.krate, self.version, self.file, self.line)
    }
}

/// Why parameters did not fit their struct: where in them (`split.valid`), and serde's words.
#[derive(Debug)]
pub(crate) struct ParamError {
    pub path: Vec<String>,
    pub message: String,
}

fn parse<T: serde::de::DeserializeOwned>(params: &Value) -> Result<T, ParamError> {
    serde_path_to_error::deserialize(params).map_err(|error| ParamError {
        path: error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                serde_path_to_error::Segment::Enum { .. }
                | serde_path_to_error::Segment::Unknown => None,
            })
            .collect(),
        message: error.into_inner().to_string(),
    })
}

/// A registered node.
pub struct NodeEntry {
    /// [`Node::NAME`].
    pub name: &'static str,
    /// [`Node::INPUTS`].
    pub inputs: &'static [&'static str],
    /// [`Node::OUTPUTS`].
    pub outputs: &'static [&'static str],
    /// [`Node::EXAMPLE`].
    pub example: &'static str,
    /// Where it was registered.
    pub origin: Origin,
    in_slots: fn() -> Vec<SlotType>,
    out_slots: fn() -> Vec<SlotType>,
    schema: fn() -> schemars::Schema,
    parse: fn(&Value) -> Result<Rc<dyn AnyNode>, ParamError>,
}

impl NodeEntry {
    /// What [`node!`](crate::node!) submits.
    pub const fn of<N: Node>(origin: Origin) -> Self {
        NodeEntry {
            name: N::NAME,
            inputs: N::INPUTS,
            outputs: N::OUTPUTS,
            example: N::EXAMPLE,
            origin,
            in_slots: <N::In as Ports>::slots,
            out_slots: <N::Out as Ports>::slots,
            schema: || schemars::SchemaGenerator::default().into_root_schema_for::<N>(),
            parse: |params| parse::<N>(params).map(|node| Rc::new(node) as Rc<dyn AnyNode>),
        }
    }

    /// The input ports' types, in order.
    pub fn in_slots(&self) -> Vec<SlotType> {
        (self.in_slots)()
    }

    /// The output ports' types, in order.
    pub fn out_slots(&self) -> Vec<SlotType> {
        (self.out_slots)()
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> Value {
        (self.schema)().to_value()
    }

    /// The doc comment.
    pub fn doc(&self) -> String {
        schema::doc(&self.schema())
    }

    /// The index of the input that a bare `in: wire` feeds: the only one, or the only one that is
    /// not optional.
    pub(crate) fn bare_input(&self) -> Option<usize> {
        let slots = self.in_slots();
        if slots.len() == 1 {
            return Some(0);
        }
        let mut required = slots.iter().enumerate().filter(|(_, slot)| !slot.optional);
        match (required.next(), required.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    }

    pub(crate) fn parse(&self, params: &Value) -> Result<Rc<dyn AnyNode>, ParamError> {
        (self.parse)(params)
    }
}

/// A registered step.
pub struct StepEntry {
    /// [`Step::NAME`].
    pub name: &'static str,
    /// [`Step::EXAMPLE`].
    pub example: &'static str,
    /// Where it was registered.
    pub origin: Origin,
    schema: fn() -> schemars::Schema,
    parse: fn(&Value) -> Result<Rc<dyn AnyStep>, ParamError>,
}

impl StepEntry {
    /// What [`step!`](crate::step!) submits.
    pub const fn of<S: Step>(origin: Origin) -> Self {
        StepEntry {
            name: S::NAME,
            example: S::EXAMPLE,
            origin,
            schema: || schemars::SchemaGenerator::default().into_root_schema_for::<S>(),
            parse: |params| parse::<S>(params).map(|step| Rc::new(step) as Rc<dyn AnyStep>),
        }
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> Value {
        (self.schema)().to_value()
    }

    /// The doc comment.
    pub fn doc(&self) -> String {
        schema::doc(&self.schema())
    }

    pub(crate) fn parse(&self, params: &Value) -> Result<Rc<dyn AnyStep>, ParamError> {
        (self.parse)(params)
    }
}

inventory::collect!(NodeEntry);
inventory::collect!(StepEntry);

/// Every registered node, by name. Of two with one name, both are listed: [`duplicates`] says so.
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
    nodes().into_iter().find(|entry| entry.name == name)
}

/// The step called `name`.
pub fn find_step(name: &str) -> Option<&'static StepEntry> {
    steps().into_iter().find(|entry| entry.name == name)
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
            Diagnostic::error(format!("two {kind}s are called `{name}`: {}", origins.join(" and ")))
                .help(Some("rename one, or link only one of the crates"))
        })
        .collect()
}

/// The error for a node or step that nobody registered; it has no place yet.
pub(crate) fn unknown(kind: &str, name: &str) -> Diagnostic {
    let names: Vec<&str> = if kind == "node" {
        nodes().iter().map(|e| e.name).collect()
    } else {
        steps().iter().map(|e| e.name).collect()
    };
    let near = nearest(name, names.iter().copied());
    let linked = "is its crate linked (`use my_plugin as _;`)?";
    let diagnostic = Diagnostic::error(format!("no {kind} is called `{name}`")).suggest(near);
    if near.is_some() {
        diagnostic.help(Some(linked))
    } else {
        let mut distinct = names.clone();
        distinct.dedup();
        diagnostic.note(format!("{kind}s: {}", list(distinct))).help(Some(linked))
    }
}

/// The help text of a node or step: its doc, ports, parameters and an example.
///
/// # Errors
/// If neither a node nor a step has that name; the nearest is named.
pub fn help(kind: &str, name: &str) -> Result<String, Diagnostics> {
    if let Some(entry) = find(name) {
        let mut text = format!(
            "{name} (node, {} {})\n\n{}\n",
            entry.origin.krate,
            entry.origin.version,
            entry.doc()
        );
        let ports = |text: &mut String,
                     title: &str,
                     names: &[&str],
                     slots: &[SlotType],
                     notes: &[String]| {
            if names.is_empty() {
                return;
            }
            let _ = writeln!(text, "\n{title}:");
            let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
            for ((name, slot), note) in names.iter().zip(slots).zip(notes) {
                let _ = writeln!(
                    text,
                    "{}",
                    format!("  {name:width$}  {}{note}", slot.name).trim_end()
                );
            }
        };
        let slots = entry.in_slots();
        let bare = if slots.len() > 1 { entry.bare_input() } else { None };
        let notes: Vec<String> = (0..slots.len())
            .map(|i| match (slots[i].optional, bare == Some(i)) {
                (true, _) => " (may be left out)".to_string(),
                (_, true) => " (what a bare `in: wire` feeds)".to_string(),
                _ => String::new(),
            })
            .collect();
        ports(&mut text, "Inputs", entry.inputs, &slots, &notes);
        let slots = entry.out_slots();
        let notes: Vec<String> = (0..slots.len())
            .map(|i| match (slots[i].optional, i == 0 && slots.len() > 1) {
                (true, true) => {
                    " (what a bare wire to the node means; computed when used)".to_string()
                }
                (false, true) => " (what a bare wire to the node means)".to_string(),
                (true, false) => " (computed when used)".to_string(),
                _ => String::new(),
            })
            .collect();
        ports(&mut text, "Outputs", entry.outputs, &slots, &notes);
        push_params(&mut text, &schema::params(&entry.schema()));
        let _ = write!(text, "\nExample:\n  {}\n", entry.example.trim());
        return Ok(text);
    }
    if let Some(entry) = find_step(name) {
        let mut text = format!(
            "{name} (step, {} {})\n\n{}\n",
            entry.origin.krate,
            entry.origin.version,
            entry.doc()
        );
        push_params(&mut text, &schema::params(&entry.schema()));
        let _ = write!(text, "\nExample:\n  {}\n", entry.example.trim());
        return Ok(text);
    }
    let (nodes, steps) = (nodes(), steps());
    let near = nearest(name, nodes.iter().map(|e| e.name).chain(steps.iter().map(|e| e.name)));
    Err(unknown(kind, name).suggest(near).into())
}

fn push_params(text: &mut String, params: &[Param]) {
    if params.is_empty() {
        return;
    }
    text.push_str("\nParameters:\n");
    for param in params {
        let default = match &param.default {
            _ if param.required => "required".to_string(),
            Some(Value::Null) | None => "may be left out".to_string(),
            Some(default) => format!("default {default}"),
        };
        let _ = writeln!(text, "  {}: {} ({default})", param.name, param.kind);
        for line in param.doc.lines() {
            let _ = writeln!(text, "{}", format!("      {line}").trim_end());
        }
    }
}

/// Walks every registered node and step and returns what is wrong with each: a missing doc comment,
/// undocumented or reserved parameters, port names that do not match the types' number, an example
/// that does not parse, names another node, or does not fit the schema; and names that are claimed
/// twice. For a test: `assert_eq!(self_test(), [""; 0])`.
pub fn self_test() -> Vec<String> {
    let mut wrong: Vec<String> = duplicates().into_iter().map(|d| d.message).collect();
    for entry in nodes() {
        let mut say =
            |what: String| wrong.push(format!("node {} ({}): {what}", entry.name, entry.origin));
        for (what, names, slots) in [
            ("INPUTS", entry.inputs, entry.in_slots()),
            ("OUTPUTS", entry.outputs, entry.out_slots()),
        ] {
            if names.len() != slots.len() {
                say(format!("{what} names {} ports, its type has {}", names.len(), slots.len()));
            }
            if (1..names.len()).any(|i| names[..i].contains(&names[i])) {
                say(format!("{what} names a port twice: {names:?}"));
            }
            if let Some(name) = names.iter().find(|name| !is_name(name)) {
                say(format!("{what} has `{name}`: a port name is letters, digits, `_` and `-`"));
            }
        }
        let schema = entry.schema();
        for param in schema::params(&schema) {
            if RESERVED.contains(&param.name.as_str()) {
                say(format!("a parameter may not be called `{}`", param.name));
            }
        }
        check_texts(&schema, &mut say);
        match crate::spec::NodeSpec::parse_example(entry.name, entry.example) {
            Err(diagnostics) => say(format!("its example does not parse:\n{diagnostics}")),
            Ok(node) if node.node != entry.name => {
                say(format!("its example is of `{}`", node.node))
            }
            Ok(node) => {
                if let Err(diagnostics) = crate::plan::check::check_example(entry, &node) {
                    say(format!("its example is refused:\n{diagnostics}"));
                }
            }
        }
    }
    for entry in steps() {
        let mut say =
            |what: String| wrong.push(format!("step {} ({}): {what}", entry.name, entry.origin));
        let schema = entry.schema();
        check_texts(&schema, &mut say);
        match crate::spec::StepSpec::parse_example(entry.name, entry.example) {
            Err(diagnostics) => say(format!("its example does not parse:\n{diagnostics}")),
            Ok(step) if step.step != entry.name => {
                say(format!("its example is of `{}`", step.step))
            }
            Ok(step) => {
                if let Err(diagnostics) = crate::plan::check::check_step_example(entry, &step) {
                    say(format!("its example is refused:\n{diagnostics}"));
                }
            }
        }
    }
    wrong
}

fn check_texts(schema: &Value, say: &mut impl FnMut(String)) {
    if schema::doc(schema).trim().is_empty() {
        say("it has no doc comment".to_string());
    }
    for param in schema::params(schema) {
        if param.doc.trim().is_empty() {
            say(format!("parameter `{}` has no doc comment", param.name));
        }
    }
}

/// Whether `name` can stand in wires and document paths: letters, digits, `_` and `-`, not empty.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}
