//! [`Live`]: the part of a plan that some goals need, built and ready to run.

use std::any::Any;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{AnyNode, BuildCx, NodeError, RunCx, derive_seed};
use crate::plan::{Plan, PortId};
use crate::port::{AnyValue, Port};
use crate::registry::NodeEntry;
use crate::step::StepError;
use crate::world::{ErrorHelp, World};

/// The nodes that some goals need, built.
///
/// Each [`run`](Live::run) computes goals from the current state of the [`World`] (the batch that
/// the step put there); each node that they need runs once, and a value is dropped after its last
/// use.
pub struct Live {
    plan: Plan,
    world: World,
    /// Each after those that it reads from.
    nodes: Vec<LiveNode>,
    facilities: Vec<(String, Rc<dyn Any>)>,
}

struct LiveNode {
    name: String,
    entry: &'static NodeEntry,
    node: Rc<dyn AnyNode>,
    state: Box<dyn Any>,
    /// By position in `Live::nodes`.
    inputs: Vec<Option<PortId>>,
    optional: Vec<bool>,
}

/// Why a graph's goals were not computed: what a user reads of it, and what the node at fault
/// answered.
#[derive(Debug)]
pub struct RunFailed {
    pub diagnostics: Diagnostics,
    error: Option<NodeError>,
}

impl RunFailed {
    /// The node's error, if it is of type `E`.
    pub fn cause<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.error.as_ref()?.error.downcast_ref()
    }
}

impl From<Diagnostics> for RunFailed {
    fn from(diagnostics: Diagnostics) -> Self {
        RunFailed { diagnostics, error: None }
    }
}

impl std::fmt::Display for RunFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.diagnostics.fmt(f)
    }
}

impl From<RunFailed> for StepError {
    fn from(failed: RunFailed) -> Self {
        StepError::Document(failed.diagnostics)
    }
}

impl Live {
    /// Builds the nodes that `goals` (`node` or `node.port`) need. Each gets a seed of its own from
    /// the plan's seed and its name.
    ///
    /// # Errors
    /// A goal that the plan does not have, or what a node's `build` answers, pointing at the node.
    pub fn build<S: AsRef<str>>(
        plan: &Plan,
        goals: &[S],
        world: World,
    ) -> Result<Live, Diagnostics> {
        let order = plan.needed(goals).map_err(|error| Diagnostic::error(error.to_string()))?;
        let mut nodes = Vec::with_capacity(order.len());
        let mut facilities = Vec::new();
        for &index in &order {
            let planned = &plan.nodes[index];
            if !planned.used {
                // A step computes what it did not name in `goals`: its infos were never worked out.
                return Err(Diagnostic::error(format!(
                    "no goal of this pipeline reaches the node `{}`",
                    planned.name
                ))
                .into());
            }
            let infos: Vec<_> = planned
                .inputs
                .iter()
                .map(|id| id.and_then(|id| plan.nodes[id.node].infos[id.port].clone()))
                .collect();
            let mut cx = BuildCx {
                node: &planned.name,
                seed: derive_seed(plan.seed, &planned.name),
                base_dir: &plan.base_dir,
                world: &world,
                facilities: &mut facilities,
            };
            let state = planned
                .node
                .build(&infos, &mut cx)
                .map_err(|error| plan.diagnose(&planned.name, &error))?;
            let position = |id: PortId| PortId {
                node: order
                    .iter()
                    .position(|index| *index == id.node)
                    .expect("a node comes after its inputs"),
                port: id.port,
            };
            nodes.push(LiveNode {
                name: planned.name.clone(),
                entry: planned.entry,
                node: planned.node.clone(),
                state,
                inputs: planned.inputs.iter().map(|id| id.map(position)).collect(),
                optional: planned.entry.out_slots().iter().map(|slot| slot.optional).collect(),
            });
        }
        Ok(Live { plan: plan.clone(), world, nodes, facilities })
    }

