//! From a [`PipelineSpec`](crate::PipelineSpec) to a checked [`Plan`].

mod check;
mod describe;
mod diagnose;
mod explain;
mod find;
mod params;
#[expect(clippy::module_inception, reason = "the folder is named after what it holds")]
mod plan;
mod same;

pub use check::{Checked, check_all, check_source};
pub use describe::describe;
pub(crate) use describe::info_text;
pub use explain::explain;
pub(crate) use find::PortId;
pub(crate) use params::{check_params, parsed};
pub(crate) use plan::subgraph_value;
pub use plan::{Goal, Plan, PlannedNode, PlannedStep};
pub use same::merge_same;
