//! A sub-graph made ready for a step: built on the step's backend, its parameters read from earlier
//! steps' checkpoints, and what its nodes must learn from data before they run (a threshold, a
//! tokenizer) learned.

use crate::data::{BatchReader, DataError, ListColumn, Order, Packer, Part, Request, Source};
use crate::model::ParamSet;
use crate::ports::{Bytes, Entropies, Loss, Patches};
use crate::shape::{self, Found, NotBlt, WholeModel};
use blt_core::backend::device::{Device, DeviceError};
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::backend::gpu;
use blt_core::backend::{Backend, BackendError, ParamId};
use blt_core::bytes::Batch;
use blt_core::checkpoint::{self, CheckpointError};
use blt_core::hf::ModelShape;
use blt_core::model::Session;
use blt_core::params::NamedParam;
use blt_core::tensor_file::TensorFile;
use blt_graph::{
    ComputePath, ErrorHelp, Live, Node, NodeError, Plan, PlannedNode, Port, StepCx, StepError,
    World, write_atomic,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Facility of a source node: what reads its documents.
pub struct SourceHandle {
    pub source: Arc<dyn Source>,
    /// Longer documents are cut into spans of this many bytes.
    pub span_bytes: usize,
    /// Documents in the buffer that training draws from.
    pub shuffle_buffer: usize,
}

/// Facility of a node that reads a list column beside the bytes.
pub struct WantsList(pub ListColumn);

/// The batch that source nodes hand out; steps put it into the world.
pub struct Feed(pub Rc<Batch>);

/// What a node must learn from training documents before it can run. It is learned once, before
/// training, recorded in the checkpoint, and frozen.
pub trait Prepare {
    /// The documents to learn from; None: nothing (left) to learn.
    fn wants(&self) -> Option<Part>;
    /// How many bytes of documents to learn from at most.
    fn max_bytes(&self) -> u64;
    /// From now on running the node shows it the data instead of computing; its output is not used.
    fn begin(&self);
    /// Fixes what was learned. Returns it as it is recorded.
    fn finish(&self) -> Result<Value, StepError>;
    /// Takes what an earlier step recorded.
    fn restore(&self, learned: &Value) -> Result<(), StepError>;
    /// What results.json says of it.
    fn summary(&self, learned: &Value) -> Value {
        learned.clone()
    }
    /// What makes it doubtful, for the user to know before training goes on.
    fn doubt(&self, _learned: &Value) -> Option<String> {
        None
    }
}

/// Facility under which a node provides its [`Prepare`].
pub struct Prepared(pub Rc<dyn Prepare>);

/// Facility of a node whose parameters lie in files, which say all of them: a digest need not read
/// large ones as numbers.
pub struct ParamFiles(pub Vec<PathBuf>);

/// Facility of a node that can tell, once a step has run it on all its data, that its parameters
/// make no sense on them.
pub struct AtEnd(pub Box<dyn Fn() -> Result<(), NodeError>>);

/// What a checkpoint directory says beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    pub format: u32,
    /// Optimiser steps behind the parameters; Adam's bias correction counts on from here.
    pub t: u64,
    /// For each node with parameters: canonical name to the name in the file (they differ where
    /// two nodes claim one name).
    pub nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// What nodes learned before training: thresholds, tokenizers.
    pub prepared: BTreeMap<String, Value>,
    /// The model, where the sub-graph has BLT's shape: what a `Blt` node needs to read the
    /// checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<StoredModel>,
    /// The training loop's own state, in a checkpoint that a run resumes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Value>,
}

/// A model in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredModel {
    pub shape: ModelShape,
    /// The nodes that hold its parameters.
    pub nodes: Vec<String>,
}

/// The file of a checkpoint directory that holds its [`CheckpointState`].
pub const STATE_FILE: &str = "state.json";
/// Where a step's entry keeps its final checkpoint.
pub const CHECKPOINT_DIR: &str = "checkpoints/final";
/// Ids in a batch while nodes learn.
const PREPARE_BATCH: usize = 32 * 1024;

