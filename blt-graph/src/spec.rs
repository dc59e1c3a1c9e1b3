//! [`PipelineSpec`] and [`GraphSpec`]: a pipeline as written, by YAML or by Rust.
//!
//! Parsing finds out what the text says, and no more: that a node exists, has such parameters and fits its wires is for
//! [`check`](crate::check). The places of all values are kept beside them, so that a later diagnostic points at the text.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics, Source, list, nearest};
use crate::registry::{RESERVED, is_name};
use crate::step::ComputePath;
use crate::yaml::{self, Places};

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
    /// Each path, and the list of its values; the variants are the product of the lists, the last path varying fastest.
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

const KEYS: [&str; 10] = ["name", "doc", "seed", "seeds", "device", "path", "graph", "run", "ablate", "report"];

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
        let stem = Path::new(&source.name).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
        Self::from_value(&value, places, &stem)
    }

    /// Reads the tree that YAML and edits give. `default_name` stands in for a missing `name`.
    pub(crate) fn from_value(value: &Value, places: Places, default_name: &str) -> Result<Self, Diagnostics> {
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
                let grid = self.ablate.grid.iter().map(|(path, values)| (path.clone(), json!(values)));
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
        serde_yaml::to_string(&self.to_value()).expect("maps, lists and scalars can be written as YAML")
    }

    /// The YAML text that it was read from, before overrides; of one that was made in Rust, [`to_yaml`](Self::to_yaml).
    pub fn written(&self) -> String {
        let root: &[String] = &[];
        self.places.0.get(root).map_or_else(|| self.to_yaml(), |loc| loc.value.source.text.clone())
    }

    /// The variants in order: the named ones, then the grid's; one called [`BASE_VARIANT`] if there are none.
    ///
    /// # Errors
    /// A path that names nothing, or a value that does not fit there.
    pub fn variants(&self) -> Result<Vec<Variant>, Diagnostics> {
        let mut all: Vec<(String, Vec<Edit>)> = Vec::new();
        for (name, edits) in &self.ablate.named {
            let edits = edits.iter().map(|(path, value)| {
                (vec!["ablate".to_string(), name.clone(), path.clone()], path.clone(), value.clone())
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
                    Diagnostic::error(format!("two variants are called `{name}`"))
                        .at(self.places.key(&["ablate", &name]).or_else(|| self.places.key(&["ablate", "grid"]))),
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
            let segments: Vec<Vec<&str>> = grid.iter().map(|(path, _)| path.split('.').collect()).collect();
            let longest = segments.iter().map(Vec::len).max().unwrap_or(1);
            let ending = |parts: &[&str], length: usize| parts[parts.len() - length.min(parts.len())..].join(".");
            let length = (1..=longest)
                .find(|length| {
                    let endings: Vec<String> = segments.iter().map(|parts| ending(parts, *length)).collect();
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
                    let name = format!("{name}{comma}{ending}={}", value_name(value, index, values));
                    let mut edits: Vec<Edit> = edits.clone();
                    let written = ["ablate", "grid", path, &index.to_string()].map(String::from).to_vec();
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
        Value::Array(items) => items.iter().map(|item| item.to_string().replace('"', "")).collect::<Vec<_>>().join("+"),
        scalar => scalar.to_string(),
    };
    let own = name(value);
    if values.iter().filter(|value| name(value) == own).count() > 1 { format!("{own}-{}", index + 1) } else { own }
}

impl GraphSpec {
    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The graph as a JSON value, in the form that YAML has.
    pub fn to_value(&self) -> Value {
        self.nodes.iter().map(|node| (node.name.clone(), node.to_value())).collect::<Map<_, _>>().into()
    }
}

impl NodeSpec {
    /// The graph as a JSON value, in the form that YAML has.
    pub fn to_value(&self) -> Value {
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
    /// The graph as a JSON value, in the form that YAML has.
    pub fn to_value(&self) -> Value {
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

/// Turns a tree into a spec, collecting what is wrong with its form.
struct Reader<'a> {
    places: &'a Places,
    found: Vec<Diagnostic>,
}

/// A value's kind in words.
fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

impl Reader<'_> {
    fn say(&mut self, path: &[&str], message: String) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::error(message).at(self.places.value(path));
        diagnostic.path = path.join(".");
        self.found.push(diagnostic);
        self.found.last_mut().expect("one was pushed just now")
    }

    fn expected(&mut self, path: &[&str], what: &str, value: &Value) -> &mut Diagnostic {
        let name = path.last().copied().unwrap_or("the document");
        self.say(path, format!("`{name}` should be {what}, and is {}", found(value)))
    }

    fn text(&mut self, path: &[&str], value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            other => {
                self.expected(path, "a text", other);
                None
            }
        }
    }

    fn seed(&mut self, path: &[&str], value: &Value) -> Option<u64> {
        let seed = value.as_u64();
        if seed.is_none() {
            let given = if value.is_null() { "nothing".to_string() } else { value.to_string() };
            self.say(path, format!("a seed is an integer from 0 to 2^64 - 1, and this is {given}"));
        }
        seed
    }

    fn pipeline(&mut self, value: &Value, default_name: &str) -> PipelineSpec {
        let mut spec = PipelineSpec::new(default_name, GraphSpec::default());
        let Value::Object(map) = value else {
            let diagnostic = self.expected(&[], "a map with `graph` and `run`", value);
            diagnostic.message = format!("a pipeline is a map with `graph` and `run`, and this is {}", found(value));
            return spec;
        };
        let mut seeds = None;
        for (key, value) in map {
            let path = [key.as_str()];
            match key.as_str() {
                "name" => spec.name = self.text(&path, value).unwrap_or_default(),
                "doc" | "device" | "path" if value.is_null() => {}
                "doc" => spec.doc = self.text(&path, value),
                "seed" | "seeds" if seeds.is_some() => {
                    self.say(&path, "give `seed` or `seeds`, not both".to_string());
                }
                "seed" => seeds = Some(self.seed(&path, value).into_iter().collect()),
                "seeds" => match value {
                    Value::Array(items) if !items.is_empty() => {
                        let mut all: Vec<u64> = Vec::new();
                        for (index, item) in items.iter().enumerate() {
                            let index = index.to_string();
                            let path = ["seeds", index.as_str()];
                            match self.seed(&path, item) {
                                Some(seed) if all.contains(&seed) => {
                                    self.say(&path, format!("the seed {seed} is given twice"));
                                }
                                Some(seed) => all.push(seed),
                                None => {}
                            }
                        }
                        seeds = Some(all);
                    }
                    other => {
                        self.expected(&path, "a list of one or more integers", other);
                    }
                },
                "device" => spec.device = self.text(&path, value),
                "path" => {
                    spec.path = match value.as_str() {
                        Some("fused") => Some(ComputePath::Fused),
                        Some("reference") => Some(ComputePath::Reference),
                        _ => {
                            let near = value.as_str().and_then(|text| nearest(text, ["fused", "reference"]));
                            let said =
                                self.say(&path, format!("`path` is `fused` or `reference`, and this is {value}"));
                            said.suggestion = near.map(String::from);
                            None
                        }
                    }
                }
                "graph" => spec.graph = self.graph(value),
                "run" => spec.run = self.run(value),
                "ablate" => spec.ablate = self.ablate(value),
                "report" => match value {
                    Value::Object(map) => spec.report = map.clone(),
                    Value::Null => {}
                    other => {
                        self.expected(&path, "a map", other);
                    }
                },
                other => {
                    let place = self.places.key(&path);
                    let said = self.say(&path, format!("a pipeline has no `{other}`"));
                    said.place = place;
                    said.notes.push(format!("its keys are {}", list(KEYS)));
                    said.suggestion = nearest(other, KEYS).map(String::from);
                }
            }
        }
        if let Some(seeds) = seeds {
            spec.seeds = seeds;
        }
        if !map.contains_key("graph") {
            let said = self.say(&[], "the pipeline has no `graph`".to_string());
            if let Some(place) = &mut said.place {
                // Not the whole document.
                place.span.end = place.span.start;
            }
            said.help = Some("give its nodes: `graph: {docs: {node: ...}, ...}`".into());
        }
        if spec.name.is_empty() || spec.name.starts_with('.') || spec.name.contains(['/', '\\', '\0']) {
            let name = spec.name.clone();
            if !(name.is_empty() && self.found.iter().any(|d| d.path == "name")) {
                self.say(&["name"], format!("`{name}` cannot name a folder, which a pipeline's name must"));
            }
        }
        spec
    }

    fn graph(&mut self, value: &Value) -> GraphSpec {
        let Value::Object(map) = value else {
            self.expected(&["graph"], "a map from names to nodes", value);
            return GraphSpec::default();
        };
        let mut nodes = Vec::new();
        for (name, value) in map {
            if !is_name(name) {
                let place = self.places.key(&["graph", name]);
                let said = self.say(&["graph", name], format!("`{name}` cannot name a node"));
                said.place = place;
                said.help = Some("use letters, digits, `_` and `-`; a `.` parts a node from its port in wires".into());
            }
            nodes.push(self.node(name, value, &["graph", name]));
        }
        GraphSpec { nodes }
    }

    fn node(&mut self, name: &str, value: &Value, path: &[&str]) -> NodeSpec {
        let mut node = NodeSpec {
            name: name.to_string(),
            node: String::new(),
            inputs: Inputs::None,
            params: Map::new(),
            doc: None,
        };
        let Value::Object(map) = value else {
            self.say(
                path,
                format!("the node `{name}` should be a map such as `{{node: ..., in: ...}}`, and is {}", found(value)),
            );
            return node;
        };
        for (key, value) in map {
            let path = [path, &[key.as_str()]].concat();
            match key.as_str() {
                "node" => node.node = self.text(&path, value).unwrap_or_default(),
                "doc" => node.doc = self.text(&path, value),
                "in" => match value {
                    Value::String(wire) => node.inputs = Inputs::One(wire.clone()),
                    Value::Object(wires) => {
                        let mut all = Vec::new();
                        for (port, wire) in wires {
                            let path = [&path[..], &[port.as_str()]].concat();
                            if let Some(wire) = self.text(&path, wire) {
                                all.push((port.clone(), wire));
                            }
                        }
                        node.inputs = Inputs::Map(all);
                    }
                    other => {
                        self.expected(&path, "a wire or a map from ports to wires", other);
                    }
                },
                _ => {
                    node.params.insert(key.clone(), value.clone());
                }
            }
        }
        if !map.contains_key("node") {
            let near = map.keys().find(|key| nearest(key, ["node"]).is_some()).cloned();
            let place = match &near {
                Some(key) => self.places.key(&[path, &[key.as_str()]].concat()),
                None => self.places.value(path),
            };
            let said = self.say(path, format!("`{name}` does not say which node it is"));
            said.place = place;
            said.suggestion = near.map(|_| "node".to_string());
            said.help = Some(format!("give `node:`; {} are reserved, all else are parameters", list(RESERVED)));
        }
        node
    }

    fn run(&mut self, value: &Value) -> Vec<StepSpec> {
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| self.step(item, &["run", &index.to_string()]))
                .collect(),
            Value::Null => Vec::new(),
            other => {
                self.expected(&["run"], "a list of steps", other).help =
                    Some("write `run:` and below it a line `- train: {goal: ...}` for each step".into());
                Vec::new()
            }
        }
    }

    fn step(&mut self, value: &Value, path: &[&str]) -> Option<StepSpec> {
        const FORM: &str = "a step is one key with its parameters: `- train: {goal: loss}`";
        match value {
            Value::Object(map) if map.len() == 1 => {
                let (step, params) = map.iter().next()?;
                match params {
                    Value::Object(params) => Some(StepSpec { step: step.clone(), params: params.clone() }),
                    Value::Null => Some(StepSpec { step: step.clone(), params: Map::new() }),
                    other => {
                        self.say(&[path, &[step.as_str()]].concat(), format!("{FORM}, and here is {}", found(other)));
                        None
                    }
                }
            }
            Value::Object(map) => {
                let keys = list(map.keys().map(String::as_str));
                let said = self.say(path, format!("{FORM}, and this has the keys {keys}"));
                said.help = Some("indent the parameters below the step's name, or put them in braces".into());
                None
            }
            Value::String(name) => Some(StepSpec { step: name.clone(), params: Map::new() }),
            other => {
                self.say(path, format!("{FORM}, and this is {}", found(other)));
                None
            }
        }
    }

    fn ablate(&mut self, value: &Value) -> Ablation {
        let mut ablation = Ablation::default();
        let map = match value {
            Value::Object(map) => map,
            Value::Null => return ablation,
            other => {
                self.expected(&["ablate"], "a map from names to variants", other);
                return ablation;
            }
        };
        for (name, value) in map {
            let path = ["ablate", name.as_str()];
            let edits = match value {
                Value::Object(edits) => edits,
                other => {
                    self.say(
                        &path,
                        format!("the variant `{name}` should be a map from paths to values, and is {}", found(other)),
                    )
                    .help = Some("`{}` is the pipeline as it stands".into());
                    continue;
                }
            };
            if name != "grid" {
                if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
                    self.say(&path, format!("`{name}` cannot name a folder, which a variant's name must"));
                }
                ablation.named.push((name.clone(), edits.iter().map(|(p, v)| (p.clone(), v.clone())).collect()));
                continue;
            }
            for (edited, values) in edits {
                match values {
                    Value::Array(values) if !values.is_empty() => {
                        if let Some(i) = (1..values.len()).find(|i| values[..*i].contains(&values[*i])) {
                            let index = i.to_string();
                            self.say(&["ablate", "grid", edited, &index], format!("{} is given twice", values[i]));
                        }
                        ablation.grid.push((edited.clone(), values.clone()));
                    }
                    other => {
                        self.expected(&["ablate", "grid", edited], "a list of values", other);
                    }
                }
            }
        }
        ablation
    }
}
