//! [`PipelineSpec`]: a pipeline as written.

use serde_json::{Map, Value, json};

use crate::code::Code;
use crate::diagnostic::Diagnostics;
use crate::spec::given::Overrides;
use crate::spec::{ComputePath, GraphSpec, Places};

/// The variant of a pipeline without `ablate`.
pub const BASE_VARIANT: &str = "base";

/// A pipeline: a graph, the steps to run with it, and its variants.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSpec {
    /// The name, which is also the name of its folder in `runs/`. By default the file's name.
    pub name: String,
    /// What the pipeline is for.
    pub doc: Option<String>,
    /// The seeds of its runs, one after the other. `[0]` if none is written.
    pub seeds: Vec<u64>,
    /// `cpu` (the default), `cuda`, ...
    pub device: Option<String>,
    /// Fused or reference operations (`path:` in YAML); [`ComputePath::on`] is the
    /// default.
    pub compute_path: Option<ComputePath>,
    /// The nodes.
    pub graph: GraphSpec,
    /// The steps, in order.
    pub run: Vec<StepSpec>,
    /// The variants.
    pub ablate: Ablation,
    /// Options of the report, which the program reads itself.
    pub report: Map<String, Value>,
    pub(crate) places: Places,
    pub(crate) overrides: Overrides,
}

/// One step of `run:`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// The kind of step: [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// The parameters that are written.
    pub params: Map<String, Value>,
}

/// `ablate:` named variants, and a grid.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ablation {
    /// Each variant's name, and the paths that it sets to values, in order.
    pub named: Vec<(String, Vec<(String, Value)>)>,
    /// Each path with a list of values, and each group with its options. The variants are the
    /// product of the lists; the last key varies fastest.
    pub grid: Vec<(String, Axis)>,
}

/// What one key of a grid varies.
#[derive(Debug, Clone, PartialEq)]
pub enum Axis {
    /// The key is a path, and these are its values.
    Values(Vec<Value>),
    /// The key is the name of a group of options: each option's name, and the paths that it sets to
    /// values, in order.
    Options(Vec<(String, Vec<(String, Value)>)>),
}

/// One variant of a pipeline, with its edits applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// The name; [`BASE_VARIANT`] for a pipeline without `ablate`.
    pub name: String,
    /// The pipeline, with `ablate` empty.
    pub spec: PipelineSpec,
}

impl PipelineSpec {
    /// A pipeline with this name and graph and no steps, variants or report options.
    pub fn new(name: impl Into<String>, graph: GraphSpec) -> Self {
        PipelineSpec {
            name: name.into(),
            doc: None,
            seeds: vec![0],
            device: None,
            compute_path: None,
            graph,
            run: Vec::new(),
            ablate: Ablation::default(),
            report: Map::new(),
            places: Places::default(),
            overrides: Overrides::default(),
        }
    }

    /// The pipeline as a JSON value, in the same form as in YAML.
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
        if let Some(path) = &self.compute_path {
            map.insert("path".into(), json!(path.to_string()));
        }
        map.insert("graph".into(), self.graph.to_value());
        if !self.run.is_empty() {
            map.insert("run".into(), self.run.iter().map(StepSpec::to_value).collect());
        }
        if self.ablate != Ablation::default() {
            let mut ablate = Map::new();
            for (name, edits) in &self.ablate.named {
                ablate.insert(name.clone(), edits_to_value(edits));
            }
            if !self.ablate.grid.is_empty() {
                let value = |axis: &Axis| match axis {
                    Axis::Values(values) => json!(values),
                    Axis::Options(options) => options
                        .iter()
                        .map(|(option, edits)| (option.clone(), edits_to_value(edits)))
                        .collect(),
                };
                let grid = self.ablate.grid.iter().map(|(key, axis)| (key.clone(), value(axis)));
                ablate.insert("grid".into(), Value::Object(grid.collect()));
            }
            map.insert("ablate".into(), Value::Object(ablate));
        }
        if !self.report.is_empty() {
            map.insert("report".into(), Value::Object(self.report.clone()));
        }
        Value::Object(map)
    }

    /// The pipeline as YAML. [`parse`](Self::parse) reads it back to an equal spec.
    ///
    /// # Panics
    /// Never: a spec consists of maps, lists and scalars, all of which YAML can write.
    pub fn to_yaml(&self) -> String {
        // serde_yaml writes YAML 1.1, where these three characters end a line, and indents the text
        // after them. The reader follows YAML 1.2, where they are plain characters. So a text with
        // one of them is written as JSON, which is YAML too, with YAML's escapes.
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

    /// The YAML text that the pipeline was read from, before overrides. For a pipeline made in
    /// Rust, [`to_yaml`](Self::to_yaml).
    pub fn written(&self) -> String {
        let root: &[String] = &[];
        self.places.0.get(root).map_or_else(|| self.to_yaml(), |loc| loc.value.source.text.clone())
    }

    /// An error that points at the value at `path`, for the parts of the document that the program
    /// reads itself (`report`).
    pub fn diagnose(
        &self,
        code: &'static Code,
        path: &[&str],
        message: impl Into<String>,
        help: Option<String>,
    ) -> Diagnostics {
        let mut diagnostic = code.error(message).at(self.places.value(path)).help(help);
        diagnostic.path = path.join(".");
        diagnostic.into()
    }
}

impl PipelineSpec {
    /// As [`diagnose`](Self::diagnose), about the key at `path`, for which `near` may be meant.
    pub fn diagnose_key(
        &self,
        code: &'static Code,
        path: &[&str],
        message: impl Into<String>,
        near: Option<&str>,
    ) -> Diagnostics {
        let place = self.places.key(path).or_else(|| self.places.value(path));
        let mut diagnostic = code.error(message).at(place).suggest(near);
        diagnostic.path = path.join(".");
        diagnostic.into()
    }
}

fn edits_to_value(edits: &[(String, Value)]) -> Value {
    Value::Object(edits.iter().cloned().collect())
}

impl StepSpec {
    fn to_value(&self) -> Value {
        json!({ &self.step: self.params })
    }
}
