//! [`Certificate`] and its verdicts.

use blt_data::Portion;
use serde::{Deserialize, Serialize};

/// One property, what was tried, and what that found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `causal`, `covers`, `normalised`, `not trained on`, `deterministic` or `coded`.
    pub name: String,
    pub passed: bool,
    pub tried: String,
    pub found: String,
}

impl Verdict {
    pub(super) fn passed(name: &str, tried: impl Into<String>, found: impl Into<String>) -> Self {
        Verdict { name: name.into(), passed: true, tried: tried.into(), found: found.into() }
    }

    pub(super) fn failed(name: &str, tried: impl Into<String>, found: impl Into<String>) -> Self {
        Verdict { passed: false, ..Verdict::passed(name, tried, found) }
    }

    /// Failed if something is `wrong`, and then with that; else passed, with what was found.
    pub(super) fn of(
        name: &str,
        tried: impl Into<String>,
        wrong: Option<String>,
        found: impl Into<String>,
    ) -> Self {
        match wrong {
            Some(wrong) => Verdict::failed(name, tried, wrong),
            None => Verdict::passed(name, tried, found),
        }
    }
}

/// What stands behind a bits-per-byte figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The loss.
    pub goal: String,
    /// The node that the held-out documents were read from.
    pub source: String,
    pub portion: Portion,
    /// A digest of the model: nodes, wires, parameters, and what nodes learned.
    pub model: String,
    pub documents: u64,
    pub bytes: u64,
    /// The claim: what the loss says of all held-out documents.
    pub bits: f64,
    pub verdicts: Vec<Verdict>,
}

impl Certificate {
    /// The claimed figure.
    pub fn bits_per_byte(&self) -> f64 {
        self.bits / self.bytes as f64
    }

    /// Whether every verdict is that it passed.
    pub fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passed)
    }
}
