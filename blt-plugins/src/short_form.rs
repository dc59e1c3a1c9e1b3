//! What `#[node]` calls to make a node of a short form.

use blt_graph::{BuildCx, NodeError, Ports, RunCx};

/// How the type `N`, which implements a short form, is a node. A trait rather than a blanket `impl
/// Node`: one type might implement two forms, and `Node` is of another crate.
pub trait ShortForm<N> {
    type In: Ports;
    type Out: Ports;

    fn check(node: &N) -> Result<<Self::Out as Ports>::Infos, NodeError>;

    /// Provides facilities, if the form has any; it keeps no state.
    fn build(node: &N, cx: &mut BuildCx) {
        let _ = (node, cx);
    }

    fn run(
        node: &N,
        inputs: <Self::In as Ports>::Values,
        cx: &RunCx,
    ) -> Result<<Self::Out as Ports>::Values, NodeError>;
}
