//! The checker: from a [`PipelineSpec`] to a [`Plan`], collecting all that is wrong on the way.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity, list, nearest};
use crate::node::{AnyNode, At, CheckCx, NodeError};
use crate::plan::findings::{
    Named, check_params, find_port, node_diagnostic, object, param_diagnostic,
};
use crate::plan::{Plan, PlannedNode, PlannedStep, PortId};
use crate::port::AnyInfo;
use crate::registry::{self, NodeEntry, ParamError, StepEntry};
use crate::spec::Places;
use crate::spec::{Ablation, Inputs, NodeSpec, PipelineSpec, StepSpec};
use crate::step::ComputePath;

/// A node whose parameters and name are right; its wires may not be.
struct Candidate {
    name: String,
    spec: usize,
    entry: &'static NodeEntry,
    node: Option<Rc<dyn AnyNode>>,
    params: Map<String, Value>,
    inputs: Vec<Option<PortId>>,
    wired: bool,
}

impl Named for Candidate {
    fn name(&self) -> &str {
        &self.name
    }
    fn entry(&self) -> &'static NodeEntry {
        self.entry
    }
}

pub(crate) struct Checker<'a> {
    spec: &'a PipelineSpec,
    base_dir: &'a Path,
    pub found: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    pub fn new(spec: &'a PipelineSpec, base_dir: &'a Path) -> Self {
        Checker { spec, base_dir, found: registry::duplicates(), warnings: Vec::new() }
    }

    /// The plan, if nothing was found.
    pub fn plan(&mut self, variant: &str, seed: u64) -> Option<Plan> {
        if !self.found.is_empty() {
            return None;
        }
        let spec = self.spec;
        let mut names: Vec<&str> = Vec::new();
        for node in &spec.graph.nodes {
            if names.contains(&node.name.as_str()) {
                self.found.push(Diagnostic::error(format!("two nodes are called `{}`", node.name)));
            }
            if !registry::is_name(&node.name) {
                self.found.push(
                    Diagnostic::error(format!("`{}` cannot name a node", node.name))
                        .help(Some("use letters, digits, `_` and `-`")),
                );
            }
            names.push(&node.name);
        }
        let unknown_node_before = self.found.len();
        let mut nodes: Vec<Candidate> = Vec::new();
        for index in 0..spec.graph.nodes.len() {
            nodes.extend(self.candidate(index));
        }
        let some_unknown =
            self.found.len() > unknown_node_before && nodes.len() < spec.graph.nodes.len();
        self.wire(&mut nodes, some_unknown);
        let order = self.order(&nodes)?;
        let steps = self.steps(&nodes, some_unknown);
        let used = used(&nodes, &steps, spec.run.is_empty());
        let infos = self.infos(&nodes, &order, &used);
        if !self.found.is_empty() {
            return None;
        }
        let mut new_index = vec![0; nodes.len()];
        for (new, old) in order.iter().enumerate() {
            new_index[*old] = new;
        }
        let planned = order.iter().filter_map(|old| {
            let candidate = &nodes[*old];
            let renumber = |id: &PortId| PortId { node: new_index[id.node], port: id.port };
            Some(PlannedNode {
                name: candidate.name.clone(),
                entry: candidate.entry,
                params: candidate.params.clone(),
                used: used[*old],
                infos: infos[*old].clone().unwrap_or_default(),
                inputs: candidate.inputs.iter().map(|id| id.as_ref().map(renumber)).collect(),
                node: candidate.node.clone()?,
            })
        });
        let device = spec.device.clone().unwrap_or_else(|| "cpu".to_string());
        let plan = Plan {
            pipeline: spec.name.clone(),
            variant: variant.to_string(),
            seed,
            base_dir: self.base_dir.to_path_buf(),
            path: spec.path.unwrap_or_else(|| ComputePath::on(&device)),
            device,
            spec: Rc::new(PipelineSpec { ablate: Ablation::default(), ..spec.clone() }),
            warnings: std::mem::take(&mut self.warnings),
            nodes: planned.collect(),
            steps: steps.into_iter().flatten().map(|(step, _)| step).collect(),
        };
        for (index, step) in plan.steps.iter().enumerate() {
            let missing = step.goals.iter().find_map(|goal| Some((goal, plan.goal(goal).err()?)));
            let error = match missing {
                Some((goal, mut error)) => {
                    error.at = goal_param(&step.params, goal).map_or(At::Node, At::Param);
                    Err(error)
                }
                None => step.step.check(&plan),
            };
            if let Err(error) = error {
                self.found.push(plan.diagnose_step(index, &error));
            }
        }
        Some(plan)
    }

    /// Looks node `index` up and reads its parameters.
    fn candidate(&mut self, index: usize) -> Option<Candidate> {
        let node = &self.spec.graph.nodes[index];
        let places = &self.spec.places;
        let path = ["graph", node.name.as_str()];
        let Some(entry) = registry::find(&node.node) else {
            let mut diagnostic = registry::unknown("node", &node.node)
                .at(places.value(&["graph", &node.name, "node"]));
            diagnostic.path = format!("graph.{}.node", node.name);
            self.found.push(diagnostic);
            return None;
        };
        let what = format!("`{}` ({})", node.name, entry.name);
        let schema = entry.schema();
        let mut parsed = None;
        if check_params(&schema, &node.params, places, &path, &what, &mut self.found) {
            match entry.parse(&Value::Object(node.params.clone())) {
                Ok(node) => parsed = Some(node),
                Err(error) => {
                    self.found.push(param_diagnostic(&schema, places, &path, &what, &error))
                }
            }
        }
        let params = match parsed.as_ref().map(|node| node.params()) {
            Some(Ok(params)) => object(params),
            Some(Err(error)) => {
                self.found.push(Diagnostic::error(format!(
                    "{what}: its parameters cannot be written down: {error}"
                )));
                return None;
            }
            None => Map::new(),
        };
        Some(Candidate {
            name: node.name.clone(),
            spec: index,
            entry,
            node: parsed,
            params,
            inputs: vec![None; entry.inputs.len()],
            wired: false,
        })
    }

    /// Resolves all wires. `some_unknown`: nodes were dropped, so that a wire to one of them is no
    /// second error.
    fn wire(&mut self, nodes: &mut [Candidate], some_unknown: bool) {
        for index in 0..nodes.len() {
            let before = self.found.len();
            let spec = &self.spec.graph.nodes[nodes[index].spec];
            let entry = nodes[index].entry;
            let slots = entry.in_slots();
            let places = &self.spec.places;
            let node_place = || places.key(&["graph", &spec.name]);
            let what = format!("`{}` ({})", spec.name, entry.name);
            let ports = || {
                let ports = entry.inputs.iter().zip(&slots);
                let ports: Vec<String> = ports
                    .map(|(name, slot)| {
                        format!(
                            "{name}: {}{}",
                            slot.name,
                            if slot.optional { " (may be left out)" } else { "" }
                        )
                    })
                    .collect();
                format!("its inputs: {}", ports.join(", "))
            };
            // Each wire with its place in the document.
            let mut wires: Vec<(usize, &str, Vec<&str>)> = Vec::new();
            match &spec.inputs {
                Inputs::None => {}
                Inputs::One(_) if entry.inputs.is_empty() => self.found.push(
                    Diagnostic::error(format!("{what} takes no input"))
                        .at(places.value(&["graph", &spec.name, "in"])),
                ),
                Inputs::One(wire) => match entry.bare_input() {
                    Some(port) => wires.push((port, wire, vec!["graph", &spec.name, "in"])),
                    None => self.found.push(
                        Diagnostic::error(format!(
                            "{what} has {} inputs, and `in` names none of them",
                            entry.inputs.len()
                        ))
                        .at(places.value(&["graph", &spec.name, "in"]))
                        .note(ports())
                        .help(Some(format!(
                            "write `in: {{{}}}`",
                            entry
                                .inputs
                                .iter()
                                .map(|name| format!("{name}: ..."))
                                .collect::<Vec<_>>()
                                .join(", ")
                        ))),
                    ),
                },
                Inputs::Map(map) => {
                    for (name, wire) in map {
                        match entry.inputs.iter().position(|port| port == name) {
                            Some(port) => {
                                wires.push((port, wire, vec!["graph", &spec.name, "in", name]))
                            }
                            None => self.found.push(
                                Diagnostic::error(format!("{what} has no input `{name}`"))
                                    .at(places.key(&["graph", &spec.name, "in", name]))
                                    .note(ports())
                                    .suggest(nearest(name, entry.inputs.iter().copied())),
                            ),
                        }
                    }
                }
            }
            if self.found.len() == before {
                let given = |port: usize| wires.iter().any(|(given, ..)| *given == port);
                let missing: Vec<&str> = (0..slots.len())
                    .filter(|i| !slots[*i].optional && !given(*i))
                    .map(|i| entry.inputs[i])
                    .collect();
                if !missing.is_empty() {
                    let plural = if missing.len() > 1 { "s" } else { "" };
                    self.found.push(
                        Diagnostic::error(format!(
                            "{what} has nothing on its input{plural} {}",
                            list(missing)
                        ))
                        .at(places.key(&["graph", &spec.name, "in"]).or_else(node_place))
                        .note(ports()),
                    );
                }
            }
            let mut complete = true;
            for (port, wire, path) in wires {
                let place = places.value(&path);
                match find_port(wire, nodes) {
                    Err(missing) => {
                        let name = wire.split('.').next().unwrap_or(wire);
                        if some_unknown && self.spec.graph.node(name).is_some() {
                            complete = false;
                            continue;
                        }
                        let mut diagnostic = Diagnostic::error(missing.message)
                            .at(place)
                            .suggest(missing.suggestion);
                        diagnostic.notes.extend(missing.note);
                        diagnostic.path = path.join(".");
                        self.found.push(diagnostic);
                    }
                    Ok((from, output)) => {
                        let source = &nodes[from];
                        let outputs = source.entry.out_slots();
                        let wanted = slots[port];
                        match outputs.get(output) {
                            Some(slot) if slot.id == wanted.id => {
                                nodes[index].inputs[port] =
                                    Some(PortId { node: from, port: output });
                            }
                            given => {
                                let given = given.map_or("nothing", |slot| slot.name);
                                let fitting: Vec<String> = outputs
                                    .iter()
                                    .zip(source.entry.outputs)
                                    .filter(|(slot, _)| slot.id == wanted.id)
                                    .map(|(_, name)| format!("{}.{name}", source.name))
                                    .collect();
                                let mut diagnostic = Diagnostic::error(format!(
                                    "{what} takes {} on its input `{}`, and `{wire}` carries {given}",
                                    wanted.name, entry.inputs[port],
                                ))
                                .at(place)
                                .label(format!("expected {}, found {given}", wanted.name))
                                .suggest(fitting.first().cloned());
                                if fitting.is_empty() {
                                    let giving: Vec<&str> = nodes
                                        .iter()
                                        .filter(|node| {
                                            node.entry
                                                .out_slots()
                                                .iter()
                                                .any(|slot| slot.id == wanted.id)
                                        })
                                        .map(|node| node.name.as_str())
                                        .collect();
                                    if !giving.is_empty() {
                                        diagnostic = diagnostic.note(format!(
                                            "{} is given by {}",
                                            wanted.name,
                                            list(giving)
                                        ));
                                    }
                                }
                                diagnostic.path = path.join(".");
                                self.found.push(diagnostic);
                            }
                        }
                    }
                }
            }
            for diagnostic in &mut self.found[before..] {
                if diagnostic.path.is_empty() {
                    diagnostic.path = format!("graph.{}.in", nodes[index].name);
                }
            }
            nodes[index].wired = complete && self.found.len() == before;
        }
    }

    /// The nodes, each after those that it reads from, otherwise as they are written; or a
    /// diagnostic with the cycle.
    fn order(&mut self, nodes: &[Candidate]) -> Option<Vec<usize>> {
        let mut order: Vec<usize> = Vec::new();
        while order.len() < nodes.len() {
            let ready = |index: &usize| {
                !order.contains(index)
                    && nodes[*index].inputs.iter().flatten().all(|id| order.contains(&id.node))
            };
            match (0..nodes.len()).find(ready) {
                Some(index) => order.push(index),
                None => break,
            }
        }
        let start = match (0..nodes.len()).find(|index| !order.contains(index)) {
            None => return Some(order),
            Some(start) => start,
        };
        // Every node that is left reads from another that is left: going upstream must come back to
        // where it was.
        let mut trail = vec![start];
        let cycle = loop {
            let last = trail[trail.len() - 1];
            let upstream = nodes[last]
                .inputs
                .iter()
                .flatten()
                .map(|id| id.node)
                .find(|node| !order.contains(node))?;
            if let Some(at) = trail.iter().position(|node| *node == upstream) {
                break trail[at..].to_vec();
            }
            trail.push(upstream);
        };
        // Downstream order, beginning with the node that is written first.
        let mut names: Vec<usize> = cycle.into_iter().rev().collect();
        let first = names.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(at, _)| at);
        names.rotate_left(first);
        names.push(names[0]);
        let text =
            names.iter().map(|node| nodes[*node].name.as_str()).collect::<Vec<_>>().join(" -> ");
        let (first, before) = (&nodes[names[0]], names[names.len() - 2]);
        let name = &first.name;
        let port = first.inputs.iter().position(|id| id.is_some_and(|id| id.node == before));
        let port = port.map_or("", |port| first.entry.inputs[port]);
        let mut diagnostic = Diagnostic::error(format!("the graph has a cycle: {text}"))
            .at(self.spec.places.value(&["graph", name, "in", port]))
            .label("this wire comes back to its own node")
            .help(Some("data flows one way; let one of these nodes read from another source"));
        diagnostic.path = format!("graph.{name}.in");
        self.found.push(diagnostic);
        None
    }

    /// The steps with the ports of their goals; `None` for one that is wrong.
    fn steps(
        &mut self,
        nodes: &[Candidate],
        some_unknown: bool,
    ) -> Vec<Option<(PlannedStep, Vec<usize>)>> {
        let mut steps = Vec::new();
        for (index, spec) in self.spec.run.iter().enumerate() {
            let index = index.to_string();
            let path = ["run", index.as_str(), spec.step.as_str()];
            let places = &self.spec.places;
            let Some(entry) = registry::find_step(&spec.step) else {
                let mut diagnostic = registry::unknown("step", &spec.step)
                    .at(places.key(&path).or_else(|| places.value(&path)));
                diagnostic.path = path.join(".");
                self.found.push(diagnostic);
                steps.push(None);
                continue;
            };
            let what = format!("step `run.{index}.{}`", entry.name);
            let schema = entry.schema();
            if !check_params(&schema, &spec.params, places, &path, &what, &mut self.found) {
                steps.push(None);
                continue;
            }
            let parsed = entry.parse(&Value::Object(spec.params.clone()));
            let step = match parsed {
                Ok(step) => step,
                Err(error) => {
                    self.found.push(param_diagnostic(&schema, places, &path, &what, &error));
                    steps.push(None);
                    continue;
                }
            };
            let params = match step.params() {
                Ok(params) => object(params),
                Err(error) => {
                    self.found.push(Diagnostic::error(format!(
                        "{what}: its parameters cannot be written down: {error}"
                    )));
                    steps.push(None);
                    continue;
                }
            };
            let goals = step.goals();
            let mut reached = Vec::new();
            for goal in &goals {
                match find_port(goal, nodes) {
                    Ok((node, _)) => reached.push(node),
                    Err(missing) => {
                        let name = goal.split('.').next().unwrap_or(goal);
                        if some_unknown && self.spec.graph.node(name).is_some() {
                            continue;
                        }
                        let param = goal_param(&spec.params, goal);
                        let mut full: Vec<&str> = path.to_vec();
                        full.extend(param.iter().flat_map(|param| param.split('.')));
                        let mut diagnostic = Diagnostic::error(missing.message)
                            .at(places.value(&full))
                            .suggest(missing.suggestion);
                        diagnostic.notes.extend(missing.note);
                        diagnostic.path = full.join(".");
                        self.found.push(diagnostic);
                    }
                }
            }
            steps.push(Some((PlannedStep { entry, params, goals, step }, reached)));
        }
        steps
    }

    /// Asks every used node to check itself, in order. A node whose inputs are not known is not
    /// asked.
    fn infos(
        &mut self,
        nodes: &[Candidate],
        order: &[usize],
        used: &[bool],
    ) -> Vec<Option<Vec<Option<AnyInfo>>>> {
        let mut infos: Vec<Option<Vec<Option<AnyInfo>>>> = vec![None; nodes.len()];
        for &index in order {
            let candidate = &nodes[index];
            let (true, true, Some(node)) = (used[index], candidate.wired, &candidate.node) else {
                continue;
            };
            let mut inputs = Vec::new();
            let mut complete = true;
            for (port, id) in candidate.inputs.iter().enumerate() {
                let Some(id) = id else {
                    inputs.push(None);
                    continue;
                };
                match infos[id.node].as_ref().map(|infos| infos[id.port].clone()) {
                    Some(Some(info)) => inputs.push(Some(info)),
                    Some(None) => {
                        complete = false;
                        let from = &nodes[id.node];
                        let error = NodeError::input(
                            candidate.entry.inputs[port],
                            format!(
                                "`{}` ({}) gives no `{}` with these parameters",
                                from.name, from.entry.name, from.entry.outputs[id.port]
                            ),
                        );
                        self.found.push(node_diagnostic(
                            &self.spec.places,
                            &candidate.name,
                            candidate.entry.name,
                            &error,
                        ));
                    }
                    None => complete = false,
                }
            }
            if !complete {
                continue;
            }
            let warnings = RefCell::new(Vec::new());
            let cx =
                CheckCx { node: &candidate.name, base_dir: self.base_dir, warnings: &warnings };
            match node.check(&inputs, &cx) {
                Ok(found) => infos[index] = Some(found),
                Err(error) => {
                    self.found.push(node_diagnostic(
                        &self.spec.places,
                        &candidate.name,
                        candidate.entry.name,
                        &error,
                    ));
                }
            }
            for warning in warnings.take() {
                let mut diagnostic = node_diagnostic(
                    &self.spec.places,
                    &candidate.name,
                    candidate.entry.name,
                    &warning,
                );
                diagnostic.severity = Severity::Warning;
                self.warnings.push(diagnostic);
            }
        }
        infos
    }
}

