//! Time and FLOPs by node.

use blt_core::model::Session;
use blt_graph::NodeObserver;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

/// Facility of a node that is more than a patcher: the forward FLOPs that its patcher took.
#[derive(Default)]
pub struct PatcherFlops(pub Cell<u64>);

/// Attributes what happens between a node's start and end to it.
pub struct NodeProfile {
    session: Rc<Session>,
    started: RefCell<Option<Instant>>,
    sums: RefCell<BTreeMap<String, (u64, f64)>>,
}

impl NodeProfile {
    pub fn new(session: Rc<Session>) -> Self {
        session.take_flops();
        NodeProfile { session, started: RefCell::new(None), sums: RefCell::default() }
    }

    /// Forward FLOPs by node.
    pub fn flops(&self) -> BTreeMap<String, u64> {
        self.sums
            .borrow()
            .iter()
            .filter(|(_, (flops, _))| *flops > 0)
            .map(|(n, (flops, _))| (n.clone(), *flops))
            .collect()
    }

    /// Seconds by node.
    pub fn seconds(&self) -> BTreeMap<String, f64> {
        self.sums.borrow().iter().map(|(n, (_, s))| (n.clone(), *s)).collect()
    }
}

impl NodeObserver for NodeProfile {
    fn before(&self, _: &str) {
        self.session.take_flops();
        *self.started.borrow_mut() = Some(Instant::now());
    }

    fn after(&self, node: &str) {
        let seconds = self.started.borrow_mut().take().map_or(0.0, |s| s.elapsed().as_secs_f64());
        let mut sums = self.sums.borrow_mut();
        let sum = sums.entry(node.to_owned()).or_default();
        sum.0 += self.session.take_flops();
        sum.1 += seconds;
    }
}
