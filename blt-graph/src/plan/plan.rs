//! [`Plan`]: a variant of a pipeline that has been checked whole, before any file is opened.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{AnyNode, Node, NodeError};
use crate::plan::check::Checker;
use crate::plan::findings::{find_port, node_diagnostic, not_given, step_diagnostic};
use crate::port::{AnyInfo, Port, SlotType};
use crate::registry::{NodeEntry, Origin, StepEntry};
use crate::spec::{Ablation, GraphSpec, NodeSpec, PipelineSpec, StepSpec};
use crate::step::{AnyStep, ComputePath, Step};

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
    /// Whether a step's goal reaches it; if not, its [`Node::check`](crate::Node::check) was not
    /// asked.
    pub used: bool,
    /// What is known of each output; `None` for one that these parameters do not give. Empty if
    /// the node is not used.
    pub infos: Vec<Option<AnyInfo>>,
    pub(crate) inputs: Vec<Option<PortId>>,
    pub(crate) node: Rc<dyn AnyNode>,
}

impl PlannedNode {
    /// The node itself, parameters and all, if it is an `N`: `planned.downcast::<ByteLm>()`.
    pub fn downcast<N: Node>(&self) -> Option<&N> {
        (&*self.node as &dyn Any).downcast_ref()
    }
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

impl PlannedStep {
    /// The step itself, parameters and all, if it is an `S`: `planned.downcast::<Train>()`.
    pub fn downcast<S: Step>(&self) -> Option<&S> {
        (&*self.step as &dyn Any).downcast_ref()
    }

    /// Whether later steps may read what this one leaves.
    pub fn feeds_later_steps(&self) -> bool {
        self.step.feeds_later_steps()
    }
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

/// A variant of a pipeline with one seed, checked: parameters are in their structs, wires are
/// resolved, and what is known of every wire before data is read has been worked out.
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

/// Checks every variant of `spec` with every seed, before the first one starts: the plans, variant
/// by variant and in each seed by seed.
///
/// # Errors
/// All that is wrong; what is wrong in every variant is said once. Also, that a node is used in no
/// variant.
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
                let everywhere = variants.len() == failures.len()
                    && failures.iter().all(|(_, f)| f.contains(diagnostic));
                if !everywhere {
                    let index = said.len() - 1;
                    said[index].notes.push(format!("in the variant `{variant}`"));
                }
            }
        }
        // The same mistake seen from two variants differs in the note alone.
        let mut distinct: Vec<Diagnostic> = Vec::new();
        for diagnostic in said {
            let same = |other: &Diagnostic| {
                (&other.message, &other.place) == (&diagnostic.message, &diagnostic.place)
            };
            if !distinct.iter().any(same) {
                distinct.push(diagnostic);
            }
        }
        return Err(Diagnostics(distinct));
    }
    let mut unused = Vec::new();
    for node in &spec.graph.nodes {
        let used = |plan: &Plan| {
            plan.nodes.iter().any(|planned| planned.name == node.name && planned.used)
        };
        if !plans.iter().any(used) {
            let mut diagnostic = Diagnostic::error(format!(
                "nothing uses the node `{}`",
                node.name
            ))
            .at(spec.places.key(&["graph", &node.name]))
            .help(Some(
                "remove it, wire it to a node that a goal needs, or name it in a step's goal",
            ));
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
    pub fn check(
        spec: &PipelineSpec,
        variant: &str,
        seed: u64,
        base_dir: &Path,
    ) -> Result<Self, Diagnostics> {
        let mut checker = Checker::new(spec, base_dir);
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
        Ok(Goal {
            node,
            port: node.entry.outputs[port],
            port_type: slot.name,
            slot: Some(slot),
            info,
        })
    }

    /// The nodes that `goals` need, by name, each after those that it reads from. The order depends
    /// on the sub-graph alone, not on the order in which nodes are written.
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
            let (index, _) =
                find_port(goal.as_ref(), &self.nodes).map_err(|missing| missing.into_error())?;
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
                .filter(|index| {
                    self.nodes[**index]
                        .inputs
                        .iter()
                        .flatten()
                        .all(|port| order.contains(&port.node))
                })
                .min_by_key(|index| &self.nodes[**index].name);
            // The plan has no cycle, so there always is one.
            order.extend(ready.copied());
        }
        Ok(order)
    }

    /// The wire into each input of `node`, as `node.port`; `None` for an optional input that is
    /// left out.
    pub fn wires(&self, node: &PlannedNode) -> Vec<(&'static str, Option<String>)> {
        let spell = |id: &PortId| {
            let from = &self.nodes[id.node];
            format!("{}.{}", from.name, from.entry.outputs[id.port])
        };
        node.entry
            .inputs
            .iter()
            .zip(&node.inputs)
            .map(|(port, id)| (*port, id.as_ref().map(spell)))
            .collect()
    }

    /// What is known of each input of `node`.
    pub(crate) fn input_infos(&self, node: &PlannedNode) -> Vec<Option<AnyInfo>> {
        let info = |id: PortId| self.nodes[id.node].infos[id.port].clone();
        node.inputs.iter().map(|id| id.and_then(info)).collect()
    }

    /// The [`role`](crate::Node::role) of `node`, if it is one of type `T`. `None` also for a node
    /// that no goal reaches, since nothing is known of its inputs.
    ///
    /// # Errors
    /// What the node's `role` answers.
    pub fn role<T: 'static>(&self, node: &PlannedNode) -> Result<Option<T>, NodeError> {
        if !node.used {
            return Ok(None);
        }
        let role = node.node.role(&self.input_infos(node))?;
        Ok(role.and_then(|role| role.downcast().ok()).map(|role| *role))
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
            let params = self
                .node(&node.name)
                .map_or_else(|| node.params.clone(), |planned| planned.params.clone());
            NodeSpec { params, ..node.clone() }
        });
        let run = self
            .steps
            .iter()
            .map(|s| StepSpec { step: s.entry.name.to_string(), params: s.params.clone() });
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

/// The sub-graph `indices` of a plan as canonical JSON: what a step's key holds of it.
pub(crate) fn subgraph_value(plan: &Plan, indices: &[usize]) -> Value {
    let nodes = indices.iter().map(|index| {
        let node = &plan.nodes[*index];
        let wires: Map<String, Value> = plan
            .wires(node)
            .into_iter()
            .filter_map(|(port, wire)| Some((port.to_string(), json!(wire?))))
            .collect();
        (node.name.clone(), json!({ "node": node.entry.name, "in": wires, "params": node.params }))
    });
    Value::Object(nodes.collect())
}
