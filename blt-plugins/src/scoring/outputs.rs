//! Where parts are written, and which of them are there.

use super::columns::FOOTER_KEY;
use super::footer::Footer;
use super::job::{Manifest, Unit};
use super::summary::Summary;
use blt_data::storage::{Entry, Input, Location, StorageError, abort_uploads, write_whole};
use blt_graph::StepError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// The manifest's name in a folder of a user's, beside the parts: readers of data sets leave out
/// names that begin with `_`.
pub const MANIFEST: &str = "_manifest.json";

/// Read of the end of a part to learn what is in it; that is most often enough.
const FOOTER_BYTES: u64 = 64 << 10;
/// Parts that are looked at together: on a store, each takes a request that is mostly waited for.
const READ_AT_A_TIME: usize = 32;

/// Where parts are written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outputs {
    /// The parts, under their names.
    pub dir: Location,
    /// What is unfinished: parts that are being written, on the same file system as a local `dir`
    /// and not seen below it (a name that begins with `.` is not), as what a killed process
    /// leaves is not to be taken for a part; of uploads, what is to be aborted then.
    pub partial: PathBuf,
}

impl Outputs {
    /// Takes a folder of a user's choice, which may hold parts of this very job and no others, and
    /// writes the manifest into it.
    ///
    /// # Errors
    /// If another job's manifest is there, or Parquet files that are no parts of this one; or it
    /// cannot be read or written to.
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
            None => Ok(write_whole(&place, serde_json::to_vec_pretty(manifest)?)?),
        }
    }

    /// A Parquet file that is no part of this job.
    fn stranger(&self, manifest: &Manifest) -> Result<Option<Location>, StepError> {
        let parts: BTreeSet<Location> = manifest.units.iter().map(|unit| self.path(unit)).collect();
        let mut there = self.dir.list()?.into_iter().map(|entry| entry.location);
        Ok(there.find(|at| is_parquet(at) && !parts.contains(at)))
    }

    /// Whether the folder holds this manifest and all of its parts, whole, and no other Parquet
    /// files.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn are_whole(&self, manifest: &Manifest) -> Result<bool, StepError> {
        let Some(text) = self.dir.join(MANIFEST).read()? else { return Ok(false) };
        let same = serde_json::from_slice::<Manifest>(&text)
            .is_ok_and(|there| there.difference(manifest).is_none());
        if !same {
            return Ok(false);
        }
        // What is wrong with a part, the run that follows tells.
        let found = self.find_all(&manifest.units);
        Ok(self.stranger(manifest)?.is_none()
            && found.is_ok_and(|found| found.iter().all(Option::is_some)))
    }

    pub fn path(&self, unit: &Unit) -> Location {
        self.dir.join(&unit.part)
    }

    /// What is in a unit's part, if it is done.
    ///
    /// # Errors
    /// If a file of its name is there that is no such part.
    pub fn find(&self, unit: &Unit) -> Result<Option<Summary>, StepError> {
        self.path(unit).entry()?.map(|entry| self.summary(unit, &entry)).transpose()
    }

    /// What is in the parts of these units, of those that are done.
    ///
    /// # Errors
    /// As [`Outputs::find`].
    pub fn find_all(&self, units: &[Unit]) -> Result<Vec<Option<Summary>>, StepError> {
        // One listing tells of all.
        let there: HashMap<Location, Entry> =
            self.dir.list()?.into_iter().map(|e| (e.location.clone(), e)).collect();
        let mut found = Vec::new();
        for units in units.chunks(READ_AT_A_TIME) {
            let of_these: Vec<_> = std::thread::scope(|scope| {
                let find = |unit: &Unit| match is_hidden(unit) {
                    true => self.find(unit),
                    false => there
                        .get(&self.path(unit))
                        .map(|entry| self.summary(unit, entry))
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

    fn summary(&self, unit: &Unit, entry: &Entry) -> Result<Summary, StepError> {
        let path = &entry.location;
        let footer = footer(entry)?.map_err(|e| {
            StepError::other(format!("{path} is not the part that an earlier run left: {e}"))
                .help("remove it, and run again")
        })?;
        if footer.key != unit.key {
            let Footer { version, model, input, .. } = footer;
            let msg = format!(
                "{path} holds other scores: of {input}, by model {model}, version {version}"
            );
            return Err(StepError::other(msg)
                .help("another model, other settings or other input made it; remove it, or write elsewhere"));
        }
        Ok(footer.summary)
    }

    /// Removes what killed processes left unfinished, and aborts their uploads. No other may be at
    /// work.
    ///
    /// # Errors
    /// If the folder cannot be removed, or the store not be reached.
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

/// Why parts cannot be written to `dir`, as far as that is known before the model is: input lies in
/// it, or other work.
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
    let foreign = there.iter().find(|entry| !matches!(footer(entry), Ok(Ok(_))));
    Ok(foreign.map(|entry| {
        format!("{dir} holds other work: {} is no part that this program wrote", entry.location)
    }))
}

fn is_parquet(at: &Location) -> bool {
    at.to_string().ends_with(".parquet")
}

/// What a part's footer says of it, or why it is no part.
fn footer(entry: &Entry) -> Result<Result<Footer, String>, StorageError> {
    let end = entry.size.saturating_sub(FOOTER_BYTES)..entry.size;
    let input = Input::open(entry)?.start(std::iter::once(end).collect()).wait()?;
    let read = || -> Result<Footer, Box<dyn std::error::Error>> {
        let metadata = ArrowReaderMetadata::load(&input, ArrowReaderOptions::new())?;
        let pairs = metadata.metadata().file_metadata().key_value_metadata();
        let ours = pairs.into_iter().flatten().find(|pair| pair.key == FOOTER_KEY);
        let text = ours
            .and_then(|pair| pair.value.as_deref())
            .ok_or("its footer says nothing of scores")?;
        Ok(serde_json::from_str(text)?)
    };
    match read() {
        Ok(footer) => Ok(Ok(footer)),
        Err(e) => input.failure().map_or_else(|| Ok(Err(e.to_string())), Err),
    }
}

/// Whether a listing leaves its part out.
fn is_hidden(unit: &Unit) -> bool {
    unit.part.split('/').any(|name| name.starts_with('.'))
}
