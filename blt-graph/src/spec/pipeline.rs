//! [`PipelineSpec`] and [`GraphSpec`]: a pipeline as written, by YAML or by Rust.
//!
//! Parsing finds out what the text says, and no more: that a node exists, has such parameters and
//! fits its wires is for [`check_all`](crate::check_all). The places of all values are kept beside them, so
//! that a later diagnostic points at the text.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics, Source};
use crate::spec::reader::Reader;
use crate::spec::yaml::{self, Places};
use crate::step::ComputePath;

/// The variant of a pipeline without `ablate`.
pub const BASE_VARIANT: &str = "base";

/// A pipeline: a graph, what to do with it, and how it varies.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSpec {
    /// Names the folder of its runs; the file's name if it is not written.
    pub name: String,
    /// What it is for.
    pub doc: Option<String>,
    /// The seeds that it is run with, one after the other; `[0]` if none is written.
    pub seeds: Vec<u64>,
    /// `cpu` (the default), `cuda`, ...
    pub device: Option<String>,
    /// Fused (the default) or reference.
    pub path: Option<ComputePath>,
    /// The nodes.
    pub graph: GraphSpec,
    /// The steps, in order.
    pub run: Vec<StepSpec>,
    /// The variants.
    pub ablate: Ablation,
    /// For whoever writes the report.
    pub report: Map<String, Value>,
    pub(crate) places: Places,
}

/// The nodes of a graph, in the order written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GraphSpec {
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// One node of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// Its name in the graph.
    pub name: String,
    /// Which node it is: [`Node::NAME`](crate::Node::NAME).
    pub node: String,
    /// Its wires.
    pub inputs: Inputs,
    /// Its parameters, as far as they are written.
    pub params: Map<String, Value>,
    /// What the author says about it.
    pub doc: Option<String>,
}

/// A node's wires; each is `node` or `node.port`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Inputs {
    /// No `in:`.
    #[default]
    None,
    /// `in: wire`.
    One(String),
    /// `in: {port: wire}`.
    Map(Vec<(String, String)>),
}

/// One step of `run:`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// Which step it is: [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// Its parameters, as far as they are written.
    pub params: Map<String, Value>,
}

/// `ablate:` named variants, and a grid.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ablation {
    /// Each name, and the paths that it sets to values, in order.
    pub named: Vec<(String, Vec<(String, Value)>)>,
    /// Each path, and the list of its values; the variants are the product of the lists, the last
    /// path varying fastest.
    pub grid: Vec<(String, Vec<Value>)>,
}

/// One variant of a pipeline, resolved: its edits are made, and it varies no further.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its name; [`BASE_VARIANT`] for a pipeline without `ablate`.
    pub name: String,
    /// The pipeline, `ablate` being empty.
    pub spec: PipelineSpec,
}

impl PipelineSpec {
    /// A pipeline of this name and graph with no steps, variants or report.
    pub fn new(name: impl Into<String>, graph: GraphSpec) -> Self {
        PipelineSpec {
            name: name.into(),
            doc: None,
            seeds: vec![0],
            device: None,
            path: None,
            graph,
            run: Vec::new(),
            ablate: Ablation::default(),
            report: Map::new(),
            places: Places::default(),
        }
    }

