//! [`Plan`]: a checked variant of a pipeline.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::diagnostic::Diagnostic;
use crate::error::NodeError;
use crate::node::{AnyNode, Node};
use crate::plan::diagnose::{node_diagnostic, step_diagnostic};
use crate::plan::find::{Named, PortId, find_port, not_given};
use crate::port::{AnyInfo, Port, SlotType};
use crate::registry::{NodeEntry, Origin, StepEntry};
use crate::spec::{Ablation, ComputePath, GraphSpec, NodeSpec, PipelineSpec, StepSpec};

/// A node of a [`Plan`].
#[derive(Clone)]
pub struct PlannedNode {
    /// The node's name in the graph.
    pub name: String,
    /// The registered node.
    pub entry: &'static NodeEntry,
    /// The parameters, defaults included.
    pub params: Map<String, Value>,
    /// Whether a step's goal needs the node. If not, its [`Node::check`](crate::Node::check) was
    /// not called.
    pub used: bool,
    /// What is known of each output before data is read; `None` for an output that these parameters
    /// turn off. Empty if the node is not used.
    pub infos: Vec<Option<AnyInfo>>,
    pub(crate) facts: Vec<Rc<dyn Any>>,
    pub(crate) inputs: Vec<Option<PortId>>,
    pub(crate) node: Rc<dyn AnyNode>,
}

impl PlannedNode {
    /// The node itself, parameters and all, if it is an `N`: `planned.downcast::<ByteLm>()`.
    pub fn downcast<N: Node>(&self) -> Option<&N> {
        (&*self.node as &dyn Any).downcast_ref()
    }

    /// What the node's check stated ([`CheckCx::state`](crate::CheckCx::state)), if it is a `T`.
    pub fn fact<T: 'static>(&self) -> Option<&T> {
        self.facts.iter().find_map(|fact| fact.downcast_ref())
    }

    /// [`Node::depends`]: what identifies the contents of the node's files.
    ///
    /// # Errors
    /// Those of the node.
    pub fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError> {
        self.node.depends(base_dir)
    }
}

impl Named for PlannedNode {
    fn name(&self) -> &str {
        &self.name
    }
    fn entry(&self) -> &'static NodeEntry {
        self.entry
    }
}

/// A step of a [`Plan`].
#[derive(Clone)]
pub struct PlannedStep {
    /// The registered step.
    pub entry: &'static StepEntry,
    /// The parameters, defaults included.
    pub params: Map<String, Value>,
    /// [`Step::goals`](crate::Step::goals).
    pub goals: Vec<String>,
    pub(crate) feeds_later_steps: bool,
    /// See [`ParsedStep::step`](crate::registry::ParsedStep::step).
    pub(crate) step: Rc<dyn Any>,
}

impl PlannedStep {
    /// [`Step::feeds_later_steps`](crate::Step::feeds_later_steps).
    pub fn feeds_later_steps(&self) -> bool {
        self.feeds_later_steps
    }
}

/// A node's output that a step computes: the result of [`Plan::goal`].
pub struct Goal<'a> {
    /// The node.
    pub node: &'a PlannedNode,
    /// The output's name; empty for a node without outputs.
    pub port: &'static str,
    /// The port type's name; empty for a node without outputs.
    pub port_type: &'static str,
    slot: Option<SlotType>,
    info: Option<&'a AnyInfo>,
}

impl<'a> Goal<'a> {
    /// Whether the output is of port type `P`.
    pub fn is<P: Port>(&self) -> bool {
        self.slot.is_some_and(|slot| slot.id == std::any::TypeId::of::<P>())
    }

    /// What is known of the output before data is read, if it is of port type `P`.
    pub fn info<P: Port>(&self) -> Option<&'a P::Info> {
        self.info.and_then(AnyInfo::get::<P>)
    }
}

/// A checked variant of a pipeline, with one seed: parameters are in their structs, wires are
/// resolved, and every node that a goal needs has been checked. No file has been opened.
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
    /// The device; `cpu` by default.
    pub device: String,
    /// Fused or reference operations; [`ComputePath::on`] is the default.
    pub compute_path: ComputePath,
    /// The variant's spec.
    pub spec: Rc<PipelineSpec>,
    /// Warnings: what is allowed and probably not meant.
    pub warnings: Vec<Diagnostic>,
    pub(crate) nodes: Vec<PlannedNode>,
    pub(crate) steps: Vec<PlannedStep>,
}

impl Plan {
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
    /// If there is no such node or output, or the node's parameters turn the output off.
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

    /// The nodes that `goals` need, each after those that it reads from. The order depends only on
    /// these nodes and their names, not on the order in which they are written.
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
        let reads = |index: usize| -> BTreeSet<usize> {
            self.nodes[index].inputs.iter().flatten().map(|port| port.node).collect()
        };
        let mut waits: BTreeMap<usize, usize> = BTreeMap::new();
        let mut feeds: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &index in &needed {
            let from = reads(index);
            waits.insert(index, from.len());
            from.into_iter().for_each(|from| feeds.entry(from).or_default().push(index));
        }
        let named = |index: usize| (self.nodes[index].name.as_str(), index);
        let mut ready: BTreeSet<(&str, usize)> = waits
            .iter()
            .filter(|(_, waits)| **waits == 0)
            .map(|(index, _)| named(*index))
            .collect();
        let mut order = Vec::with_capacity(needed.len());
        // The plan has no cycle, so that each becomes ready.
        while let Some((_, index)) = ready.pop_first() {
            order.push(index);
            for next in feeds.remove(&index).unwrap_or_default() {
                let waits = waits.entry(next).or_default();
                *waits -= 1;
                if *waits == 0 {
                    ready.insert(named(next));
                }
            }
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

    /// The [`role`](crate::Node::role) of `node`, if it is of type `T`. `None` for a node that no
    /// goal needs, since nothing is known of its inputs.
    ///
    /// # Errors
    /// The errors of the node's `role`.
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

    /// The pipeline of this variant and seed, with every default written out.
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
            compute_path: Some(self.compute_path),
            graph: GraphSpec { nodes: nodes.collect() },
            run: run.collect(),
            ablate: Ablation::default(),
            ..(*self.spec).clone()
        }
    }

    /// An error of `node` while the graph is built or run, as a diagnostic that points at the node.
    pub fn diagnose(&self, node: &str, error: &NodeError) -> Diagnostic {
        let entry = self.node(node).map_or("", |planned| planned.entry.name);
        node_diagnostic(&self.spec.places, node, entry, error)
    }

    /// An error of step `index` about its parameters, as a diagnostic that points at the step.
    pub fn diagnose_step(&self, index: usize, error: &NodeError) -> Diagnostic {
        let name = self.steps.get(index).map_or("", |step| step.entry.name);
        step_diagnostic(&self.spec.places, index, name, error)
    }
}

/// The nodes `indices` of a plan as JSON: their part of a step's key.
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
