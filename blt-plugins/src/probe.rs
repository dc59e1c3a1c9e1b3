//! `evaluate: {probe: latents}`: what a trained model loses when it reads latents that say nothing
//! of its text.

use crate::model_part::ModelPart;
use crate::plan_queries::outputs_of;
use crate::ports::{Bytes, Loss, LossValue, PatchStates, PatchStatesValue};
use crate::trained_graph::TrainedGraph;
use blt_core::backend::{Operations, Tensor};
use blt_core::bytes::Batch;
use blt_data::{Packer, Request};
use blt_graph::{AnyValue, NodeError, Plan, PlannedNode, StepCx, StepError};
use blt_report::results::{LatentsProbe, ProbedDocument};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Bytes of training documents that the mean latent is of.
const MEAN_BYTES: u64 = 256 << 10;

/// Where the latents of a goal are.
pub struct LatentWires {
    /// The output of the latent part.
    latents: String,
    /// The other outputs, those of sources left out, that the nodes behind it read.
    beside: Vec<String>,
}

impl LatentWires {
    /// Of the only node behind `goal` whose role is the latent part of a model.
    ///
    /// # Errors
    /// If there is no such node, or several; the error points at the parameter `probe`.
    pub fn find(plan: &Plan, goal: &str) -> Result<Self, NodeError> {
        let nodes = plan.needs(&[goal])?;
        let mut latent: Vec<&PlannedNode> = Vec::new();
        for node in &nodes {
            match plan.role::<ModelPart>(node)? {
                Some(ModelPart::Latent(_)) => latent.push(node),
                Some(ModelPart::Whole) => {
                    let msg =
                        format!("`{}` is a whole model, whose latents are on no wire", node.name);
                    return Err(NodeError::param("probe", msg));
                }
                _ => {}
            }
        }
        let [latent] = latent[..] else {
            let n = latent.len();
            let msg = format!(
                "`{goal}` has {n} nodes that are the latent part of a model; a probe reads one"
            );
            return Err(NodeError::param("probe", msg));
        };
        let output = outputs_of::<PatchStates>(latent).next();
        let (latents, _) = output.ok_or_else(|| {
            NodeError::param(
                "probe",
                format!("the latent part `{}` gives no PatchStates", latent.name),
            )
        })?;
        let mut behind = BTreeSet::from([latent.name.as_str()]);
        let mut beside = BTreeSet::new();
        // Each node comes after those that it reads from.
        for node in nodes {
            let wires: Vec<String> =
                plan.wires(node).into_iter().filter_map(|(_, wire)| wire).collect();
            let mut others = Vec::new();
            let mut reads = false;
            for wire in wires {
                let from = plan.goal(&wire)?;
                match behind.contains(from.node.name.as_str()) {
                    true => reads = true,
                    false if from.is::<Bytes>() => {}
                    false => others.push(wire),
                }
            }
            if reads {
                behind.insert(&node.name);
                beside.extend(others);
            }
        }
        Ok(LatentWires { latents, beside: beside.into_iter().collect() })
    }
}

/// Latents to read in place of a document's own: those of the documents of its group before it, for
/// each patch index the nearest one's that has so many patches.
#[derive(Default)]
struct Donors {
    /// The document that `next` is of.
    row: Option<u64>,
    ready: Vec<f32>,
    next: Vec<f32>,
}

impl Donors {
    /// In place of `own`, the latents of a span of document `row`; `mean` where there are none.
    fn replace(&mut self, row: u64, own: &[f32], mean: &[f32]) -> Vec<f32> {
        if self.row.replace(row) != Some(row) {
            overlay(&mut self.ready, std::mem::take(&mut self.next));
        }
        overlay(&mut self.next, own.to_vec());
        let beyond = mean.iter().copied().cycle().skip(self.ready.len() % mean.len());
        self.ready.iter().copied().chain(beyond).take(own.len()).collect()
    }
}

/// Puts `new` over the beginning of `old`.
fn overlay(old: &mut Vec<f32>, mut new: Vec<f32>) {
    if let Some(rest) = old.get(new.len()..) {
        new.extend_from_slice(rest);
    }
    *old = new;
}

/// A graph whose latents are replaced.
struct Probe<'a> {
    graph: &'a TrainedGraph,
    goal: &'a str,
    wires: &'a LatentWires,
}

/// Reads the documents of `request` with latents as trained, with the mean of training documents,
/// with those of other documents of the group (the values of the column `by`), and with zeros.
///
/// # Errors
/// If reading or running fails; [`StepError::Interrupted`].
pub fn run(
    cx: &StepCx,
    graph: &TrainedGraph,
    goal: &str,
    request: Request,
    batch_bytes: usize,
) -> Result<LatentsProbe, StepError> {
    let wires = LatentWires::find(cx.plan(), goal).map_err(|error| cx.refuse(&error))?;
    let probe = Probe { graph, goal, wires: &wires };
    cx.progress().start(&format!("probe {}", wires.latents), None);
    let mean = probe.mean(cx, batch_bytes)?;
    let mut donors: BTreeMap<Option<String>, Donors> = BTreeMap::new();
    let mut documents: Vec<ProbedDocument> = Vec::new();
    let by = request.scalars.first().cloned();
    let mut batches = graph.batches(request, batch_bytes)?.read_ahead(2);
    let mut ids = 0;
    while let Some(batch) = batches.next()? {
        if cx.interrupted() {
            return Err(StepError::Interrupted);
        }
        let group = |s: usize| batches.scalars()[s].get(by.as_ref()?).cloned().flatten();
        probe.measure(&batch, group, &mean, &mut donors, &mut documents)?;
        ids += batch.len() as u64;
        cx.progress().update(ids, &[]);
    }
    let found = LatentsProbe::of(&documents);
    let worth = found.all.worth.unwrap_or(f64::NAN);
    cx.progress().finish(&format!("latents are worth {worth:.4} bits per byte"));
    Ok(found)
}

