//! The short form of a metric: a function of logits and targets.

use crate::model::session;
use crate::ports::{self, Bytes, Logits, LogitsValue, MetricValue};
use crate::short_form::ShortForm;
use blt_core::bytes::{Batch, VOCAB};
use blt_core::model::next_byte_targets;
use blt_graph::{NodeError, RunCx};
use std::rc::Rc;

/// A metric of next-byte predictions.
///
/// Under `#[node]`, an `impl` of it is a node with inputs `logits` and `bytes`, which an `evaluate`
/// step names in `metrics`.
///
/// ```
/// # extern crate blt_plugins as blt;
/// use blt_plugins::{Metric, ports::MetricValue};
/// use blt_derive::{node, params};
///
/// /// How often the next byte is the most probable one.
/// #[params]
/// pub struct Accuracy {}
///
/// #[node]
/// impl Metric for Accuracy {
///     fn measure(&self, logits: &[&[f32]], targets: &[usize]) -> MetricValue {
///         let hit = |row: &[f32], target: usize| row.iter().all(|&logit| logit <= row[target]);
///         let hits = logits.iter().zip(targets).filter(|&(row, &target)| hit(row, target)).count();
///         MetricValue::share("accuracy", hits, targets.len())
///     }
/// }
/// # fn main() {}
/// ```
pub trait Metric: 'static {
    /// Measures the predictions of a batch, one for each of its bytes: `logits` are rows of 260,
    /// one logit for each byte id, and `targets` are the ids of the bytes that did come. The result
    /// is named sums with their counts; over several batches `evaluate` adds both up, and reports
    /// sum / count.
    fn measure(&self, logits: &[&[f32]], targets: &[usize]) -> MetricValue;

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`NodeError::param`] names the parameter at fault.
    fn check(&self) -> Result<(), NodeError> {
        Ok(())
    }
}

/// A [`Metric`] as a node.
pub enum Measured {}

impl<M: Metric> ShortForm<M> for Measured {
    type In = (Logits, Bytes);
    type Out = ports::Metric;

    fn check(metric: &M) -> Result<(), NodeError> {
        metric.check()
    }

    fn run(
        metric: &M,
        (logits, batch): (LogitsValue, Rc<Batch>),
        cx: &RunCx,
    ) -> Result<MetricValue, NodeError> {
        let all = logits.head.logits(&session(cx))?;
        let predictions = all.chunks_exact(VOCAB).zip(next_byte_targets(&batch, false));
        let (rows, targets): (Vec<&[f32]>, Vec<usize>) =
            predictions.filter_map(|(row, target)| Some((row, target? as usize))).unzip();
        Ok(metric.measure(&rows, &targets))
    }
}
