//! Typed dataflow pipelines: nodes and wires, the registry, the spec (YAML and Rust), checking,
//! execution, run directories.
//!
//! This crate knows no model and no file format of data. Where to look:
//!
//! | you want to | read |
//! |---|---|
//! | write a node | [`Node`], [`Port`], [`node!`](crate::node!) |
//! | write a step (train, evaluate, ...) | [`Step`], [`StepCx`], [`step!`](crate::step!), [`Live`] |
//! | read or change a pipeline's YAML | [`spec`], [`PipelineSpec::set`] |
//! | write a graph in Rust | [`dsl::Graph`] |
//! | know what is checked, and when | [`plan`], [`diagnostic`] |
//! | run a pipeline | [`run::Runner`] |
//! | know when a step's result is used again | [`run::store`] |
//! | list nodes, print help | [`registry`], [`describe()`] |
//!
//! The way of a pipeline: [`PipelineSpec::read`] finds what the YAML says and where;
//! [`PipelineSpec::set`] makes overrides; [`check_all`] resolves every variant into a
//! checked [`Plan`], shapes included, before any file is opened; [`run::Runner`] runs the steps of
//! each plan, using again what the store has under the same key; a step builds the part of
//! the graph that it needs as [`Live`] and runs it on the batches of its sources.

/// This crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod diagnostic;
pub mod dsl;
pub mod files;
pub mod node;
pub mod plan;
pub mod port;
pub mod registry;
pub mod run;
mod schema;
pub mod spec;
pub mod step;
pub mod world;

#[doc(hidden)]
pub use inventory;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use dsl::Graph;
pub use files::{FileError, JsonLines, write_atomic, write_atomic_with};
pub use node::{BuildCx, CheckCx, Node, NodeError, RunCx, derive_seed};
pub use plan::{Goal, Plan, PlannedNode, PlannedStep, check_all, describe};
pub use port::{AnyInfo, AnyValue, Port, Ports, Wire};
pub use run::{Live, NodeObserver, Outputs, RunFailed};
pub use spec::{GraphSpec, PipelineSpec, Variant};
pub use step::{ComputePath, Earlier, Progress, Silent, Step, StepCx, StepError, StepHeading};
pub use world::{ErrorHelp, World};
