//! What a node or a step of your own needs: `use blt::prelude::*;`.
//!
//! Ports, the types that wires have, are under [`port`]: `port::Patches` is what a wire carries,
//! and `Patches` its value.

pub use blt_core::bytes::{BOS, Batch, EOS, OFFSET, Span, VOCAB, is_byte};
pub use blt_core::model::next_byte_targets;
pub use blt_core::patch::Patches;
pub use blt_core::patch::stream::PatchStream;
pub use blt_derive::{node, params};
pub use blt_graph::{
    BuildCx, CheckCx, Graph, GraphSpec, Node, NodeError, PipelineSpec, Port, RunCx, Step, StepCx,
    StepError,
};
pub use blt_plugins::data::Split as DataSplit;
pub use blt_plugins::nodes::*;
pub use blt_plugins::ports as port;
pub use blt_plugins::ports::{
    ByteStatesInfo, ByteStatesValue, BytesInfo, LogitsValue, LossValue, MetricValue,
    PatchStatesInfo, PatchStatesValue, PatchesInfo,
};
pub use blt_plugins::steps::*;
pub use blt_plugins::{Metric, Patcher, SpanPatcher, StreamPatcher, session, with_params};
pub use schemars::{self, JsonSchema};
pub use serde::{Deserialize, Serialize};
pub use serde_json::json;
pub use std::rc::Rc;
