//! What a node or a graph of your own needs: `use blt::prelude::*;`.
//!
//! The types of wires are under [`port`]: `port::Patches` is what a wire is declared as, [`Patches`]
//! the value that it carries.

pub use blt_core::backend::Operations;
pub use blt_core::bytes::{BOS, Batch, EOS, OFFSET, Span, VOCAB, is_byte};
pub use blt_core::model::next_byte_targets;
pub use blt_core::optim::AdamWConfig;
pub use blt_core::patch::Patches;
pub use blt_core::patch::stream::PatchStream;
pub use blt_data::{Portion, Request, Split};
pub use blt_derive::{node, params, step};
pub use blt_graph::{
    BuildCx, CheckCx, Graph, GraphSpec, Node, NodeError, PipelineSpec, Plan, Port, RunCx, Step,
    StepCx, StepError, write_atomic,
};
pub use blt_plugins::nodes::{
    ArrowBytes, Blt, BpePatch, ByteEmbed, ByteLm, BytePatch, ColumnEntropies, ColumnPatch,
    EntropyPatch, Latent, LocalDecoder, LocalEncoder, NextByteLoss, NgramLm, ParquetBytes,
    ShuffledPatch, SpacePatch, StrideAlign, StridePatch, TextFiles,
};
pub use blt_plugins::ports::{
    self as port, ByteStatesInfo, ByteStatesValue, BytesInfo, LogitsValue, LossValue, MetricValue,
    PatchStatesInfo, PatchStatesValue, PatchesInfo,
};
pub use blt_plugins::steps::{Bench, Certify, Evaluate, Export, Generate, Score, Train};
pub use blt_plugins::{
    DecodeCx, Facilities, Metric, ModelPart, NodeSize, Patcher, SourceHandle, SpanPatcher,
    StreamPatcher, TrainedGraph, fingerprints, provide, provide_streaming, session, with_params,
};
pub use blt_report::results::StepResult;
pub use serde_json::json;
pub use std::rc::Rc;