impl CheckpointState {
    /// Reads `dir/state.json`; a format that this version does not know is refused in words.
    pub fn read(dir: &Path) -> Result<Self, StepError> {
        let path = dir.join(STATE_FILE);
        let damaged = |e: serde_json::Error| {
            StepError::other(format!("{} is not a checkpoint's state: {e}", path.display()))
        };
        let text = std::fs::read_to_string(&path).map_err(|e| {
            StepError::other(format!("cannot read checkpoint {}: {e}", path.display()))
        })?;
        let value: Value = serde_json::from_str(&text).map_err(damaged)?;
        if value["format"] != checkpoint::FORMAT {
            return Err(StepError::other(format!(
                "{} has checkpoint format {}, this version reads format {}",
                path.display(),
                value["format"],
                checkpoint::FORMAT
            ))
            .help("train again, or use the version that wrote it"));
        }
        serde_json::from_value(value).map_err(damaged)
    }
}

/// A node's parameter: under its canonical name, and under the one that checkpoints write.
pub struct NodeParam {
    pub node: String,
    pub canonical: NamedParam,
    pub stored: NamedParam,
}

pub struct Loaded {
    pub live: Live,
    pub session: Rc<Session>,
    /// In graph order.
    pub params: Vec<NodeParam>,
    pub source: Rc<SourceHandle>,
    source_node: String,
    /// What nodes learned, by node.
    pub prepared: BTreeMap<String, Value>,
    /// Optimiser steps behind the parameters.
    pub t: u64,
    /// Parameters were read from a checkpoint of an earlier step.
    trained: bool,
}

/// The nodes of `goals`' sub-graph that read byte corpora.
fn source_nodes<'a>(plan: &'a Plan, goals: &[&str]) -> Result<Vec<&'a str>, StepError> {
    let is_source = |node: &&PlannedNode| {
        node.entry.inputs.is_empty() && outputs_of::<Bytes>(node).next().is_some()
    };
    Ok(plan.needs(goals)?.into_iter().filter(is_source).map(|node| node.name.as_str()).collect())
}

/// Wires of port `P` that leave `node`, with what is known of them.
fn outputs_of<P: Port>(node: &PlannedNode) -> impl Iterator<Item = (String, &P::Info)> {
    node.entry.outputs.iter().zip(&node.infos).filter_map(|(port, info)| {
        Some((format!("{}.{port}", node.name), info.as_ref()?.get::<P>()?))
    })
}

/// The backend that a run's options name.
pub fn backend(cx: &StepCx) -> Result<Rc<dyn Backend>, StepError> {
    match (cx.path(), cx.device().parse().map_err(device_error)?) {
        (ComputePath::Fused, Device::Cpu) => Ok(Rc::new(Fused::new())),
        (ComputePath::Reference, Device::Cpu) => Ok(Rc::new(Dfdx::<f32, _>::cpu())),
        (ComputePath::Reference, Device::Cuda(index)) => gpu::open(index).map_err(device_error),
        (ComputePath::Fused, gpu) => {
            let what =
                format!("fused operations are the processor's own, and the device is `{gpu}`");
            Err(StepError::other(what).help("leave `path` out, or give `path: reference`"))
        }
    }
}

fn device_error(error: DeviceError) -> StepError {
    let help = error.help();
    StepError::other(error).help(help)
}

/// The error of a backend, with what the user can do about it.
pub fn device_failed(error: BackendError) -> StepError {
    match error.help() {
        Some(help) => StepError::other(error).help(help),
        None => StepError::other(error),
    }
}

/// A step's `source` must be a node that gives bytes and reads nothing.
pub fn check_source(plan: &Plan, source: Option<&str>) -> Result<(), NodeError> {
    let Some(source) = source else { return Ok(()) };
    let goal = plan.goal(source)?;
    match goal.is::<Bytes>() && goal.node.entry.inputs.is_empty() {
        true => Ok(()),
        false => Err(NodeError::param("source", format!("`{source}` is not a source of bytes"))),
    }
}

