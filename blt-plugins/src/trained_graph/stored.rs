//! Reads and writes a graph's checkpoints, and computes its digest.

use super::TrainedGraph;
use crate::checkpoint::{self, CheckpointState, StateError, StoredModel};
use crate::device;
use crate::facilities;
use crate::recognise::{self, Found, NotBlt};
use blt_core::backend::ParamId;
use blt_core::checkpoint::{CheckpointError, FORMAT, MODEL_FILE};
use blt_core::checkpoint::{load_moments, save_moments, save_params};
use blt_core::params::NamedParam;
use blt_core::strict;
use blt_core::tensor_file::TensorFile;
use blt_graph::{PlannedNode, StepError, write_atomic};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

impl TrainedGraph {
    /// Reads parameters and learned values of the nodes of this graph from the checkpoint `dir`. If
    /// `complete`, the checkpoint must have every parameter. Returns the state of the training loop
    /// that [`save`](TrainedGraph::save) was given.
    ///
    /// # Errors
    /// If the checkpoint cannot be read, or a tensor is missing or has another shape.
    pub fn restore(&mut self, dir: &Path, complete: bool) -> Result<Option<Value>, StepError> {
        let state = CheckpointState::read(dir).map_err(StateError::into_step_error)?;
        checkpoint::verify(dir).map_err(StateError::into_step_error)?;
        let path = dir.join(MODEL_FILE);
        let file = TensorFile::open(&path).map_err(CheckpointError::from)?;
        for p in &self.params {
            let names = state.nodes.get(&p.node);
            if names.is_none() && !complete {
                continue;
            }
            let name = &p.canonical.name;
            let stored = names.and_then(|names| names.get(name)).ok_or_else(|| {
                CheckpointError::Missing { path: path.clone(), name: name.clone() }
            })?;
            let data =
                file.get_f32(stored, &p.canonical.stored_shape()).map_err(CheckpointError::from)?;
            self.backend().write_param(p.canonical.id, &data).map_err(device::failed)?;
        }
        for (node, learned) in state.prepared {
            if self.with_prepare(&node, |p| p.restore(&learned, dir)).transpose()?.is_some() {
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
    /// If a moment is missing or has another shape.
    pub fn restore_moments(&self, dir: &Path) -> Result<(), StepError> {
        Ok(load_moments(dir, &self.stored(), self.backend())?)
    }

    fn stored(&self) -> Vec<NamedParam> {
        self.params.iter().map(|p| p.stored.clone()).collect()
    }

    /// A digest of everything that outputs depend on apart from the documents: nodes, wires,
    /// parameters and learned values. The path of a checkpoint is not part of it.
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
            if files.is_none() {
                // Of a model in files, the contents are read below.
                let of_node = node.depends(&plan.base_dir);
                let of_node = of_node
                    .map_err(|e| StepError::Document(plan.diagnose(&node.name, &e).into()))?;
                of_node.iter().for_each(|what| add(what.as_bytes()));
            }
            match files.filter(|_| !self.trained) {
                Some(files) => {
                    for path in files {
                        let mut of_file = blake3::Hasher::new();
                        of_file.update_reader(strict::open(&path)?)?;
                        add(of_file.finalize().as_bytes());
                    }
                }
                None => {
                    for p in self.params.iter().filter(|p| p.node == node.name) {
                        add(p.canonical.name.as_bytes());
                        add(self.digest_of_param(p.canonical.id)?.as_bytes());
                    }
                }
            }
        }
        add(&serde_json::to_vec(&self.learned)?);
        Ok(hasher.finalize().to_hex()[..32].to_string())
    }

    fn digest_of_param(&self, id: ParamId) -> Result<blake3::Hash, StepError> {
        let mut hasher = blake3::Hasher::new();
        for values in self.backend().read_param(id)?.chunks(1 << 14) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
        Ok(hasher.finalize())
    }

    /// The BLT model in the graph, with the values that its nodes have learned so far.
    ///
    /// # Errors
    /// If the graph is not a BLT model, and why.
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

    /// Writes parameters, moments and learned values into the checkpoint directory `dir`, whole or
    /// not at all. `t`: the number of optimiser steps that led to the parameters. `training`: the
    /// state of the training loop, if a run can resume from the checkpoint.
    ///
    /// # Errors
    /// If the checkpoint cannot be written.
    pub fn save(&self, dir: &Path, t: u64, training: Option<Value>) -> Result<(), StepError> {
        self.save_with(dir, t, training, |_| Ok(()))
    }

    /// As [`save`](TrainedGraph::save); `more` writes files of a step's own into the directory.
    pub(crate) fn save_with(
        &self,
        dir: &Path,
        t: u64,
        training: Option<Value>,
        more: impl FnOnce(&Path) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        checkpoint::write(dir, |partial| {
            more(partial)?;
            let stored = self.stored();
            save_params(partial, &stored, self.backend())?;
            save_moments(partial, &stored, self.backend())?;
            let mut nodes: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
            for p in &self.params {
                let names = nodes.entry(p.node.clone()).or_default();
                names.insert(p.canonical.name.clone(), p.stored.name.clone());
            }
            for (_, facilities) in facilities::of_graph(&self.live) {
                facilities.save(partial)?;
            }
            let (prepared, model) = (self.learned.clone(), self.model().ok());
            let state = CheckpointState { format: FORMAT, t, nodes, prepared, model, training };
            let text = serde_json::to_string_pretty(&state)?;
            Ok(write_atomic(partial.join(checkpoint::STATE_FILE), text)?)
        })
    }
}
