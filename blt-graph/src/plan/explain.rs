//! [`explain`]: a variant with all of its values, and where each came from.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::diagnostic::Place;
use crate::plan::Plan;
use crate::spec::{Ablation, PipelineSpec, flow};

/// The column at which origins begin, in characters.
const ORIGINS: usize = 56;

/// The variant of `plan` as YAML with every default written out, and behind each value its origin: a
/// line of the file, the variant, `--set`, or the default of its node or step. `written` is the
/// pipeline that the plan is a variant of.
pub fn explain(written: &PipelineSpec, plan: &Plan) -> String {
    let resolved = plan.resolved().to_value();
    let mut text = format!(
        "# {}, variant {}, seed {}; relative paths start from {}\n",
        plan.pipeline,
        plan.variant,
        plan.seed,
        plan.base_dir.display()
    );
    let mut writer = Writer { written, plan, text: &mut text };
    for (key, value) in resolved.as_object().into_iter().flatten() {
        writer.write(std::slice::from_ref(key), value, 0);
    }
    text
}

struct Writer<'a> {
    written: &'a PipelineSpec,
    plan: &'a Plan,
    text: &'a mut String,
}

impl Writer<'_> {
    /// Writes `value`, on one line if all of it came from one place.
    fn write(&mut self, path: &[String], value: &Value, indent: usize) {
        let Some(key) = path.last() else { return };
        let pad = " ".repeat(indent);
        let mut origins = Vec::new();
        self.origins(&mut path.to_vec(), value, &mut origins);
        let block =
            matches!(path.first().map(String::as_str), Some("graph" | "run")) && path.len() < 3;
        match value {
            Value::Object(map) if !map.is_empty() && (block || origins.len() > 1) => {
                let _ = writeln!(self.text, "{pad}{key}:");
                for (key, value) in map {
                    self.write(&[path, std::slice::from_ref(key)].concat(), value, indent + 2);
                }
            }
            Value::Array(items) if block && !items.is_empty() => {
                let _ = writeln!(self.text, "{pad}{key}:");
                for (index, item) in items.iter().enumerate() {
                    self.step(&[path, &[index.to_string()]].concat(), item);
                }
            }
            value => {
                let line = format!("{pad}{key}: {}", flow(value));
                let width = ORIGINS.saturating_sub(line.chars().count()).max(2);
                let origin = origins.first().map_or("", String::as_str);
                let _ = writeln!(self.text, "{line}{}# {origin}", " ".repeat(width));
            }
        }
    }

    /// Writes a step: `- train:` and its parameters.
    fn step(&mut self, path: &[String], step: &Value) {
        for (name, params) in step.as_object().into_iter().flatten() {
            let params = params.as_object();
            let empty = params.is_none_or(|params| params.is_empty());
            let _ = writeln!(self.text, "  - {name}:{}", if empty { " {}" } else { "" });
            for (key, value) in params.into_iter().flatten() {
                self.write(&[path, &[name.clone(), key.clone()]].concat(), value, 6);
            }
        }
    }

    /// The origins of the values at and under `path`, each once.
    fn origins(&self, path: &mut Vec<String>, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    path.push(key.clone());
                    self.origins(path, value, found);
                    path.pop();
                }
            }
            _ => {
                let origin = self.origin(path);
                if !found.contains(&origin) {
                    found.push(origin);
                }
            }
        }
    }

    fn origin(&self, path: &[String]) -> String {
        let spec = &self.plan.spec;
        // What is not written itself may be a part of what is, down to a parameter as a whole.
        let (least, of) = match path {
            [graph, node, ..] if graph == "graph" => {
                (3, self.plan.node(node).map(|node| node.entry.name))
            }
            [run, index, ..] if run == "run" => {
                let step =
                    index.parse::<usize>().ok().and_then(|index| self.plan.steps().get(index));
                (4, step.map(|step| step.entry.name))
            }
            _ => (1, None),
        };
        let place = (least.min(path.len())..=path.len())
            .rev()
            .find_map(|length| spec.places.0.get(&path[..length]))
            .map(|loc| &loc.value);
        match (place, of) {
            (Some(place), _) => self.place(place),
            (None, Some(kind)) => format!("default of {kind}"),
            (None, None) if path == ["name"] => "the file's name".to_string(),
            (None, None) if path == ["seed"] => {
                let seeds = spec.places.value(&["seeds"]);
                seeds.map_or("default".to_string(), |place| self.place(&place))
            }
            (None, None) => "default".to_string(),
        }
    }

    fn place(&self, place: &Place) -> String {
        if place.source.name.starts_with("--") {
            return format!("--set {}", place.source.text);
        }
        let name = Path::new(&place.source.name).file_name().unwrap_or_default();
        let line = format!("{}:{}", name.to_string_lossy(), place.line());
        let ablate = self.written.places.0.get(["ablate".to_string()].as_slice());
        let of_variant = self.written.ablate != Ablation::default()
            && ablate.is_some_and(|loc| {
                loc.value.source == place.source
                    && (loc.value.span.start..loc.value.span.end).contains(&place.span.start)
            });
        match of_variant {
            true => format!("variant {}, {line}", self.plan.variant),
            false => line,
        }
    }
}