impl Probe<'_> {
    /// The mean latent of training documents.
    fn mean(&self, cx: &StepCx, batch_bytes: usize) -> Result<Vec<f32>, StepError> {
        let Some(source) = self.graph.sources().first() else { return Ok(Vec::new()) };
        let training = Request::training(cx.seed(), source.handle.shuffle_buffer);
        let request = Request { exclude_calibration: true, epochs: Some(1), ..training };
        let packer = Packer::new(source.handle.span_bytes, batch_bytes)?;
        let mut batches = self.graph.batches_of(source, request, packer)?;
        let (mut sums, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while bytes < MEAN_BYTES
            && let Some(batch) = batches.next()?
        {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            bytes += batch.n_counted_bytes() as u64;
            let latents = self.graph.get::<PatchStates>(&batch, &self.wires.latents)?.states;
            sums.resize(latents.cols, 0.0f64);
            rows += latents.rows;
            for row in self.graph.session().to_host(&latents)?.chunks_exact(latents.cols) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
        Ok(sums.into_iter().map(|sum| (sum / rows as f64) as f32).collect())
    }

    /// Adds the spans of a batch to `documents`.
    fn measure(
        &self,
        batch: &Rc<Batch>,
        group: impl Fn(usize) -> Option<String>,
        mean: &[f32],
        donors: &mut BTreeMap<Option<String>, Donors>,
        documents: &mut Vec<ProbedDocument>,
    ) -> Result<(), StepError> {
        let (graph, wires) = (self.graph, self.wires);
        let beside = wires.beside.iter().map(String::as_str);
        let goals: Vec<&str> = [self.goal, &wires.latents].into_iter().chain(beside).collect();
        let mut values = graph.run(batch, &goals)?;
        let trained = values.take::<Loss>(self.goal)?;
        let PatchStatesValue { states, patches } = values.take::<PatchStates>(&wires.latents)?;
        let beside: Vec<(&str, AnyValue)> = wires
            .beside
            .iter()
            .filter_map(|wire| Some((wire.as_str(), values.take_any(wire)?)))
            .collect();
        let own = graph.session().to_host(&states)?;
        let Tensor { rows, cols, .. } = states;
        let mut others = Vec::with_capacity(own.len());
        for (s, span) in batch.spans.iter().enumerate() {
            let of_span = patches.span_offsets[s] * cols..patches.span_offsets[s + 1] * cols;
            let donors = donors.entry(group(s)).or_default();
            others.extend(donors.replace(span.row, &own[of_span], mean));
        }
        let with = |latents: Vec<f32>| -> Result<LossValue, StepError> {
            let states = graph.session().constant(rows, cols, latents)?;
            let value = PatchStatesValue { states, patches: patches.clone() };
            let latents = (wires.latents.as_str(), AnyValue::new::<PatchStates>(value));
            let given = [&[latents], &beside[..]].concat();
            Ok(graph.run_with(batch, &given, &[self.goal])?.take::<Loss>(self.goal)?)
        };
        let mean = with(mean.iter().copied().cycle().take(own.len()).collect())?;
        let (other, zero) = (with(others)?, with(vec![0.0; own.len()])?);
        for (s, span) in batch.spans.iter().enumerate() {
            // Spans of a document come one after the other.
            if documents.last().is_none_or(|last| last.row != span.row) {
                let group = group(s);
                documents.push(ProbedDocument {
                    row: span.row,
                    group,
                    ..ProbedDocument::default()
                });
            }
            let document = documents.last_mut().expect("pushed above");
            document.bytes += (span.range.len() - span.context) as u64;
            document.nats.trained += trained.span_nats(s);
            document.nats.mean += mean.span_nats(s);
            document.nats.other += other.span_nats(s);
            document.nats.zero += zero.span_nats(s);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn donors_are_other_documents_at_the_same_patch_indices() {
        let mut donors = Donors::default();
        let mean = [0.5, -0.5];
        let first = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0];
        assert_eq!(donors.replace(0, &first, &mean), [0.5, -0.5, 0.5, -0.5, 0.5, -0.5]);
        // Another span of the same document does not read its own document.
        assert_eq!(donors.replace(0, &[9.0, 9.0], &mean), mean);
        let second = donors.replace(4, &[7.0; 8], &mean);
        assert_eq!(second, [9.0, 9.0, 2.0, 2.0, 3.0, 3.0, 0.5, -0.5]);
        assert_eq!(donors.replace(5, &[1.0, 1.0], &mean), [7.0, 7.0]);
    }
}
