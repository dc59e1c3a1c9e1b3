//! The variants of a pipeline: `ablate:` with its names and its grid.

use serde_json::Value;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::spec::{Ablation, BASE_VARIANT, PipelineSpec, Variant};

impl PipelineSpec {
    /// The variants in order: the named ones, then those of the grid. A pipeline without `ablate`
    /// has one, called [`BASE_VARIANT`].
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
        // The shortest endings of the paths that differ.
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

/// The place where a path and its value are written, the path, and the value.
type Edit = (Vec<String>, String, Value);

/// A value of a grid, as part of its variant's name.
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
