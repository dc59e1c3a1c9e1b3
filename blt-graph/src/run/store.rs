//! The step store: a step's files under the key of all that they depend on, so that an unchanged
//! step is not run again.
//!
//! ```text
//! runs/.store/<key>/           a finished step: what it wrote, and step.json (key, what the key is made of, when)
//! runs/.store/<key>.partial/   one that is running, or was stopped: where it is taken up again
//! runs/.store/locks/<key>      held by the process that runs the step (alone) or uses its files (together with others)
//! ```
//!
//! A finished directory appears by one rename, so it is whole or not there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::{FileError, write_atomic};
use crate::run::utc;

/// The version of the layout above and of what keys are made of. Part of every key.
pub const STORE_FORMAT: u32 = 1;

const RECORD: &str = "step.json";
const PARTIAL: &str = ".partial";
const TRASH: &str = ".trash";

/// `step.json`: what a directory of the store holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The key.
    pub key: String,
    /// All that the key is a hash of.
    pub what: Value,
    /// Who ran it, for the listing: the first of those that use it.
    #[serde(default)]
    pub made_by: String,
    /// When the step finished (of a partial one: when it began), UTC.
    pub created: String,
}

/// The key of what `what` describes: blake3 over its canonical JSON (maps in order of their keys),
/// 32 hex digits.
pub fn key_of(what: &Value) -> String {
    blake3::hash(canonical(what).to_string().as_bytes()).to_hex()[..32].to_string()
}

fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, Value> =
                map.iter().map(|(key, value)| (key, canonical(value))).collect();
            Value::Object(
                sorted.into_iter().map(|(key, value)| (key.clone(), value)).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

/// A folder of finished and interrupted steps.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What [`Store::claim`] found.
#[derive(Debug)]
pub enum Claim {
    /// The step is done.
    Finished(Finished),
    /// The step is to be run, by the caller alone.
    Work(Work),
    /// The caller's `wait` gave up while another process ran the step.
    GaveUp,
}

/// A finished step's files, which no `clean` removes while this lives.
#[derive(Debug)]
pub struct Finished {
    /// Where they are.
    pub dir: PathBuf,
    _lock: File,
}

/// A step to be run, which no other process runs meanwhile.
#[derive(Debug)]
pub struct Work {
    root: PathBuf,
    record: StepRecord,
    resumed: bool,
    lock: File,
}

/// A line of the store's listing.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreEntry {
    /// The key.
    pub key: String,
    /// The step's name; empty if its record cannot be read.
    pub step: String,
    /// Its goals.
    pub goals: Vec<String>,
    /// The pipeline, variant and seed that it was first run for; empty if its record cannot be
    /// read.
    pub made_by: String,
    /// When it was made, UTC; empty if its record cannot be read.
    pub created: String,
    /// The size of its files.
    pub bytes: u64,
    /// Interrupted, or running now.
    pub partial: bool,
    /// Where it is.
    pub dir: PathBuf,
}

/// What [`Store::clean`] did.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// What was removed.
    pub removed: Vec<StoreEntry>,
    /// What was chosen, but is in use by a process.
    pub in_use: Vec<StoreEntry>,
}

