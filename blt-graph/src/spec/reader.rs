//! From the tree that YAML and overrides give to a [`PipelineSpec`], collecting the errors in its
//! form.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Diagnostics, Source, list, nearest, not_shadowed};
use crate::spec::form::{FORM, NAME, Reader, found};
use crate::spec::keys::keys;
use crate::spec::{
    ComputePath, GraphSpec, Inputs, NodeSpec, PipelineSpec, Places, RESERVED, StepSpec, is_name,
    yaml,
};

crate::code! {
    /// A pipeline has no such key.
    ///
    /// The top level of a pipeline has a fixed set of keys, which `blt-run keys` lists. What belongs
    /// to a node stands under `graph`, and what belongs to a step under `run`.
    pub(crate) UNKNOWN_KEY = "BLT0201"
}

crate::code! {
    /// A step is not written as one.
    ///
    /// Each item of `run` is one key, the step, with its parameters under it:
    /// `- train: {goal: loss, steps: 100}`. Without braces, the parameters stand on lines of their
    /// own, indented below the step's name.
    pub(crate) STEP_FORM = "BLT0207"
}

crate::code! {
    /// This is no seed.
    ///
    /// A seed is an integer from 0 to 2^64 - 1. `seed: 7` is one run of each variant, and
    /// `seeds: [1, 2, 3]` three, with different seeds. A pipeline has one of the two keys.
    pub(crate) SEED = "BLT0208"
}

crate::code! {
    /// The pipeline has no graph.
    ///
    /// `graph` holds the nodes by name: `graph: {docs: {node: ParquetBytes, ...}, ...}`. It is the
    /// one key that every pipeline has.
    pub(crate) NO_GRAPH = "BLT0209"
}

crate::code! {
    /// A node does not say of which kind it is.
    ///
    /// Each node has the key `node`: `patches: {node: StridePatch, in: docs}`. `blt-run nodes` lists
    /// the kinds.
    pub(crate) NO_KIND = "BLT0211"
}

impl PipelineSpec {
    /// Reads the YAML file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, or all errors in its form.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Diagnostics> {
        Self::from_source(&Source::read(path.as_ref())?)
    }

    /// Reads YAML `text`. `file` is its name in diagnostics.
    ///
    /// # Errors
    /// All errors in its form.
    pub fn parse(text: &str, file: &str) -> Result<Self, Diagnostics> {
        Self::from_source(&Arc::new(Source { name: file.to_string(), text: text.to_string() }))
    }

    fn from_source(source: &Arc<Source>) -> Result<Self, Diagnostics> {
        let mut found = Vec::new();
        let spec = Self::read_all(source, &mut found);
        spec.filter(|_| found.is_empty()).ok_or(Diagnostics(found))
    }

    /// Reads as much of a text as has a meaning, and adds all errors in its form to `found`. `None`
    /// if that is nothing.
    pub(crate) fn read_all(source: &Arc<Source>, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let (value, places) = yaml::parse_all(source, found)?;
        let stem = Path::new(&source.name)
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into());
        let mut reader = Reader { places: &places, found: Vec::new() };
        let spec = reader.pipeline(&value, &stem);
        let new = std::mem::take(&mut reader.found);
        found.extend(not_shadowed(new, found));
        Some(PipelineSpec { places, ..spec })
    }

    /// Reads the tree that YAML and edits give. `default_name` is the name if `name` is missing.
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
}

impl NodeSpec {
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

impl Reader<'_> {
    fn seed(&mut self, path: &[&str], value: &Value) -> Option<u64> {
        let seed = value.as_u64();
        if seed.is_none() {
            let given = if value.is_null() { "nothing".to_string() } else { value.to_string() };
            self.say(
                &SEED,
                path,
                format!("a seed is an integer from 0 to 2^64 - 1, and this is {given}"),
            );
        }
        seed
    }