/// The sources that `goals` read, by node, without the rest of the graph.
pub fn sources(cx: &StepCx, goals: &[&str]) -> Result<Vec<(String, Rc<SourceHandle>)>, StepError> {
    let mut sources = Vec::new();
    for node in source_nodes(cx.plan(), goals)? {
        let live = Live::build(cx.plan(), &[node], World::new())?;
        sources.extend(live.facility::<SourceHandle>(node).map(|handle| (node.to_owned(), handle)));
    }
    Ok(sources)
}

/// Digests of the data that `goals` read.
pub fn fingerprints(cx: &StepCx, goals: &[&str]) -> Result<Vec<String>, StepError> {
    let print = |(node, handle): (String, Rc<SourceHandle>)| match handle.source.fingerprint() {
        Ok(print) => Ok(format!("{node} {print}")),
        Err(e) => Err(source_error(cx.plan(), &node, e)),
    };
    sources(cx, goals)?.into_iter().map(print).collect()
}

/// Refuses a request that the sources of `goals` cannot answer (no such file or column, no such
/// part) before any step starts. Reads no rows.
pub fn check_sources(cx: &StepCx, goals: &[&str], request: &Request) -> Result<(), StepError> {
    for (node, handle) in sources(cx, goals)? {
        handle.source.check(request).map_err(|e| source_error(cx.plan(), &node, e))?;
    }
    Ok(())
}

/// A source's error, pointing at the parameter of its node that is at fault.
pub fn source_error(plan: &Plan, node: &str, error: DataError) -> StepError {
    let param = |path: &[&str]| {
        let first = plan.node(node).and_then(|node| node.params.get(path[0]));
        path[1..].iter().try_fold(first?, |value, key| value.get(key))
    };
    let is = |path: &[&str], column: &str| param(path).and_then(Value::as_str) == Some(column);
    let at = match &error {
        DataError::NoSuchColumn { column, .. } | DataError::ColumnType { column, .. } => {
            let of_column = is(&["column"], column).then_some("column");
            of_column.or_else(|| is(&["split", "by"], column).then_some("split.by"))
        }
        DataError::NoSplit { .. } => Some("split"),
        DataError::NoSuchFile { .. }
        | DataError::NoMatch { .. }
        | DataError::BadGlob { .. }
        | DataError::EmptyFolder { .. }
        | DataError::NotAFile { .. }
        | DataError::Read { .. }
        | DataError::Storage(_)
        | DataError::SchemaDiffers { .. }
        | DataError::WrongFormat { .. }
        | DataError::Corrupt { .. }
        | DataError::Changed { .. }
        | DataError::Empty { .. }
        | DataError::NoBytes { .. } => Some("path"),
        _ => None,
    };
    let error = match at {
        Some(at) => NodeError::param(at, error),
        None => NodeError::other(error),
    };
    StepError::Document(plan.diagnose(node, &error).into())
}

impl Loaded {
    /// Builds `goals`' sub-graph, and reads parameters and what was learned from earlier steps.
    pub fn build(cx: &StepCx, goals: &[&str]) -> Result<Self, StepError> {
        let sources = source_nodes(cx.plan(), goals)?;
        let [source_node] = sources.as_slice() else {
            let what = format!(
                "`{}` reads from {} sources; a step reads from one",
                goals.join("`, `"),
                sources.len()
            );
            return Err(StepError::other(what));
        };
        let world = World::new();
        world.insert(Session::new(backend(cx)?));
        world.insert(ErrorHelp(|error| {
            error.downcast_ref::<BackendError>()?.help().map(str::to_owned)
        }));
        let session =
            world.get::<Session>().ok_or_else(|| StepError::other("the world lost the session"))?;
        let live = Live::build(cx.plan(), goals, world)?;
        let source = live.facility::<SourceHandle>(source_node).ok_or_else(|| {
            StepError::other(format!("source `{source_node}` provides no `SourceHandle`"))
        })?;
        let params = node_params(&live);
        let source_node = (*source_node).to_owned();
        let mut loaded = Loaded {
            params,
            live,
            session,
            source,
            source_node,
            prepared: BTreeMap::new(),
            t: 0,
            trained: false,
        };
        for earlier in cx.earlier() {
            let dir = earlier.dir.join(CHECKPOINT_DIR);
            if dir.is_dir() {
                loaded.restore(&dir, false)?;
            }
        }
        // Steps that continue a training say so (`from`); what earlier steps trained is a starting
        // point.
        loaded.t = 0;
        Ok(loaded)
    }

