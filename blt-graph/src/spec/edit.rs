//! Edits: a path in a pipeline, and the value to put there. `ablate` and `--set` are made of them.
//!
//! A path is keys and list indices joined by dots: `graph.patches.stride`, `run.0.train.steps`,
//! `seed`. It may name a parameter that is not written and has its default. `graph.patches`
//! replaces the whole node.

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics, list, nearest};
use crate::registry;
use crate::schema;
use crate::spec::{PipelineSpec, Places, RESERVED};

impl PipelineSpec {
    /// The pipeline with `value` at `path`. `written` is the key in `places` of the place where
    /// path and value are written.
    pub(crate) fn edit(
        &self,
        path: &str,
        value: Value,
        places: &Places,
        written: &[String],
    ) -> Result<Self, Diagnostics> {
        let mut document = self.to_value();
        let key = places
            .0
            .get(written)
            .and_then(|loc| loc.key.clone().or_else(|| Some(loc.value.clone())));
        let target = resolve(&document, path).map_err(|mut diagnostic| {
            // An index of a grid has a value but no key: the path is its parent's key.
            let parent = written.split_last().and_then(|(_, parent)| places.0.get(parent));
            let key = places.0.get(written).and_then(|loc| loc.key.clone());
            diagnostic.place = key.or_else(|| parent.and_then(|loc| loc.key.clone()));
            diagnostic.path = path.to_string();
            Diagnostics::from(*diagnostic)
        })?;
        // `seed` and `seeds` are two spellings of one thing.
        if let [only] = target.as_slice()
            && let Some(map) = document.as_object_mut()
        {
            match only.as_str() {
                "seed" => map.shift_remove("seeds"),
                "seeds" => map.shift_remove("seed"),
                _ => None,
            };
        }
        put(&mut document, &target, value, path).map_err(|diagnostic| {
            let mut diagnostic = diagnostic.at(key);
            diagnostic.path = path.to_string();
            Diagnostics::from(diagnostic)
        })?;
        let mut all = self.places.clone();
        all.replace(&target, places, written);
        let spec = PipelineSpec::from_value(&document, all, &self.name)?;
        Ok(PipelineSpec { overrides: self.overrides.clone(), ..spec })
    }
}

/// Splits `path` into keys. All but the deepest exist in `document`, or the path is refused.
fn resolve(document: &Value, path: &str) -> Result<Vec<String>, Box<Diagnostic>> {
    let segments: Vec<&str> = path.split('.').collect();
    // Checks that `segment` is among the `candidates` that may follow `prefix`.
    let choose = |prefix: &[&str], segment: &str, what: &str, candidates: &[String]| {
        if candidates.iter().any(|candidate| candidate == segment) {
            return Ok(());
        }
        let names = || candidates.iter().map(String::as_str);
        let near = nearest(segment, names()).map(|near| {
            let mut fixed: Vec<&str> = prefix.to_vec();
            fixed.push(near);
            fixed.extend(&segments[fixed.len()..]);
            fixed.join(".")
        });
        Err(Box::new(
            Diagnostic::error(format!("`{path}` names nothing: {what} has no `{segment}`"))
                .note(format!("{what} has {}", list(names())))
                .suggest(near),
        ))
    };
    let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
    let top =
        strings(&["name", "doc", "seed", "seeds", "device", "path", "graph", "run", "report"]);
    if segments[0] == "ablate" {
        return Err(Box::new(
            Diagnostic::error("`ablate` cannot be overridden")
                .help(Some("override what its variants have in common")),
        ));
    }
    choose(&[], segments[0], "a pipeline", &top)?;
    match segments[0] {
        "graph" if segments.len() > 1 => {
            let graph =
                document.get("graph").and_then(Value::as_object).cloned().unwrap_or_default();
            choose(
                &segments[..1],
                segments[1],
                "the graph",
                &graph.keys().cloned().collect::<Vec<_>>(),
            )?;
            let Some(node) = graph.get(segments[1]) else { return Ok(owned(&segments)) };
            let entry = node.get("node").and_then(Value::as_str).and_then(registry::find);
            if let (Some(segment), Some(entry)) = (segments.get(2), entry) {
                let mut keys: Vec<String> =
                    schema::params(&entry.schema()).into_iter().map(|p| p.name).collect();
                keys.extend(RESERVED.map(String::from));
                choose(
                    &segments[..2],
                    segment,
                    &format!("`{}` ({})", segments[1], entry.name),
                    &keys,
                )?;
                if let (&"in", Some(port)) = (segment, segments.get(3)) {
                    choose(
                        &segments[..3],
                        port,
                        &format!("the input of {}", entry.name),
                        &strings(entry.inputs),
                    )?;
                }
            }
        }
        "run" if segments.len() > 1 => {
            let steps = document.get("run").and_then(Value::as_array).cloned().unwrap_or_default();
            let indices: Vec<String> = (0..steps.len()).map(|index| index.to_string()).collect();
            choose(
                &segments[..1],
                segments[1],
                "`run`, whose steps are counted from 0,",
                &indices,
            )?;
            let step = segments[1]
                .parse::<usize>()
                .ok()
                .and_then(|index| steps.get(index))
                .and_then(Value::as_object);
            if let (Some(segment), Some(step)) = (segments.get(2), step) {
                let what = format!("step `run.{}`", segments[1]);
                let names: Vec<String> = step.keys().cloned().collect();
                if let (Err(mut diagnostic), Some(name)) =
                    (choose(&segments[..2], segment, &what, &names), names.first())
                {
                    // `run.0.steps` for `run.0.train.steps`.
                    let rest = [&segments[..2], &[name.as_str()], &segments[2..]].concat();
                    diagnostic.suggestion = diagnostic.suggestion.or(Some(rest.join(".")));
                    return Err(diagnostic);
                }
                if let (Some(param), Some(entry)) = (segments.get(3), registry::find_step(segment))
                {
                    let keys: Vec<String> =
                        schema::params(&entry.schema()).into_iter().map(|p| p.name).collect();
                    choose(&segments[..3], param, &format!("the step `{segment}`"), &keys)?;
                }
            }
        }
        "graph" | "run" | "report" => {}
        scalar if segments.len() > 1 => {
            return Err(Box::new(Diagnostic::error(format!(
                "`{path}` names nothing: `{scalar}` has no parts"
            ))));
        }
        _ => {}
    }
    Ok(owned(&segments))
}

