//! Time and FLOPs by node.

use blt_core::backend::{BackendError, Tensor};
use blt_core::model::Session;
use blt_graph::NodeObserver;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

/// What a node took.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeCost {
    /// Forward.
    pub flops: u64,
    /// Forward FLOPs of what was recorded, and so runs backward too.
    pub recorded_flops: u64,
    /// Forward.
    pub seconds: f64,
    pub backward_seconds: f64,
}

/// Attributes what happens between a node's start and end to it, and what runs backward to the node
/// that recorded it.
pub struct NodeProfile {
    session: Rc<Session>,
    started: RefCell<Option<(Instant, usize)>>,
    sums: RefCell<BTreeMap<String, NodeCost>>,
    /// Which operations of the tape are whose.
    recorded: RefCell<Vec<(Range<usize>, String)>>,
}

impl NodeProfile {
    pub fn new(session: Rc<Session>) -> Self {
        session.take_flops();
        NodeProfile {
            session,
            started: RefCell::default(),
            sums: RefCell::default(),
            recorded: RefCell::default(),
        }
    }

    /// Forward FLOPs by node.
    pub fn flops(&self) -> BTreeMap<String, u64> {
        let sums = self.sums.borrow();
        sums.iter()
            .filter(|(_, cost)| cost.flops > 0)
            .map(|(n, cost)| (n.clone(), cost.flops))
            .collect()
    }

    /// Forward seconds by node.
    pub fn seconds(&self) -> BTreeMap<String, f64> {
        self.sums.borrow().iter().map(|(n, cost)| (n.clone(), cost.seconds)).collect()
    }

    /// All of it since the last call.
    pub fn take(&self) -> BTreeMap<String, NodeCost> {
        std::mem::take(&mut self.sums.borrow_mut())
    }

    /// Adds what something beside the nodes took.
    pub fn add_seconds(&self, what: &str, seconds: f64) {
        self.sums.borrow_mut().entry(what.to_owned()).or_default().seconds += seconds;
    }

    /// Runs the tape backward from `loss`; all of it must have been recorded under this profile.
    ///
    /// # Errors
    /// Of the device.
    pub fn backward(&self, loss: &Tensor) -> Result<(), BackendError> {
        let recorded = self.recorded.take();
        let mut sums = self.sums.borrow_mut();
        let backend = &self.session.backend;
        backend.synchronize()?;
        let mut last = Instant::now();
        backend.backward_observed(loss, &mut |operation| {
            backend.synchronize()?;
            let now = Instant::now();
            if let Some((_, node)) = recorded.iter().find(|(range, _)| range.contains(&operation)) {
                sums.entry(node.clone()).or_default().backward_seconds +=
                    (now - last).as_secs_f64();
            }
            last = now;
            Ok(())
        })
    }
}

impl NodeObserver for NodeProfile {
    fn before(&self, _: &str) {
        self.session.take_flops();
        // A device that failed says so again to the node that uses it next.
        let _ = self.session.backend.synchronize();
        *self.started.borrow_mut() = Some((Instant::now(), self.session.backend.tape_len()));
    }

    fn after(&self, node: &str) {
        let Some((started, from)) = self.started.borrow_mut().take() else { return };
        let _ = self.session.backend.synchronize();
        let (seconds, to) = (started.elapsed().as_secs_f64(), self.session.backend.tape_len());
        let mut sums = self.sums.borrow_mut();
        let sum = sums.entry(node.to_owned()).or_default();
        let flops = self.session.take_flops();
        sum.flops += flops;
        sum.seconds += seconds;
        if to > from {
            sum.recorded_flops += flops;
            self.recorded.borrow_mut().push((from..to, node.to_owned()));
        }
    }
}
