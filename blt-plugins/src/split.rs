//! [`Split`]: the parameter by which a step says which documents it reads.

use blt_data::Portion;
use serde::{Deserialize, Serialize};

/// Which documents a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    All,
    Train,
    Valid,
}

impl Split {
    /// The name in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Split::All => "all",
            Split::Train => "train",
            Split::Valid => "valid",
        }
    }

    /// The documents that it names.
    pub fn portion(self) -> Portion {
        match self {
            Split::All => Portion::All,
            Split::Train => Portion::Train,
            Split::Valid => Portion::Valid,
        }
    }
}
