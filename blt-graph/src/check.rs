//! [`Plan`]: a variant of a pipeline that has been checked whole, before any file is opened.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics, Place, Severity, list, nearest};
use crate::node::{AnyNode, At, CheckCx, NodeError};
use crate::port::{AnyInfo, Port, SlotType};
use crate::registry::{self, NodeEntry, Origin, ParamError, StepEntry};
use crate::schema;
use crate::spec::{Ablation, GraphSpec, Inputs, NodeSpec, PipelineSpec, StepSpec};
use crate::step::{AnyStep, ComputePath};
use crate::yaml::Places;

/// One output of one node of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortId {
    pub node: usize,
    pub port: usize,
}

/// A node of a [`Plan`].
#[derive(Clone)]
pub struct PlannedNode {
    /// Its name in the graph.
    pub name: String,
    /// What it is.
    pub entry: &'static NodeEntry,
    /// Its parameters, defaults included.
    pub params: Map<String, Value>,
    /// Whether a step's goal reaches it; if not, its [`Node::check`](crate::Node::check) was not asked.
    pub used: bool,
    /// What is known of each output; `None` for one that these parameters do not give. Empty if the node is not used.
    pub infos: Vec<Option<AnyInfo>>,
    pub(crate) inputs: Vec<Option<PortId>>,
    pub(crate) node: Rc<dyn AnyNode>,
}

/// A step of a [`Plan`].
#[derive(Clone)]
pub struct PlannedStep {
    /// What it is.
    pub entry: &'static StepEntry,
    /// Its parameters, defaults included.
    pub params: Map<String, Value>,
    /// Its goals, as it names them.
    pub goals: Vec<String>,
    pub(crate) step: Rc<dyn AnyStep>,
}

/// An output of a node that a step computes: what [`Plan::goal`] finds.
pub struct Goal<'a> {
    /// The node that gives it.
    pub node: &'a PlannedNode,
    /// The output's name; empty for a node without outputs.
    pub port: &'static str,
    /// The port type's name; empty for a node without outputs.
    pub port_type: &'static str,
    slot: Option<SlotType>,
    info: Option<&'a AnyInfo>,
}

impl<'a> Goal<'a> {
    /// Whether it is of port type `P`.
    pub fn is<P: Port>(&self) -> bool {
        self.slot.is_some_and(|slot| slot.id == std::any::TypeId::of::<P>())
    }

    /// What is known of it, if it is of port type `P`.
    pub fn info<P: Port>(&self) -> Option<&'a P::Info> {
        self.info.and_then(AnyInfo::get::<P>)
    }
}

/// A variant of a pipeline with one seed, checked: parameters are in their structs, wires are resolved, and what is known
/// of every wire before data is read has been worked out.
#[derive(Clone)]
pub struct Plan {
    /// The pipeline's name.
    pub pipeline: String,
    /// The variant's name.
    pub variant: String,
    /// The seed.
    pub seed: u64,
    /// The folder that relative paths in parameters start from.
    pub base_dir: PathBuf,
    /// `cpu` if the pipeline does not say.
    pub device: String,
    /// Fused if the pipeline does not say.
    pub path: ComputePath,
    /// What it was made from.
    pub spec: Rc<PipelineSpec>,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<Diagnostic>,
    pub(crate) nodes: Vec<PlannedNode>,
    pub(crate) steps: Vec<PlannedStep>,
}

