//! The overrides that a pipeline was given.

use serde_json::Value;

use crate::spec::Places;

/// An assignment of the command line.
#[derive(Debug, Clone)]
pub(crate) struct Override {
    /// The only variant to change; `None`: all of them.
    pub variant: Option<String>,
    pub path: String,
    pub value: Value,
    pub places: Places,
}

/// The overrides of a pipeline, and what they did to a variant. Like places, they make no two
/// documents different.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// Of a pipeline with variants: what each of them is given last.
    pub given: Vec<Override>,
    /// Of a variant: paths of overrides that name nothing in it.
    pub missed: Vec<String>,
    /// Of a variant that was given overrides: its [identity](PipelineSpec::identity) without them.
    pub before: Option<String>,
}

impl PartialEq for Overrides {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
