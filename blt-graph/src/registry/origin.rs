//! [`Origin`]: the crate and source line that registered a node or step.

use std::fmt;

/// Where a node or step was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The crate's name.
    pub krate: &'static str,
    /// The crate's version.
    pub version: &'static str,
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}:{})", self.krate, self.version, self.file, self.line)
    }
}