/// Checks every variant of `spec` with every seed, before the first one starts: the plans, variant by variant and in each
/// seed by seed.
///
/// # Errors
/// All that is wrong; what is wrong in every variant is said once. Also, that a node is used in no variant.
pub fn check_all(spec: &PipelineSpec, base_dir: &Path) -> Result<Vec<Plan>, Diagnostics> {
    let variants = spec.variants()?;
    if variants.iter().any(|variant| variant.spec.seeds.is_empty()) {
        return Err(Diagnostic::error("the pipeline has no seed").into());
    }
    let mut plans = Vec::new();
    let mut failures: Vec<(String, Vec<Diagnostic>)> = Vec::new();
    for variant in &variants {
        match Plan::check(&variant.spec, &variant.name, variant.spec.seeds[0], base_dir) {
            Ok(plan) => plans.push(plan),
            Err(Diagnostics(found)) => failures.push((variant.name.clone(), found)),
        }
    }
    if !failures.is_empty() {
        let mut said: Vec<Diagnostic> = Vec::new();
        for (variant, found) in &failures {
            for diagnostic in found {
                if said.contains(diagnostic) {
                    continue;
                }
                said.push(diagnostic.clone());
                let everywhere =
                    variants.len() == failures.len() && failures.iter().all(|(_, f)| f.contains(diagnostic));
                if !everywhere {
                    let index = said.len() - 1;
                    said[index].notes.push(format!("in the variant `{variant}`"));
                }
            }
        }
        // The same mistake seen from two variants differs in the note alone.
        let mut distinct: Vec<Diagnostic> = Vec::new();
        for diagnostic in said {
            let same = |other: &Diagnostic| (&other.message, &other.place) == (&diagnostic.message, &diagnostic.place);
            if !distinct.iter().any(same) {
                distinct.push(diagnostic);
            }
        }
        return Err(Diagnostics(distinct));
    }
    let mut unused = Vec::new();
    for node in &spec.graph.nodes {
        let used = |plan: &Plan| plan.nodes.iter().any(|planned| planned.name == node.name && planned.used);
        if !plans.iter().any(used) {
            let mut diagnostic = Diagnostic::error(format!("nothing uses the node `{}`", node.name))
                .at(spec.places.key(&["graph", &node.name]))
                .help(Some("remove it, wire it to a node that a goal needs, or name it in a step's goal"));
            diagnostic.path = format!("graph.{}", node.name);
            unused.push(diagnostic);
        }
    }
    if !unused.is_empty() {
        return Err(Diagnostics(unused));
    }
    let seeds = |plan: &Plan| plan.spec.seeds.clone();
    Ok(plans
        .into_iter()
        .flat_map(|plan| seeds(&plan).into_iter().map(move |seed| Plan { seed, ..plan.clone() }))
        .collect())
}

impl Plan {
    /// Checks one variant of a pipeline (a pipeline without `ablate`, or what
    /// [`variants`](PipelineSpec::variants) gave).
    ///
    /// # Errors
    /// All that is wrong with it, as far as one mistake does not hide another.
    pub fn check(spec: &PipelineSpec, variant: &str, seed: u64, base_dir: &Path) -> Result<Self, Diagnostics> {
        let mut checker = Checker { spec, base_dir, found: registry::duplicates(), warnings: Vec::new() };
        let plan = checker.plan(variant, seed);
        match plan {
            Some(plan) if checker.found.is_empty() => Ok(plan),
            _ => Err(Diagnostics(checker.found)),
        }
    }

    /// The nodes, each after those that it reads from.
    pub fn nodes(&self) -> &[PlannedNode] {
        &self.nodes
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&PlannedNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[PlannedStep] {
        &self.steps
    }

    /// The output that `goal`, a `node` or `node.port`, names.
    ///
    /// # Errors
    /// If there is no such node or output, or the node's parameters do not give it.
    pub fn goal(&self, goal: &str) -> Result<Goal<'_>, NodeError> {
        let (index, port) = find_port(goal, &self.nodes).map_err(|missing| missing.into_error())?;
        let node = &self.nodes[index];
        if node.entry.outputs.is_empty() {
            return Ok(Goal { node, port: "", port_type: "", slot: None, info: None });
        }
        let info = node.infos.get(port).and_then(Option::as_ref);
        if node.used && info.is_none() {
            return Err(NodeError::other(not_given(node, port)));
        }
        let slot = node.entry.out_slots()[port];
        Ok(Goal { node, port: node.entry.outputs[port], port_type: slot.name, slot: Some(slot), info })
    }

