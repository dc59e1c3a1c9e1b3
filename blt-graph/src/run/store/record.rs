//! [`StepRecord`]: `step.json`.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{FileError, write_atomic};
use crate::run::store::key::key_of;
use crate::run::store::seal::Seal;

/// The name of the file in each directory of the store.
pub(super) const RECORD: &str = "step.json";

/// `step.json`: the origin of a directory of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The key.
    pub key: String,
    /// Everything that the key is a hash of.
    pub what: Value,
    /// The pipeline, variant and seed that the step first ran for, for the listing.
    #[serde(default)]
    pub made_by: String,
    /// When the step finished, UTC. For a partial step, when it began.
    pub created: String,
    /// The files of a finished step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Seal>,
}

/// The record in `dir`, if there is one that can be read and whose key is the hash of what it says.
pub(super) fn read_record(dir: &Path) -> Option<StepRecord> {
    let record: StepRecord = serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()?;
    (key_of(&record.what) == record.key).then_some(record)
}

pub(super) fn write_record(dir: &Path, record: &StepRecord) -> Result<(), FileError> {
    let path = dir.join(RECORD);
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| FileError::on("write", &path)(io::Error::other(error)))?;
    write_atomic(&path, text)
}
