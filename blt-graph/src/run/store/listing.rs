//! What the store holds, and what is removed from it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::files::FileError;
use crate::run::store::claim::PARTIAL;
use crate::run::store::folder::{Store, TRASH};
use crate::run::store::lock::{Lock, try_lock};
use crate::run::store::record::read_record;

/// A step in the store, as [`Store::list`] returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreEntry {
    /// The key.
    pub key: String,
    /// The kind of step; empty if its record cannot be read.
    pub step: String,
    /// The step's goals.
    pub goals: Vec<String>,
    /// The pipeline, variant and seed that the step first ran for; empty if its record cannot be
    /// read.
    pub made_by: String,
    /// When the step finished, UTC; empty if its record cannot be read.
    pub created: String,
    /// The size of its files in bytes.
    pub bytes: u64,
    /// Whether it was interrupted, or is running now.
    pub partial: bool,
    /// Its directory.
    pub dir: PathBuf,
}

impl StoreEntry {
    /// Whether the step finished, or what an interrupted one left was last written, longer ago.
    pub fn is_older_than(&self, age: chrono::Duration) -> bool {
        let created =
            DateTime::parse_from_rfc3339(&self.created).map(|time| time.with_timezone(&Utc));
        // An interrupted step has no record of its end.
        let written =
            || fs::metadata(&self.dir).and_then(|meta| meta.modified()).map(DateTime::<Utc>::from);
        created.ok().or_else(|| written().ok()).is_some_and(|time| Utc::now() - time > age)
    }
}

/// The keys of the steps that a run in the folder `runs` names in its `steps.json`.
///
/// # Errors
/// If a folder cannot be read.
pub fn named(runs: &Path) -> Result<BTreeSet<String>, FileError> {
    let folders = |folder: &Path| -> Result<Vec<PathBuf>, FileError> {
        match fs::read_dir(folder) {
            Ok(items) => items
                .map(|item| Ok(item.map_err(FileError::on("read", folder))?.path()))
                .filter(|path| path.as_ref().is_ok_and(|path| path.is_dir()) || path.is_err())
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(FileError::on("read", folder)(error)),
        }
    };
    let mut keys = BTreeSet::new();
    for pipeline in folders(runs)? {
        for run in folders(&pipeline)? {
            if let Ok(text) = fs::read(run.join("steps.json")) {
                keys.extend(serde_json::from_slice::<Vec<String>>(&text).unwrap_or_default());
            }
        }
    }
    Ok(keys)
}

/// The result of [`Store::clean`].
#[derive(Debug, Default)]
pub struct Cleaned {
    /// The steps that were removed.
    pub removed: Vec<StoreEntry>,
    /// The steps that were chosen and not removed, because a process uses them.
    pub in_use: Vec<StoreEntry>,
}

impl Store {
    /// Every step in the store, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<StoreEntry>, FileError> {
        let folder = match fs::read_dir(&self.root) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(FileError::on("read", &self.root)(error)),
        };
        let mut entries = Vec::new();
        for item in folder {
            let item = item.map_err(FileError::on("read", &self.root))?;
            let dir = item.path();
            let name = item.file_name().to_string_lossy().into_owned();
            if name == "locks" || !dir.is_dir() {
                continue;
            }
            if name.ends_with(TRASH) {
                // Left by a process that was killed while it removed a step.
                fs::remove_dir_all(&dir).map_err(FileError::on("remove", &dir))?;
                continue;
            }
            let record = read_record(&dir);
            let text = |key: &str| {
                record
                    .as_ref()
                    .and_then(|r| r.what.get(key))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_string()
            };
            let goals = record.as_ref().and_then(|r| r.what.get("goals")).and_then(Value::as_array);
            entries.push(StoreEntry {
                key: name.strip_suffix(PARTIAL).unwrap_or(&name).to_string(),
                step: text("step"),
                goals: goals
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(String::from)
                    .collect(),
                made_by: record.as_ref().map_or_else(String::new, |record| record.made_by.clone()),
                created: record.as_ref().map_or_else(String::new, |record| record.created.clone()),
                bytes: size(&dir).map_err(FileError::on("read", &dir))?,
                partial: name.ends_with(PARTIAL),
                dir,
            });
        }
        entries
            .sort_by(|a, b| (&a.created, &a.key, a.partial).cmp(&(&b.created, &b.key, b.partial)));
        Ok(entries)
    }

    /// Removes every step for which `choose` returns true, except those in use. Files that runs
    /// have linked stay in those runs.
    ///
    /// # Errors
    /// If the folder cannot be read or written to.
    pub fn clean(&self, choose: impl Fn(&StoreEntry) -> bool) -> Result<Cleaned, FileError> {
        let mut cleaned = Cleaned::default();
        for entry in self.list()? {
            if !choose(&entry) {
                continue;
            }
            let lock = self.lock_file(&entry.key)?;
            if try_lock(&lock, &entry.dir, Lock::Alone)? {
                self.trash(&entry.dir)?;
                cleaned.removed.push(entry);
            } else {
                cleaned.in_use.push(entry);
            }
        }
        Ok(cleaned)
    }
}

fn size(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for item in fs::read_dir(dir)? {
        let item = item?;
        let meta = match item.metadata() {
            Ok(meta) => meta,
            // A running step replaces its files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        bytes += if meta.is_dir() { size(&item.path())? } else { meta.len() };
    }
    Ok(bytes)
}
