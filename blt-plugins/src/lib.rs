//! The built-in nodes and steps of `blt`: sources, patchers, model, heads, and training, evaluation
//! and scoring over them.
//!
//! This is the only crate that knows both the graph and the model. A node of your own does what a
//! file in [`nodes`] does, in your own crate, on the port types of [`ports`]: an `impl Node`, or one
//! of the short forms in [`patcher`] and [`metric`]. [`testing`] runs it alone.

// The attributes of blt-derive refer to `::blt`, here as in a plugin's crate.
extern crate self as blt;

mod certify;
mod checkpoint;
mod clusters;
mod coding;
mod device;
mod facilities;
mod fingerprint;
mod generation;
mod lint;
mod match_patches;
mod matched;
mod memory;
pub mod metric;
mod model;
mod model_files;
mod model_part;
mod needs;
mod node_size;
pub mod nodes;
pub mod patcher;
mod plan_queries;
pub mod ports;
mod probe;
mod profile;
mod recognise;
pub mod scoring;
mod short_form;
mod size;
mod sources;
mod split;
pub mod steps;
mod stop;
pub mod testing;
mod trained_graph;

pub use certify::{Certificate, Verdict};
pub use checkpoint::{
    CHECKPOINT_DIR, CheckpointState, ResumeFolder, STATE_FILE, StateError, StoredModel,
};
pub use coding::{compress, decompress};
pub use device::{backend, check_device};
pub use facilities::{
    DecodeCx, Facilities, Matching, ParamSet, Prepare, SourceHandle, provide, provide_streaming,
};
pub use fingerprint::fingerprint;
pub use generation::{Generator, ModelFiles};
pub use lint::untrained;
pub use match_patches::{Match, On};
pub use matched::{Matched, Pair, Rate};
pub use metric::Metric;
pub use model::{session, with_params};
pub use model_part::ModelPart;
pub use needs::need_of_plan;
pub use node_size::NodeSize;
pub use patcher::{Patcher, SpanPatcher, StreamPatcher};
pub use profile::{NodeCost, NodeProfile};
pub use recognise::NotBlt;
pub use size::{Need, gigabytes};
pub use sources::{DocumentSource, check_source, check_sources, fingerprints};
pub use stop::Stop;
pub use trained_graph::reading::Batches;
pub use trained_graph::{NodeParam, TrainedGraph};

/// What the attributes of blt-derive refer to.
#[doc(hidden)]
pub mod __macro {
    pub use crate::short_form::ShortForm;
    pub use blt_core::sizes;
    pub use blt_graph;
    pub use schemars;
    pub use serde;

    /// The short forms, by the names of their traits.
    pub mod forms {
        pub use crate::metric::Measured as Metric;
        pub use crate::patcher::WholeSpan as SpanPatcher;
        pub use crate::patcher::{Streamed as Patcher, Streamed as StreamPatcher};
    }
}
