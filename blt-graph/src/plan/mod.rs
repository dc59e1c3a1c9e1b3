//! From a [`PipelineSpec`](crate::PipelineSpec) to a checked [`Plan`].

mod check;
mod describe;
mod diagnose;
mod find;
mod params;
#[expect(clippy::module_inception, reason = "the folder is named after what it holds")]
mod plan;
mod same;

pub use check::check_all;
pub use describe::describe;
pub(crate) use find::PortId;
pub(crate) use params::{check_params, param_diagnostic};
pub(crate) use plan::subgraph_value;
pub use plan::{Goal, Plan, PlannedNode, PlannedStep};
pub use same::merge_same;
