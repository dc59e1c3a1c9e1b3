//! From a [`PipelineSpec`](crate::PipelineSpec) to a checked [`Plan`].

pub(crate) mod check;
mod describe;
mod findings;
#[expect(clippy::module_inception, reason = "the room is named after what it holds")]
mod plan;

pub use describe::describe;
pub use plan::{Goal, Plan, PlannedNode, PlannedStep, check_all};
pub(crate) use plan::{PortId, subgraph_value};
