//! `evaluate: {probe: latents}`: what a trained model loses when it reads latents that say nothing
//! of its text.

use crate::model_part::ModelPart;
use crate::plan_queries::outputs_of;
use crate::ports::{Bytes, Loss, LossValue, PatchStates, PatchStatesValue};
use crate::trained_graph::TrainedGraph;
use blt_core::backend::{Operations, Tensor};
use blt_core::bytes::Batch;
use blt_data::{Packer, Request};
use blt_derive::params;
use blt_graph::{AnyValue, NodeError, Plan, PlannedNode, StepCx, StepError};
use blt_report::results::{self, LatentsProbe, ProbedDocument};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Bytes of training documents that the mean latent is of.
const MEAN_BYTES: u64 = 256 << 10;

/// Products of two numbers of a latent that the covariance is of, at most.
const PRODUCTS: usize = 1 << 30;

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

/// What was measured so far.
#[derive(Default)]
struct Sums {
    /// By group.
    donors: BTreeMap<Option<String>, Donors>,
    documents: Vec<ProbedDocument>,
    /// Squares of what cross-attention gave, and of the states that it was added to.
    cross: (f64, f64),
}

/// Sums over latents, for their mean and their covariance.
struct Moments {
    rows: usize,
    sums: Vec<f64>,
    /// Products of two numbers of a latent, of the first latents alone.
    products: Vec<f64>,
    product_rows: usize,
    product_sums: Vec<f64>,
}

impl Moments {
    fn new(dim: usize) -> Self {
        let (sums, products) = (vec![0.0; dim], vec![0.0; dim * dim]);
        Moments { rows: 0, product_sums: sums.clone(), sums, products, product_rows: 0 }
    }

    fn add(&mut self, latent: &[f32]) {
        let add = |sums: &mut [f64], by: f64| {
            sums.iter_mut().zip(latent).for_each(|(sum, &x)| *sum += by * f64::from(x));
        };
        add(&mut self.sums, 1.0);
        self.rows += 1;
        if self.product_rows * self.products.len() < PRODUCTS {
            add(&mut self.product_sums, 1.0);
            for (row, &x) in self.products.chunks_exact_mut(latent.len()).zip(latent) {
                add(row, f64::from(x));
            }
            self.product_rows += 1;
        }
    }

    fn mean(&self) -> Vec<f32> {
        self.sums.iter().map(|sum| (sum / self.rows as f64) as f32).collect()
    }

    /// The participation ratio of the covariance; None where latents do not vary.
    fn rank(&self) -> Option<f64> {
        let (dim, n) = (self.sums.len(), self.product_rows as f64);
        let mean = |i: usize| self.product_sums[i] / n;
        let covariance = |i: usize, j: usize| self.products[i * dim + j] / n - mean(i) * mean(j);
        let trace: f64 = (0..dim).map(|i| covariance(i, i)).sum();
        let squares: f64 = (0..dim * dim).map(|ij| covariance(ij / dim, ij % dim).powi(2)).sum();
        let rank = trace * trace / squares;
        rank.is_finite().then_some(rank)
    }
}

/// What `evaluate` may measure beside the loss.
#[params]
pub enum Probe {
    /// What the loss is with other latents.
    Latents,
}

impl Probe {
    /// Reads the documents of `request` with latents as trained, with the mean of training
    /// documents, with those of other documents of the group (a value of the column `by`), and with
    /// zeros. Documents of one value of `cluster` are one observation.
    ///
    /// # Errors
    /// If reading or running fails; [`StepError::Interrupted`].
    pub fn run(
        &self,
        cx: &StepCx,
        graph: &TrainedGraph,
        goal: &str,
        request: Request,
        batch_bytes: usize,
        (by, cluster): (Option<&str>, Option<&str>),
    ) -> Result<LatentsProbe, StepError> {
        let wires = LatentWires::find(cx.plan(), goal).map_err(|error| cx.refuse(&error))?;
        let probe = Probing { graph, goal, wires: &wires };
        cx.progress().start(&format!("probe {}", wires.latents), None);
        let (mean, rank) = probe.mean(cx, batch_bytes)?;
        let mut sums = Sums::default();
        let mut batches = graph.batches(request, batch_bytes)?.read_ahead(2);
        let mut ids = 0;
        while let Some(batch) = batches.next()? {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            let of_column = |s: usize, column: Option<&str>| {
                batches.scalars()[s].get(column?).cloned().flatten()
            };
            let names = |s: usize| (of_column(s, by), of_column(s, cluster));
            probe.measure(&batch, names, &mean, &mut sums)?;
            ids += batch.len() as u64;
            cx.progress().update(ids, &[]);
        }
        let (attention, residual) = sums.cross;
        let cross_attention = (residual > 0.0).then(|| (attention / residual).sqrt());
        let found = LatentsProbe { rank, cross_attention, ..results::probed(&sums.documents) };
        let worth = found.all.worth.unwrap_or(f64::NAN);
        cx.progress().finish(&format!("latents are worth {worth:.4} bits per byte"));
        Ok(found)
    }
}

