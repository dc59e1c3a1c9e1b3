//! A run's directory: its name, its status, and `latest`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::files::{FileError, write_atomic};

/// `status.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// How far the run is.
    pub state: State,
    /// Why it failed, as the user was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it began, UTC.
    pub started: String,
    /// When it ended, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs, or was killed without a chance to say so.
    Running,
    /// All steps are done.
    Done,
    /// A step failed.
    Failed,
    /// It was asked to stop.
    Interrupted,
}

/// A run's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    /// Where it is.
    pub path: PathBuf,
    /// Its name.
    pub id: String,
}

impl RunDir {
    /// Makes a new one for the pipeline `name`, and points `latest` at it.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn create(runs_dir: &Path, name: &str) -> Result<Self, FileError> {
        let folder = runs_dir.join(name);
        fs::create_dir_all(&folder).map_err(FileError::on("create", &folder))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for attempt in 0u32.. {
            let unique = format!("{name} {} {} {attempt}", std::process::id(), now.as_nanos());
            let hash = blake3::hash(unique.as_bytes()).to_hex();
            let time = utc_at(now.as_secs()).replace([':', '-'], "");
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

    /// The newest run of the pipeline `name`, if it did not finish and was of the same resolved
    /// pipeline.
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
        // Links need a privilege elsewhere; a file with the name serves programs.
        write_atomic(folder.join("latest"), &self.id)
    }

    /// What `status.json` says.
    pub fn status(&self) -> Option<Status> {
        serde_json::from_slice(&fs::read(self.path.join("status.json")).ok()?).ok()
    }

    /// Writes `status.json`.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn set_status(&self, status: &Status) -> Result<(), FileError> {
        let path = self.path.join("status.json");
        let text = serde_json::to_vec_pretty(status)
            .map_err(|e| FileError::on("write", &path)(io::Error::other(e)))?;
        write_atomic(&path, text)
    }
}

/// Now, as `2026-01-31T12:00:00Z`.
pub fn utc() -> String {
    utc_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// `seconds` after 1970 began, as `2026-01-31T12:00:00Z`.
fn utc_at(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day at the end; eras of 400 such years are equally
    // long (146097 days).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::utc_at;

    #[test]
    fn times_of_known_days() {
        assert_eq!(utc_at(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_at(951_826_154), "2000-02-29T12:09:14Z");
        assert_eq!(utc_at(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(utc_at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
