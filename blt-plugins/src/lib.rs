//! The built-in nodes and steps of `blt`: sources, patchers, model, heads, and training, evaluation
//! and scoring over them.
//!
//! This is the only crate that knows both the graph and the model. A node of your own does what a
//! file in [`nodes`] does, in your own crate, on the port types of [`ports`].

// The attributes of blt-derive refer to `::blt`, here as in a plugin's crate.
extern crate self as blt;

mod closed_form;
mod fingerprint;
mod loaded;
mod memory;
pub mod metric;
mod model;
pub mod nodes;
pub mod patcher;
pub mod ports;
mod profile;
pub mod scoring;
mod shape;
mod short_form;
pub mod steps;
pub mod testing;

pub use fingerprint::fingerprint;
pub use loaded::{
    CHECKPOINT_DIR, Feed, Prepare, Prepared, SourceHandle, WantsList, device_failure, untrained,
};
pub use metric::Metric;
pub use model::{ParamSet, session, with_params};
pub use patcher::{Patcher, SpanPatcher, StreamPatcher, Streaming};

/// What the attributes of blt-derive refer to.
#[doc(hidden)]
pub mod __macro {
    pub use crate::short_form::{ShortForm, forms};
    pub use blt_graph;
    pub use schemars;
    pub use serde;
}
