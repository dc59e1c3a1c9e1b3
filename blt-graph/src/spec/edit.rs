//! Edits: a path in a pipeline, and the value to put there. `ablate` and `--set` are made of them.
//!
//! A path is keys and list indices joined by dots: `graph.patches.stride`, `run.0.train.steps`,
//! `seed`. It may name a parameter that is not written and has its default. `graph.patches`
//! replaces the whole node.

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics, list, nearest};
use crate::registry;
use crate::schema;
use crate::spec::keys::keys;
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

crate::code! {
    /// A path names nothing.
    ///
    /// Paths of `ablate` and `--set` are keys joined by dots, from the top of the pipeline:
    /// `graph.latent.layers`, `run.1.train.lr` (steps are counted from 0), `seed`. A path may name a
    /// parameter that is not written and has its default; `blt-run nodes NAME` lists them.
    pub(crate) NO_PATH = "BLT0501"
}

crate::code! {
    /// Variants cannot be overridden.
    ///
    /// `--set` changes the pipeline and all of its variants: set the path that the variants set.
    /// `--set VARIANT:PATH=VALUE` changes one of them, and `--variant NAME` runs one alone.
    pub(crate) SET_ABLATE = "BLT0502"
}

/// Splits `path` into keys. All but the deepest exist in `document`, or the path is refused.
fn resolve(document: &Value, path: &str) -> Result<Vec<String>, Box<Diagnostic>> {
    let segments: Vec<&str> = path.split('.').collect();
    if segments[0] == "ablate" {
        return Err(Box::new(
            SET_ABLATE
                .error("`ablate` cannot be overridden")
                .help(Some("override what its variants have in common")),
        ));
    }
    for depth in 0..segments.len() {
        let Some((what, candidates)) = following(document, &segments[..depth]) else { break };
        let segment = segments[depth];
        if candidates.iter().any(|candidate| candidate == segment) {
            continue;
        }
        if candidates.is_empty() {
            return Err(Box::new(
                NO_PATH.error(format!("`{path}` names nothing: {what} has no parts")),
            ));
        }
        let names = || candidates.iter().map(String::as_str);
        let mut diagnostic =
            NO_PATH.error(format!("`{path}` names nothing: {what} has no `{segment}`"));
        let near = nearest(segment, names())
            .map(|near| [&segments[..depth], &[near], &segments[depth + 1..]].concat().join("."))
            .and_then(|near| match resolve(document, &near) {
                Ok(_) => Some(near),
                Err(wrong) => wrong.suggestion,
            });
        let mut meant = near.map_or_else(|| meant(document, &segments), |near| vec![near]);
        let last = meant.pop();
        if !meant.is_empty() {
            let others = list(meant.iter().map(String::as_str));
            diagnostic = diagnostic.note(format!("it may also mean {others}"));
        }
        return Err(Box::new(
            diagnostic.note(format!("{what} has {}", list(names()))).suggest(last),
        ));
    }
    Ok(segments.iter().map(ToString::to_string).collect())
}

/// What may follow `prefix` in a path, and what `prefix` is called; `None` if anything may.
fn following(document: &Value, prefix: &[&str]) -> Option<(String, Vec<String>)> {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
    let params = |schema: &Value| schema::params(schema).into_iter().map(|param| param.name);
    match prefix {
        [] => Some((
            "a pipeline".into(),
            keys().filter(|key| *key != "ablate").map(String::from).collect(),
        )),
        ["graph"] => {
            let graph = document.get("graph").and_then(Value::as_object);
            let nodes = graph.map_or_else(Vec::new, |graph| graph.keys().cloned().collect());
            Some(("the graph".into(), nodes))
        }
        ["graph", node, rest @ ..] => {
            let kind = document.get("graph")?.get(node)?.get("node")?.as_str()?;
            let entry = registry::find(kind)?;
            match rest {
                [] => Some((
                    format!("`{node}` ({kind})"),
                    params(entry.schema()).chain(RESERVED.map(String::from)).collect(),
                )),
                ["in"] => Some((format!("the input of {kind}"), names(entry.inputs))),
                _ => None,
            }
        }
        ["run"] => {
            let steps = document.get("run").and_then(Value::as_array).map_or(0, Vec::len);
            Some((
                "`run`, whose steps are counted from 0,".into(),
                (0..steps).map(|index| index.to_string()).collect(),
            ))
        }
        ["run", index, rest @ ..] => {
            let step = document.get("run")?.get(index.parse::<usize>().ok()?)?.as_object()?;
            match rest {
                [] => Some((format!("step `run.{index}`"), step.keys().cloned().collect())),
                [step] => Some((
                    format!("the step `{step}`"),
                    params(registry::find_step(step)?.schema()).collect(),
                )),
                _ => None,
            }
        }
        ["report", ..] => None,
        // The others are single values.
        [scalar] => Some((format!("`{scalar}`"), Vec::new())),
        _ => None,
    }
}

/// The paths of `document` that have all `segments` in order, and may be meant by them:
/// `graph.latent.layers` by `latent.layers`. Numbers of steps may be wrong or left out.
fn meant(document: &Value, segments: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let path_segments: Vec<&str> = path.iter().map(String::as_str).collect();
        if path_segments.last() == segments.last() {
            all.push(path.clone());
        }
        if path.len() < 4
            && let Some((_, next)) = following(document, &path_segments)
        {
            // The last is looked at first.
            open.extend(next.into_iter().map(|next| [&path[..], &[next]].concat()).rev());
        }
    }
    let that_have = |wanted: &[&str]| -> Vec<String> {
        let has = |path: &&Vec<String>| {
            let mut rest = path.iter();
            wanted.iter().all(|wanted| rest.any(|segment| segment == wanted))
        };
        // As few keys left out as can be.
        let least = all.iter().filter(has).map(Vec::len).min();
        let found = all.iter().filter(has).filter(|path| Some(path.len()) == least);
        found.map(|path| path.join(".")).collect()
    };
    let found = that_have(segments);
    if !found.is_empty() {
        return found;
    }
    let names: Vec<&str> =
        segments.iter().copied().filter(|segment| segment.parse::<usize>().is_err()).collect();
    that_have(&names)
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
    schema::params(schema).into_iter().find(|param| param.name == *name)?.default
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
                        return Err(Box::new(NO_PATH.error(format!(
                            "`{path}` names nothing: the list has {length} items, counted from 0, and no `{segment}`"
                        ))));
                    }
                }
            }
            _ => {
                return Err(Box::new(NO_PATH.error(format!(
                    "`{path}` names nothing: `{}` is a single value",
                    target[..depth].join(".")
                ))));
            }
        };
    }
    *at = value;
    Ok(())
}
