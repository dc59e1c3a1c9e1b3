//! Typed dataflow pipelines: nodes and wires, the registry, the spec (YAML and Rust), checking,
//! execution, run directories.
//!
//! This crate knows no model and no file format of data. Where to look:
//!
//! | to | read |
//! |---|---|
//! | write a node | [`Node`], [`Port`], [`node!`](crate::node!) |
//! | write a step (train, ...) | [`Step`], [`StepCx`], [`step!`](crate::step!), [`Live`] |
//! | read or change a pipeline's YAML | [`spec`], [`PipelineSpec::set`] |
//! | write a graph in Rust | [`dsl::Graph`] |
//! | see what is checked, and when | [`plan`], [`diagnostic`], [`code`] |
//! | run a pipeline | [`run::Runner`] |
//! | see when a step's result is used again | [`run::store`] |
//! | list nodes, print help, write the JSON Schema | [`registry`], [`help()`], [`json_schema()`] |
//! | print or draw a graph; see where each value came from | [`describe()`], [`Drawing`]; [`explain()`] |
//! | test nodes and steps | [`testing`] |
//!
//! A pipeline goes through these stages. [`PipelineSpec::read`] reads the YAML and keeps the place
//! of every value. [`PipelineSpec::set`] applies overrides. [`check_all`] turns every variant into
//! a checked [`Plan`], shapes included, before any file is opened. [`run::Runner`] runs the steps
//! of each plan, and uses the store's result where the key is the same. A step builds the part of
//! the graph that it needs as [`Live`], and runs it on the batches of its sources.

/// This crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod code;
pub mod diagnostic;
mod draw;
pub mod dsl;
mod error;
pub mod files;
mod help;
mod json_schema;
pub mod node;
pub mod plan;
pub mod port;
mod progress;
pub mod registry;
pub mod run;
pub mod schema;
pub mod spec;
pub mod step;
pub mod testing;
pub mod world;

#[doc(hidden)]
pub use inventory;

pub use code::{Code, codes};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use draw::Drawing;
pub use dsl::Graph;
pub use error::{NodeError, StepError};
pub use files::{FileError, JsonLines, write_atomic, write_atomic_with};
pub use help::{help, keys_help};
pub use json_schema::json_schema;
pub use node::{BuildCx, CheckCx, Node, RunCx, derive_seed};
pub use plan::{
    Checked, Goal, Plan, PlannedNode, PlannedStep, check_all, check_source, describe, explain,
    merge_same,
};
pub use port::{AnyInfo, AnyValue, Port, Ports, Wire};
pub use progress::{Progress, Silent, StepHeading};
pub use run::{Live, NodeObserver, Outputs, RunFailed};
pub use schema::{list_of_words, words};
pub use spec::{ComputePath, GraphSpec, PipelineSpec, Variant};
pub use step::{Earlier, Step, StepCx};
pub use world::{ErrorHelp, World};
