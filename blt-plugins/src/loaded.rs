//! A sub-graph made ready for a step: built on the step's backend, its parameters read from earlier steps' checkpoints, and
//! what its nodes must learn from data before they run (a threshold, a tokenizer) learned.

use crate::data::{DocumentReader, Part, Request, Source};
use crate::model::ParamSet;
use crate::ports::Bytes;
use blt_core::backend::{Backend, ParamId};
use blt_core::bytes::Batch;
use blt_core::checkpoint::{self, CheckpointError, TensorFile};
use blt_core::fused::Fused;
use blt_core::model::Session;
use blt_core::params::NamedParam;
use blt_core::reference::Reference;
use blt_graph::{Live, Plan, StepCx, StepError, World, write_atomic};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Facility of a source node: what reads its documents.
pub struct SourceHandle {
    pub source: Box<dyn Source>,
    /// Longer documents are cut into spans of this many bytes.
    pub span_bytes: usize,
    /// List columns that nodes downstream asked for when the graph was checked.
    pub lists: Rc<RefCell<BTreeSet<String>>>,
    pub shuffle_buffer: usize,
}

/// The batch that source nodes hand out; steps put it into the world.
pub struct Feed(pub Rc<Batch>);

/// Facility of a node that must learn something from training documents before it can run. It is learned once, before
/// training, recorded in the checkpoint, and frozen.
pub trait Prepare {
    /// The documents to learn from; None: nothing (left) to learn.
    fn wants(&self) -> Option<Part>;
    /// How many bytes of documents to learn from at most.
    fn max_bytes(&self) -> u64;
    /// From now on running the node shows it the data instead of computing; its output is not used.
    fn begin(&self);
    /// Fixes what was learned. Returns it as it is recorded.
    fn finish(&self) -> Result<serde_json::Value, StepError>;
    /// Takes what an earlier step recorded.
    fn restore(&self, learned: &serde_json::Value) -> Result<(), StepError>;
}

/// Facility under which a node provides its [`Prepare`].
pub struct Prepared(pub Rc<dyn Prepare>);

/// What a checkpoint directory says beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    pub format: u32,
    /// Optimiser steps behind the parameters; Adam's bias correction counts on from here.
    pub t: u64,
    /// For each node with parameters: canonical name to the name in the file (they differ where two nodes claim one name).
    pub nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// What nodes learned before training: thresholds, tokenizers.
    pub prepared: BTreeMap<String, serde_json::Value>,
    /// The training loop's own state, in a checkpoint that a run resumes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<serde_json::Value>,
}

pub const STATE_FILE: &str = "state.json";
/// Where a step's entry keeps its final checkpoint.
pub const CHECKPOINT_DIR: &str = "checkpoint";

impl CheckpointState {
    pub fn read(dir: &Path) -> Result<Self, StepError> {
        let path = dir.join(STATE_FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|e| StepError::other(format!("cannot read checkpoint {}: {e}", path.display())))?;
        let version: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| StepError::other(format!("{} is not a checkpoint's state: {e}", path.display())))?;
        if version["format"] != checkpoint::FORMAT {
            return Err(StepError::other(format!(
                "{} has checkpoint format {}, this version reads format {}; train again, or use the version that wrote it",
                path.display(),
                version["format"],
                checkpoint::FORMAT
            )));
        }
        serde_json::from_value(version)
            .map_err(|e| StepError::other(format!("{} is not a checkpoint's state: {e}", path.display())))
    }
}

pub struct Loaded {
    pub live: Live,
    pub session: Rc<Session>,
    /// Parameters by node, in graph order, under the names that checkpoints write.
    pub params: Vec<(String, NamedParam, NamedParam)>,
    /// The one source of bytes, by node.
    pub source_node: String,
    pub source: Rc<SourceHandle>,
    pub prepared: BTreeMap<String, serde_json::Value>,
    pub t: u64,
}

/// The nodes of `goals`' sub-graph that read byte corpora.
pub fn source_nodes(plan: &Plan, goals: &[&str]) -> Vec<String> {
    plan.subgraph(goals).into_iter().filter(|n| plan.inputs(n).is_empty() && plan.info::<Bytes>(n).is_some()).collect()
}

/// The backend that a run's options name.
pub fn backend(cx: &StepCx) -> Result<Rc<dyn Backend>, StepError> {
    match (cx.options.path.as_str(), cx.options.device.as_str()) {
        ("fused", "cpu") => Ok(Rc::new(Fused::new())),
        ("reference", "cpu") => Ok(Rc::new(Reference::<f32, dfdx::tensor::Cpu>::new())),
        ("fused" | "reference", device) => Err(StepError::other(format!(
            "device `{device}` is not in this build; use `device: cpu`"
        ))),
        (path, _) => Err(StepError::other(format!("path `{path}` is not `fused` or `reference`"))),
    }
}