    /// Reads what a checkpoint has for this sub-graph's nodes. `complete`: it must have every
    /// parameter. Returns the training loop's state.
    pub fn restore(&mut self, dir: &Path, complete: bool) -> Result<Option<Value>, StepError> {
        let state = CheckpointState::read(dir)?;
        let path = dir.join(checkpoint::MODEL_FILE);
        let file = TensorFile::open(&path).map_err(CheckpointError::from)?;
        for p in &self.params {
            match state.nodes.get(&p.node) {
                None if !complete => {}
                names => {
                    let stored = names.and_then(|names| names.get(&p.canonical.name));
                    let missing = || CheckpointError::Missing {
                        path: path.clone(),
                        name: p.canonical.name.clone(),
                    };
                    let data = file
                        .get_f32(stored.ok_or_else(missing)?, &p.canonical.stored_shape())
                        .map_err(CheckpointError::from)?;
                    self.session
                        .backend
                        .write_param(p.canonical.id, &data)
                        .map_err(device_failed)?;
                }
            }
        }
        for (node, learned) in &state.prepared {
            if let Some(p) = self.live.facility::<Prepared>(node) {
                p.0.restore(learned)?;
                self.prepared.insert(node.clone(), learned.clone());
            }
        }
        self.t = state.t;
        self.trained = true;
        Ok(state.training)
    }

    /// Reads documents from another source node from now on.
    pub fn read_from(&mut self, cx: &StepCx, source: Option<&str>) -> Result<(), StepError> {
        if let Some(node) = source {
            let mut handles = sources(cx, &[node])?;
            let (name, handle) = handles.pop().ok_or_else(|| {
                StepError::other(format!("node `{node}` provides no `SourceHandle`"))
            })?;
            (self.source_node, self.source) = (name, handle);
        }
        Ok(())
    }

    /// Reads the optimiser's moments of every parameter.
    pub fn restore_moments(&self, dir: &Path) -> Result<(), StepError> {
        Ok(checkpoint::load_moments(dir, &self.stored(), &*self.session.backend)?)
    }

    /// Lets every node that has something to learn learn it, in graph order: a later one may run on
    /// an earlier one's output.
    pub fn prepare(&mut self, cx: &StepCx) -> Result<(), StepError> {
        for (node, prepared) in self.live.facilities::<Prepared>() {
            let Some(part) = prepared.0.wants() else { continue };
            // In the order of training: files may be sorted by domain.
            let order = Order::Shuffled { seed: cx.seed(), buffer: self.source.shuffle_buffer };
            let request = Request {
                exclude_calibration: true,
                order,
                lists: self.lists(),
                ..Request::part(part)
            };
            let packer = Packer::new(self.source.span_bytes, PREPARE_BATCH)?;
            let source = self.source.source.clone();
            let mut reader =
                BatchReader::new(source, request, packer).map_err(|e| self.data_error(e))?;
            cx.progress().start(&format!("prepare {node}"), None);
            prepared.0.begin();
            let mut seen = 0u64;
            while seen < prepared.0.max_bytes() {
                if cx.interrupted() {
                    return Err(StepError::Interrupted);
                }
                let Some(batch) = reader.next_batch().map_err(|e| self.data_error(e))? else {
                    break;
                };
                seen += batch.n_counted_bytes() as u64;
                self.live.world().insert(Feed(Rc::new(batch)));
                self.live.run(&[&node])?;
                cx.progress().update(seen, &[]);
            }
            let learned = prepared.0.finish()?;
            cx.progress().finish(&brief(&prepared.0.summary(&learned)));
            if let Some(doubt) = prepared.0.doubt(&learned) {
                cx.progress().message(&format!("warning: {node}: {doubt}"));
            }
            self.prepared.insert(node, learned);
        }
        self.session.take_flops();
        Ok(())
    }

