//! [`TrainedGraph`]: the built graph that steps train, measure and score with.

mod anomaly;
mod decoding;
mod learning;
pub mod reading;
mod stored;

use crate::checkpoint::CHECKPOINT_DIR;
use crate::device::{self, backend};
use crate::facilities::{self, Facilities};
use crate::ports::{Bytes, Loss, LossValue};
use crate::profile::NodeProfile;
use crate::sources::{DocumentSource, source_nodes, source_of};
use crate::stop::Stop;
use blt_core::backend::{Backend, ParamId};
use blt_core::bytes::Batch;
use blt_core::model::Session;
use blt_core::optim::AdamWConfig;
use blt_core::params::NamedParam;
use blt_graph::{AnyValue, ErrorHelp, Live, Outputs, Port, RunFailed, StepCx, StepError, World};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The sub-graph of a step's goals, built on the step's backend and ready to run. Its parameters
/// are those that earlier steps left, or fresh ones.
///
/// A step that trains:
///
/// ```no_run
/// # use blt_data::Request;
/// # use blt_plugins::TrainedGraph;
/// # use blt_core::optim::AdamWConfig;
/// # use blt_graph::{StepCx, StepError};
/// # fn run(cx: &mut StepCx, goal: &str, steps: u64, adamw: AdamWConfig) -> Result<(), StepError> {
/// let mut graph = TrainedGraph::build(cx, &[goal])?;
/// graph.prepare(cx)?; // thresholds and tokenizers
/// let buffer = graph.source()?.handle.shuffle_buffer;
/// let mut batches = graph.batches(Request::training(cx.seed(), buffer), 4096)?;
/// for step in 1..=steps {
///     let batch = batches.next_or_end()?;
///     let loss = graph.gradients(&batch, goal, 1.0)?;
///     let norm = graph.update(&adamw, step, step)?;
/// }
/// graph.save(&cx.dir().join(blt_plugins::CHECKPOINT_DIR), steps, None)?;
/// # Ok(())
/// # }
/// ```
///
/// A step that scores calls [`run`](TrainedGraph::run) or [`get`](TrainedGraph::get) for each batch
/// instead.
pub struct TrainedGraph {
    live: Live,
    goals: Vec<String>,
    session: Rc<Session>,
    /// In graph order.
    params: Vec<NodeParam>,
    /// The sources of the graph, in graph order.
    sources: Vec<DocumentSource>,
    /// The source to read documents from in place of the graph's only source.
    read_from: Option<DocumentSource>,
    /// What nodes learned before training, by node.
    learned: BTreeMap<String, Value>,
    t: u64,
    /// Whether parameters were read from a checkpoint.
    trained: bool,
    profile: RefCell<Option<Rc<NodeProfile>>>,
}

/// A parameter of a node.
pub struct NodeParam {
    /// The node's name.
    pub node: String,
    /// The parameter with its name in the model.
    pub canonical: NamedParam,
    /// The parameter with its name in checkpoints.
    pub stored: NamedParam,
}

impl TrainedGraph {
    /// Builds the sub-graph of `goals`, and reads parameters and learned values of its nodes from
    /// the checkpoints of earlier steps.
    ///
    /// # Errors
    /// If a node cannot be built, the device does not exist, or a checkpoint cannot be read.
    pub fn build(cx: &StepCx, goals: &[&str]) -> Result<Self, StepError> {
        let mut world = World::new();
        let session = world.insert(Session::new(backend(cx)?));
        world.insert(ErrorHelp(device::help));
        world.insert(Stop::of_step(cx));
        let live = Live::build(cx.plan(), goals, world)?;
        let source = |node: &str| {
            source_of(&live, node).ok_or_else(|| {
                StepError::other(format!("source `{node}` provides no `SourceHandle`"))
            })
        };
        let sources =
            source_nodes(cx.plan(), goals)?.into_iter().map(source).collect::<Result<_, _>>()?;
        let mut graph = TrainedGraph {
            params: node_params(&live),
            live,
            goals: goals.iter().map(ToString::to_string).collect(),
            session,
            sources,
            read_from: None,
            learned: BTreeMap::new(),
            t: 0,
            trained: false,
            profile: RefCell::default(),
        };
        for earlier in cx.earlier() {
            let dir = earlier.dir.join(CHECKPOINT_DIR);
            if dir.is_dir() {
                graph.restore(&dir, false)?;
            }
        }
        // Only a step that continues a training continues its count of steps. Such a step restores
        // the checkpoint itself.
        graph.t = 0;
        Ok(graph)
    }