/// A graph whose latents are replaced.
struct Probing<'a> {
    graph: &'a TrainedGraph,
    goal: &'a str,
    wires: &'a LatentWires,
}

impl Probing<'_> {
    /// The mean latent of training documents, and the rank of their covariance.
    fn mean(&self, cx: &StepCx, batch_bytes: usize) -> Result<(Vec<f32>, Option<f64>), StepError> {
        let Some(source) = self.graph.sources().first() else { return Ok((Vec::new(), None)) };
        let training = Request::training(cx.seed(), source.handle.shuffle_buffer);
        let request = Request { exclude_calibration: true, epochs: Some(1), ..training };
        let packer = Packer::new(source.handle.span_bytes, batch_bytes)?;
        let mut batches = self.graph.batches_of(source, request, packer)?;
        let (mut moments, mut bytes) = (Moments::new(0), 0);
        while bytes < MEAN_BYTES
            && let Some(batch) = batches.next()?
        {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            bytes += batch.n_counted_bytes() as u64;
            let latents = self.graph.get::<PatchStates>(&batch, &self.wires.latents)?.states;
            if moments.rows == 0 {
                moments = Moments::new(latents.cols);
            }
            for row in self.graph.session().to_host(&latents)?.chunks_exact(latents.cols) {
                moments.add(row);
            }
        }
        Ok((moments.mean(), moments.rank()))
    }

    /// Adds the spans of a batch to `sums`. `names`: group and cluster of a span's document.
    fn measure(
        &self,
        batch: &Rc<Batch>,
        names: impl Fn(usize) -> (Option<String>, Option<String>),
        mean: &[f32],
        Sums { donors, documents, cross }: &mut Sums,
    ) -> Result<(), StepError> {
        let (graph, wires) = (self.graph, self.wires);
        let beside = wires.beside.iter().map(String::as_str);
        let goals: Vec<&str> = [self.goal, &wires.latents].into_iter().chain(beside).collect();
        graph.session().watch_cross();
        let values = graph.run(batch, &goals);
        let norms = graph.session().take_cross().unwrap_or_default();
        *cross = (cross.0 + norms.attention, cross.1 + norms.residual);
        let mut values = values?;
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
            let donors = donors.entry(names(s).0).or_default();
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
                let (group, cluster) = names(s);
                documents.push(ProbedDocument {
                    row: span.row,
                    group,
                    cluster,
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
    fn the_rank_is_of_the_directions_that_latents_vary_in() {
        let rank = |latents: &[[f32; 3]]| {
            let mut moments = Moments::new(3);
            latents.iter().for_each(|latent| moments.add(latent));
            (moments.mean(), moments.rank())
        };
        let (mean, one) = rank(&[[1.0, 5.0, 2.0], [3.0, 5.0, 2.0]]);
        assert_eq!((mean, one), (vec![2.0, 5.0, 2.0], Some(1.0)));
        // Along two axes alike, and along one of them three times as far.
        let axes =
            |far: f32| [[far, 0.0, 9.0], [-far, 0.0, 9.0], [0.0, 1.0, 9.0], [0.0, -1.0, 9.0]];
        assert!((rank(&axes(1.0)).1.unwrap() - 2.0).abs() < 1e-12);
        assert!((rank(&axes(3.0)).1.unwrap() - 100.0 / 82.0).abs() < 1e-12);
        assert_eq!(rank(&[[1.0; 3]; 4]).1, None);
    }

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
