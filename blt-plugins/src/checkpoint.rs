//! A checkpoint directory: `state.json` beside the tensors, where steps keep checkpoints, and how
//! one is written whole or not at all. The tensors are `blt_core::checkpoint`'s.

use blt_core::checkpoint::{FORMAT, MODEL_FILE, OPTIMIZER_FILE};
use blt_core::hf::ModelShape;
use blt_graph::StepError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of a checkpoint directory that holds its [`CheckpointState`].
pub const STATE_FILE: &str = "state.json";
/// Where a step's directory keeps its final checkpoint.
pub const CHECKPOINT_DIR: &str = "checkpoints/final";
/// Where a step that has not finished keeps the checkpoints that it resumes from.
const RESUME_DIR: &str = "resume";

/// `state.json`: what a checkpoint directory holds beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// [`FORMAT`].
    pub format: u32,
    /// Optimiser steps behind the parameters; Adam's bias correction counts on from here.
    pub t: u64,
    /// For each node with parameters: canonical name to the name in the file (they differ where
    /// two nodes claim one name).
    pub nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// What nodes learned before training: thresholds, tokenizers.
    pub prepared: BTreeMap<String, Value>,
    /// The model, if the sub-graph is a BLT model: what a `Blt` node needs to read the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<StoredModel>,
    /// The training loop's own state, in a checkpoint that a run resumes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Value>,
}

/// A model in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredModel {
    /// All of it but the parameters.
    pub shape: ModelShape,
    /// The nodes that hold its parameters.
    pub nodes: Vec<String>,
}

impl CheckpointState {
    /// Reads `dir/state.json`.
    ///
    /// # Errors
    /// If it cannot be read, or has a format that this version does not know.
    pub fn read(dir: &Path) -> Result<Self, StepError> {
        let path = dir.join(STATE_FILE);
        let damaged = |e: serde_json::Error| {
            StepError::other(format!("{} is not a checkpoint's state: {e}", path.display()))
        };
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
        let value: Value = serde_json::from_str(&text).map_err(damaged)?;
        let format = &value["format"];
        if *format != FORMAT {
            let what = format!(
                "{} has checkpoint format {format}, this version reads format {FORMAT}",
                path.display(),
            );
            return Err(
                StepError::other(what).help("train again, or use the version that wrote it")
            );
        }
        serde_json::from_value(value).map_err(damaged)
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> StepError {
    StepError::other(format!("cannot read checkpoint {}: {error}", path.display()))
}

/// Digests of a checkpoint's files, `NAME DIGEST` each.
///
/// # Errors
/// If one cannot be read, or the state is of an unknown format.
pub fn digests(dir: &Path) -> Result<Vec<String>, StepError> {
    CheckpointState::read(dir)?;
    let digest = |file: &str| {
        let path = dir.join(file);
        let bytes = std::fs::read(&path).map_err(|e| unreadable(&path, &e))?;
        Ok(format!("{file} {}", blake3::hash(&bytes)))
    };
    [STATE_FILE, MODEL_FILE, OPTIMIZER_FILE].into_iter().map(digest).collect()
}

/// Writes the checkpoint directory `dir`, whole or not at all: `fill` writes the files into a
/// directory beside it, which then takes the place of `dir`.
///
/// # Errors
/// What `fill` answers, or if the directory cannot be made or renamed.
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

/// The checkpoints from which a step resumes, in a folder of the step's directory. Each is named
/// after the number of steps behind it; all but the newest are removed.
pub struct ResumeFolder {
    dir: PathBuf,
}

impl ResumeFolder {
    /// That of the step whose directory is `step`.
    pub fn of(step: &Path) -> Self {
        ResumeFolder { dir: step.join(RESUME_DIR) }
    }

    /// The newest whole checkpoint, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn latest(&self) -> std::io::Result<Option<PathBuf>> {
        if !self.dir.exists() {
            return Ok(None);
        }
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(&self.dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        // Partial ones have an extension.
        found.retain(|path| path.extension().is_none());
        found.sort();
        Ok(found.pop())
    }

    /// The directory of the checkpoint after `step` steps.
    pub fn at(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{step:08}"))
    }

    /// Removes all checkpoints but the one after `step` steps.
    ///
    /// # Errors
    /// If the folder cannot be listed, or one cannot be removed.
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
    /// If it cannot be removed.
    pub fn remove(&self) -> std::io::Result<()> {
        // Renamed first: a kill in the middle of removing must not leave half a checkpoint to
        // resume from.
        let done = self.dir.with_extension("done");
        if self.dir.exists() {
            std::fs::rename(&self.dir, &done)?;
        }
        remove(&done)
    }
}