    /// Computes `goals` on a batch of the graph's only source.
    ///
    /// # Errors
    /// If a node fails (the error points at the node), or the graph was not built for a goal.
    pub fn run<S: AsRef<str>>(&self, batch: &Rc<Batch>, goals: &[S]) -> Result<Outputs, RunFailed> {
        self.run_given(&[(&self.own_source()?.node, batch.clone())], goals)
    }

    /// Computes `goals` on several batches, one for each source that they read, given by the name
    /// of the source's node.
    ///
    /// # Errors
    /// As [`run`](TrainedGraph::run).
    pub fn run_given<S: AsRef<str>>(
        &self,
        batches: &[(&str, Rc<Batch>)],
        goals: &[S],
    ) -> Result<Outputs, RunFailed> {
        let given: Vec<(&str, AnyValue)> = batches
            .iter()
            .map(|(node, batch)| (*node, AnyValue::new::<Bytes>(batch.clone())))
            .collect();
        self.live.run(&given, goals)
    }

    /// Computes one goal on a batch of the graph's only source.
    ///
    /// # Errors
    /// As [`run`](TrainedGraph::run); also if the goal is not of port type `P`.
    pub fn get<P: Port>(&self, batch: &Rc<Batch>, goal: &str) -> Result<P::Value, StepError> {
        Ok(self.run(batch, &[goal])?.take::<P>(goal)?)
    }

    /// Computes `goals` on a batch of the graph's only source, given the values of other outputs.
    /// Nodes with a given output do not run.
    ///
    /// # Errors
    /// As [`run`](TrainedGraph::run).
    pub fn run_with<S: AsRef<str>>(
        &self,
        batch: &Rc<Batch>,
        given: &[(&str, AnyValue)],
        goals: &[S],
    ) -> Result<Outputs, RunFailed> {
        let source = self.own_source()?;
        let batch = (source.node.as_str(), AnyValue::new::<Bytes>(batch.clone()));
        self.live.run(&[&[batch], given].concat(), goals)
    }

    /// How many targets the loss `goal` has in a batch: its counted bytes, unless the node says
    /// otherwise ([`Facilities::n_targets`]).
    pub fn n_targets(&self, batch: &Batch, goal: &str) -> usize {
        let node = self.live.plan().goal(goal).map_or("", |goal| &goal.node.name);
        let mut of_node = facilities::of_node(&self.live, node);
        let targets = of_node.find_map(|facilities| facilities.n_targets(batch));
        targets.unwrap_or_else(|| batch.n_counted_bytes())
    }

    /// Computes the loss `goal` on a batch, and adds its gradient, times `share`, to the gradients
    /// of all parameters that it depends on. `share` is the batch's share of its optimiser step: 1
    /// for a single batch, and less for micro-batches, whose gradients then add up to the gradient
    /// of their mean: the share in the [targets](TrainedGraph::n_targets) of the step.
    ///
    /// # Errors
    /// As [`get`](TrainedGraph::get).
    pub fn gradients(
        &self,
        batch: &Rc<Batch>,
        goal: &str,
        share: f64,
    ) -> Result<LossValue, StepError> {
        let backend = self.backend();
        self.session.loss_weight.set(share);
        backend.record(true);
        let loss = self.get::<Loss>(batch, goal);
        let backward = loss.as_ref().map(|loss| match &*self.profile.borrow() {
            Some(profile) => profile.backward(&loss.loss),
            None => backend.backward(&loss.loss),
        });
        let failed = backward.ok().and_then(Result::err);
        backend.record(false);
        match failed {
            Some(error) => Err(device::failed(error)),
            None => loss,
        }
    }

    /// Updates the parameters with the gradients added so far, and clears the gradients. Returns
    /// the global norm of the gradient before clipping.
    ///
    /// `step` determines the learning rate, and `t` Adam's bias correction. Both count from 1. They
    /// differ if a training continues another one ([`t`](TrainedGraph::t)).
    ///
    /// # Errors
    /// If the device fails.
    pub fn update(&self, optimiser: &AdamWConfig, step: u64, t: u64) -> Result<f64, StepError> {
        optimiser.step(self.backend(), &self.param_ids(), step, t).map_err(device::failed)
    }