fn owned(segments: &[&str]) -> Vec<String> {
    segments.iter().map(ToString::to_string).collect()
}

/// The default of the parameter that `target` goes into: setting a part of a parameter that is not
/// written changes its default.
fn default_at(document: &Value, target: &[String], depth: usize) -> Option<Value> {
    let (schema, param_depth) = match target.first().map(String::as_str) {
        Some("graph") => {
            let node = document.get("graph")?.get(target.get(1)?)?.get("node")?.as_str()?;
            (registry::find(node)?.schema(), 3)
        }
        Some("run") => (registry::find_step(target.get(2)?)?.schema(), 4),
        _ => return None,
    };
    if depth != param_depth {
        return None;
    }
    let name = target.get(param_depth - 1)?;
    schema::params(&schema).into_iter().find(|param| param.name == *name)?.default
}

fn put(
    document: &mut Value,
    target: &[String],
    value: Value,
    path: &str,
) -> Result<(), Box<Diagnostic>> {
    // Look up the defaults before the descent borrows the tree.
    let defaults: Vec<Option<Value>> =
        (0..=target.len()).map(|depth| default_at(document, target, depth)).collect();
    let node =
        target.get(1).and_then(|name| document.get("graph")?.get(name)?.get("node")?.as_str());
    let bare_port =
        node.and_then(registry::find).and_then(|entry| Some(entry.inputs[entry.bare_input()?]));
    let mut at = document;
    for (depth, segment) in target.iter().enumerate() {
        let default = || match &defaults[depth] {
            Some(default @ (Value::Object(_) | Value::Array(_))) => default.clone(),
            _ => Value::Object(Map::new()),
        };
        if at.is_null() {
            *at = default();
        }
        if let (3, "in", Value::String(wire), Some(port)) =
            (depth, target.get(2).map_or("", String::as_str), &*at, &bare_port)
        {
            // `in: wire` in its long form, so that another port can be added.
            *at = json!({ *port: wire });
        }
        at = match at {
            Value::Object(map) => map.entry(segment.clone()).or_insert(Value::Null),
            Value::Array(items) => {
                let length = items.len();
                match segment.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                    Some(item) => item,
                    None => {
                        return Err(Box::new(Diagnostic::error(format!(
                            "`{path}` names nothing: the list has {length} items, counted from 0, and no `{segment}`"
                        ))));
                    }
                }
            }
            _ => {
                return Err(Box::new(Diagnostic::error(format!(
                    "`{path}` names nothing: `{}` is a single value",
                    target[..depth].join(".")
                ))));
            }
        };
    }
    *at = value;
    Ok(())
}
