//! [`Claim`], the answer of `Store::claim`: a finished step of the store, or the right to run it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::files::FileError;
use crate::run::store::record::{RECORD, StepRecord, write_record};
use crate::run::store::seal::{Damage, Seal};
use crate::run::time::utc;

/// The ending of the name of a directory of unfinished work.
pub(super) const PARTIAL: &str = ".partial";

/// The result of [`Store::claim`](super::Store::claim).
#[derive(Debug)]
pub enum Claim {
    /// The step is finished.
    Finished(Finished),
    /// The caller is to run the step. No other process does.
    Work(Box<Work>),
    /// The caller's `wait` gave up while another process ran the step.
    GaveUp,
}

/// The files of a finished step. No process removes them while this value lives.
#[derive(Debug)]
pub struct Finished {
    /// Their directory.
    pub dir: PathBuf,
    pub(super) _lock: File,
}

/// A step that the caller is to run. No other process runs it while this value lives.
#[derive(Debug)]
pub struct Work {
    pub(super) root: PathBuf,
    pub(super) record: StepRecord,
    pub(super) resumed: bool,
    pub(super) damage: Option<Damage>,
    pub(super) lock: File,
}

impl Work {
    /// The directory to write into.
    pub fn dir(&self) -> PathBuf {
        self.root.join(format!("{}{PARTIAL}", self.record.key))
    }

    /// Whether the directory holds the state of an interrupted run.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Why a finished step that was there could not be used.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Marks the directory as finished, and takes the right to write from its files.
    ///
    /// # Errors
    /// If the directory cannot be written to. It stays partial then.
    pub fn finish(self) -> Result<Finished, FileError> {
        let (partial, dir) = (self.dir(), self.root.join(&self.record.key));
        let files = Seal::of(&partial, &[RECORD])?;
        files.make_read_only(&partial)?;
        let record = StepRecord { created: utc(), files: Some(files), ..self.record };
        write_record(&partial, &record)?;
        sync(&partial).map_err(FileError::on("write", &partial))?;
        fs::rename(&partial, &dir).map_err(FileError::on("rename", &partial))?;
        self.lock.lock_shared().map_err(FileError::on("lock", &dir))?;
        Ok(Finished { dir, _lock: self.lock })
    }
}

/// Flushes every file to the disk, so that after a power cut the directory is not renamed while its
/// files are incomplete.
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