    /// Reads the YAML file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is no pipeline: all that is wrong with its form.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Diagnostics> {
        Self::from_source(&yaml::read(path.as_ref())?)
    }

    /// Reads YAML `text`; `file` is its name in diagnostics.
    ///
    /// # Errors
    /// All that is wrong with its form.
    pub fn parse(text: &str, file: &str) -> Result<Self, Diagnostics> {
        Self::from_source(&Arc::new(Source { name: file.to_string(), text: text.to_string() }))
    }

    fn from_source(source: &Arc<Source>) -> Result<Self, Diagnostics> {
        let (value, places) = yaml::parse(source)?;
        let stem = Path::new(&source.name)
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into());
        Self::from_value(&value, places, &stem)
    }

    /// Reads the tree that YAML and edits give. `default_name` stands in for a missing `name`.
    pub(crate) fn from_value(
        value: &Value,
        places: Places,
        default_name: &str,
    ) -> Result<Self, Diagnostics> {
        let mut reader = Reader { places: &places, found: Vec::new() };
        let spec = reader.pipeline(value, default_name);
        let found = reader.found;
        if !found.is_empty() {
            return Err(Diagnostics(found));
        }
        Ok(PipelineSpec { places, ..spec })
    }

    /// The pipeline as a JSON value, in the form that YAML has.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("name".into(), json!(self.name));
        if let Some(doc) = &self.doc {
            map.insert("doc".into(), json!(doc));
        }
        match self.seeds.as_slice() {
            [seed] => map.insert("seed".into(), json!(seed)),
            seeds => map.insert("seeds".into(), json!(seeds)),
        };
        if let Some(device) = &self.device {
            map.insert("device".into(), json!(device));
        }
        if let Some(path) = &self.path {
            map.insert("path".into(), json!(path.to_string()));
        }
        map.insert("graph".into(), self.graph.to_value());
        if !self.run.is_empty() {
            map.insert("run".into(), self.run.iter().map(StepSpec::to_value).collect());
        }
        if self.ablate != Ablation::default() {
            let mut ablate = Map::new();
            for (name, edits) in &self.ablate.named {
                ablate.insert(name.clone(), Value::Object(edits.iter().cloned().collect()));
            }
            if !self.ablate.grid.is_empty() {
                let grid =
                    self.ablate.grid.iter().map(|(path, values)| (path.clone(), json!(values)));
                ablate.insert("grid".into(), Value::Object(grid.collect()));
            }
            map.insert("ablate".into(), Value::Object(ablate));
        }
        if !self.report.is_empty() {
            map.insert("report".into(), Value::Object(self.report.clone()));
        }
        Value::Object(map)
    }

    /// The pipeline as YAML; [`parse`](Self::parse) reads it back to an equal spec.
    ///
    /// # Panics
    /// Never: every spec is maps, lists and scalars, all of which YAML has.
    pub fn to_yaml(&self) -> String {
        // The library writes by YAML 1.1, where these three end a line, and indents what follows
        // inside the text. YAML 1.2, by which it is read, has them as plain characters. So
        // this is JSON, which YAML contains, with YAML's escapes.
        const LINE_ENDS_OF_YAML_1_1: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];
        let value = self.to_value();
        let yaml =
            serde_yaml::to_string(&value).expect("maps, lists and scalars can be written as YAML");
        let json = format!("{value:#}");
        if !json.contains(LINE_ENDS_OF_YAML_1_1) {
            return yaml;
        }
        let mut escaped = String::with_capacity(json.len() + 8);
        for c in json.chars() {
            match c {
                ' '..='~' | '\n' => escaped.push(c),
                _ => escaped.push_str(&format!("\\U{:08x}", u32::from(c))),
            }
        }
        escaped.push('\n');
        escaped
    }

    /// The YAML text that it was read from, before overrides; of one that was made in Rust,
    /// [`to_yaml`](Self::to_yaml).
    pub fn written(&self) -> String {
        let root: &[String] = &[];
        self.places.0.get(root).map_or_else(|| self.to_yaml(), |loc| loc.value.source.text.clone())
    }

    /// An error about the value at `path`, of parts of the document that the program reads itself
    /// (`report`): it points at the text.
    pub fn diagnose(
        &self,
        path: &[&str],
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostics {
        let mut diagnostic = Diagnostic::error(message).at(self.places.value(path)).help(help);
        diagnostic.path = path.join(".");
        diagnostic.into()
    }

    /// The variants in order: the named ones, then the grid's; one called [`BASE_VARIANT`] if there
    /// are none.
    ///
    /// # Errors
    /// A path that names nothing, or a value that does not fit there.
    pub fn variants(&self) -> Result<Vec<Variant>, Diagnostics> {
        let mut all: Vec<(String, Vec<Edit>)> = Vec::new();
        for (name, edits) in &self.ablate.named {
            let edits = edits.iter().map(|(path, value)| {
                (
                    vec!["ablate".to_string(), name.clone(), path.clone()],
                    path.clone(),
                    value.clone(),
                )
            });
            all.push((name.clone(), edits.collect()));
        }
        all.extend(self.grid_variants());
        if all.is_empty() {
            return Ok(vec![Variant { name: BASE_VARIANT.to_string(), spec: self.clone() }]);
        }
        let base = PipelineSpec { ablate: Ablation::default(), ..self.clone() };
        let mut found = Vec::new();
        let mut variants: Vec<Variant> = Vec::new();
        for (name, edits) in all {
            if variants.iter().any(|variant| variant.name == name) {
                found.push(
                    Diagnostic::error(format!("two variants are called `{name}`")).at(self
                        .places
                        .key(&["ablate", &name])
                        .or_else(|| self.places.key(&["ablate", "grid"]))),
                );
                continue;
            }
            let mut spec = base.clone();
            for (written, path, value) in edits {
                match spec.edit(&path, value, &self.places, &written) {
                    Ok(edited) => spec = edited,
                    Err(Diagnostics(new)) => {
                        for diagnostic in new {
                            // The variants of a grid share their paths.
                            if !found.contains(&diagnostic) {
                                found.push(diagnostic);
                            }
                        }
                    }
                }
            }
            variants.push(Variant { name, spec });
        }
        if found.is_empty() { Ok(variants) } else { Err(Diagnostics(found)) }
    }

    fn grid_variants(&self) -> Vec<(String, Vec<Edit>)> {
        let grid = &self.ablate.grid;
        if grid.is_empty() {
            return Vec::new();
        }
        // The shortest endings of the paths that tell them apart.
        let endings: Vec<String> = {
            let segments: Vec<Vec<&str>> =
                grid.iter().map(|(path, _)| path.split('.').collect()).collect();
            let longest = segments.iter().map(Vec::len).max().unwrap_or(1);
            let ending = |parts: &[&str], length: usize| {
                parts[parts.len() - length.min(parts.len())..].join(".")
            };
            let length = (1..=longest)
                .find(|length| {
                    let endings: Vec<String> =
                        segments.iter().map(|parts| ending(parts, *length)).collect();
                    (1..endings.len()).all(|i| !endings[..i].contains(&endings[i]))
                })
                .unwrap_or(longest);
            segments.iter().map(|parts| ending(parts, length)).collect()
        };
        let mut all = vec![(String::new(), Vec::new())];
        for ((path, values), ending) in grid.iter().zip(&endings) {
            let mut next = Vec::with_capacity(all.len() * values.len());
            for (name, edits) in &all {
                for (index, value) in values.iter().enumerate() {
                    let comma = if name.is_empty() { "" } else { "," };
                    let name =
                        format!("{name}{comma}{ending}={}", value_name(value, index, values));
                    let mut edits: Vec<Edit> = edits.clone();
                    let written =
                        ["ablate", "grid", path, &index.to_string()].map(String::from).to_vec();
                    edits.push((written, path.clone(), value.clone()));
                    next.push((name, edits));
                }
            }
            all = next;
        }
        all
    }
}

