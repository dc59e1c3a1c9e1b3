//! `train: {evaluate: ..}`: the loss on held-out documents during training.

use super::params::HeldOut;
use crate::ports::Loss;
use crate::sources::sources;
use crate::trained_graph::TrainedGraph;
use blt_core::bytes::Batch;
use blt_data::{DataError, Order, Portion, ReadDocuments, Request};
use blt_graph::{NodeError, StepCx, StepError};
use std::rc::Rc;

/// Checks that the sources of `goal` have held-out documents.
pub fn check(cx: &StepCx, goal: &str) -> Result<(), StepError> {
    for found in sources(cx.plan(), &[goal])? {
        match found.handle.source.check(&Request::portion(Portion::Valid)) {
            Err(DataError::NoSplit { .. }) => {
                let msg =
                    format!("`{}` has no `split`, so it has no held-out documents", found.node);
                return Err(cx.refuse(&NodeError::param("evaluate", msg)));
            }
            Err(error) => return Err(found.error(cx.plan(), error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The held-out documents, in memory.
pub struct Curve {
    every: u64,
    batches: Vec<Rc<Batch>>,
}

impl Curve {
    /// Reads documents in batches of at most `batch_bytes` ids.
    pub fn read(
        of: &HeldOut,
        cx: &StepCx,
        graph: &TrainedGraph,
        batch_bytes: usize,
    ) -> Result<Self, StepError> {
        let buffer = graph.source()?.handle.shuffle_buffer;
        let order = Order::Shuffled { seed: cx.seed(), buffer };
        let portion = Request::portion(Portion::Valid);
        let mut documents =
            graph.batches(Request { limit: of.documents, order, ..portion }, batch_bytes)?;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while bytes < of.bytes
            && let Some(batch) = documents.next()?
        {
            bytes += batch.n_counted_bytes() as u64;
            batches.push(batch);
        }
        Ok(Curve { every: of.every, batches })
    }

    /// Bits per byte after `step`, if it is its turn.
    pub fn after(
        &self,
        step: u64,
        graph: &TrainedGraph,
        goal: &str,
    ) -> Result<Option<f64>, StepError> {
        if !step.is_multiple_of(self.every) {
            return Ok(None);
        }
        let (mut nats, mut bytes) = (0.0, 0);
        for batch in &self.batches {
            nats += graph.get::<Loss>(batch, goal)?.total_nats();
            bytes += batch.n_counted_bytes();
        }
        Ok(Some(nats / std::f64::consts::LN_2 / bytes as f64))
    }
}
