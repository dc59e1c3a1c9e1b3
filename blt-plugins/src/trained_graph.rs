//! [`TrainedGraph`]: the floor that steps stand on.

use crate::checkpoint::{self, CHECKPOINT_DIR, CheckpointState, StoredModel};
use crate::data::{BatchReader, BatchState, Counts, DataError, ListColumn, Order, Packer, Request};
use crate::device::backend;
use crate::facilities::{self, Facilities, Prepare};
use crate::ports::{Bytes, Loss, LossValue};
use crate::profile::NodeProfile;
use crate::recognise::{self, Found, NotBlt};
use crate::sources::{DocumentSource, source_nodes, source_of, sources};
use blt_core::backend::{Backend, ParamId};
use blt_core::bytes::Batch;
use blt_core::checkpoint::{CheckpointError, FORMAT, MODEL_FILE, TensorFile};
use blt_core::checkpoint::{load_moments, save_moments, save_params};
use blt_core::model::Session;
use blt_core::optim::AdamWConfig;
use blt_core::params::NamedParam;
use blt_graph::{
    AnyValue, Diagnostic, Diagnostics, Live, NodeError, Outputs, PlannedNode, Port, RunFailed,
    StepCx, StepError, World, write_atomic,
};
use serde_json::Value;
use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// Ids in a batch while nodes learn.
const PREPARE_BATCH: usize = 32 * 1024;

/// The sub-graph of a step's goals, built on the step's backend and ready to run: its parameters
/// are those that earlier steps left, or fresh ones.
///
/// A step that trains:
///
/// ```no_run
/// # use blt_plugins::{TrainedGraph, data::Request, ports::Loss};
/// # use blt_core::optim::{AdamWConfig, Decay};
/// # use blt_graph::{StepCx, StepError};
/// # fn run(cx: &mut StepCx, goal: &str, steps: u64, adamw: AdamWConfig) -> Result<(), StepError> {
/// let mut graph = TrainedGraph::build(cx, &[goal])?;
/// graph.prepare(cx)?; // thresholds and tokenizers
/// let buffer = graph.source()?.handle.shuffle_buffer;
/// let mut batches = graph.batches(Request::training(cx.seed(), buffer), 4096)?;
/// for step in 1..=steps {
///     let batch = batches.next_or_end()?;
///     let loss = graph.gradients(&batch, goal, 1.0)?;
///     let norm = graph.update(&adamw, step, step);
/// }
/// graph.save(&cx.dir().join(blt_plugins::CHECKPOINT_DIR), steps, None)?;
/// # Ok(())
/// # }
/// ```
///
/// A step that scores calls [`run`](TrainedGraph::run) or [`get`](TrainedGraph::get) on each batch
/// instead.
pub struct TrainedGraph {
    live: Live,
    goals: Vec<String>,
    session: Rc<Session>,
    /// In graph order.
    params: Vec<NodeParam>,
    /// The sources of the graph, in graph order.
    sources: Vec<DocumentSource>,
    /// What documents are read from in place of the graph's only source.
    read_from: Option<DocumentSource>,
    /// What nodes learned, by node.
    learned: BTreeMap<String, Value>,
    t: u64,
    /// Whether parameters were read from a checkpoint of an earlier step.
    trained: bool,
    profile: RefCell<Option<Rc<NodeProfile>>>,
}

/// A parameter of a node.
pub struct NodeParam {
    /// The node's name.
    pub node: String,
    /// Under the name that the model gives it.
    pub canonical: NamedParam,
    /// Under the name that checkpoints write.
    pub stored: NamedParam,
}

impl TrainedGraph {
    /// Builds the sub-graph of `goals` and reads parameters, and what nodes learned, from the
    /// checkpoints of earlier steps.
    ///
    /// # Errors
    /// What a node answers while it is built, a device that is not there, a checkpoint that cannot
    /// be read.
    pub fn build(cx: &StepCx, goals: &[&str]) -> Result<Self, StepError> {
        let mut world = World::new();
        let session = world.insert(Session::new(backend(cx)?));
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
        // Only a step that continues a training counts on from its steps, and it restores that
        // training's checkpoint itself.
        graph.t = 0;
        Ok(graph)
    }

