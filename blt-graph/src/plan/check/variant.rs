//! [`Plan::check`]: one variant of a pipeline.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::error::{At, NodeError};
use crate::node::CheckCx;
use crate::plan::check::candidate::Candidate;
use crate::plan::check::steps::{CheckedStep, check_steps, goal_param};
use crate::plan::check::wires::{order, wire};
use crate::plan::diagnose::node_diagnostic;
use crate::plan::find::{PortId, not_given};
use crate::plan::{Plan, PlannedNode};
use crate::port::AnyInfo;
use crate::registry::duplicates;
use crate::spec::{ComputePath, NAME, PipelineSpec, is_name};

/// What is known of a node's outputs, by port; `None` if its check was not called or failed.
type Infos = Option<Vec<Option<AnyInfo>>>;
/// What a node's check stated.
type Facts = Vec<Rc<dyn Any>>;

impl Plan {
    /// Checks one variant of a pipeline: one without `ablate`, or one of
    /// [`variants`](PipelineSpec::variants).
    ///
    /// # Errors
    /// Every error, as far as one does not hide another.
    pub fn check(
        spec: &PipelineSpec,
        variant: &str,
        seed: u64,
        base_dir: &Path,
    ) -> Result<Self, Diagnostics> {
        let mut found = duplicates();
        let plan = match found.as_slice() {
            [] => planned(spec, variant, seed, base_dir, &mut found),
            _ => None,
        };
        match plan {
            Some(plan) if found.is_empty() => {
                check_goals(&plan, &mut found);
                if found.is_empty() { Ok(plan) } else { Err(Diagnostics(found)) }
            }
            _ => Err(Diagnostics(found)),
        }
    }
}

/// The plan, before its steps are checked against it; `None` if there is an error.
fn planned(
    spec: &PipelineSpec,
    variant: &str,
    seed: u64,
    base_dir: &Path,
    found: &mut Vec<Diagnostic>,
) -> Option<Plan> {
    check_names(spec, found);
    let before = found.len();
    let mut nodes: Vec<Candidate> = Vec::new();
    for node in &spec.graph.nodes {
        nodes.extend(Candidate::new(spec, node, found));
    }
    let some_unknown = found.len() > before && nodes.len() < spec.graph.nodes.len();
    wire(spec, &mut nodes, some_unknown, found);
    let order = order(spec, &nodes, found);
    let steps = check_steps(spec, &nodes, some_unknown, found);
    let order = order?;
    let used = used(&nodes, &steps, spec.run.is_empty());
    let (checked, warnings) = check_nodes(spec, base_dir, &nodes, &order, &used, found);
    if !found.is_empty() {
        return None;
    }
    let mut position = vec![0; nodes.len()];
    for (new, old) in order.iter().enumerate() {
        position[*old] = new;
    }
    let planned = order.iter().filter_map(|old| {
        let Candidate { spec, entry, node, inputs, .. } = &nodes[*old];
        let (node, params) = node.clone()?;
        let renumber = |id: &PortId| PortId { node: position[id.node], port: id.port };
        Some(PlannedNode {
            name: spec.name.clone(),
            entry,
            params,
            used: used[*old],
            infos: checked[*old].0.clone().unwrap_or_default(),
            facts: checked[*old].1.clone(),
            inputs: inputs.iter().map(|id| id.as_ref().map(renumber)).collect(),
            node,
        })
    });
    let device = spec.device.clone().unwrap_or_else(|| "cpu".to_string());
    Some(Plan {
        pipeline: spec.name.clone(),
        variant: variant.to_string(),
        seed,
        base_dir: base_dir.to_path_buf(),
        compute_path: spec.compute_path.unwrap_or_else(|| ComputePath::on(&device)),
        device,
        spec: Rc::new(PipelineSpec { ablate: Default::default(), ..spec.clone() }),
        warnings,
        nodes: planned.collect(),
        steps: steps.into_iter().map(|checked| checked.step).collect(),
    })
}

fn check_names(spec: &PipelineSpec, found: &mut Vec<Diagnostic>) {
    // YAML cannot say these; Rust can.
    let mut names = HashSet::new();
    for node in &spec.graph.nodes {
        if !names.insert(&node.name) {
            found.push(NAME.error(format!("two nodes are called `{}`", node.name)));
        }
        if !is_name(&node.name) {
            found.push(
                NAME.error(format!("`{}` cannot name a node", node.name))
                    .help(Some("use letters, digits, `_` and `-`")),
            );
        }
    }
}

/// Which nodes a goal needs; all of them in a pipeline without steps (`all`).
fn used(nodes: &[Candidate], steps: &[CheckedStep], all: bool) -> Vec<bool> {
    let mut used = vec![all; nodes.len()];
    let mut stack: Vec<usize> = steps.iter().flat_map(|step| step.goals.clone()).collect();
    while let Some(index) = stack.pop() {
        if !std::mem::replace(&mut used[index], true) {
            stack.extend(nodes[index].inputs.iter().flatten().map(|id| id.node));
        }
    }
    used
}

/// Calls the check of every used node, in order. A node whose inputs are not known is left out.
/// Returns what is known of each, and warnings.
fn check_nodes(
    spec: &PipelineSpec,
    base_dir: &Path,
    nodes: &[Candidate],
    order: &[usize],
    used: &[bool],
    found: &mut Vec<Diagnostic>,
) -> (Vec<(Infos, Facts)>, Vec<Diagnostic>) {
    let mut checked: Vec<(Infos, Facts)> = vec![(None, Vec::new()); nodes.len()];
    let mut warnings = Vec::new();
    for &index in order {
        let candidate = &nodes[index];
        let (true, true, Some((node, _))) = (used[index], candidate.wired, &candidate.node) else {
            continue;
        };
        let (name, entry) = (candidate.spec.name.as_str(), candidate.entry);
        let diagnose = |error: &NodeError| node_diagnostic(&spec.places, name, entry.name, error);
        let mut inputs = Vec::new();
        let mut complete = true;
        for (port, id) in candidate.inputs.iter().enumerate() {
            let Some(id) = id else {
                inputs.push(None);
                continue;
            };
            match checked[id.node].0.as_ref().map(|infos| infos[id.port].clone()) {
                Some(Some(info)) => inputs.push(Some(info)),
                Some(None) => {
                    complete = false;
                    let message = not_given(&nodes[id.node], id.port);
                    found.push(diagnose(&NodeError::input(entry.inputs[port], message)));
                }
                None => complete = false,
            }
        }
        if !complete {
            continue;
        }
        let (warned, facts) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let cx = CheckCx { node: name, base_dir, warnings: &warned, facts: &facts };
        match node.check(&inputs, &cx) {
            Ok(known) => checked[index] = (Some(known), facts.take()),
            Err(error) => found.push(diagnose(&error)),
        }
        for warning in warned.take() {
            warnings.push(Diagnostic { severity: Severity::Warning, ..diagnose(&warning) });
        }
    }
    (checked, warnings)
}

/// Checks that the plan has each step's goals, and calls the step's own check.
fn check_goals(plan: &Plan, found: &mut Vec<Diagnostic>) {
    for (index, step) in plan.steps.iter().enumerate() {
        let missing = step.goals.iter().find_map(|goal| Some((goal, plan.goal(goal).err()?)));
        let checked = match missing {
            Some((goal, mut error)) => {
                error.at = goal_param(&step.params, goal).map_or(At::Node, At::Param);
                Err(error)
            }
            None => step.behaviour().check(plan),
        };
        if let Err(error) = checked {
            found.push(plan.diagnose_step(index, &error));
        }
    }
}
