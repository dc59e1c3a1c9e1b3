//! The steps of a pipeline, and the nodes that their goals reach.

use serde_json::{Map, Value};

use crate::diagnostic::Diagnostic;
use crate::plan::PlannedStep;
use crate::plan::check::candidate::Candidate;
use crate::plan::find::find_port;
use crate::plan::params::{check_params, parsed};
use crate::registry::{find_step, unknown};
use crate::spec::{PipelineSpec, StepSpec};

/// A step on its way into a plan.
pub(super) struct CheckedStep {
    pub step: PlannedStep,
    /// The nodes that the goals name, by position.
    pub goals: Vec<usize>,
}

/// The steps, without those that are wrong. `some_unknown`: see
/// [`wire`](super::wires::wire).
pub(super) fn check_steps(
    spec: &PipelineSpec,
    nodes: &[Candidate],
    some_unknown: bool,
    found: &mut Vec<Diagnostic>,
) -> Vec<CheckedStep> {
    let mut steps = Vec::new();
    for (index, step) in spec.run.iter().enumerate() {
        let index = index.to_string();
        let path = ["run", index.as_str(), step.step.as_str()];
        let Some(planned) = planned(spec, step, &path, found) else { continue };
        let mut goals = Vec::new();
        for goal in &planned.goals {
            let missing = match find_port(goal, nodes) {
                Ok((node, _)) => {
                    goals.push(node);
                    continue;
                }
                Err(missing) => missing,
            };
            let name = goal.split('.').next().unwrap_or(goal);
            if some_unknown && spec.graph.node(name).is_some() {
                continue;
            }
            let param = goal_param(&step.params, goal);
            let mut full: Vec<&str> = path.to_vec();
            full.extend(param.iter().flat_map(|param| param.split('.')));
            found.push(missing.into_diagnostic(&spec.places, &full));
        }
        steps.push(CheckedStep { step: planned, goals });
    }
    steps
}

/// Looks up the kind of `step` and reads its parameters.
fn planned(
    spec: &PipelineSpec,
    step: &StepSpec,
    path: &[&str; 3],
    found: &mut Vec<Diagnostic>,
) -> Option<PlannedStep> {
    let places = &spec.places;
    let Some(entry) = find_step(&step.step) else {
        let mut diagnostic =
            unknown("step", &step.step).at(places.key(path).or_else(|| places.value(path)));
        diagnostic.path = path.join(".");
        found.push(diagnostic);
        return None;
    };
    let what = format!("step `{}`", path.join("."));
    let schema = entry.schema();
    if !check_params(schema, &step.params, places, path, &what, found) {
        return None;
    }
    let read = |params: &Value| entry.parse(params);
    let parsed = parsed(schema, &step.params, (places, path), &what, found, read)?;
    Some(PlannedStep {
        entry,
        params: parsed.params,
        goals: parsed.goals,
        feeds_later_steps: parsed.feeds_later_steps,
        step: parsed.step,
    })
}

/// The parameter whose value is `goal`, or a list with `goal` in it.
pub(super) fn goal_param(params: &Map<String, Value>, goal: &str) -> Option<String> {
    params.iter().find_map(|(name, value)| match value {
        Value::String(text) if text == goal => Some(name.clone()),
        Value::Array(items) => items
            .iter()
            .position(|item| item.as_str() == Some(goal))
            .map(|index| format!("{name}.{index}")),
        _ => None,
    })
}