    fn pipeline(&mut self, value: &Value, default_name: &str) -> PipelineSpec {
        let mut spec = PipelineSpec::new(default_name, GraphSpec::default());
        let Value::Object(map) = value else {
            let diagnostic = self.expected(&[], "a map with `graph` and `run`", value);
            diagnostic.message =
                format!("a pipeline is a map with `graph` and `run`, and this is {}", found(value));
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
                    self.say(&SEED, &path, "give `seed` or `seeds`, not both".to_string());
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
                                    self.say(
                                        &SEED,
                                        &path,
                                        format!("the seed {seed} is given twice"),
                                    );
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
                    spec.compute_path = match value.as_str() {
                        Some("fused") => Some(ComputePath::Fused),
                        Some("reference") => Some(ComputePath::Reference),
                        _ => {
                            let near = value
                                .as_str()
                                .and_then(|text| nearest(text, ["fused", "reference"]));
                            let said = self.say(
                                &FORM,
                                &path,
                                format!("`path` is `fused` or `reference`, and this is {value}"),
                            );
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
                    let said =
                        self.say(&UNKNOWN_KEY, &path, format!("a pipeline has no `{other}`"));
                    said.place = place;
                    said.notes.push(format!("its keys are {}", list(keys())));
                    said.suggestion = nearest(other, keys()).map(String::from);
                }
            }
        }
        if let Some(seeds) = seeds.filter(|seeds: &Vec<u64>| !seeds.is_empty()) {
            spec.seeds = seeds;
        }
        if !map.contains_key("graph") {
            let said = self.say(&NO_GRAPH, &[], "the pipeline has no `graph`".to_string());
            if let Some(place) = &mut said.place {
                // Not the whole document.
                place.span.end = place.span.start;
            }
            said.help = Some("give its nodes: `graph: {docs: {node: ...}, ...}`".into());
        }
        if spec.name.is_empty()
            || spec.name.starts_with('.')
            || spec.name.contains(['/', '\\', '\0'])
        {
            let name = spec.name.clone();
            if !(name.is_empty() && self.found.iter().any(|d| d.path == "name")) {
                self.say(
                    &NAME,
                    &["name"],
                    format!("`{name}` cannot name a folder, which a pipeline's name must"),
                );
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
                let said =
                    self.say(&NAME, &["graph", name], format!("`{name}` cannot name a node"));
                said.place = place;
                said.help = Some(
                    "use letters, digits, `_` and `-`; a `.` parts a node from its port in wires"
                        .into(),
                );
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
                &FORM,
                path,
                format!(
                    "the node `{name}` should be a map such as `{{node: ..., in: ...}}`, and is {}",
                    found(value)
                ),
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
            let said = self.say(&NO_KIND, path, format!("`{name}` does not say which node it is"));
            said.place = place;
            said.suggestion = near.map(|_| "node".to_string());
            said.help = Some(format!(
                "give `node:`; {} are reserved, all else are parameters",
                list(RESERVED)
            ));
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
                self.expected(&["run"], "a list of steps", other).help = Some(
                    "write `run:` and below it a line `- train: {goal: ...}` for each step".into(),
                );
                Vec::new()
            }
        }
    }

    fn step(&mut self, value: &Value, path: &[&str]) -> Option<StepSpec> {
        const A_STEP: &str = "a step is one key with its parameters: `- train: {goal: loss}`";
        match value {
            Value::Object(map) if map.len() == 1 => {
                let (step, params) = map.iter().next()?;
                match params {
                    Value::Object(params) => {
                        Some(StepSpec { step: step.clone(), params: params.clone() })
                    }
                    Value::Null => Some(StepSpec { step: step.clone(), params: Map::new() }),
                    other => {
                        self.say(
                            &STEP_FORM,
                            &[path, &[step.as_str()]].concat(),
                            format!("{A_STEP}, and here is {}", found(other)),
                        );
                        None
                    }
                }
            }
            Value::Object(map) => {
                let keys = list(map.keys().map(String::as_str));
                let said =
                    self.say(&STEP_FORM, path, format!("{A_STEP}, and this has the keys {keys}"));
                said.help = Some(
                    "indent the parameters below the step's name, or put them in braces".into(),
                );
                None
            }
            Value::String(name) => Some(StepSpec { step: name.clone(), params: Map::new() }),
            other => {
                self.say(&STEP_FORM, path, format!("{A_STEP}, and this is {}", found(other)));
                None
            }
        }
    }
}
