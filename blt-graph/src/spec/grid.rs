//! The grid of `ablate`: its axes, and the product of their choices.

use serde_json::Value;

use crate::diagnostic::Diagnostics;
use crate::spec::{Axis, PipelineSpec};

crate::code! {
    /// The grid is too large.
    ///
    /// Each variant of a grid is checked as a whole before the first one runs, and each takes its
    /// time to run. Give fewer values, or name the variants that you want one by one under `ablate`.
    pub(crate) TOO_MANY = "BLT0504"
}

/// A value to put at a path of a pipeline.
#[derive(Clone)]
pub(crate) struct Edit {
    /// Where path and value are written.
    pub written: Vec<String>,
    pub path: String,
    pub value: Value,
}

/// Most variants of a grid. Each is checked as a whole before the first one runs.
const MOST: usize = 10_000;

impl PipelineSpec {
    /// Names and edits of the grid's variants, the last axis varying fastest.
    pub(crate) fn grid_variants(&self) -> Result<Vec<(String, Vec<Edit>)>, Diagnostics> {
        let grid = &self.ablate.grid;
        if grid.is_empty() {
            return Ok(Vec::new());
        }
        let axes: Vec<Vec<(String, Vec<Edit>)>> = endings(grid)
            .iter()
            .zip(grid)
            .map(|(ending, (key, axis))| choices(ending, key, axis))
            .collect();
        // Multiplied before anything is made.
        let product =
            axes.iter().try_fold(1, |product: usize, axis| product.checked_mul(axis.len()));
        if product.is_none_or(|product| product > MOST) {
            let factors: Vec<String> = axes.iter().map(|axis| axis.len().to_string()).collect();
            let product = product.map_or("more than 2^64".to_string(), |n| n.to_string());
            let message = format!(
                "the grid has {} = {product} variants, and at most {MOST} are allowed",
                factors.join(" x ")
            );
            return Err(TOO_MANY
                .error(message)
                .at(self.places.key(&["ablate", "grid"]))
                .help(Some("give fewer values, or name the variants that you want one by one"))
                .into());
        }
        let mut all = vec![(String::new(), Vec::new())];
        for axis in &axes {
            let mut next = Vec::with_capacity(all.len() * axis.len());
            for (name, edits) in &all {
                for (choice, more) in axis {
                    let comma = if name.is_empty() { "" } else { "," };
                    next.push((format!("{name}{comma}{choice}"), [&edits[..], more].concat()));
                }
            }
            all = next;
        }
        Ok(all)
    }
}

/// The choices of an axis: `ending=choice` and its edits.
fn choices(ending: &str, key: &str, axis: &Axis) -> Vec<(String, Vec<Edit>)> {
    let written = |rest: &[&str]| {
        ["ablate", "grid", key].iter().chain(rest).map(ToString::to_string).collect()
    };
    match axis {
        Axis::Values(values) => values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let edit = Edit {
                    written: written(&[&index.to_string()]),
                    path: key.to_string(),
                    value: value.clone(),
                };
                (format!("{ending}={}", value_name(value, index, values)), vec![edit])
            })
            .collect(),
        Axis::Options(options) => options
            .iter()
            .map(|(option, edits)| {
                let edits = edits.iter().map(|(path, value)| Edit {
                    written: written(&[option, path]),
                    path: path.clone(),
                    value: value.clone(),
                });
                (format!("{ending}={option}"), edits.collect())
            })
            .collect(),
    }
}

/// What the keys are called in names of variants: of a group its name; of paths the shortest
/// endings that differ from each other and from the groups.
fn endings(grid: &[(String, Axis)]) -> Vec<String> {
    let is_path = |axis: &Axis| matches!(axis, Axis::Values(_));
    let of_length = |length: usize| -> Vec<String> {
        let ending = |(key, axis): &(String, Axis)| {
            let parts: Vec<&str> = key.split('.').collect();
            match is_path(axis) {
                true => parts[parts.len() - length.min(parts.len())..].join("."),
                false => key.clone(),
            }
        };
        grid.iter().map(ending).collect()
    };
    let paths = grid.iter().filter(|(_, axis)| is_path(axis));
    let longest = paths.map(|(path, _)| path.split('.').count()).max().unwrap_or(1);
    let differ = |length: &usize| {
        let endings = of_length(*length);
        (1..endings.len()).all(|i| !endings[..i].contains(&endings[i]))
    };
    of_length((1..=longest).find(differ).unwrap_or(longest))
}

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
