//! Checkpoint directories: their `state.json`, where steps keep them, and how one is written whole
//! or not at all. `blt_core::checkpoint` reads and writes their tensors.

use blt_core::checkpoint::{FORMAT, MODEL_FILE, OPTIMIZER_FILE};
use blt_core::hf::ModelShape;
use blt_core::strict;
use blt_graph::run::store::{Damage, Seal};
use blt_graph::{NodeError, StepError, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of a checkpoint directory that holds its [`CheckpointState`].
pub const STATE_FILE: &str = "state.json";
/// The file of a checkpoint directory that holds the sizes and hashes of the others.
const SEAL_FILE: &str = "files.json";
/// The file of a checkpoint directory that holds the counts of a node.
pub fn counts_file(node: &str) -> String {
    format!("{node}.counts")
}

/// Where a step's directory keeps its final checkpoint.
pub const CHECKPOINT_DIR: &str = "checkpoints/final";
/// Where a step keeps the checkpoints that it resumes from, until it has finished.
const RESUME_DIR: &str = "resume";

/// `state.json`: the contents of a checkpoint directory other than tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// [`FORMAT`].
    pub format: u32,
    /// Number of optimiser steps that led to the parameters. Adam's bias correction continues from
    /// it.
    pub t: u64,
    /// For each node with parameters, the name of each parameter in the file, by its canonical
    /// name. The two differ where several nodes have a parameter of the same canonical name.
    pub nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// What nodes learned before training (thresholds, tokenizers), by node.
    pub prepared: BTreeMap<String, Value>,
    /// The model, if the sub-graph is a BLT model. A `Blt` node needs it to read the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<StoredModel>,
    /// The state of the training loop, if a run can resume from the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Value>,
}

/// A model in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredModel {
    /// The configuration of its parts.
    pub shape: ModelShape,
    /// The nodes that hold its parameters.
    pub nodes: Vec<String>,
}

/// Why a [`CheckpointState`], or another file of a checkpoint, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file cannot be read.
    #[error("cannot read checkpoint {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// `state.json` is not JSON, or lacks fields.
    #[error("{} is not a checkpoint's state: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with its contents.
        source: serde_json::Error,
    },
    /// A file is not as it was when the checkpoint was written.
    #[error("the checkpoint {} is damaged: {damage}", dir.display())]
    Changed {
        /// The checkpoint directory.
        dir: PathBuf,
        /// The difference.
        damage: Damage,
    },
    /// The checkpoint has another format than [`FORMAT`].
    #[error("{} has checkpoint format {found}, this version reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its `format`; null if it has none.
        found: Value,
    },
}

impl StateError {
    fn help(&self) -> Option<&'static str> {
        match self {
            StateError::Format { .. } => Some("train again, or use the version that wrote it"),
            StateError::Changed { .. } => {
                Some("copy it again from where it came, or train again with `--fresh`")
            }
            StateError::Read { .. } | StateError::Damaged { .. } => None,
        }
    }

    /// The error of a step, with what the user can do about it.
    pub fn into_step_error(self) -> StepError {
        match self.help() {
            Some(help) => StepError::other(self).help(help),
            None => StepError::other(self),
        }
    }

    /// The error of the parameter `name`, which names the checkpoint.
    pub fn at_param(self, name: &str) -> NodeError {
        match self.help() {
            Some(help) => NodeError::param(name, self).help(help),
            None => NodeError::param(name, self),
        }
    }
}

impl CheckpointState {
    /// Reads `dir/state.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or has a format that this version does not know.
    pub fn read(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(STATE_FILE);
        let damaged = |source| StateError::Damaged { path: path.clone(), source };
        let text = strict::read_to_string(&path)
            .map_err(|source| StateError::Read { path: path.clone(), source })?;
        let value: Value = serde_json::from_str(&text).map_err(damaged)?;
        if value["format"] != FORMAT {
            return Err(StateError::Format { path, found: value["format"].clone() });
        }
        serde_json::from_value(value).map_err(damaged)
    }
}

/// Compares the files of a checkpoint with their sizes and hashes. A checkpoint of an earlier
/// version has none, and passes.
///
/// # Errors
/// If a file cannot be read, or is not as it was when the checkpoint was written.
pub fn verify(dir: &Path) -> Result<(), StateError> {
    let path = dir.join(SEAL_FILE);
    let text = match strict::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|source| StateError::Read { path: path.clone(), source })?,
    };
    let seal: Seal = serde_json::from_slice(&text)
        .map_err(|source| StateError::Damaged { path: path.clone(), source })?;
    let damage = seal.damage(dir, &[SEAL_FILE]).map_err(|error| {
        let blt_graph::FileError { path, source, .. } = error;
        StateError::Read { path, source }
    })?;
    damage.map_or(Ok(()), |damage| Err(StateError::Changed { dir: dir.to_owned(), damage }))
}

