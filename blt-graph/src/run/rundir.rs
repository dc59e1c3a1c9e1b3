//! A run's directory: its name, its status, and `latest`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use crate::files::{FileError, write_atomic};
use crate::run::time::spell;

/// `status.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The state of the run.
    pub state: State,
    /// The error message, if the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the run began, UTC.
    pub started: String,
    /// When the run ended, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The run goes on, or its process was killed.
    Running,
    /// All steps are done.
    Done,
    /// A step failed.
    Failed,
    /// The user stopped the run.
    Interrupted,
}

/// A run's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    /// The path.
    pub path: PathBuf,
    /// The name of the directory.
    pub id: String,
}

impl RunDir {
    /// Makes a new directory for a run of the pipeline `name`, and points `latest` at it.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn create(runs_dir: &Path, name: &str) -> Result<Self, FileError> {
        let folder = runs_dir.join(name);
        fs::create_dir_all(&folder).map_err(FileError::on("create", &folder))?;
        let now = Utc::now();
        let time = spell(now).replace([':', '-'], "");
        for attempt in 0u32.. {
            let unique = format!("{name} {} {now:?} {attempt}", std::process::id());
            let hash = blake3::hash(unique.as_bytes()).to_hex();
            let id = format!("{time}-{}", &hash[..4]);
            let path = folder.join(&id);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let dir = RunDir { path, id };
                    dir.point_latest(&folder)?;
                    return Ok(dir);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => {}
                Err(error) => return Err(FileError::on("create", &path)(error)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// The newest run of the pipeline `name`, if it did not finish and its `resolved.yaml` is
    /// `resolved`.
    pub(crate) fn unfinished(runs_dir: &Path, name: &str, resolved: &str) -> Option<Self> {
        let folder = runs_dir.join(name);
        let id = fs::read_dir(&folder)
            .ok()?
            .filter_map(|item| Some(item.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|id| folder.join(id).join("status.json").is_file() && id != "latest")
            .max()?;
        let dir = RunDir { path: folder.join(&id), id };
        let same = fs::read_to_string(dir.path.join("resolved.yaml")).ok()? == resolved;
        (same && dir.status()?.state != State::Done).then_some(dir)
    }

    #[cfg(unix)]
    fn point_latest(&self, folder: &Path) -> Result<(), FileError> {
        let (latest, temporary) =
            (folder.join("latest"), folder.join(format!(".latest.{}", std::process::id())));
        let result = std::os::unix::fs::symlink(&self.id, &temporary)
            .and_then(|()| fs::rename(&temporary, &latest));
        result.map_err(FileError::on("link", &latest))
    }

    #[cfg(not(unix))]
    fn point_latest(&self, folder: &Path) -> Result<(), FileError> {
        // Links need a privilege on other systems; a file with the name serves programs.
        write_atomic(folder.join("latest"), &self.id)
    }

    /// The content of `status.json`, if it can be read.
    pub fn status(&self) -> Option<Status> {
        serde_json::from_slice(&fs::read(self.path.join("status.json")).ok()?).ok()
    }

    /// Writes `status.json`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_status(&self, status: &Status) -> Result<(), FileError> {
        let path = self.path.join("status.json");
        let text = serde_json::to_vec_pretty(status)
            .map_err(|e| FileError::on("write", &path)(io::Error::other(e)))?;
        write_atomic(&path, text)
    }
}