    /// The nodes that `goals` need, by name, each after those that it reads from. The order depends on the sub-graph
    /// alone, not on the order in which nodes are written.
    ///
    /// # Errors
    /// As [`goal`](Plan::goal).
    pub fn needs<S: AsRef<str>>(&self, goals: &[S]) -> Result<Vec<&PlannedNode>, NodeError> {
        Ok(self.needed(goals)?.into_iter().map(|index| &self.nodes[index]).collect())
    }

    pub(crate) fn needed<S: AsRef<str>>(&self, goals: &[S]) -> Result<Vec<usize>, NodeError> {
        let mut stack = Vec::new();
        for goal in goals {
            self.goal(goal.as_ref())?;
            let (index, _) = find_port(goal.as_ref(), &self.nodes).map_err(|missing| missing.into_error())?;
            stack.push(index);
        }
        let mut needed = BTreeSet::new();
        while let Some(index) = stack.pop() {
            if needed.insert(index) {
                stack.extend(self.nodes[index].inputs.iter().flatten().map(|port| port.node));
            }
        }
        let mut order = Vec::with_capacity(needed.len());
        while order.len() < needed.len() {
            let ready = needed
                .iter()
                .filter(|index| !order.contains(*index))
                .filter(|index| self.nodes[**index].inputs.iter().flatten().all(|port| order.contains(&port.node)))
                .min_by_key(|index| &self.nodes[**index].name);
            // The plan has no cycle, so there always is one.
            order.extend(ready.copied());
        }
        Ok(order)
    }

    /// The wire into each input of `node`, as `node.port`; `None` for an optional input that is left out.
    pub fn wires(&self, node: &PlannedNode) -> Vec<(&'static str, Option<String>)> {
        let spell = |id: &PortId| {
            let from = &self.nodes[id.node];
            format!("{}.{}", from.name, from.entry.outputs[id.port])
        };
        node.entry.inputs.iter().zip(&node.inputs).map(|(port, id)| (*port, id.as_ref().map(spell))).collect()
    }

    /// The crates of the nodes that `goals` need.
    pub(crate) fn origins(&self, indices: &[usize]) -> BTreeSet<(&'static str, &'static str)> {
        indices
            .iter()
            .map(|index| self.nodes[*index].entry.origin)
            .map(|Origin { krate, version, .. }| (krate, version))
            .collect()
    }

    /// The pipeline with every default written out and nothing left to vary.
    pub fn resolved(&self) -> PipelineSpec {
        let nodes = self.spec.graph.nodes.iter().map(|node| {
            let params = self.node(&node.name).map_or_else(|| node.params.clone(), |planned| planned.params.clone());
            NodeSpec { params, ..node.clone() }
        });
        let run = self.steps.iter().map(|s| StepSpec { step: s.entry.name.to_string(), params: s.params.clone() });
        PipelineSpec {
            seeds: vec![self.seed],
            device: Some(self.device.clone()),
            path: Some(self.path),
            graph: GraphSpec { nodes: nodes.collect() },
            run: run.collect(),
            ablate: Ablation::default(),
            ..(*self.spec).clone()
        }
    }

    /// A node's error while the graph is built or run, as a diagnostic that points at the node.
    pub fn diagnose(&self, node: &str, error: &NodeError) -> Diagnostic {
        let entry = self.node(node).map_or("", |planned| planned.entry.name);
        node_diagnostic(&self.spec.places, node, entry, error)
    }

    /// A step's error about its parameters, as a diagnostic that points at the step.
    pub fn diagnose_step(&self, index: usize, error: &NodeError) -> Diagnostic {
        let name = self.steps.get(index).map_or("", |step| step.entry.name);
        step_diagnostic(&self.spec.places, index, name, error)
    }
}

fn not_given(node: &PlannedNode, port: usize) -> String {
    format!("`{}` ({}) gives no `{}` with these parameters", node.name, node.entry.name, node.entry.outputs[port])
}

/// Nodes, as [`find_port`] sees them.
trait Named {
    fn name(&self) -> &str;
    fn entry(&self) -> &'static NodeEntry;
}