    /// What reading answered, pointing at the node that is at fault: the source, or the one that
    /// wants a column of lists.
    pub fn data_error(&self, error: DataError) -> StepError {
        let plan = self.live.plan();
        if let DataError::NoSuchColumn { column, .. }
        | DataError::ColumnType { column, .. }
        | DataError::NullList { column, .. }
        | DataError::ListLength { column, .. }
        | DataError::ListValue { column, .. } = &error
            && let Some((node, _)) = self
                .live
                .facilities::<WantsList>()
                .iter()
                .find(|(_, wants)| wants.0.column == *column)
        {
            return StepError::Document(
                plan.diagnose(node, &NodeError::param("column", error)).into(),
            );
        }
        source_error(plan, &self.source_node, error)
    }

    /// Asks the nodes whether what they were run on makes sense; at the end of a step, before its
    /// results count.
    pub fn check_end(&self) -> Result<(), StepError> {
        for (node, at_end) in self.live.facilities::<AtEnd>() {
            at_end.0()
                .map_err(|e| StepError::Document(self.live.plan().diagnose(&node, &e).into()))?;
        }
        Ok(())
    }

    /// A parameter of the source's node, if it is text.
    pub fn source_param(&self, name: &str) -> Option<String> {
        self.live.plan().node(&self.source_node)?.params.get(name)?.as_str().map(str::to_owned)
    }

    /// List columns that nodes read beside the bytes.
    pub fn lists(&self) -> Vec<ListColumn> {
        let mut lists: Vec<ListColumn> = Vec::new();
        for (_, wants) in self.live.facilities::<WantsList>() {
            if !lists.contains(&wants.0) {
                lists.push(wants.0.clone());
            }
        }
        lists
    }

    /// Runs one goal on the batch in the world.
    pub fn get<P: Port>(&self, goal: &str) -> Result<P::Value, StepError> {
        Ok(self.live.get::<P>(goal)?)
    }

    pub fn ids(&self) -> Vec<ParamId> {
        self.params.iter().map(|p| p.canonical.id).collect()
    }

    fn stored(&self) -> Vec<NamedParam> {
        self.params.iter().map(|p| p.stored.clone()).collect()
    }

    pub fn n_parameters(&self) -> usize {
        self.params.iter().map(|p| p.canonical.n_elements()).sum()
    }

    /// What nodes learned, as results.json says it.
    pub fn prepared_summary(&self) -> BTreeMap<String, Value> {
        let summary = |(node, learned): (&String, &Value)| {
            let facility = self.live.facility::<Prepared>(node)?;
            Some((node.clone(), facility.0.summary(learned)))
        };
        self.prepared.iter().filter_map(summary).collect()
    }