/// Where a path and its value were written, the path, and the value.
type Edit = (Vec<String>, String, Value);

/// How a value of a grid reads in its variant's name.
fn value_name(value: &Value, index: usize, values: &[Value]) -> String {
    let name = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => map.get("node").and_then(Value::as_str).unwrap_or("map").to_string(),
        Value::Array(items) => {
            items.iter().map(|item| item.to_string().replace('"', "")).collect::<Vec<_>>().join("+")
        }
        scalar => scalar.to_string(),
    };
    let own = name(value);
    if values.iter().filter(|value| name(value) == own).count() > 1 {
        format!("{own}-{}", index + 1)
    } else {
        own
    }
}

impl GraphSpec {
    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The nodes that wires lead to from `goals` (`node` or `node.port`), in the order written.
    pub fn needed<S: AsRef<str>>(&self, goals: &[S]) -> GraphSpec {
        let name = |wire: &str| wire.split('.').next().unwrap_or_default().to_owned();
        let mut open: Vec<String> = goals.iter().map(|goal| name(goal.as_ref())).collect();
        let mut found = BTreeSet::new();
        while let Some(node) = open.pop() {
            if found.insert(node.clone()) {
                match self.node(&node).map(|node| &node.inputs) {
                    Some(Inputs::One(wire)) => open.push(name(wire)),
                    Some(Inputs::Map(wires)) => {
                        open.extend(wires.iter().map(|(_, wire)| name(wire)))
                    }
                    Some(Inputs::None) | None => {}
                }
            }
        }
        GraphSpec {
            nodes: self.nodes.iter().filter(|node| found.contains(&node.name)).cloned().collect(),
        }
    }

    fn to_value(&self) -> Value {
        self.nodes
            .iter()
            .map(|node| (node.name.clone(), node.to_value()))
            .collect::<Map<_, _>>()
            .into()
    }
}

impl NodeSpec {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("node".into(), json!(self.node));
        match &self.inputs {
            Inputs::None => {}
            Inputs::One(wire) => {
                map.insert("in".into(), json!(wire));
            }
            Inputs::Map(wires) => {
                let wires = wires.iter().map(|(port, wire)| (port.clone(), json!(wire)));
                map.insert("in".into(), Value::Object(wires.collect()));
            }
        }
        if let Some(doc) = &self.doc {
            map.insert("doc".into(), json!(doc));
        }
        map.extend(self.params.clone());
        Value::Object(map)
    }

    /// Reads a node's [`EXAMPLE`](crate::Node::EXAMPLE).
    pub(crate) fn parse_example(name: &str, text: &str) -> Result<Self, Diagnostics> {
        let source = Arc::new(Source { name: format!("{name}::EXAMPLE"), text: text.to_string() });
        let (value, places) = yaml::parse(&source)?;
        let mut reader = Reader { places: &places, found: Vec::new() };
        let node = reader.node("example", &value, &[]);
        if reader.found.is_empty() { Ok(node) } else { Err(Diagnostics(reader.found)) }
    }
}

impl StepSpec {
    fn to_value(&self) -> Value {
        json!({ &self.step: self.params })
    }

    /// Reads a step's [`EXAMPLE`](crate::Step::EXAMPLE).
    pub(crate) fn parse_example(name: &str, text: &str) -> Result<Self, Diagnostics> {
        let source = Arc::new(Source { name: format!("{name}::EXAMPLE"), text: text.to_string() });
        let (value, places) = yaml::parse(&source)?;
        let mut reader = Reader { places: &places, found: Vec::new() };
        let step = reader.step(&value, &[]);
        match step {
            Some(step) if reader.found.is_empty() => Ok(step),
            _ => Err(Diagnostics(reader.found)),
        }
    }
}
