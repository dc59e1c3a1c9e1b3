//! The units of a job, and the manifest that lists them.

use blt_data::FileSlice;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Version of [`Manifest`], of the footers of parts, and of the digests in [`Unit::key`].
pub const FORMAT: u32 = 1;

/// Key in the Parquet metadata of a part under which its [`Footer`](super::Footer) is stored, as
/// JSON.
pub const FOOTER_KEY: &str = "blt.score";

/// A span of input and the part that it is written to. A unit is scored whole, or again from its
/// start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The name of the part, relative to the folder of outputs, with `/` between folders. It
    /// depends on the input's name and the span alone.
    pub part: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    /// The row groups of the input file.
    #[serde(flatten)]
    pub span: FileSlice,
    /// Rows in the span, or its limit if that is less.
    pub rows: u64,
    /// A digest of the input file, the span, the model and the settings.
    pub key: String,
}

/// All units of a job.
#[derive(Clone, Debug)]
pub struct Units {
    /// A digest of the model.
    pub model: String,
    /// The units, in the order of the input.
    pub units: Vec<Unit>,
}

/// `manifest.json`: all units of a job. It does not record which of them are done; the parts that
/// exist do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The program that wrote the manifest, and its arithmetic.
    pub version: String,
    /// A digest of the model.
    pub model: String,
    /// The settings that scores depend on.
    pub settings: Value,
    /// The units, in the order of the input.
    pub units: Vec<Unit>,
}

impl Manifest {
    /// How the job `other` differs from this one, in words; `None` if they are the same job.
    pub(super) fn difference(&self, other: &Manifest) -> Option<String> {
        let named = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let (mine, theirs) = (named(&self.settings), named(&other.settings));
        let settings: BTreeSet<&String> = mine
            .keys()
            .chain(theirs.keys())
            .filter(|key| mine.get(*key) != theirs.get(*key))
            .collect();
        let keys = |manifest: &Manifest| -> Vec<(String, String)> {
            manifest.units.iter().map(|unit| (unit.part.clone(), unit.key.clone())).collect()
        };
        if self.format != other.format || self.version != other.version {
            Some(format!("another program or processor, {}", self.version))
        } else if self.model != other.model {
            Some(format!("another model, {}", self.model))
        } else if !settings.is_empty() {
            let settings: Vec<String> =
                settings.into_iter().map(|key| format!("`{key}`")).collect();
            Some(format!("other settings: {}", settings.join(", ")))
        } else if keys(self) != keys(other) {
            Some(self.other_input(other))
        } else {
            None
        }
    }

    /// How the input of the job `other` differs from the input of this one, in words.
    fn other_input(&self, other: &Manifest) -> String {
        let keys: BTreeMap<&str, &Unit> =
            other.units.iter().map(|unit| (unit.part.as_str(), unit)).collect();
        let changed = self
            .units
            .iter()
            .find(|unit| keys.get(unit.part.as_str()).is_some_and(|of| of.key != unit.key));
        let inputs = |manifest: &Manifest| {
            manifest.units.iter().map(|unit| unit.input.clone()).collect::<BTreeSet<_>>()
        };
        let (mine, theirs) = (inputs(self), inputs(other));
        let added = theirs.difference(&mine).next().map(|name| format!("{name} was added"));
        let gone =
            || mine.difference(&theirs).next().map(|name| format!("{name} is no longer there"));
        let what = added.or_else(gone).unwrap_or_else(|| match changed {
            Some(unit) => {
                format!("{} was written again since, or another `limit` ends in it", unit.input)
            }
            None => "it is divided by another `part_bytes` or `limit`".to_owned(),
        });
        format!("other input: {what}")
    }
}
