//! Portions of a corpus, divided by a hash: a document is in the same portion whatever file or row
//! it is in.

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::portion::Portion;
use crate::splitmix::fraction;

/// The value of [`Split::by`] that hashes the document's bytes instead of a column.
pub const BY_CONTENT: &str = "content";

/// How documents are divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Split {
    /// The fraction of documents that is held out for validation, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub valid: f64,
    /// What decides the portion: a column (rows of one value stay together), or `content`, the
    /// document's bytes. A row with a null in the column goes by its content.
    #[serde(default = "by_content")]
    pub by: String,
    /// The fraction of *training* documents that is set aside from all training, to calibrate
    /// thresholds on.
    #[serde(default = "calibration")]
    #[schemars(range(min = 0, max = 1))]
    pub calibration: f64,
}

fn by_content() -> String {
    BY_CONTENT.to_string()
}

/// What [`Split::calibration`] is where it is left out.
fn calibration() -> f64 {
    0.05
}

/// What a source without a `split` does: nothing is held out, and documents to calibrate on are set
/// aside.
impl Default for Split {
    fn default() -> Self {
        Split { valid: 0.0, by: by_content(), calibration: calibration() }
    }
}

impl Split {
    /// `valid` of the documents held out, by the hash of column `by` (or [`BY_CONTENT`]); all else
    /// at its default.
    pub fn of(valid: f64, by: impl Into<String>) -> Self {
        Split { valid, by: by.into(), ..Split::default() }
    }

    /// A split without calibration documents.
    pub fn new(valid: f64, by: impl Into<String>) -> Self {
        Split { valid, by: by.into(), calibration: 0.0 }
    }

    /// The column that decides, unless the content does.
    pub fn column(&self) -> Option<&str> {
        (self.by != BY_CONTENT).then_some(self.by.as_str())
    }

    pub(crate) fn check(&self) -> Result<(), DataError> {
        for (name, value) in [("valid", self.valid), ("calibration", self.calibration)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(DataError::Config {
                    what: format!("split.{name} is {value}; expected a fraction, 0 to 1"),
                });
            }
        }
        Ok(())
    }

    /// The portion that a document of this key is in: `Train`, `Valid` or `Calibration`.
    ///
    /// Two independent numbers are drawn from the key's blake3 hash, so that changing `valid` moves
    /// documents only between training and validation, and `calibration` only within training.
    pub fn portion(&self, key: &[u8]) -> Portion {
        let hash = blake3::hash(key);
        let drawn = |at: usize| {
            let word =
                u64::from_le_bytes(hash.as_bytes()[at..at + 8].try_into().expect("eight bytes"));
            fraction(word)
        };
        if drawn(0) < self.valid {
            Portion::Valid
        } else if drawn(8) < self.calibration {
            Portion::Calibration
        } else {
            Portion::Train
        }
    }
}

/// A portion as a filter over documents.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    split: Option<Split>,
    portion: Portion,
    exclude_calibration: bool,
}

impl Filter {
    pub(crate) fn new(
        split: Option<&Split>,
        portion: Portion,
        exclude_calibration: bool,
    ) -> Result<Self, DataError> {
        let missing = match (portion, split) {
            (Portion::Valid, None) => Some(("split", "split: {valid: 0.1}")),
            (Portion::Valid, Some(split)) if split.valid == 0.0 => {
                Some(("split.valid", "split: {valid: 0.1}"))
            }
            (Portion::Calibration, None) => {
                Some(("split", "split: {valid: 0.1, calibration: 0.05}"))
            }
            (Portion::Calibration, Some(split)) if split.calibration == 0.0 => {
                Some(("split.calibration", "split: {valid: 0.1, calibration: 0.05}"))
            }
            _ => None,
        };
        if let Some((missing, example)) = missing {
            return Err(DataError::NoSplit { portion, missing, example });
        }
        Ok(Filter { split: split.cloned(), portion, exclude_calibration })
    }

    /// The column that must be read to decide.
    pub(crate) fn column(&self) -> Option<&str> {
        if self.portion == Portion::All { None } else { self.split.as_ref()?.column() }
    }

    /// Whether a document is in the portion; `key` is asked for only where it matters.
    pub(crate) fn admits<'a>(&self, key: impl FnOnce() -> std::borrow::Cow<'a, [u8]>) -> bool {
        let Some(split) = self.split.as_ref().filter(|_| self.portion != Portion::All) else {
            return true;
        };
        match split.portion(&key()) {
            Portion::Calibration if self.portion == Portion::Train => !self.exclude_calibration,
            portion => portion == self.portion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportions_and_stability() {
        let split = Split { valid: 0.2, by: BY_CONTENT.into(), calibration: 0.1 };
        let wider = Split { valid: 0.3, ..split.clone() };
        let (mut valid, mut calibration) = (0, 0);
        for i in 0..20_000u32 {
            let key = format!("document {i}");
            let part = split.portion(key.as_bytes());
            valid += (part == Portion::Valid) as u32;
            calibration += (part == Portion::Calibration) as u32;
            // Holding out more moves documents into validation and none out of it or into
            // calibration.
            let then = wider.portion(key.as_bytes());
            assert!(then == part || then == Portion::Valid, "{part} became {then}");
        }
        // Standard deviations: 57 and 38 documents.
        assert!((3750..4250).contains(&valid), "{valid}");
        assert!((1440..1760).contains(&calibration), "{calibration}");
    }

    #[test]
    fn parts_need_a_split() {
        assert!(Filter::new(None, Portion::Train, false).is_ok());
        let error = Filter::new(None, Portion::Valid, false).unwrap_err().to_string();
        assert!(error.contains("validation part") && error.contains("split: {valid"), "{error}");
        let split = Split::new(0.1, BY_CONTENT);
        let error = Filter::new(Some(&split), Portion::Calibration, false).unwrap_err().to_string();
        assert!(error.contains("no split.calibration"), "{error}");
        assert!(Split::new(1.5, BY_CONTENT).check().is_err());
        assert!(Split::new(f64::NAN, BY_CONTENT).check().is_err());
    }
}