impl Named for PlannedNode {
    fn name(&self) -> &str {
        &self.name
    }
    fn entry(&self) -> &'static NodeEntry {
        self.entry
    }
}

/// Why a wire leads nowhere.
struct Missing {
    message: String,
    suggestion: Option<String>,
    note: Option<String>,
}

impl Missing {
    fn into_error(self) -> NodeError {
        let error = NodeError::other(self.message);
        match self.suggestion {
            Some(suggestion) => error.help(format!("did you mean `{suggestion}`?")),
            None => error,
        }
    }
}

/// The node and output that the wire `node` or `node.port` names.
fn find_port<N: Named>(wire: &str, nodes: &[N]) -> Result<(usize, usize), Missing> {
    let (name, port) = match wire.split_once('.') {
        Some((name, port)) => (name, Some(port)),
        None => (wire, None),
    };
    let Some(index) = nodes.iter().position(|node| node.name() == name) else {
        let near = nearest(name, nodes.iter().map(Named::name));
        return Err(Missing {
            message: format!("the graph has no node `{name}`"),
            suggestion: near.map(|near| port.map_or_else(|| near.to_string(), |port| format!("{near}.{port}"))),
            note: near.is_none().then(|| format!("its nodes are {}", list(nodes.iter().map(Named::name)))),
        });
    };
    let outputs = nodes[index].entry().outputs;
    let Some(port) = port else { return Ok((index, 0)) };
    match outputs.iter().position(|output| *output == port) {
        Some(port) => Ok((index, port)),
        None => Err(Missing {
            message: format!("`{name}` ({}) has no output `{port}`", nodes[index].entry().name),
            suggestion: nearest(port, outputs.iter().copied()).map(|near| format!("{name}.{near}")),
            note: Some(format!("its outputs: {}", list(outputs.iter().copied()))),
        }),
    }
}

/// Where a diagnostic about `path` points, and a label that says so if the value there is a default.
fn pointed(places: &Places, path: &[&str], depth: usize) -> (Option<Place>, String) {
    let full: Vec<String> = path.iter().map(ToString::to_string).collect();
    let written = (depth..=full.len()).rev().any(|length| places.0.contains_key(&full[..length]));
    let label = if written || path.len() < depth {
        String::new()
    } else {
        format!("`{}` has its default here", path[depth - 1])
    };
    (places.value(path), label)
}

fn node_diagnostic(places: &Places, node: &str, entry: &str, error: &NodeError) -> Diagnostic {
    let mut path = vec!["graph", node];
    let what = match &error.at {
        At::Param(name) => {
            path.extend(name.split('.'));
            format!("`{name}` of ")
        }
        At::Input(port) => {
            path.extend(["in", port]);
            format!("input `{port}` of ")
        }
        At::Node => String::new(),
    };
    let (place, label) =
        if matches!(error.at, At::Input(_)) { (places.value(&path), String::new()) } else { pointed(places, &path, 3) };
    let mut diagnostic = Diagnostic::error(format!("{what}`{node}` ({entry}): {}", error.message()))
        .at(place)
        .label(label)
        .help(error.help.as_deref());
    diagnostic.path = path.join(".");
    diagnostic
}

fn step_diagnostic(places: &Places, index: usize, step: &str, error: &NodeError) -> Diagnostic {
    let index = index.to_string();
    let mut path = vec!["run", index.as_str(), step];
    let what = match &error.at {
        At::Param(name) | At::Input(name) => {
            path.extend(name.split('.'));
            format!("`{name}` of ")
        }
        At::Node => String::new(),
    };
    let (place, label) = pointed(places, &path, 4);
    let mut diagnostic = Diagnostic::error(format!("{what}step {index} (`{step}`): {}", error.message()))
        .at(place)
        .label(label)
        .help(error.help.as_deref());
    diagnostic.path = path.join(".");
    diagnostic
}

