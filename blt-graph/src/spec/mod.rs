//! A pipeline as written, in YAML or in Rust: [`PipelineSpec`].

mod edit;
mod pipeline;
mod reader;
mod yaml;

pub use pipeline::{
    Ablation, BASE_VARIANT, GraphSpec, Inputs, NodeSpec, PipelineSpec, StepSpec, Variant,
};
pub(crate) use yaml::Places;