    /// What the step lends to the nodes.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The plan it was built from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The names of the nodes built, each after those that it reads from.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// The facility of type `T` that `node` provided while it was built.
    pub fn facility<T: 'static>(&self, node: &str) -> Option<Rc<T>> {
        self.facilities
            .iter()
            .filter(|(name, _)| name == node)
            .find_map(|(_, any)| any.clone().downcast().ok())
    }

    /// All facilities of type `T` with the names of their nodes, in the order of
    /// [`nodes`](Live::nodes).
    pub fn facilities<T: 'static>(&self) -> Vec<(String, Rc<T>)> {
        self.facilities
            .iter()
            .filter_map(|(name, any)| Some((name.clone(), any.clone().downcast().ok()?)))
            .collect()
    }

    /// Computes `goals`. Of a node's optional outputs only those are computed that a goal or a node
    /// on the way uses.
    ///
    /// # Errors
    /// A goal that was not among those built for, or what a node's `run` answers, pointing at the
    /// node.
    pub fn run<S: AsRef<str>>(&self, goals: &[S]) -> Result<Outputs, RunFailed> {
        let goals: Vec<(String, PortId)> = goals
            .iter()
            .map(|goal| Ok((goal.as_ref().to_string(), self.port(goal.as_ref())?)))
            .collect::<Result<_, Diagnostics>>()?;
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        let mut stack: Vec<usize> = goals.iter().map(|(_, id)| id.node).collect();
        while let Some(index) = stack.pop() {
            if needed.insert(index) {
                stack.extend(self.nodes[index].inputs.iter().flatten().map(|id| id.node));
            }
        }
        // How often each output is still to be read.
        let mut uses: Vec<Vec<usize>> =
            self.nodes.iter().map(|node| vec![0; node.optional.len()]).collect();
        let reads = needed.iter().flat_map(|index| self.nodes[*index].inputs.iter().flatten());
        for id in reads.chain(goals.iter().map(|(_, id)| id)) {
            if let Some(count) = uses[id.node].get_mut(id.port) {
                *count += 1;
            }
        }
        let mut values: Vec<Vec<Option<AnyValue>>> =
            self.nodes.iter().map(|node| vec![None; node.optional.len()]).collect();
        let observer = self.world.observer();
        for &index in &needed {
            let node = &self.nodes[index];
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for id in &node.inputs {
                inputs.push(id.and_then(|id| take(&mut values, &mut uses, id)));
            }
            let wanted: Vec<bool> = node
                .optional
                .iter()
                .zip(&uses[index])
                .map(|(optional, uses)| !optional || *uses > 0)
                .collect();
            let cx = RunCx {
                node: &node.name,
                world: &self.world,
                outputs: node.entry.outputs,
                wanted: &wanted,
            };
            if let Some(observer) = &observer {
                observer.before(&node.name);
            }
            let failed = |mut error: NodeError| {
                if error.help.is_none()
                    && let Some(known) = self.world.get::<ErrorHelp>()
                {
                    error.help = (known.0)(&*error.error);
                }
                let diagnostics = self.plan.diagnose(&node.name, &error).into();
                RunFailed { diagnostics, error: Some(error) }
            };
            let given = node.node.run(node.state.as_ref(), inputs, &cx).map_err(failed)?;
            if let Some(observer) = &observer {
                observer.after(&node.name);
            }
            for (port, value) in given.into_iter().enumerate() {
                if uses[index][port] == 0 {
                    continue;
                }
                if value.is_none() {
                    let error = NodeError::other(format!(
                        "it was asked for `{}`, and did not give it",
                        node.entry.outputs[port]
                    ));
                    return Err(Diagnostics::from(self.plan.diagnose(&node.name, &error)).into());
                }
                values[index][port] = value;
            }
        }
        let found = goals.into_iter().map(|(goal, id)| {
            let value = take(&mut values, &mut uses, id);
            (goal, value)
        });
        Ok(Outputs { values: found.collect() })
    }

    /// Computes the one goal `goal`, which is of port type `P`.
    ///
    /// # Errors
    /// As [`run`](Live::run), and if the goal is of another type.
    pub fn get<P: Port>(&self, goal: &str) -> Result<P::Value, Diagnostics> {
        self.run(&[goal]).map_err(|failed| failed.diagnostics)?.take::<P>(goal)
    }

    fn port(&self, goal: &str) -> Result<PortId, Diagnostics> {
        let found = self.plan.goal(goal).map_err(|error| Diagnostic::error(error.to_string()))?;
        let position = self.nodes.iter().position(|node| node.name == found.node.name);
        let Some(node) = position else {
            return Err(Diagnostic::error(format!(
                "`{goal}` is not among the goals that the graph was built for"
            ))
            .into());
        };
        let port =
            self.nodes[node].entry.outputs.iter().position(|port| *port == found.port).unwrap_or(0);
        Ok(PortId { node, port })
    }
}

/// Reads an output; the last reader takes it away.
fn take(
    values: &mut [Vec<Option<AnyValue>>],
    uses: &mut [Vec<usize>],
    id: PortId,
) -> Option<AnyValue> {
    let count = uses[id.node].get_mut(id.port)?;
    *count -= 1;
    if *count == 0 { values[id.node][id.port].take() } else { values[id.node][id.port].clone() }
}

/// What [`Live::run`] computed, by goal.
#[derive(Debug)]
pub struct Outputs {
    values: Vec<(String, Option<AnyValue>)>,
}

impl Outputs {
    /// Takes the value of `goal`, which is of port type `P`, out.
    ///
    /// # Errors
    /// If `goal` was not computed, was taken before, or is of another type.
    pub fn take<P: Port>(&mut self, goal: &str) -> Result<P::Value, Diagnostics> {
        let found = self.values.iter_mut().find(|(name, value)| name == goal && value.is_some());
        let Some(value) = found.and_then(|(_, value)| value.take()) else {
            return Err(Diagnostic::error(format!(
                "`{goal}` has no value among the goals that were computed"
            ))
            .into());
        };
        let name = value.port_name();
        value.take::<P>().ok_or_else(|| {
            Diagnostic::error(format!("`{goal}` carries {name}, and {} was asked for", P::NAME))
                .into()
        })
    }

    /// As [`take`](Outputs::take), but leaves the value there.
    ///
    /// # Errors
    /// As [`take`](Outputs::take).
    pub fn get<P: Port>(&self, goal: &str) -> Result<P::Value, Diagnostics> {
        Outputs { values: self.values.iter().filter(|(name, _)| name == goal).cloned().collect() }
            .take::<P>(goal)
    }

    /// The goals and their values, in the order asked for; `None` for a node without outputs, or a
    /// value that was taken.
    pub fn into_values(self) -> Vec<(String, Option<AnyValue>)> {
        self.values
    }
}
