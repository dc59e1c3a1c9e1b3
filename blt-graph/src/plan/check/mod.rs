//! Checking: from a [`PipelineSpec`](crate::PipelineSpec) to a [`Plan`](crate::Plan), collecting
//! every error on the way.

mod all;
mod candidate;
mod repair;
mod source;
mod steps;
mod variant;
mod wires;

pub use all::check_all;
pub use source::{Checked, check_source};
