//! The built-in nodes and steps of `blt`: sources, patchers, model, heads, and training, evaluation
//! and scoring over them.
//!
//! This is the only crate that knows both the graph and the model. A node of your own does what a
//! file in [`nodes`] does, in your own crate, on the port types of [`ports`].

pub mod bpe;
mod closed_form;
pub mod data;
mod fingerprint;
mod loaded;
mod memory;
mod model;
pub mod nodes;
pub mod ports;
pub mod predicate;
mod profile;
pub mod scoring;
mod shape;
pub mod steps;
pub mod storage;

pub use fingerprint::fingerprint;
pub use loaded::{CHECKPOINT_DIR, Feed, Prepare, Prepared, SourceHandle, WantsList, untrained};
pub use model::{ParamSet, session, with_params};