    /// Reads what the checkpoint `dir` has for the nodes of this graph: parameters, and what nodes
    /// learned. `complete`: it must have every parameter. Returns the training loop's state that
    /// [`save`](TrainedGraph::save) was given.
    ///
    /// # Errors
    /// If it cannot be read, or a tensor is missing or of another shape.
    pub fn restore(&mut self, dir: &Path, complete: bool) -> Result<Option<Value>, StepError> {
        let state = CheckpointState::read(dir)?;
        let path = dir.join(MODEL_FILE);
        let file = TensorFile::open(&path)?;
        for p in &self.params {
            let names = state.nodes.get(&p.node);
            if names.is_none() && !complete {
                continue;
            }
            let name = &p.canonical.name;
            let stored = names.and_then(|names| names.get(name)).ok_or_else(|| {
                CheckpointError::Missing { path: path.clone(), name: name.clone() }
            })?;
            let data = file.get(stored, &p.canonical.stored_shape())?;
            self.backend().write_param(p.canonical.id, &data);
        }
        for (node, learned) in state.prepared {
            if self.with_prepare(&node, |p| p.restore(&learned)).transpose()?.is_some() {
                self.learned.insert(node, learned);
            }
        }
        self.t = state.t;
        self.trained = true;
        Ok(state.training)
    }