    /// A digest of all that numbers depend on beside the documents: nodes and their wires,
    /// parameters, what was learned. Where a checkpoint lies is not in it.
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
            if self.live.facility::<SourceHandle>(&node.name).is_some() {
                continue;
            }
            let files = self.live.facility::<ParamFiles>(&node.name);
            let mut params = node.params.clone();
            if files.is_some() {
                params.remove("checkpoint");
            }
            add(&serde_json::to_vec(&(&node.name, node.entry.name, &params, plan.wires(node)))?);
            match files.filter(|_| !self.trained) {
                Some(files) => {
                    for path in &files.0 {
                        let mut of_file = blake3::Hasher::new();
                        of_file.update_reader(std::fs::File::open(path)?)?;
                        add(of_file.finalize().as_bytes());
                    }
                }
                None => {
                    for p in self.params.iter().filter(|p| p.node == node.name) {
                        add(p.canonical.name.as_bytes());
                        let mut of_param = blake3::Hasher::new();
                        let numbers = self.session.backend.read_param(p.canonical.id)?;
                        for values in numbers.chunks(1 << 14) {
                            of_param.update(
                                &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
                            );
                        }
                        add(of_param.finalize().as_bytes());
                    }
                }
            }
        }
        add(&serde_json::to_vec(&self.prepared)?);
        Ok(hasher.finalize().to_hex()[..32].to_string())
    }

    /// The model that the sub-graph is, as far as it is learned.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub fn model(&self) -> Result<StoredModel, NotBlt> {
        let plan = self.live.plan();
        let nodes: Vec<&PlannedNode> =
            self.live.nodes().filter_map(|name| plan.node(name)).collect();
        match shape::find(plan, &nodes)? {
            Found::Parts(parts) => {
                let parts = parts.with_rule(|node| shape::learned_rule(self.prepared.get(node)?));
                Ok(StoredModel { shape: parts.shape, nodes: parts.nodes })
            }
            Found::Whole(node) => {
                let whole = self
                    .live
                    .facility::<WholeModel>(&node)
                    .ok_or(NotBlt::Count { kind: "Blt", found: 0 })?;
                Ok(StoredModel { shape: whole.0.clone(), nodes: vec![node] })
            }
        }
    }

    /// Writes a checkpoint directory, whole or not at all.
    pub fn save(&self, dir: &Path, t: u64, training: Option<Value>) -> Result<(), StepError> {
        let partial = dir.with_extension("partial");
        self.write(&partial, dir, t, training).map_err(|error| {
            // Its part of a full disk is wanted for saying so. If it cannot be removed either, the first error is the one to tell.
            let _ = std::fs::remove_dir_all(&partial);
            error.help("make room there, or give another folder with `--runs`; a stopped step goes on from its last checkpoint")
        })
    }

    fn write(
        &self,
        partial: &Path,
        dir: &Path,
        t: u64,
        training: Option<Value>,
    ) -> Result<(), StepError> {
        let failed = |e: std::io::Error| {
            StepError::other(format!("cannot write checkpoint {}: {e}", dir.display()))
        };
        if partial.exists() {
            std::fs::remove_dir_all(partial).map_err(failed)?;
        }
        std::fs::create_dir_all(partial).map_err(failed)?;
        let stored = self.stored();
        checkpoint::save_params(partial, &stored, &*self.session.backend)?;
        checkpoint::save_moments(partial, &stored, &*self.session.backend)?;
        let mut nodes: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for p in &self.params {
            nodes
                .entry(p.node.clone())
                .or_default()
                .insert(p.canonical.name.clone(), p.stored.name.clone());
        }
        let (prepared, model) = (self.prepared.clone(), self.model().ok());
        let state =
            CheckpointState { format: checkpoint::FORMAT, t, nodes, prepared, model, training };
        write_atomic(partial.join(STATE_FILE), serde_json::to_string_pretty(&state)?)?;
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(failed)?;
        }
        std::fs::rename(partial, dir).map_err(failed)
    }
}

/// The names that checkpoints write: canonical ones, with the node in front where two nodes claim
/// the same.
fn node_params(live: &Live) -> Vec<NodeParam> {
    let sets = live.facilities::<ParamSet>();
    let mut claims: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, set) in &sets {
        set.0.iter().for_each(|p| *claims.entry(&p.name).or_default() += 1);
    }
    let mut named = Vec::new();
    for (node, set) in &sets {
        for canonical in &set.0 {
            let mut stored = canonical.clone();
            if claims[canonical.name.as_str()] > 1 {
                stored.name = format!("{node}/{}", canonical.name);
            }
            named.push(NodeParam { node: node.clone(), canonical: canonical.clone(), stored });
        }
    }
    named
}

/// The first wire of port `P` in `goals`' sub-graph.
pub fn first_wire<P: Port>(plan: &Plan, goals: &[&str]) -> Result<Option<String>, NodeError> {
    Ok(plan
        .needs(goals)?
        .into_iter()
        .find_map(|node| outputs_of::<P>(node).next().map(|(wire, _)| wire)))
}

