//! The portions that a split divides documents into.

use serde::{Deserialize, Serialize};

/// Which documents to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Portion {
    /// Every document.
    All,
    /// Every document that is not held out. The calibration documents are among them unless the
    /// request leaves them out. Without a split, every document.
    Train,
    /// The documents that are held out for validation.
    Valid,
    /// The training documents that [`Split::calibration`](crate::Split::calibration) sets aside.
    Calibration,
}

impl std::fmt::Display for Portion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Portion::All => "whole",
            Portion::Train => "training",
            Portion::Valid => "validation",
            Portion::Calibration => "calibration",
        })
    }
}