    /// Reads the optimiser's moments of every parameter from the checkpoint `dir`.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn restore_moments(&self, dir: &Path) -> Result<(), StepError> {
        Ok(load_moments(dir, &self.stored(), self.backend())?)
    }

    /// Lets every node that has something to learn learn it, in graph order: a later node may run
    /// on an earlier one's output.
    ///
    /// # Errors
    /// What reading, running or learning answers; [`StepError::Interrupted`].
    pub fn prepare(&mut self, cx: &StepCx) -> Result<(), StepError> {
        for (node, facilities) in facilities::of_graph(&self.live) {
            if let Some(prepare) = facilities.prepare() {
                self.prepare_node(cx, node, prepare)?;
            }
        }
        self.session.take_flops();
        Ok(())
    }

    fn prepare_node(
        &mut self,
        cx: &StepCx,
        node: String,
        prepare: &dyn Prepare,
    ) -> Result<(), StepError> {
        let Some(part) = prepare.wants() else { return Ok(()) };
        let names = source_nodes(self.live.plan(), &[&node])?;
        let sources = self.sources.iter().filter(|source| names.contains(&&*source.node));
        let source = only(sources.collect(), &[&*node])?;
        // In the order of training: files may be sorted by domain.
        let order = Order::Shuffled { seed: cx.seed(), buffer: source.handle.shuffle_buffer };
        let request = Request { exclude_calibration: true, order, ..Request::part(part) };
        let packer = Packer::new(source.handle.span_bytes, PREPARE_BATCH)?;
        let mut batches = self.read(source, request, packer, None)?;
        cx.progress().start(&format!("prepare {node}"), None);
        prepare.begin();
        let mut seen = 0u64;
        while seen < prepare.max_bytes() {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            let Some(batch) = batches.next()? else { break };
            seen += batch.n_counted_bytes() as u64;
            self.run_given(&[(&source.node, batch)], &[&node])?;
            cx.progress().update(seen, &[]);
        }
        drop(batches);
        let learned = prepare.finish()?;
        cx.progress().finish(&brief(&prepare.summary(&learned)));
        if let Some(doubt) = prepare.doubt(&learned) {
            cx.progress().message(&format!("warning: {node}: {doubt}"));
        }
        self.learned.insert(node, learned);
        Ok(())
    }

    /// Reads documents from the source node `source` from now on, if one is given, in place of the
    /// graph's own; their batches are still given to the graph's own.
    ///
    /// # Errors
    /// If that node is no source of documents.
    pub fn read_from(&mut self, cx: &StepCx, source: Option<&str>) -> Result<(), StepError> {
        if let Some(node) = source {
            let found = sources(cx.plan(), &[node])?.pop().ok_or_else(|| {
                StepError::other(format!("node `{node}` provides no `SourceHandle`"))
            })?;
            self.read_from = Some(found);
        }
        Ok(())
    }

    /// The source that documents are read from: the graph's only one, or the one that
    /// [`read_from`](TrainedGraph::read_from) named.
    ///
    /// # Errors
    /// If the graph has none, or several: then see [`sources`](TrainedGraph::sources).
    pub fn source(&self) -> Result<&DocumentSource, StepError> {
        match &self.read_from {
            Some(source) => Ok(source),
            None => Ok(self.own_source()?),
        }
    }

    /// All sources of the graph, in graph order.
    pub fn sources(&self) -> &[DocumentSource] {
        &self.sources
    }

    fn own_source(&self) -> Result<&DocumentSource, Diagnostics> {
        only(self.sources.iter().collect(), &self.goals)
    }

    /// List columns that nodes read beside the bytes.
    pub fn lists(&self) -> Vec<ListColumn> {
        let mut lists: Vec<ListColumn> = Vec::new();
        for (_, facilities) in facilities::of_graph(&self.live) {
            lists.extend(facilities.list_column().filter(|list| !lists.contains(list)).cloned());
        }
        lists
    }

    /// Batches of documents of the [`source`](TrainedGraph::source), of `batch_bytes` ids each at
    /// most, with the list columns that nodes read.
    ///
    /// # Errors
    /// If the source cannot answer the request.
    pub fn batches(&self, request: Request, batch_bytes: usize) -> Result<Batches<'_>, StepError> {
        let source = self.source()?;
        self.read(source, request, Packer::new(source.handle.span_bytes, batch_bytes)?, None)
    }

    /// As [`batches`](TrainedGraph::batches), after the batch at which `state` was taken.
    ///
    /// # Errors
    /// If the source cannot answer the request, or changed.
    pub fn resume_batches(
        &self,
        request: Request,
        batch_bytes: usize,
        state: &BatchState,
    ) -> Result<Batches<'_>, StepError> {
        let source = self.source()?;
        self.read(source, request, Packer::new(source.handle.span_bytes, batch_bytes)?, Some(state))
    }

    /// Batches of one of the graph's [`sources`](TrainedGraph::sources), packed by `packer`.
    ///
    /// # Errors
    /// If the source cannot answer the request.
    pub fn batches_of<'a>(
        &'a self,
        source: &'a DocumentSource,
        request: Request,
        packer: Packer,
    ) -> Result<Batches<'a>, StepError> {
        self.read(source, request, packer, None)
    }

    fn read<'a>(
        &'a self,
        source: &'a DocumentSource,
        request: Request,
        packer: Packer,
        state: Option<&BatchState>,
    ) -> Result<Batches<'a>, StepError> {
        let request = Request { lists: self.lists(), ..request };
        let documents = source.handle.source.clone();
        let reader = match state {
            None => BatchReader::new(documents, request, packer),
            Some(state) => BatchReader::restore(documents, request, packer, state),
        };
        let reader = reader.map_err(|e| self.error_of(source, e))?;
        Ok(Batches { reader, graph: self, source })
    }

    /// An error of reading documents, pointing at the node at fault: the
    /// [`source`](TrainedGraph::source), or the node that reads a list column.
    pub fn data_error(&self, error: DataError) -> StepError {
        match self.source() {
            Ok(source) => self.error_of(source, error),
            Err(_) => StepError::other(error),
        }
    }

    fn error_of(&self, source: &DocumentSource, error: DataError) -> StepError {
        let plan = self.live.plan();
        if let DataError::NoSuchColumn { column, .. }
        | DataError::ColumnType { column, .. }
        | DataError::NullList { column, .. }
        | DataError::ListLength { column, .. }
        | DataError::ListValue { column, .. } = &error
            && let Some((node, _)) = facilities::of_graph(&self.live)
                .find(|(_, f)| f.list_column().is_some_and(|list| list.column == *column))
        {
            let error = NodeError::param("column", error);
            return StepError::Document(plan.diagnose(&node, &error).into());
        }
        source.error(plan, error)
    }

    /// Computes `goals` on a batch of the graph's only source.
    ///
    /// # Errors
    /// What a node answers, pointing at it; a goal that the graph was not built for.
    pub fn run<S: AsRef<str>>(&self, batch: &Rc<Batch>, goals: &[S]) -> Result<Outputs, RunFailed> {
        self.run_given(&[(&self.own_source()?.node, batch.clone())], goals)
    }

    /// Computes `goals` on a batch for each source that they read, by the source's node.
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
    /// As [`run`](TrainedGraph::run), and if the goal is not of port type `P`.
    pub fn get<P: Port>(&self, batch: &Rc<Batch>, goal: &str) -> Result<P::Value, StepError> {
        Ok(self.run(batch, &[goal])?.take::<P>(goal)?)
    }

    /// Computes the loss `goal` on a batch, and adds its gradient, times `share`, to the gradients
    /// of all parameters that it depends on. `share`: the share of the batch in its optimiser step,
    /// 1 if it is alone, so that micro-batches add up to the gradient of their mean.
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
        if let Ok(loss) = &loss {
            match &*self.profile.borrow() {
                Some(profile) => profile.backward(&loss.loss),
                None => backend.backward(&loss.loss),
            }
        }
        backend.record(false);
        loss
    }

    /// Updates the parameters by the gradients added up so far, and clears these. `step` places the
    /// learning rate and `t` Adam's bias correction, both from 1; they differ where a training
    /// continues another ([`t`](TrainedGraph::t)). Returns the norm of the gradient before
    /// clipping.
    pub fn update(&self, optimiser: &AdamWConfig, step: u64, t: u64) -> f64 {
        optimiser.step(self.backend(), &self.param_ids(), step, t)
    }

    /// Measures time and FLOPs of each node from now on, backward included.
    pub fn profile(&self) -> Rc<NodeProfile> {
        let profile = Rc::new(NodeProfile::new(self.session.clone()));
        self.live.observe(profile.clone());
        *self.profile.borrow_mut() = Some(profile.clone());
        profile
    }

    /// Asks the nodes whether what they were run on makes sense; called at the end of a step,
    /// before its results count.
    ///
    /// # Errors
    /// The first node's objection, pointing at the node.
    pub fn check_end(&self) -> Result<(), StepError> {
        for (node, facilities) in facilities::of_graph(&self.live) {
            facilities
                .check_end()
                .map_err(|e| StepError::Document(self.live.plan().diagnose(&node, &e).into()))?;
        }
        Ok(())
    }

    /// The nodes built, each after those that it reads from.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.live.nodes()
    }

    /// All that nodes provide, with the names of the nodes, in graph order.
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

    /// Every parameter as the backend knows it, in graph order.
    pub fn param_ids(&self) -> Vec<ParamId> {
        self.params.iter().map(|p| p.canonical.id).collect()
    }

    fn stored(&self) -> Vec<NamedParam> {
        self.params.iter().map(|p| p.stored.clone()).collect()
    }

    /// How many numbers the parameters are.
    pub fn n_parameters(&self) -> usize {
        self.params.iter().map(|p| p.canonical.n_elements()).sum()
    }

    /// Optimiser steps behind the parameters, as the checkpoint restored last counts them; 0 if
    /// only those of earlier steps were read.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// What nodes learned before training, as results.json holds it.
    pub fn prepared_summary(&self) -> BTreeMap<String, Value> {
        let summary = |(node, learned): (&String, &Value)| {
            Some((node.clone(), self.with_prepare(node, |p| p.summary(learned))?))
        };
        self.learned.iter().filter_map(summary).collect()
    }

    fn with_prepare<T>(&self, node: &str, f: impl FnOnce(&dyn Prepare) -> T) -> Option<T> {
        let mut of_node = facilities::of_node(&self.live, node);
        let facilities = of_node.find(|facilities| facilities.prepare().is_some())?;
        facilities.prepare().map(f)
    }

    /// A digest of all that numbers depend on beside the documents: nodes and their wires,
    /// parameters, what was learned. The place of a checkpoint is not part of it.
    ///
    /// # Errors
    /// If a file of parameters cannot be read.
    pub fn digest(&self) -> Result<String, StepError> {
        let plan = self.live.plan();
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        for node in self.live.nodes().filter_map(|name| plan.node(name)) {
            if self.sources.iter().any(|source| source.node == node.name) {
                continue;
            }
            let files = facilities::of_node(&self.live, &node.name)
                .find_map(|f| f.param_files().map(<[_]>::to_vec));
            let mut params = node.params.clone();
            if files.is_some() {
                params.remove("checkpoint");
            }
            add(&serde_json::to_vec(&(&node.name, node.entry.name, &params, plan.wires(node)))?);
            match files.filter(|_| !self.trained) {
                Some(files) => {
                    for path in files {
                        let mut of_file = blake3::Hasher::new();
                        of_file.update_reader(std::fs::File::open(path)?)?;
                        add(of_file.finalize().as_bytes());
                    }
                }
                None => {
                    for p in self.params.iter().filter(|p| p.node == node.name) {
                        add(p.canonical.name.as_bytes());
                        add(self.digest_of_param(p.canonical.id).as_bytes());
                    }
                }
            }
        }
        add(&serde_json::to_vec(&self.learned)?);
        Ok(hasher.finalize().to_hex()[..32].to_string())
    }

    fn digest_of_param(&self, id: ParamId) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for values in self.backend().read_param(id).chunks(1 << 14) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
        hasher.finalize()
    }

    /// The model that the graph is, with what its nodes learned so far.
    ///
    /// # Errors
    /// What keeps it from being a BLT model.
    pub fn model(&self) -> Result<StoredModel, NotBlt> {
        let plan = self.live.plan();
        let nodes: Vec<&PlannedNode> =
            self.live.nodes().filter_map(|name| plan.node(name)).collect();
        match recognise::find(plan, &nodes)? {
            Found::Parts(parts) => {
                let learned = |node: &str| recognise::learned_rule(self.learned.get(node)?);
                let parts = parts.with_rule(learned);
                Ok(StoredModel { shape: parts.shape, nodes: parts.nodes })
            }
            Found::Whole(node) => {
                let shape = facilities::of_node(&self.live, &node)
                    .find_map(|f| f.whole_model().cloned())
                    .ok_or(NotBlt::Count { kind: "Blt", found: 0 })?;
                Ok(StoredModel { shape, nodes: vec![node] })
            }
        }
    }

    /// Writes parameters, moments and what was learned into the checkpoint directory `dir`, whole
    /// or not at all. `t`: optimiser steps behind the parameters. `training`: the training loop's
    /// own state, if a run is to resume from it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, dir: &Path, t: u64, training: Option<Value>) -> Result<(), StepError> {
        checkpoint::write(dir, |partial| {
            let stored = self.stored();
            save_params(partial, &stored, self.backend())?;
            save_moments(partial, &stored, self.backend())?;
            let mut nodes: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
            for p in &self.params {
                let names = nodes.entry(p.node.clone()).or_default();
                names.insert(p.canonical.name.clone(), p.stored.name.clone());
            }
            let (prepared, model) = (self.learned.clone(), self.model().ok());
            let state = CheckpointState { format: FORMAT, t, nodes, prepared, model, training };
            let text = serde_json::to_string_pretty(&state)?;
            Ok(write_atomic(partial.join(checkpoint::STATE_FILE), text)?)
        })
    }
}