/// Finds unknown and missing parameters. `path` is where they stand; `what` names their owner.
fn check_params(
    schema: &Value,
    params: &Map<String, Value>,
    places: &Places,
    path: &[&str],
    what: &str,
    found: &mut Vec<Diagnostic>,
) -> bool {
    let before = found.len();
    let known = schema::params(schema);
    let unknown = schema::unknown_keys(schema, params);
    let missing: Vec<_> = known.iter().filter(|p| p.required && !params.contains_key(&p.name)).collect();
    for (key, siblings) in &unknown {
        let full: Vec<&str> = path.iter().copied().chain(key.iter().map(String::as_str)).collect();
        let (last, parents) = key.split_last().expect("an unknown key has a name");
        // What is given already was not meant by another key.
        let free = |name: &&str| !parents.is_empty() || !params.contains_key(*name);
        let near = nearest(last, siblings.iter().map(String::as_str).filter(free));
        let owner = if parents.is_empty() { what.to_string() } else { format!("`{}` of {what}", parents.join(".")) };
        let kind = if parents.is_empty() { "parameter" } else { "key" };
        let mut diagnostic = Diagnostic::error(format!("{owner} has no {kind} `{last}`"))
            .at(places.key(&full).or_else(|| places.value(&full)))
            .suggest(near);
        if near.is_none() {
            diagnostic = diagnostic.note(match siblings.as_slice() {
                [] => format!("{owner} takes none"),
                siblings => format!("it takes {}", list(siblings.iter().map(String::as_str))),
            });
        }
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    for param in missing {
        let full: Vec<&str> = path.iter().copied().chain([param.name.as_str()]).collect();
        // Most often it is there, misspelt: then that is already said, with the right name.
        let misspelt = |key: &[String]| key.len() == 1 && nearest(&key[0], [param.name.as_str()]).is_some();
        if unknown.iter().any(|(key, _)| misspelt(key)) {
            continue;
        }
        let first_line = param.doc.lines().next().unwrap_or_default();
        let mut diagnostic = Diagnostic::error(format!("{what} needs the parameter `{}`", param.name))
            .at(places.key(path).or_else(|| places.value(path)))
            .help(Some(format!("`{}` is {}: {first_line}", param.name, param.kind)));
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    found.len() == before
}

/// serde's complaint about a value, as a diagnostic that points at the value.
fn param_diagnostic(schema: &Value, places: &Places, path: &[&str], what: &str, error: &ParamError) -> Diagnostic {
    let full: Vec<&str> = path.iter().copied().chain(error.path.iter().map(String::as_str)).collect();
    let owner = if error.path.is_empty() { what.to_string() } else { format!("`{}` of {what}", error.path.join(".")) };
    let message = in_words(&error.message);
    let mut diagnostic = Diagnostic::error(format!("{owner}: {message}")).at(places.value(&full));
    if let [name] = error.path.as_slice()
        && let Some(param) = schema::params(schema).iter().find(|param| param.name == *name)
    {
        diagnostic = diagnostic.note(format!("`{name}` is {}", param.kind));
    }
    if let Some(rest) = error.message.strip_prefix("unknown variant `") {
        let mut quoted = rest.split('`');
        let given = quoted.next().unwrap_or_default();
        let options: Vec<&str> = quoted.skip(1).step_by(2).collect();
        diagnostic = diagnostic.suggest(nearest(given, options));
    }
    diagnostic.path = full.join(".");
    diagnostic
}

/// serde's message with Rust's number types in words.
fn in_words(message: &str) -> String {
    let Some((head, kind)) = message.rsplit_once("expected ") else { return message.to_string() };
    let kind = match kind {
        "f64" | "f32" => "a number",
        "usize" | "u64" | "u32" | "u16" | "u8" => "an integer >= 0",
        "isize" | "i64" | "i32" | "i16" | "i8" => "an integer",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other,
    };
    format!("{head}expected {kind}")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

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

struct Checker<'a> {
    spec: &'a PipelineSpec,
    base_dir: &'a Path,
    found: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn plan(&mut self, variant: &str, seed: u64) -> Option<Plan> {
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
        let some_unknown = self.found.len() > unknown_node_before && nodes.len() < spec.graph.nodes.len();
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
        let plan = Plan {
            pipeline: spec.name.clone(),
            variant: variant.to_string(),
            seed,
            base_dir: self.base_dir.to_path_buf(),
            device: spec.device.clone().unwrap_or_else(|| "cpu".to_string()),
            path: spec.path.unwrap_or_default(),
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
            let mut diagnostic = registry::unknown("node", &node.node).at(places.value(&["graph", &node.name, "node"]));
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
                Err(error) => self.found.push(param_diagnostic(&schema, places, &path, &what, &error)),
            }
        }
        let params = match parsed.as_ref().map(|node| node.params()) {
            Some(Ok(params)) => object(params),
            Some(Err(error)) => {
                self.found.push(Diagnostic::error(format!("{what}: its parameters cannot be written down: {error}")));
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

    /// Resolves all wires. `some_unknown`: nodes were dropped, so that a wire to one of them is no second error.
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
                        format!("{name}: {}{}", slot.name, if slot.optional { " (may be left out)" } else { "" })
                    })
                    .collect();
                format!("its inputs: {}", ports.join(", "))
            };
            // Each wire with its place in the document.
            let mut wires: Vec<(usize, &str, Vec<&str>)> = Vec::new();
            match &spec.inputs {
                Inputs::None => {}
                Inputs::One(_) if entry.inputs.is_empty() => self.found.push(
                    Diagnostic::error(format!("{what} takes no input")).at(places.value(&["graph", &spec.name, "in"])),
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
                            entry.inputs.iter().map(|name| format!("{name}: ...")).collect::<Vec<_>>().join(", ")
                        ))),
                    ),
                },
                Inputs::Map(map) => {
                    for (name, wire) in map {
                        match entry.inputs.iter().position(|port| port == name) {
                            Some(port) => wires.push((port, wire, vec!["graph", &spec.name, "in", name])),
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
                let missing: Vec<&str> =
                    (0..slots.len()).filter(|i| !slots[*i].optional && !given(*i)).map(|i| entry.inputs[i]).collect();
                if !missing.is_empty() {
                    let plural = if missing.len() > 1 { "s" } else { "" };
                    self.found.push(
                        Diagnostic::error(format!("{what} has nothing on its input{plural} {}", list(missing)))
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
                        let mut diagnostic = Diagnostic::error(missing.message).at(place).suggest(missing.suggestion);
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
                                nodes[index].inputs[port] = Some(PortId { node: from, port: output });
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
                                        .filter(|node| node.entry.out_slots().iter().any(|slot| slot.id == wanted.id))
                                        .map(|node| node.name.as_str())
                                        .collect();
                                    if !giving.is_empty() {
                                        diagnostic =
                                            diagnostic.note(format!("{} is given by {}", wanted.name, list(giving)));
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

    /// The nodes, each after those that it reads from, otherwise as they are written; or a diagnostic with the cycle.
    fn order(&mut self, nodes: &[Candidate]) -> Option<Vec<usize>> {
        let mut order: Vec<usize> = Vec::new();
        while order.len() < nodes.len() {
            let ready = |index: &usize| {
                !order.contains(index) && nodes[*index].inputs.iter().flatten().all(|id| order.contains(&id.node))
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
        // Every node that is left reads from another that is left: going upstream must come back to where it was.
        let mut trail = vec![start];
        let cycle = loop {
            let last = trail[trail.len() - 1];
            let upstream = nodes[last].inputs.iter().flatten().map(|id| id.node).find(|node| !order.contains(node))?;
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
        let text = names.iter().map(|node| nodes[*node].name.as_str()).collect::<Vec<_>>().join(" -> ");
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
    fn steps(&mut self, nodes: &[Candidate], some_unknown: bool) -> Vec<Option<(PlannedStep, Vec<usize>)>> {
        let mut steps = Vec::new();
        for (index, spec) in self.spec.run.iter().enumerate() {
            let index = index.to_string();
            let path = ["run", index.as_str(), spec.step.as_str()];
            let places = &self.spec.places;
            let Some(entry) = registry::find_step(&spec.step) else {
                let mut diagnostic =
                    registry::unknown("step", &spec.step).at(places.key(&path).or_else(|| places.value(&path)));
                diagnostic.path = path.join(".");
                self.found.push(diagnostic);
                steps.push(None);
                continue;
            };
            let what = format!("step {index} (`{}`)", entry.name);
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
                    self.found
                        .push(Diagnostic::error(format!("{what}: its parameters cannot be written down: {error}")));
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
                        let mut diagnostic =
                            Diagnostic::error(missing.message).at(places.value(&full)).suggest(missing.suggestion);
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

    /// Asks every used node to check itself, in order. A node whose inputs are not known is not asked.
    fn infos(&mut self, nodes: &[Candidate], order: &[usize], used: &[bool]) -> Vec<Option<Vec<Option<AnyInfo>>>> {
        let mut infos: Vec<Option<Vec<Option<AnyInfo>>>> = vec![None; nodes.len()];
        for &index in order {
            let candidate = &nodes[index];
            let (true, true, Some(node)) = (used[index], candidate.wired, &candidate.node) else { continue };
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
            let cx = CheckCx { node: &candidate.name, base_dir: self.base_dir, warnings: &warnings };
            match node.check(&inputs, &cx) {
                Ok(found) => infos[index] = Some(found),
                Err(error) => {
                    self.found.push(node_diagnostic(&self.spec.places, &candidate.name, candidate.entry.name, &error));
                }
            }
            for warning in warnings.take() {
                let mut diagnostic =
                    node_diagnostic(&self.spec.places, &candidate.name, candidate.entry.name, &warning);
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
    let mut stack: Vec<usize> = steps.iter().flatten().flat_map(|(_, reached)| reached.clone()).collect();
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
        Value::Array(items) => {
            items.iter().position(|item| item.as_str() == Some(goal)).map(|index| format!("{name}.{index}"))
        }
        _ => None,
    })
}

/// Whether a node's example fits its schema and struct, and survives being written down.
pub(crate) fn check_example(entry: &NodeEntry, node: &NodeSpec) -> Result<(), Diagnostics> {
    let mut found = Vec::new();
    let (schema, places, what) = (entry.schema(), Places::default(), format!("the example of {}", entry.name));
    if let Inputs::Map(wires) = &node.inputs {
        for (port, _) in wires.iter().filter(|(port, _)| !entry.inputs.contains(&port.as_str())) {
            found.push(Diagnostic::error(format!("{what} has no input `{port}`")));
        }
    }
    let bare = matches!(node.inputs, Inputs::One(_)) && entry.bare_input().is_none();
    let none = matches!(node.inputs, Inputs::None) && entry.in_slots().iter().any(|slot| !slot.optional);
    if bare || none {
        found
            .push(Diagnostic::error(format!("{what} does not wire its inputs {}", list(entry.inputs.iter().copied()))));
    }
    if check_params(&schema, &node.params, &places, &[], &what, &mut found) {
        let again = entry.parse(&Value::Object(node.params.clone())).and_then(|node| {
            let params = node.params().map_err(|e| ParamError { path: Vec::new(), message: e.to_string() })?;
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
    let (schema, places, what) = (entry.schema(), Places::default(), format!("the example of {}", entry.name));
    if check_params(&schema, &step.params, &places, &[], &what, &mut found) {
        let again = entry.parse(&Value::Object(step.params.clone())).and_then(|step| {
            let params = step.params().map_err(|e| ParamError { path: Vec::new(), message: e.to_string() })?;
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

/// The sub-graph `indices` of a plan as canonical JSON: what a step's key holds of it.
pub(crate) fn subgraph_value(plan: &Plan, indices: &[usize]) -> Value {
    let nodes = indices.iter().map(|index| {
        let node = &plan.nodes[*index];
        let wires: Map<String, Value> =
            plan.wires(node).into_iter().filter_map(|(port, wire)| Some((port.to_string(), json!(wire?)))).collect();
        (node.name.clone(), json!({ "node": node.entry.name, "in": wires, "params": node.params }))
    });
    Value::Object(nodes.collect())
}