/// The first wire of entropies that a patcher of `goals`' sub-graph reads: computed in any case.
pub fn read_by_patchers(plan: &Plan, goals: &[&str]) -> Result<Option<String>, NodeError> {
    let patchers =
        plan.needs(goals)?.into_iter().filter(|node| outputs_of::<Patches>(node).next().is_some());
    for wire in patchers.flat_map(|node| plan.wires(node)).filter_map(|(_, wire)| wire) {
        if plan.goal(&wire)?.is::<Entropies>() {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

/// The nodes of `goals`' sub-graph that only patch borders depend on: the patcher, and the entropy
/// model behind it.
pub fn nodes_behind_borders(plan: &Plan, goals: &[&str]) -> Result<BTreeSet<String>, StepError> {
    let mut model: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&PlannedNode> =
        goals.iter().map(|g| Ok(plan.goal(g)?.node)).collect::<Result<_, NodeError>>()?;
    while let Some(node) = open.pop() {
        if model.insert(&node.name) {
            for wire in plan.wires(node).into_iter().filter_map(|(_, wire)| wire) {
                let from = plan.goal(&wire)?;
                if !from.is::<Patches>() {
                    open.push(from.node);
                }
            }
        }
    }
    Ok(plan
        .needs(goals)?
        .into_iter()
        .filter(|n| !model.contains(n.name.as_str()))
        .map(|n| n.name.clone())
        .collect())
}

/// What to say of the models that patches of a step's goals follow, and that no step before trains:
/// their borders are those of random weights. One that an earlier step needs as well is told there.
///
/// # Errors
/// A goal that the plan does not have.
pub fn untrained(plan: &Plan, index: usize) -> Result<Vec<String>, StepError> {
    let step = &plan.steps()[index];
    if step.params.get("from").is_some_and(|from| !from.is_null()) {
        // The checkpoint that it goes on from has them.
        return Ok(Vec::new());
    }
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for step in plan.steps()[..index].iter().filter(|step| step.feeds_later_steps()) {
        before.extend(plan.needs(&step.goals)?.into_iter().map(|node| node.name.as_str()));
    }
    let goals: Vec<&str> = step.goals.iter().map(String::as_str).collect();
    let behind = nodes_behind_borders(plan, &goals)?;
    // A node with a loss of its own is a model; a `Blt` node's parameters come from its checkpoint.
    let model = |node: &PlannedNode| {
        outputs_of::<Loss>(node).next().is_some() && node.entry.name != crate::nodes::Blt::NAME
    };
    let nodes =
        plan.needs(&goals)?.into_iter().filter(|node| behind.contains(&node.name) && model(node));
    let said = nodes.map(|node| &node.name).filter(|name| !before.contains(name.as_str())).map(|name| {
        format!(
            "warning: {}: no step trains `{name}`, so patches follow an untrained model; a step `- train: {{goal: {name}.loss, ...}}` \
             before `run.{index}.{}` does",
            plan.variant, step.entry.name
        )
    });
    Ok(said.collect())
}

/// Tells the user of [`untrained`] models, before the first step.
pub fn warn_untrained(cx: &StepCx) -> Result<(), StepError> {
    untrained(cx.plan(), cx.index())?.iter().for_each(|warning| cx.progress().message(warning));
    Ok(())
}

/// Some border in `goals`' sub-graph depends on bytes after it.
pub fn boundary_lookahead(plan: &Plan, goals: &[&str]) -> Result<bool, StepError> {
    let looks_ahead =
        |node: &PlannedNode| outputs_of::<Patches>(node).any(|(_, info)| info.boundary_lookahead);
    Ok(plan.needs(goals)?.into_iter().any(looks_ahead))
}

/// `threshold 1.3354, bytes_per_patch 6.01` of an object of numbers.
fn brief(value: &Value) -> String {
    let field = |(key, value): (&String, &Value)| {
        value.as_f64().map(|v| format!("{key} {}", (v * 1e4).round() / 1e4))
    };
    value
        .as_object()
        .map(|o| o.iter().filter_map(field).collect::<Vec<_>>().join(", "))
        .unwrap_or_default()
}
