//! The folder that parts are written to, and which parts it holds.

use super::footer::Footer;
use super::summary::Summary;
use super::units::{Manifest, Unit};
use blt_data::storage::{Entry, Location, StorageError, abort_uploads, write_new};
use blt_graph::StepError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

/// Name of the manifest in an output folder that the user chose. Readers of data sets skip names
/// that begin with `_`.
pub const MANIFEST: &str = "_manifest.json";

/// Parts whose footers are read at the same time: in an object store, each read is a request that
/// mostly waits.
const READ_AT_A_TIME: usize = 32;

/// Where parts are written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outputs {
    /// The folder of the parts.
    pub dir: Location,
    /// The folder of parts that are still being written. It is on the same file system as a local
    /// `dir`, and hidden from listings of `dir` (its name begins with `.`), so that what a killed
    /// process leaves is not taken for a part. Of uploads, it holds what to abort then.
    pub partial: PathBuf,
}

impl Outputs {
    /// Checks that a folder of the user's choice holds no files but parts of this job, and writes
    /// the manifest into it.
    ///
    /// # Errors
    /// If the folder has the manifest of another job, or Parquet files that are not parts of this
    /// one; or if it cannot be read or written to.
    pub fn claim(&self, manifest: &Manifest) -> Result<(), StepError> {
        let other = |what: String| {
            Err(StepError::other(format!("{} holds other work: {what}", self.dir))
                .help("name another folder"))
        };
        let place = self.dir.join(MANIFEST);
        let known = match place.read()? {
            None => None,
            Some(text) => match serde_json::from_slice::<Manifest>(&text) {
                Ok(there) => Some(there),
                Err(e) => return other(format!("its {MANIFEST} is not one of this program ({e})")),
            },
        };
        if let Some(difference) = known.as_ref().and_then(|there| there.difference(manifest)) {
            return other(format!("the scores of {difference}"));
        }
        if let Some(stranger) = self.stranger(manifest)? {
            return other(format!("{stranger} is no part of this job"));
        }
        match known {
            Some(_) => Ok(()),
            None if write_new(&place, serde_json::to_vec_pretty(manifest)?)? => Ok(()),
            // Another process has written one since.
            None => self.claim(manifest),
        }
    }

    /// Keeps other processes out of a folder on a disk, until the file is closed: two jobs that
    /// write there at once would replace each other's parts. While another process is there, calls
    /// `wait` about every 100 ms, at first with a line that says so, and goes on waiting if `wait`
    /// returns true. (An object store has no locks; there the manifest, which only one process
    /// creates, keeps out other jobs.)
    ///
    /// # Errors
    /// If the folder cannot be created, or [`StepError::Interrupted`] if `wait` returns false.
    pub fn lock(
        &self,
        wait: &mut dyn FnMut(Option<&str>) -> bool,
    ) -> Result<Option<File>, StepError> {
        let Location::Local(dir) = &self.dir else { return Ok(None) };
        std::fs::create_dir_all(dir)
            .map_err(|e| StepError::other(format!("cannot create {}: {e}", dir.display())))?;
        // Where a folder cannot be opened or locked as a file can, the manifest must do.
        let Ok(lock) = File::open(dir) else { return Ok(None) };
        let busy = format!("another process writes to {}; waiting for it", dir.display());
        let mut line = Some(busy.as_str());
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) if !wait(line.take()) => {
                    return Err(StepError::Interrupted);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Reads the footer of every part of the job once more.
    ///
    /// # Errors
    /// If a part is gone, or is not the one that `summaries` is of: another process has removed or
    /// replaced it.
    pub fn check(&self, units: &[Unit], summaries: &[Option<Summary>]) -> Result<(), StepError> {
        let found = self.find_all(units, false)?;
        let other = found.iter().zip(summaries).position(|(found, written)| found != written);
        other.map_or(Ok(()), |at| {
            let path = self.path(&units[at]);
            Err(StepError::other(format!("{path} was removed or replaced while the job ran"))
                .help("write each job to a folder of its own, and run this one again"))
        })
    }

    /// A Parquet file in the folder that is not a part of this job.
    fn stranger(&self, manifest: &Manifest) -> Result<Option<Location>, StepError> {
        let parts: BTreeSet<Location> = manifest.units.iter().map(|unit| self.path(unit)).collect();
        let mut there = self.dir.list()?.into_iter().map(|entry| entry.location);
        Ok(there.find(|at| is_parquet(at) && !parts.contains(at)))
    }

    /// Whether the folder holds this manifest, all of its parts complete, and no other Parquet
    /// files.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn are_whole(&self, manifest: &Manifest) -> Result<bool, StepError> {
        let Some(text) = self.dir.join(MANIFEST).read()? else { return Ok(false) };
        let same = serde_json::from_slice::<Manifest>(&text)
            .is_ok_and(|there| there.difference(manifest).is_none());
        if !same {
            return Ok(false);
        }
        // The run that follows reports what is wrong with a part.
        let found = self.find_all(&manifest.units, true);
        Ok(self.stranger(manifest)?.is_none()
            && found.is_ok_and(|found| found.iter().all(Option::is_some)))
    }

