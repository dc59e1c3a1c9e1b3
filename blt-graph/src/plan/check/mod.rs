//! Checking: from a [`PipelineSpec`](crate::PipelineSpec) to a [`Plan`](crate::Plan), collecting
//! every error on the way.

mod all;
mod candidate;
mod steps;
mod variant;
mod wires;

pub use all::check_all;