impl Store {
    /// The store in the folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Store { root: root.into() }
    }

    /// Where a finished step of this key is, or will be.
    pub fn dir(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Whether a finished step of this key is there.
    pub fn has(&self, key: &str) -> bool {
        read_record(&self.dir(key)).is_some_and(|record| record.key == key)
    }

    /// The finished files of the step that `what` describes, or the right to make them. `fresh`
    /// throws away what an interrupted run left. While another process is at it, `wait` is
    /// called every 100 ms or so, and says whether to go on waiting. `made_by` is who asks, for
    /// the listing.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn claim(
        &self,
        what: &Value,
        made_by: &str,
        fresh: bool,
        mut wait: impl FnMut() -> bool,
    ) -> Result<Claim, FileError> {
        let key = key_of(what);
        let dir = self.dir(&key);
        let lock = self.lock_file(&key)?;
        loop {
            if try_lock(&lock, &dir, Lock::Shared)? {
                if self.has(&key) {
                    return Ok(Claim::Finished(Finished { dir, _lock: lock }));
                }
                lock.unlock().map_err(FileError::on("unlock", &dir))?;
            }
            if try_lock(&lock, &dir, Lock::Alone)? {
                if self.has(&key) {
                    // Finished between the two locks.
                    lock.unlock().map_err(FileError::on("unlock", &dir))?;
                    continue;
                }
                return self.start(what, made_by, key, fresh, lock).map(Claim::Work);
            }
            if !wait() {
                return Ok(Claim::GaveUp);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Removes a finished step, unless a process uses it.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn discard(&self, key: &str) -> Result<(), FileError> {
        let (dir, lock) = (self.dir(key), self.lock_file(key)?);
        if try_lock(&lock, &dir, Lock::Alone)? && dir.exists() {
            self.trash(&dir)?;
        }
        Ok(())
    }

    fn start(
        &self,
        what: &Value,
        made_by: &str,
        key: String,
        fresh: bool,
        lock: File,
    ) -> Result<Work, FileError> {
        let dir = self.dir(&key);
        if dir.exists() {
            // Not written by this program, which renames whole directories: somebody changed it.
            self.trash(&dir)?;
        }
        let partial = self.root.join(format!("{key}{PARTIAL}"));
        let old = read_record(&partial).is_some_and(|record| record.key == key);
        if partial.exists() && (fresh || !old) {
            self.trash(&partial)?;
        }
        let resumed = old && !fresh;
        let record =
            StepRecord { key, what: what.clone(), made_by: made_by.to_owned(), created: utc() };
        if !resumed {
            fs::create_dir_all(&partial).map_err(FileError::on("create", &partial))?;
            write_record(&partial, &record)?;
        }
        Ok(Work { root: self.root.clone(), record, resumed, lock })
    }

    fn lock_file(&self, key: &str) -> Result<File, FileError> {
        let folder = self.root.join("locks");
        fs::create_dir_all(&folder).map_err(FileError::on("create", &folder))?;
        let path = folder.join(key);
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(FileError::on("open", &path))
    }

    /// Removes a directory so that no part of it is ever taken for the whole.
    fn trash(&self, dir: &Path) -> Result<(), FileError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let trash = self.root.join(format!("{name}.{}{TRASH}", std::process::id()));
        fs::rename(dir, &trash).map_err(FileError::on("remove", dir))?;
        fs::remove_dir_all(&trash).map_err(FileError::on("remove", &trash))
    }

    /// Everything in the store, oldest first.
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
                // Left by a process that was killed while it removed something.
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

    /// Removes every entry that `choose` says yes to, except those in use. What runs linked from it
    /// keeps its files.
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

impl Work {
    /// The directory to write into.
    pub fn dir(&self) -> PathBuf {
        self.root.join(format!("{}{PARTIAL}", self.record.key))
    }

    /// Whether it holds what an interrupted run left.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Makes the directory visible as finished.
    ///
    /// # Errors
    /// If the disk refuses; then it stays partial.
    pub fn finish(self) -> Result<Finished, FileError> {
        let (partial, dir) = (self.dir(), self.root.join(&self.record.key));
        write_record(&partial, &StepRecord { created: utc(), ..self.record })?;
        sync(&partial).map_err(FileError::on("write", &partial))?;
        fs::rename(&partial, &dir).map_err(FileError::on("rename", &partial))?;
        self.lock.lock_shared().map_err(FileError::on("lock", &dir))?;
        Ok(Finished { dir, _lock: self.lock })
    }
}

#[derive(Clone, Copy)]
enum Lock {
    Shared,
    Alone,
}

fn try_lock(file: &File, dir: &Path, lock: Lock) -> Result<bool, FileError> {
    let taken = match lock {
        Lock::Shared => file.try_lock_shared(),
        Lock::Alone => file.try_lock(),
    };
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(FileError::on("lock", dir)(error)),
    }
}

fn read_record(dir: &Path) -> Option<StepRecord> {
    serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()
}

fn write_record(dir: &Path, record: &StepRecord) -> Result<(), FileError> {
    let path = dir.join(RECORD);
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| FileError::on("write", &path)(io::Error::other(error)))?;
    write_atomic(&path, text)
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

/// Flushes every file to the disk, so that the rename that follows does not outlive their contents.
fn sync(dir: &Path) -> io::Result<()> {
    for item in fs::read_dir(dir)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            sync(&item.path())?;
        } else {
            File::open(item.path())?.sync_all()?;
        }
    }
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn work(store: &Store, what: &Value, fresh: bool) -> Work {
        match store.claim(what, "a test", fresh, || false).unwrap() {
            Claim::Work(work) => work,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_ignore_the_order_of_maps_and_nothing_else() {
        let a = json!({"x": 1, "y": {"p": [1, 2], "q": 0}});
        let b = json!({"y": {"q": 0, "p": [1, 2]}, "x": 1});
        assert_eq!(key_of(&a), key_of(&b));
        assert_ne!(key_of(&a), key_of(&json!({"x": 1, "y": {"p": [2, 1], "q": 0}})));
        assert_ne!(key_of(&json!(1)), key_of(&json!(1.0)));
    }

    #[test]
    fn finished_work_is_found_again_and_partial_work_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let what = json!({"step": "count", "goals": ["a"]});
        let first = work(&store, &what, false);
        assert!(!first.resumed());
        fs::write(first.dir().join("state"), "half").unwrap();
        drop(first);
        let again = work(&store, &what, false);
        assert!(again.resumed());
        assert_eq!(fs::read_to_string(again.dir().join("state")).unwrap(), "half");
        drop(again);
        let fresh = work(&store, &what, true);
        assert!(!fresh.resumed() && !fresh.dir().join("state").exists());
        fs::write(fresh.dir().join("state"), "whole").unwrap();
        let done = fresh.finish().unwrap();
        let Claim::Finished(found) = store.claim(&what, "a test", false, || false).unwrap() else {
            panic!("not found")
        };
        assert_eq!(found.dir, done.dir);
        assert_eq!(fs::read_to_string(found.dir.join("state")).unwrap(), "whole");
        let listed = store.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (listed[0].step.as_str(), listed[0].partial, &listed[0].goals[0][..]),
            ("count", false, "a")
        );
        // In use twice: not cleaned.
        assert_eq!(store.clean(|_| true).unwrap().in_use.len(), 1);
        drop((found, done));
        assert_eq!(store.clean(|_| true).unwrap().removed.len(), 1);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn one_process_runs_a_step_and_the_other_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let what = json!({"step": "slow"});
        let mut running = Some(work(&store, &what, false));
        assert!(matches!(store.claim(&what, "a test", false, || false).unwrap(), Claim::GaveUp));
        let claim = store.claim(&what, "a test", false, || {
            running.take().unwrap().finish().unwrap();
            true
        });
        assert!(matches!(claim.unwrap(), Claim::Finished(_)));
    }

    #[test]
    fn a_directory_that_somebody_damaged_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let what = json!({"step": "x"});
        let done = work(&store, &what, false).finish().unwrap();
        fs::write(done.dir.join(RECORD), "{").unwrap();
        drop(done);
        let again = work(&store, &what, false);
        assert!(!again.resumed());
        again.finish().unwrap();
        assert!(store.has(&key_of(&what)));
    }
}