impl Loaded {
    /// Builds `goals`' sub-graph, reads parameters and what was learned from earlier steps, and learns what is left.
    pub fn open(cx: &mut StepCx, goals: &[&str]) -> Result<Self, StepError> {
        let sources = source_nodes(&cx.plan, goals);
        let [source_node] = sources.as_slice() else {
            return Err(StepError::other(format!(
                "`{}` reads from {} sources ({}); a step reads from one",
                goals.join("`, `"),
                sources.len(),
                sources.join(", ")
            )));
        };
        let session = Rc::new(Session::new(backend(cx)?));
        let world = World::new();
        world.insert_rc(session.clone());
        let live = Live::build(&cx.plan, goals, world)?;
        let source = live.facility::<SourceHandle>(source_node).ok_or_else(|| {
            StepError::other(format!("node `{source_node}` gives bytes without a source behind it; provide a `SourceHandle`"))
        })?;
        let mut loaded = Loaded {
            params: checkpoint_names(&live),
            live,
            session,
            source_node: source_node.clone(),
            source,
            prepared: BTreeMap::new(),
            t: 0,
        };
        for entry in cx.earlier() {
            let dir = entry.dir.join(CHECKPOINT_DIR);
            if dir.is_dir() {
                loaded.restore(&dir, false)?;
            }
        }
        loaded.prepare(cx)?;
        Ok(loaded)
    }

    /// Reads from a checkpoint what it has for this sub-graph's nodes. `complete`: it must have every parameter.
    pub fn restore(&mut self, dir: &Path, complete: bool) -> Result<(), StepError> {
        let state = CheckpointState::read(dir)?;
        let path = dir.join(checkpoint::MODEL_FILE);
        let file = TensorFile::open(&path).map_err(StepError::other)?;
        for (node, canonical, _) in &self.params {
            let Some(stored) = state.nodes.get(node).and_then(|names| names.get(&canonical.name)) else {
                match complete || state.nodes.contains_key(node) {
                    true => {
                        let missing = CheckpointError::Missing { path, name: canonical.name.clone() };
                        return Err(StepError::other(missing));
                    }
                    false => continue,
                }
            };
            let data = file.get(stored, &canonical.stored_shape()).map_err(StepError::other)?;
            self.session.backend.write_param(canonical.id, &data);
        }
        for (node, learned) in &state.prepared {
            if let Some(p) = self.live.facility::<Prepared>(node) {
                p.0.restore(learned)?;
                self.prepared.insert(node.clone(), learned.clone());
            }
        }
        self.t = state.t;
        Ok(())
    }

    /// Lets every node that has something to learn learn it, in graph order: a later one may run on an earlier one's output.
    fn prepare(&mut self, cx: &mut StepCx) -> Result<(), StepError> {
        for (node, prepared) in self.live.facilities::<Prepared>() {
            let Some(part) = prepared.0.wants() else { continue };
            let mut reader = self.reader(part, false, &[])?;
            let goal = self.live.default_output(&node);
            prepared.0.begin();
            let mut seen = 0u64;
            while seen < prepared.0.max_bytes() {
                cx.check_interrupt()?;
                let Some(batch) = reader.next_batch(PREPARE_BATCH, self.source.span_bytes)? else { break };
                seen += batch.n_counted_bytes() as u64;
                self.live.world().insert(Feed(Rc::new(batch)));
                self.live.run(&[&goal])?;
            }
            let learned = prepared.0.finish()?;
            self.prepared.insert(node, learned);
        }
        self.session.take_flops();
        Ok(())
    }

    /// Opens the source's documents of `part`, in file order.
    pub fn reader(&self, part: Part, shuffled: bool, scalars: &[String]) -> Result<Box<dyn DocumentReader>, StepError> {
        todo!()
    }

    pub fn ids(&self) -> Vec<ParamId> {
        self.params.iter().map(|(_, p, _)| p.id).collect()
    }

    pub fn n_parameters(&self) -> usize {
        self.params.iter().map(|(_, p, _)| p.n_elements()).sum()
    }

    /// Writes a checkpoint directory, whole or not at all.
    pub fn save(&self, dir: &Path, t: u64, training: Option<serde_json::Value>) -> Result<(), StepError> {
        let partial: PathBuf = dir.with_extension("partial");
        let io = |e: std::io::Error| StepError::other(format!("cannot write checkpoint {}: {e}", dir.display()));
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(io)?;
        }
        std::fs::create_dir_all(&partial).map_err(io)?;
        let stored: Vec<NamedParam> = self.params.iter().map(|(_, _, stored)| stored.clone()).collect();
        let backend = &*self.session.backend;
        checkpoint::save_params(&partial, &stored, backend).map_err(StepError::other)?;
        checkpoint::save_moments(&partial, &stored, backend).map_err(StepError::other)?;
        let mut nodes: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (node, canonical, stored) in &self.params {
            nodes.entry(node.clone()).or_default().insert(canonical.name.clone(), stored.name.clone());
        }
        let state = CheckpointState { format: checkpoint::FORMAT, t, nodes, prepared: self.prepared.clone(), training };
        let text = serde_json::to_string_pretty(&state).map_err(StepError::other)?;
        write_atomic(&partial.join(STATE_FILE), text.as_bytes())?;
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(io)?;
        }
        std::fs::rename(&partial, dir).map_err(io)
    }
}

/// Bytes in a batch while nodes learn.
const PREPARE_BATCH: usize = 64 * 1024;

/// The names that checkpoints write: canonical ones, with the node in front where two nodes claim the same.
fn checkpoint_names(live: &Live) -> Vec<(String, NamedParam, NamedParam)> {
    let sets = live.facilities::<ParamSet>();
    let mut claims: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, set) in &sets {
        set.0.iter().for_each(|p| *claims.entry(&p.name).or_default() += 1);
    }
    let mut named = Vec::new();
    for (node, set) in &sets {
        for p in &set.0 {
            let mut stored = p.clone();
            if claims[p.name.as_str()] > 1 {
                stored.name = format!("{node}/{}", p.name);
            }
            named.push((node.clone(), p.clone(), stored));
        }
    }
    named
}