/// Which nodes a goal reaches; all of them in a pipeline that has no steps.
fn used(nodes: &[Candidate], steps: &[Option<(PlannedStep, Vec<usize>)>], all: bool) -> Vec<bool> {
    let mut used = vec![all; nodes.len()];
    let mut stack: Vec<usize> =
        steps.iter().flatten().flat_map(|(_, reached)| reached.clone()).collect();
    while let Some(index) = stack.pop() {
        if !std::mem::replace(&mut used[index], true) {
            stack.extend(nodes[index].inputs.iter().flatten().map(|id| id.node));
        }
    }
    used
}

/// The parameter that names `goal`: `goal`, or whichever holds that text.
fn goal_param(params: &Map<String, Value>, goal: &str) -> Option<String> {
    params.iter().find_map(|(name, value)| match value {
        Value::String(text) if text == goal => Some(name.clone()),
        Value::Array(items) => items
            .iter()
            .position(|item| item.as_str() == Some(goal))
            .map(|index| format!("{name}.{index}")),
        _ => None,
    })
}

/// Whether a node's example fits its schema and struct, and survives being written down.
pub(crate) fn check_example(entry: &NodeEntry, node: &NodeSpec) -> Result<(), Diagnostics> {
    let mut found = Vec::new();
    let (schema, places, what) =
        (entry.schema(), Places::default(), format!("the example of {}", entry.name));
    if let Inputs::Map(wires) = &node.inputs {
        for (port, _) in wires.iter().filter(|(port, _)| !entry.inputs.contains(&port.as_str())) {
            found.push(Diagnostic::error(format!("{what} has no input `{port}`")));
        }
    }
    let bare = matches!(node.inputs, Inputs::One(_)) && entry.bare_input().is_none();
    let none =
        matches!(node.inputs, Inputs::None) && entry.in_slots().iter().any(|slot| !slot.optional);
    if bare || none {
        found.push(Diagnostic::error(format!(
            "{what} does not wire its inputs {}",
            list(entry.inputs.iter().copied())
        )));
    }
    if check_params(&schema, &node.params, &places, &[], &what, &mut found) {
        let again = entry.parse(&Value::Object(node.params.clone())).and_then(|node| {
            let params = node
                .params()
                .map_err(|e| ParamError { path: Vec::new(), message: e.to_string() })?;
            entry.parse(&params)?;
            Ok(params)
        });
        match again {
            Ok(params) => {
                check_params(&schema, &object(params), &places, &[], &what, &mut found);
            }
            Err(error) => found.push(param_diagnostic(&schema, &places, &[], &what, &error)),
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Diagnostics(found)) }
}

/// As [`check_example`], for a step.
pub(crate) fn check_step_example(entry: &StepEntry, step: &StepSpec) -> Result<(), Diagnostics> {
    let mut found = Vec::new();
    let (schema, places, what) =
        (entry.schema(), Places::default(), format!("the example of {}", entry.name));
    if check_params(&schema, &step.params, &places, &[], &what, &mut found) {
        let again = entry.parse(&Value::Object(step.params.clone())).and_then(|step| {
            let params = step
                .params()
                .map_err(|e| ParamError { path: Vec::new(), message: e.to_string() })?;
            entry.parse(&params)?;
            Ok(params)
        });
        match again {
            Ok(params) => {
                check_params(&schema, &object(params), &places, &[], &what, &mut found);
            }
            Err(error) => found.push(param_diagnostic(&schema, &places, &[], &what, &error)),
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Diagnostics(found)) }
}