/// The only one of `sources`, which `goals` read.
fn only<'a, S: Borrow<str>>(
    sources: Vec<&'a DocumentSource>,
    goals: &[S],
) -> Result<&'a DocumentSource, Diagnostics> {
    match sources.as_slice() {
        [source] => Ok(source),
        _ => Err(Diagnostic::error(format!(
            "`{}` reads from {} sources; a step reads from one",
            goals.join("`, `"),
            sources.len()
        ))
        .into()),
    }
}

/// The parameters of all nodes. Checkpoints write canonical names, with the node in front where two
/// nodes claim the same.
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

/// `threshold 1.3354, bytes_per_patch 6.01` of an object of numbers.
fn brief(value: &Value) -> String {
    let field = |(key, value): (&String, &Value)| {
        value.as_f64().map(|v| format!("{key} {}", (v * 1e4).round() / 1e4))
    };
    let fields = value.as_object().into_iter().flatten().filter_map(field);
    fields.collect::<Vec<_>>().join(", ")
}

/// Batches of a source's documents. Errors point at the node at fault.
pub struct Batches<'a> {
    reader: BatchReader,
    graph: &'a TrainedGraph,
    source: &'a DocumentSource,
}

impl Batches<'_> {
    /// Reads up to `batches` batches ahead, on a thread of its own.
    pub fn read_ahead(self, batches: usize) -> Self {
        Batches { reader: self.reader.read_ahead(batches), ..self }
    }

    /// The next batch; `None` at the end of the documents.
    ///
    /// # Errors
    /// If it cannot be read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Rc<Batch>>, StepError> {
        let batch = self.reader.next_batch();
        Ok(batch.map_err(|e| self.graph.error_of(self.source, e))?.map(Rc::new))
    }

    /// The next batch of documents that are read for ever.
    ///
    /// # Errors
    /// If it cannot be read, or there is none.
    pub fn next_or_end(&mut self) -> Result<Rc<Batch>, StepError> {
        self.next()?.ok_or_else(|| StepError::other("the training documents ran out"))
    }

    /// The requested scalar columns for each span of the batch last given.
    pub fn scalars(&self) -> &[BTreeMap<String, Option<String>>] {
        self.reader.scalars()
    }

    /// What was read so far.
    pub fn counts(&self) -> Counts {
        self.reader.counts()
    }

    /// The place after the batch last given, for [`TrainedGraph::resume_batches`].
    pub fn state(&self) -> &BatchState {
        self.reader.state()
    }
}
