//! [`Live`]: the part of a plan that some goals need, built and ready to run.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::error::{NodeError, StepError};
use crate::node::{AnyNode, BuildCx, RunCx, derive_seed};
use crate::plan::{Plan, PortId};
use crate::port::{AnyValue, Port};
use crate::registry::NodeEntry;
use crate::world::{ErrorHelp, World};

/// The nodes that some goals need, after [`Node::build`](crate::Node::build).
///
/// Each [`run`](Live::run) computes goals from given values of sources. Each node that the goals
/// need runs once, and each value is dropped after its last use.
pub struct Live {
    plan: Plan,
    world: World,
    /// Each after those that it reads from.
    nodes: Vec<LiveNode>,
    facilities: Vec<(String, Rc<dyn Any>)>,
    observer: RefCell<Option<Rc<dyn NodeObserver>>>,
}

/// Notified of each node as a graph runs, so that a step can attribute time and FLOPs to nodes.
pub trait NodeObserver {
    /// Node `node` is about to run (or to take the value that the step gives for it).
    fn before(&self, node: &str);
    /// Node `node` has run without an error.
    fn after(&self, node: &str);
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

/// Why a graph's goals were not computed: the diagnostics for the user, and the error of the node
/// at fault.
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
    /// Builds the nodes that `goals` (`node` or `node.port`) need. Each has a seed of its own, from
    /// the plan's seed and the node's name.
    ///
    /// # Errors
    /// If the plan does not have a goal, or a node cannot be built; the diagnostic points at the
    /// node.
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
            let infos = plan.input_infos(planned);
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
                .map_err(|error| plan.diagnose(&planned.name, &helped(&world, error)))?;
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
        Ok(Live { plan: plan.clone(), world, nodes, facilities, observer: RefCell::default() })
    }

    /// The values that the step lends to the nodes.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Notifies `observer` from now on; it replaces an earlier one.
    pub fn observe(&self, observer: Rc<dyn NodeObserver>) {
        *self.observer.borrow_mut() = Some(observer);
    }

    /// The plan that the nodes are from.
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

    /// Computes `goals`, given the values of some outputs (`node` or `node.port`): usually the
    /// current batch of each source. A node with a given output does not run, and neither do nodes
    /// that only it reads. Of a node's optional outputs, only those are computed that a goal or
    /// another node uses.
    ///
    /// # Errors
    /// If an output or goal is not in the graph that was built, a given value is of another port
    /// type, or a node fails; the diagnostic points at the node.
    pub fn run<S: AsRef<str>>(
        &self,
        given: &[(&str, AnyValue)],
        goals: &[S],
    ) -> Result<Outputs, RunFailed> {
        let mut given = self.given(given)?;
        let goals: Vec<(String, PortId)> = goals
            .iter()
            .map(|goal| Ok((goal.as_ref().to_string(), self.port(goal.as_ref())?)))
            .collect::<Result<_, Diagnostics>>()?;
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        let mut stack: Vec<usize> = goals.iter().map(|(_, id)| id.node).collect();
        while let Some(index) = stack.pop() {
            if needed.insert(index) && !given.contains_key(&index) {
                stack.extend(self.nodes[index].inputs.iter().flatten().map(|id| id.node));
            }
        }
        // How often each output is still to be read.
        let mut uses: Vec<Vec<usize>> =
            self.nodes.iter().map(|node| vec![0; node.optional.len()]).collect();
        let run = needed.iter().filter(|index| !given.contains_key(index));
        let reads = run.flat_map(|index| self.nodes[*index].inputs.iter().flatten());
        for id in reads.chain(goals.iter().map(|(_, id)| id)) {
            if let Some(count) = uses[id.node].get_mut(id.port) {
                *count += 1;
            }
        }
        let mut values: Vec<Vec<Option<AnyValue>>> =
            self.nodes.iter().map(|node| vec![None; node.optional.len()]).collect();
        let observer = self.observer.borrow().clone();
        for &index in &needed {
            let node = &self.nodes[index];
            if let Some(observer) = &observer {
                observer.before(&node.name);
            }
            let outputs = match given.remove(&index) {
                Some(outputs) => outputs,
                None => {
                    let mut input = |id| take(&mut values, &mut uses, id);
                    let inputs = node.inputs.iter().map(|id| id.and_then(&mut input)).collect();
                    self.run_node(node, inputs, &uses[index])?
                }
            };
            if let Some(observer) = &observer {
                observer.after(&node.name);
            }
            for (port, value) in outputs.into_iter().enumerate() {
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

    /// Runs one node. `uses`: how often each of its outputs is still to be read.
    fn run_node(
        &self,
        node: &LiveNode,
        inputs: Vec<Option<AnyValue>>,
        uses: &[usize],
    ) -> Result<Vec<Option<AnyValue>>, RunFailed> {
        let optional = node.optional.iter().zip(uses);
        let wanted: Vec<bool> = optional.map(|(optional, uses)| !optional || *uses > 0).collect();
        let cx = RunCx {
            node: &node.name,
            world: &self.world,
            outputs: node.entry.outputs,
            wanted: &wanted,
        };
        node.node.run(node.state.as_ref(), inputs, &cx).map_err(|error| {
            let error = helped(&self.world, error);
            let diagnostics = self.plan.diagnose(&node.name, &error).into();
            RunFailed { diagnostics, error: Some(error) }
        })
    }

    /// The given values by node and port.
    fn given(
        &self,
        given: &[(&str, AnyValue)],
    ) -> Result<BTreeMap<usize, Vec<Option<AnyValue>>>, Diagnostics> {
        let mut by_node: BTreeMap<usize, Vec<Option<AnyValue>>> = BTreeMap::new();
        for (wire, value) in given {
            let PortId { node, port } = self.port(wire)?;
            let slots = self.nodes[node].entry.out_slots();
            let slot = slots.get(port);
            if !slot.is_some_and(|slot| value.fits(slot)) {
                let carries = slot.map_or("nothing", |slot| slot.name);
                let found = value.port_name();
                let what = format!("`{wire}` carries {carries}, and is given {found}");
                return Err(Diagnostic::error(what).into());
            }
            let values = by_node.entry(node).or_insert_with(|| vec![None; slots.len()]);
            values[port] = Some(value.clone());
        }
        Ok(by_node)
    }

    /// Computes the one goal `goal`, which is of port type `P`.
    ///
    /// # Errors
    /// As [`run`](Live::run), and if the goal is of another type.
    pub fn get<P: Port>(
        &self,
        given: &[(&str, AnyValue)],
        goal: &str,
    ) -> Result<P::Value, Diagnostics> {
        self.run(given, &[goal]).map_err(|failed| failed.diagnostics)?.take::<P>(goal)
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

/// The error with the help that the world knows for it, if the node gives none.
fn helped(world: &World, mut error: NodeError) -> NodeError {
    if error.help.is_none()
        && let Some(known) = world.get::<ErrorHelp>()
    {
        error.help = (known.0)(&*error.error);
    }
    error
}

/// Reads an output: clones it, or moves it for the last reader.
fn take(
    values: &mut [Vec<Option<AnyValue>>],
    uses: &mut [Vec<usize>],
    id: PortId,
) -> Option<AnyValue> {
    let count = uses[id.node].get_mut(id.port)?;
    *count -= 1;
    if *count == 0 { values[id.node][id.port].take() } else { values[id.node][id.port].clone() }
}

/// The values that [`Live::run`] computed, by goal.
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

    /// As [`take`](Outputs::take), of a type that the caller does not know: to give it to
    /// [`Live::run`] again.
    pub fn take_any(&mut self, goal: &str) -> Option<AnyValue> {
        self.values.iter_mut().find(|(name, _)| name == goal)?.1.take()
    }

    /// As [`take`](Outputs::take), but leaves the value there.
    ///
    /// # Errors
    /// As [`take`](Outputs::take).
    pub fn get<P: Port>(&self, goal: &str) -> Result<P::Value, Diagnostics> {
        Outputs { values: self.values.iter().filter(|(name, _)| name == goal).cloned().collect() }
            .take::<P>(goal)
    }
}