/// Digests of the files of a checkpoint, each as `NAME DIGEST`.
///
/// # Errors
/// If a file cannot be read, or the state has an unknown format.
pub fn digests(dir: &Path) -> Result<Vec<String>, StateError> {
    CheckpointState::read(dir)?;
    let digest = |file: &str| {
        let path = dir.join(file);
        match strict::read(&path) {
            Ok(bytes) => Ok(format!("{file} {}", blake3::hash(&bytes))),
            Err(source) => Err(StateError::Read { path, source }),
        }
    };
    [STATE_FILE, MODEL_FILE, OPTIMIZER_FILE].into_iter().map(digest).collect()
}

/// Writes the checkpoint directory `dir`, whole or not at all: `fill` writes the files into a
/// directory next to it, which then replaces `dir`.
///
/// # Errors
/// Errors of `fill`, or if a directory cannot be created or renamed.
pub fn write(
    dir: &Path,
    fill: impl FnOnce(&Path) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let partial = dir.with_extension("partial");
    let failed = |e: std::io::Error| {
        StepError::other(format!("cannot write checkpoint {}: {e}", dir.display()))
    };
    let replace = || {
        remove(&partial).map_err(failed)?;
        std::fs::create_dir_all(&partial).map_err(failed)?;
        fill(&partial)?;
        let seal = serde_json::to_vec_pretty(&Seal::of(&partial, &[])?)?;
        write_atomic(partial.join(SEAL_FILE), seal)?;
        remove(dir).map_err(failed)?;
        std::fs::rename(&partial, dir).map_err(failed)
    };
    replace().map_err(|error| {
        // Best effort: free the space. Ignore a failure here; the first error matters more.
        let _ = std::fs::remove_dir_all(&partial);
        error.help(
            "make room there, or give another folder with `--runs`; a stopped step goes on from its last checkpoint",
        )
    })
}

fn remove(dir: &Path) -> std::io::Result<()> {
    if dir.exists() { std::fs::remove_dir_all(dir) } else { Ok(()) }
}

/// The folder of the checkpoints that a step resumes from. A checkpoint is named after the number
/// of optimiser steps that led to it; all but the newest are removed.
pub struct ResumeFolder {
    dir: PathBuf,
}

impl ResumeFolder {
    /// The folder of the step whose directory is `step`.
    pub fn of(step: &Path) -> Self {
        ResumeFolder { dir: step.join(RESUME_DIR) }
    }

    /// The newest complete checkpoint, if there is one. If it is damaged, says so by `message` and
    /// removes the folder: the step then begins anew.
    ///
    /// # Errors
    /// If the folder cannot be listed, or a file cannot be read.
    pub fn latest(&self, message: impl FnOnce(&str)) -> Result<Option<PathBuf>, StepError> {
        if !self.dir.exists() {
            return Ok(None);
        }
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(&self.dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        // Partial checkpoints have an extension.
        found.retain(|path| path.extension().is_none());
        found.sort();
        let Some(latest) = found.pop() else { return Ok(None) };
        match verify(&latest) {
            Ok(()) => Ok(Some(latest)),
            Err(error @ (StateError::Changed { .. } | StateError::Damaged { .. })) => {
                message(&format!("warning: {error}; the step begins anew"));
                self.remove()?;
                Ok(None)
            }
            Err(error) => Err(error.into_step_error()),
        }
    }

    /// The directory of the checkpoint after `step` steps.
    pub fn at(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{step:08}"))
    }

    /// Removes all checkpoints but the one after `step` steps.
    ///
    /// # Errors
    /// If the folder cannot be listed, or a checkpoint cannot be removed.
    pub fn keep_only(&self, step: u64) -> std::io::Result<()> {
        let kept = self.at(step);
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path != kept {
                std::fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Removes the folder, once the step has finished.
    ///
    /// # Errors
    /// If the folder cannot be removed.
    pub fn remove(&self) -> std::io::Result<()> {
        // Renamed first: if the process is killed while it removes files, no incomplete checkpoint
        // may be left to resume from.
        let done = self.dir.with_extension("done");
        if self.dir.exists() {
            std::fs::rename(&self.dir, &done)?;
        }
        remove(&done)
    }
}
