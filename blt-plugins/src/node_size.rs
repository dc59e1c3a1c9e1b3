//! [`NodeSize`]: what a node will hold, known before anything is built.

use blt_core::params::{Count, ParamMaker};
use blt_graph::CheckCx;

/// What a node will hold in memory. A node's check states it, so that a pipeline that is too large
/// for the machine is refused before anything is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSize {
    /// Its parameters.
    pub params: Count,
    /// Numbers of each id of a batch that training keeps until the backward pass, at least.
    pub kept_per_id: u64,
}

impl NodeSize {
    /// States the size of the node in whose check this is called: the parameters that `make`
    /// builds, none of which is made, and what training keeps of each id.
    pub fn state<T>(cx: &CheckCx, kept_per_id: usize, make: impl FnOnce(&mut ParamMaker) -> T) {
        cx.state(NodeSize { params: Count::of(make), kept_per_id: kept_per_id as u64 });
    }
}
