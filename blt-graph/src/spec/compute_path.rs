//! [`ComputePath`]: fused or reference operations.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the two implementations of the same operations a pipeline computes with (`path:` in
/// YAML).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputePath {
    /// Fused operations over packed slices.
    #[default]
    Fused,
    /// Operations composed of the tensor library's own: slower, and the meaning of the fused ones.
    Reference,
}

impl ComputePath {
    /// The default on `device`: fused on `cpu`, the only device that has fused operations;
    /// reference elsewhere.
    pub fn on(device: &str) -> Self {
        if device == "cpu" { ComputePath::Fused } else { ComputePath::Reference }
    }
}

impl fmt::Display for ComputePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ComputePath::Fused => "fused",
            ComputePath::Reference => "reference",
        })
    }
}