    /// Where the part of `unit` is written.
    pub fn path(&self, unit: &Unit) -> Location {
        self.dir.join(&unit.part)
    }

    /// Reads the summary of a unit's part; `None` if the unit is not done.
    ///
    /// # Errors
    /// If a file with the part's name exists that is not the part of this unit.
    pub fn find(&self, unit: &Unit) -> Result<Option<Summary>, StepError> {
        self.path(unit).entry()?.map(|entry| self.summary(unit, &entry, true)).transpose()
    }

    /// Reads the summaries of the parts of `units`; `None` for each unit that is not done. Where
    /// `all` is true, every byte of a part on a disk is held against the hash in its footer. (An
    /// object store does so itself.)
    ///
    /// # Errors
    /// As [`Outputs::find`].
    pub fn find_all(&self, units: &[Unit], all: bool) -> Result<Vec<Option<Summary>>, StepError> {
        // One listing finds them all.
        let there: HashMap<Location, Entry> =
            self.dir.list()?.into_iter().map(|e| (e.location.clone(), e)).collect();
        let mut found = Vec::new();
        for units in units.chunks(READ_AT_A_TIME) {
            let of_these: Vec<_> = std::thread::scope(|scope| {
                let find = |unit: &Unit| match is_hidden(unit) {
                    true => self.find(unit),
                    false => there
                        .get(&self.path(unit))
                        .map(|entry| self.summary(unit, entry, all))
                        .transpose(),
                };
                let threads: Vec<_> =
                    units.iter().map(|unit| scope.spawn(move || find(unit))).collect();
                threads
                    .into_iter()
                    .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .collect()
            });
            found.extend(of_these.into_iter().collect::<Result<Vec<_>, _>>()?);
        }
        Ok(found)
    }

    fn summary(&self, unit: &Unit, entry: &Entry, all: bool) -> Result<Summary, StepError> {
        let path = &entry.location;
        let damaged = |e: String| {
            StepError::other(format!("{path} is not the part that an earlier run left: {e}"))
                .help("remove it, and run again")
        };
        let footer = Footer::read(entry)?.map_err(damaged)?;
        if footer.key != unit.key {
            let Footer { version, model, input, .. } = footer;
            let msg = format!(
                "{path} holds other scores: of {input}, by model {model}, version {version}"
            );
            return Err(StepError::other(msg)
                .help("another model, other settings or other input made it; remove it, or write elsewhere"));
        }
        if let (true, Location::Local(file)) = (all, path)
            && !footer.stands(file)?
        {
            return Err(damaged("its bytes are not those that were written".into()));
        }
        Ok(footer.summary)
    }

    /// Removes the unfinished parts that killed processes left, and aborts their uploads. No other
    /// process may be writing parts.
    ///
    /// # Errors
    /// If the folder cannot be removed, or the object store cannot be reached.
    pub fn clear_partial(&self) -> Result<(), StepError> {
        abort_uploads(&self.partial)?;
        match std::fs::remove_dir_all(&self.partial) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StepError::other(format!("cannot remove {}: {e}", self.partial.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Returns why parts cannot be written to `dir`, as far as that can be known before the model is
/// built: `dir` holds some of the input, or files that `score` did not write.
///
/// # Errors
/// If `dir` cannot be read.
pub fn refusal(dir: &Location, input: &[Location]) -> Result<Option<String>, StorageError> {
    let place = |at: &Location| match at {
        Location::Local(path) => {
            Location::Local(path.canonicalize().unwrap_or_else(|_| path.clone()))
        }
        Location::Remote(_) => at.clone(),
    };
    let input: BTreeSet<Location> = input.iter().map(place).collect();
    let there: Vec<Entry> =
        dir.list()?.into_iter().filter(|entry| is_parquet(&entry.location)).collect();
    if let Some(found) = there.iter().find(|entry| input.contains(&place(&entry.location))) {
        return Ok(Some(format!(
            "{dir} holds the input {}, and scores go to a folder of their own",
            found.location
        )));
    }
    if dir.join(MANIFEST).entry()?.is_some() {
        return Ok(None);
    }
    let foreign = there.iter().find(|entry| !matches!(Footer::read(entry), Ok(Ok(_))));
    Ok(foreign.map(|entry| {
        format!("{dir} holds other work: {} is no part that this program wrote", entry.location)
    }))
}

fn is_parquet(at: &Location) -> bool {
    at.to_string().ends_with(".parquet")
}

/// Whether listings leave out the part of `unit`.
fn is_hidden(unit: &Unit) -> bool {
    unit.part.split('/').any(|name| name.starts_with('.'))
}
