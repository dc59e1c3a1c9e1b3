//! What a node of your own needs: `use blt::prelude::*;`.

pub use blt_core::bytes::{BOS, Batch, EOS, OFFSET, Span, VOCAB};
pub use blt_core::model::next_byte_targets;
pub use blt_core::patches::Patches as PackedPatches;
pub use blt_data::Split as DataSplit;
pub use blt_graph::{
    BuildCx, CheckCx, Graph, GraphSpec, Node, NodeError, PipelineSpec, Port, RunCx, Step, StepCx,
    StepError,
};
pub use blt_plugins::nodes::*;
pub use blt_plugins::ports::*;
pub use blt_plugins::steps::*;
pub use blt_plugins::{session, with_params};
pub use schemars::{self, JsonSchema};
pub use serde::{Deserialize, Serialize};
pub use serde_json::json;
pub use std::rc::Rc;