    /// As [`update`](TrainedGraph::update), with a learning rate multiplied by `rates[i]` for the
    /// i-th of [`params`](TrainedGraph::params).
    ///
    /// # Errors
    /// If the device fails.
    pub fn update_by(
        &self,
        optimiser: &AdamWConfig,
        rates: &[f64],
        step: u64,
        t: u64,
    ) -> Result<f64, StepError> {
        let norm = optimiser.step_by(self.backend(), &self.param_ids(), |i| rates[i], step, t);
        norm.map_err(device::failed)
    }

    /// The norm of the gradients added so far, of the parameters of each node that has any.
    ///
    /// # Errors
    /// If the device fails.
    pub fn gradient_norms(&self) -> Result<BTreeMap<String, f64>, StepError> {
        let mut by_node: BTreeMap<String, Vec<ParamId>> = BTreeMap::new();
        for p in &self.params {
            by_node.entry(p.node.clone()).or_default().push(p.canonical.id);
        }
        let norm = |(node, ids): (String, Vec<ParamId>)| {
            let squared = self.backend().grad_norm_squared(&ids).map_err(device::failed)?;
            Ok((node, squared.sqrt()))
        };
        let norms = by_node.into_iter().map(norm).collect::<Result<BTreeMap<_, _>, StepError>>()?;
        Ok(norms.into_iter().filter(|(_, norm)| *norm > 0.0).collect())
    }

    /// Starts measuring the time and FLOPs of each node, backward included.
    pub fn profile(&self) -> Rc<NodeProfile> {
        let profile = Rc::new(NodeProfile::new(self.session.clone()));
        self.live.observe(profile.clone());
        *self.profile.borrow_mut() = Some(profile.clone());
        profile
    }

    /// Lets nodes check the data that they were run on
    /// ([`Facilities::check_end`]). A step calls this before it writes its results.
    ///
    /// # Errors
    /// The first error of a node, pointing at the node.
    pub fn check_end(&self) -> Result<(), StepError> {
        for (node, facilities) in facilities::of_graph(&self.live) {
            facilities
                .check_end()
                .map_err(|e| StepError::Document(self.live.plan().diagnose(&node, &e).into()))?;
        }
        Ok(())
    }

    /// The names of the nodes, in graph order: each after the nodes that it reads from.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.live.nodes()
    }

    /// Everything that nodes provide, with the names of the nodes, in graph order.
    pub fn facilities(&self) -> impl Iterator<Item = (String, Rc<dyn Facilities>)> {
        facilities::of_graph(&self.live)
    }

    /// The session that nodes compute in.
    pub fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// The backend that nodes compute on.
    pub fn backend(&self) -> &dyn Backend {
        &*self.session.backend
    }

    /// Every parameter, in graph order.
    pub fn params(&self) -> &[NodeParam] {
        &self.params
    }

    /// The backend's id of every parameter, in graph order.
    pub fn param_ids(&self) -> Vec<ParamId> {
        self.params.iter().map(|p| p.canonical.id).collect()
    }

    /// The number of elements in all parameters.
    pub fn n_parameters(&self) -> usize {
        self.params.iter().map(|p| p.canonical.n_elements()).sum()
    }

    /// The number of elements in the parameters of each node that has any.
    pub fn n_parameters_by_node(&self) -> BTreeMap<String, usize> {
        let mut by_node = BTreeMap::new();
        for p in &self.params {
            *by_node.entry(p.node.clone()).or_default() += p.canonical.n_elements();
        }
        by_node
    }

    /// The number of optimiser steps that led to the parameters, as recorded in the checkpoint that
    /// was restored last; 0 if none was restored since the graph was built.
    pub fn t(&self) -> u64 {
        self.t
    }
}

/// The parameters of all nodes. In checkpoints they have their canonical names, with the name of
/// the node in front where several nodes have a parameter of the same name.
fn node_params(live: &Live) -> Vec<NodeParam> {
    let sets: Vec<_> = facilities::of_graph(live).collect();
    let params = || sets.iter().flat_map(|(node, f)| f.params().iter().map(move |p| (node, p)));
    let mut claims: BTreeMap<&str, usize> = BTreeMap::new();
    params().for_each(|(_, p)| *claims.entry(&p.name).or_default() += 1);
    let named = params().map(|(node, canonical)| {
        let mut stored = canonical.clone();
        if claims[canonical.name.as_str()] > 1 {
            stored.name = format!("{node}/{}", canonical.name);
        }
        NodeParam { node: node.clone(), canonical: canonical.clone(), stored }
    });
    named.collect()
}
