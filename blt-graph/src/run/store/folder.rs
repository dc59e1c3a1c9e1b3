//! [`Store`]: the folder of all steps.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::files::FileError;
use crate::run::store::claim::{Claim, Finished, PARTIAL, Work};
use crate::run::store::key::key_of;
use crate::run::store::lock::{Lock, try_lock};
use crate::run::store::record::{RECORD, StepRecord, read_record, write_record};
use crate::run::store::seal::Damage;
use crate::run::time::utc;

/// The ending of the name of a directory that is being removed.
pub(super) const TRASH: &str = ".trash";

/// A folder of finished and interrupted steps.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) root: PathBuf,
}

impl Store {
    /// The store in the folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Store { root: root.into() }
    }

    /// The directory of the finished step with this key, whether or not it exists.
    pub fn dir(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Whether there is a finished step with this key.
    pub fn has(&self, key: &str) -> bool {
        read_record(&self.dir(key)).is_some_and(|record| record.key == key)
    }

    /// What is wrong with the files of the finished step with this key.
    ///
    /// # Errors
    /// If its files cannot be read.
    fn damage(&self, key: &str) -> Result<Option<Damage>, FileError> {
        let dir = self.dir(key);
        let record = read_record(&dir).filter(|record| record.key == key);
        match record.and_then(|record| record.files) {
            Some(files) => files.damage(&dir, &[RECORD]),
            None => Ok(Some(Damage::Unsealed { file: RECORD.into() })),
        }
    }

    /// The finished files of the step whose key is the hash of `what`, or the right to run it.
    /// Finished files that are damaged are removed ([`Work::damage`]).
    /// `fresh` removes the state of an interrupted run. While another process runs the step, `wait`
    /// is called about every 100 ms and returns whether to keep waiting. `made_by` names the
    /// pipeline, variant and seed; [`list`](Store::list) returns it.
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
                if self.dir(&key).exists() && self.damage(&key)?.is_none() {
                    return Ok(Claim::Finished(Finished { dir, _lock: lock }));
                }
                lock.unlock().map_err(FileError::on("unlock", &dir))?;
            }
            if try_lock(&lock, &dir, Lock::Alone)? {
                let damage = if dir.exists() { self.damage(&key)? } else { None };
                if dir.exists() && damage.is_none() {
                    // Finished between the two locks.
                    lock.unlock().map_err(FileError::on("unlock", &dir))?;
                    continue;
                }
                return self
                    .start(what, made_by, key, fresh, damage, lock)
                    .map(|work| Claim::Work(Box::new(work)));
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
        damage: Option<Damage>,
        lock: File,
    ) -> Result<Work, FileError> {
        if damage.is_some() {
            self.trash(&self.dir(&key))?;
        }
        let partial = self.root.join(format!("{key}{PARTIAL}"));
        let old = read_record(&partial).is_some_and(|record| record.key == key);
        if partial.exists() && (fresh || !old) {
            self.trash(&partial)?;
        }
        let resumed = old && !fresh;
        let record = StepRecord {
            key,
            what: what.clone(),
            made_by: made_by.to_owned(),
            created: utc(),
            files: None,
        };
        if !resumed {
            fs::create_dir_all(&partial).map_err(FileError::on("create", &partial))?;
            write_record(&partial, &record)?;
        }
        Ok(Work { root: self.root.clone(), record, resumed, damage, lock })
    }

    /// Locks a run directory for this process, until the file is closed; `None` if another process
    /// has it.
    pub(in crate::run) fn lock_run(&self, run: &Path) -> Result<Option<File>, FileError> {
        let name = run.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned());
        let lock = self.lock_file(&format!("run-{}", name.collect::<Vec<_>>().join("-")))?;
        Ok(try_lock(&lock, run, Lock::Alone)?.then_some(lock))
    }

    pub(super) fn lock_file(&self, key: &str) -> Result<File, FileError> {
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

    /// Removes a directory, so that no process ever takes a part of it for the whole.
    pub(super) fn trash(&self, dir: &Path) -> Result<(), FileError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let trash = self.root.join(format!("{name}.{}{TRASH}", std::process::id()));
        fs::rename(dir, &trash).map_err(FileError::on("remove", dir))?;
        fs::remove_dir_all(&trash).map_err(FileError::on("remove", &trash))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::Store;
    use crate::run::store::record::RECORD;
    use crate::run::store::{Claim, Work, key_of};

    fn work(store: &Store, what: &Value, fresh: bool) -> Work {
        match store.claim(what, "a test", fresh, || false).unwrap() {
            Claim::Work(work) => *work,
            other => panic!("{other:?}"),
        }
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
        let make = |work: Work| {
            fs::write(work.dir().join("numbers"), "1.5").unwrap();
            work.finish().unwrap().dir.clone()
        };
        let mut dir = make(work(&store, &what, false));
        let record = || fs::read_to_string(store.dir(&key_of(&what)).join(RECORD)).unwrap();
        let other_key = record().replace("\"x\"", "\"y\"");
        let no_hash = record().replace("blake3", "md5");
        for (file, content) in
            [(RECORD, "{"), (RECORD, &other_key), (RECORD, &no_hash), ("numbers", "2.5"), ("x", "")]
        {
            // A new file in its place: the old one cannot be written to.
            fs::write(dir.join("new"), content).unwrap();
            fs::rename(dir.join("new"), dir.join(file)).unwrap();
            let again = work(&store, &what, false);
            assert!(!again.resumed());
            let damage = again.damage().unwrap().to_string();
            assert!(damage.contains(&format!("`{file}`")), "{damage}");
            dir = make(again);
        }
        assert!(fs::metadata(dir.join("numbers")).unwrap().permissions().readonly());
        assert!(matches!(
            store.claim(&what, "a test", false, || false).unwrap(),
            Claim::Finished(_)
        ));
    }
}
