//! A pipeline as written, in YAML or in Rust: [`PipelineSpec`].
//!
//! Reading finds what the text says and where. Whether a node exists, has such parameters and fits
//! its wires is checked later, by [`check_all`](crate::check_all).

mod compute_path;
mod edit;
mod flow;
mod form;
mod given;
mod graph;
mod grid;
mod keys;
mod markdown;
mod overrides;
mod pipeline;
mod places;
mod read_ablate;
mod reader;
mod scalar;
mod syntax;
mod variants;
mod yaml;

pub use compute_path::ComputePath;
pub(crate) use flow::flow;
pub(crate) use form::NAME;
pub(crate) use graph::is_name;
pub use graph::{GraphSpec, Inputs, NodeSpec, RESERVED};
pub(crate) use keys::schema as pipeline_schema;
pub use pipeline::{Ablation, Axis, BASE_VARIANT, PipelineSpec, StepSpec, Variant};
pub(crate) use places::Places;
pub(crate) use scalar::resolve;
pub(crate) use syntax::NOT_YAML;
