use crate::clusters::{check_clusters, cluster_column};
use crate::device::backend;
use crate::lint::warn_untrained;
use crate::match_patches::Match;
use crate::matched::Matched;
use crate::plan_queries::{
    boundary_lookahead, nodes_behind_borders, patches_wire, read_by_patchers,
};
use crate::ports::{Entropies, Loss, Metric, MetricValue, Patches};
use crate::probe::{LatentWires, Probe};
use crate::profile::NodeProfile;
use crate::recognise::closed_form_flops;
use crate::size;
use crate::sources::{check_source, check_sources, fingerprints, sources};
use crate::split::Split;
use crate::trained_graph::TrainedGraph;
use blt_core::bytes::Batch;
use blt_core::patch::PatchStats;
use blt_core::sizes::{MAX_BYTES, MAX_COUNT};
use blt_data::{Counts, DataError, ReadDocuments, Request};
use blt_derive::{params, step};
use blt_graph::{JsonLines, NodeError, Plan, Step, StepCx, StepError, write_atomic};
use blt_report::html::Sample;
use blt_report::results::{DocumentLine, EvaluateResult, LatentsProbe, Number, StepResult, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::LN_2;
use std::rc::Rc;
use std::time::Instant;

/// Measures bits per byte on whole documents: over all of them, by the values of a column, and by
/// document.
///
/// Also measures patch sizes; FLOPs per byte, counted by node from the executed shapes (attention:
/// allowed pairs only; the entropy model is included, and reported on its own as well), next to the
/// paper's closed formula; and every metric node named in `metrics`. Writes `result.json`,
/// `documents.jsonl` (one line for each document, by which comparisons pair runs, with the value of
/// the column `report.cluster`) and `samples.json` (texts with their patch borders and entropies).
#[params]
pub struct Evaluate {
    /// The wire of the loss to measure.
    pub goal: String,
    /// Documents to read: `valid`, `train` or `all`.
    #[default(Split::Valid)]
    #[schemars(schema_with = "blt_graph::words::<Split>")]
    pub split: Split,
    /// The source node to read documents from; the goal's own by default.
    pub source: Option<String>,
    /// A column; the documents of each of its values are also measured on their own.
    pub by: Option<String>,
    /// Most ids in a batch. Results do not depend on it.
    #[default(32 * 1024)]
    #[range(1..=MAX_BYTES)]
    pub batch_bytes: usize,
    /// Wires of metric nodes to compute as well.
    #[default]
    pub metrics: Vec<String>,
    /// Equal patch sizes on the documents that are scored: `{bytes_per_patch: 6, on: scored}` finds
    /// the patcher's threshold anew on them, within 1 %, and scores with it; `groups: true` does so
    /// for each value of `by`. What was found for training stays as it is. Both rates are shown. A
    /// patcher without a threshold must have that size by itself.
    #[serde(rename = "match")]
    pub matching: Option<Match>,
    /// Most documents to read, empty ones included.
    #[range(0..=MAX_COUNT)]
    pub limit: Option<u64>,
    /// Also measure the worth of latents: `latents` reads the documents again with the latents
    /// replaced by the mean over training documents, by those of another document of the group
    /// (`by`) at the same patch indices, and by zeros. The worth is the smaller of the first two
    /// losses minus the loss as trained. Works for every graph with one node that is the latent
    /// part of a model.
    pub probe: Option<Probe>,
    /// Bytes of the first document of each group to keep as a sample for the report.
    #[default(400)]
    #[range(0..=MAX_BYTES)]
    pub sample_bytes: usize,
}

/// Sums over documents.
#[derive(Clone, Copy, Default)]
struct Sums {
    nats: f64,
    bytes: u64,
    documents: u64,
}

impl Sums {
    fn add(&mut self, nats: f64, bytes: u64) {
        self.nats += nats;
        self.bytes += bytes;
        self.documents += 1;
    }

    /// Bits per byte; `None` if there are no bytes.
    fn bpb(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / LN_2 / self.bytes as f64)
    }
}

/// A document of which some spans are measured.
#[derive(Default)]
struct Open {
    group: Option<String>,
    cluster: Option<String>,
    bytes: u64,
    nats: f64,
    patches: u64,
}

struct Measuring<'a> {
    step: &'a Evaluate,
    matched: Option<Matched>,
    graph: &'a TrainedGraph,
    profile: Rc<NodeProfile>,
    /// FLOPs of patchers inside nodes before the first batch, by node.
    patcher_flops: BTreeMap<String, u64>,
    patches_wire: Option<String>,
    entropies_wire: Option<String>,
    open: BTreeMap<u64, Open>,
    total: Sums,
    groups: BTreeMap<String, Sums>,
    patch_stats: PatchStats,
    metrics: MetricValue,
    samples: BTreeMap<Option<String>, Sample>,
    documents: JsonLines,
    latents: Option<LatentsProbe>,
    ids: u64,
    spans: u64,
}

impl Evaluate {
    /// The wires to compute.
    fn computed(&self) -> Vec<&str> {
        std::iter::once(&self.goal).chain(&self.metrics).map(String::as_str).collect()
    }
}

#[step(example = "goal: loss, split: valid, by: domain")]
impl Step for Evaluate {
    fn goals(&self) -> Vec<String> {
        std::iter::once(&self.goal).chain(&self.metrics).chain(&self.source).cloned().collect()
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        if !plan.goal(&self.goal)?.is::<Loss>() {
            return Err(NodeError::param(
                "goal",
                format!("`{}` is not a Loss, and bits per byte are one", self.goal),
            ));
        }
        for metric in &self.metrics {
            if !plan.goal(metric)?.is::<Metric>() {
                return Err(NodeError::param("metrics", format!("`{metric}` is not a Metric")));
            }
        }
        check_source(plan, self.source.as_deref())?;
        if self.probe.is_some() {
            LatentWires::find(plan, &self.goal)?;
        }
        if self.matching.as_ref().is_some_and(|matching| matching.groups) && self.by.is_none() {
            let what = "`groups: true` matches each value of the column `by`: give `by`";
            return Err(NodeError::param("match", what));
        }
        size::check(plan, &self.computed(), None)
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        let goals = self.goals();
        let refs: Vec<&str> = goals.iter().map(String::as_str).collect();
        let read: Vec<&str> =
            self.source.as_deref().map_or_else(|| self.computed(), |source| vec![source]);
        backend(cx)?;
        let request = Request::portion(self.split.portion());
        if let Some(source) = &self.source {
            for found in sources(cx.plan(), &read)? {
                if let Err(DataError::NoSplit { .. }) = found.handle.source.check(&request) {
                    let msg = format!(
                        "`{source}` has no `split`, so it has no {} documents",
                        self.split.portion()
                    );
                    let error = NodeError::param("split", msg)
                        .help("`split: all` measures all of its documents");
                    return Err(cx.refuse(&error));
                }
            }
        }
        check_sources(cx, &read, &request)?;
        if let Some(by) = &self.by {
            // The rest of the request was checked above, so `by` is at fault.
            let request = Request { scalars: vec![by.clone()], ..request.clone() };
            for found in sources(cx.plan(), &read)? {
                let at_by = |e| cx.refuse(&NodeError::param("by", e));
                found.handle.source.check(&request).map_err(at_by)?;
            }
        }
        let request = Request { limit: self.limit, ..request };
        let clusters =
            cluster_column(cx.plan()).map(|column| check_clusters(cx, &read, column, request));
        warn_untrained(cx)?;
        let mut depends = fingerprints(cx, &refs)?;
        depends.extend(clusters.transpose()?);
        Ok(depends)
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let refs = self.computed();
        let mut graph = TrainedGraph::build(cx, &refs)?;
        graph.prepare(cx)?;
        graph.read_from(cx, self.source.as_deref())?;
        let cluster = cluster_column(cx.plan()).map(str::to_owned);
        let request = Request {
            scalars: self.by.iter().cloned().chain(cluster.clone()).collect(),
            limit: self.limit,
            ..Request::portion(self.split.portion())
        };
        let by = (self.batch_bytes, self.by.as_deref());
        let matched = self.matching.as_ref();
        let matched =
            matched.map(|m| m.apply(cx, &graph, &refs, request.clone(), by)).transpose()?;
        // Before the costs of nodes are measured.
        let columns = (self.by.as_deref(), cluster.as_deref());
        let probed = |probe: &Probe| {
            probe.run(cx, &graph, &self.goal, request.clone(), self.batch_bytes, columns)
        };
        let latents = self.probe.as_ref().map(probed).transpose()?;
        let mut batches = graph.batches(request, self.batch_bytes)?.read_ahead(2);
        let documents = JsonLines::open(cx.dir().join("documents.jsonl"), 0)?;
        let mut measuring = Measuring {
            patches_wire: patches_wire(cx.plan(), &refs)?,
            entropies_wire: read_by_patchers(cx.plan(), &refs)?,
            step: self,
            matched,
            graph: &graph,
            profile: graph.profile(),
            patcher_flops: patcher_flops(&graph),
            open: BTreeMap::new(),
            total: Sums::default(),
            groups: BTreeMap::new(),
            patch_stats: PatchStats::default(),
            metrics: MetricValue::default(),
            samples: BTreeMap::new(),
            documents,
            latents,
            ids: 0,
            spans: 0,
        };
        cx.progress().start(&format!("evaluate {}", self.goal), None);
        let started = Instant::now();
        while let Some(batch) = batches.next()? {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            let of_column = |column: Option<&str>| {
                let scalars = batches.scalars().iter();
                scalars.map(|of_span| of_span.get(column?).cloned().flatten()).collect::<Vec<_>>()
            };
            measuring.measure(
                &batch,
                &of_column(self.by.as_deref()),
                &of_column(cluster.as_deref()),
            )?;
            let rate = measuring.ids as f64 / started.elapsed().as_secs_f64();
            let bpb = measuring.total.bpb().unwrap_or(f64::NAN);
            cx.progress().update(
                measuring.ids,
                &[("bpb", format!("{bpb:.3}")), ("bytes/s", format!("{rate:.0}"))],
            );
        }
        let counts = batches.counts();
        if measuring.total.bytes == 0 {
            return Err(StepError::other(format!(
                "the {} documents hold no bytes ({} null, {} empty); there is nothing to measure",
                self.split.portion(),
                counts.nulls,
                counts.empty
            )));
        }
        graph.check_end()?;
        let seconds = started.elapsed().as_secs_f64();
        measuring.finish(cx, &counts, seconds)
    }
}

impl Measuring<'_> {
    /// `groups`, `clusters`: of each span.
    fn measure(
        &mut self,
        batch: &Rc<Batch>,
        groups: &[Option<String>],
        clusters: &[Option<String>],
    ) -> Result<(), StepError> {
        self.ids += batch.len() as u64;
        self.spans += batch.n_spans() as u64;
        let mut goals: Vec<&str> = vec![&self.step.goal];
        goals.extend(self.step.metrics.iter().map(String::as_str));
        goals.extend(self.patches_wire.as_deref());
        goals.extend(self.entropies_wire.as_deref());
        let mut values = self.graph.run(batch, &goals)?;
        let loss = values.take::<Loss>(&self.step.goal)?;
        for metric in &self.step.metrics {
            self.metrics.merge(&values.take::<Metric>(metric)?);
        }
        let patches =
            self.patches_wire.as_ref().map(|wire| values.take::<Patches>(wire)).transpose()?;
        let entropies =
            self.entropies_wire.as_ref().map(|wire| values.take::<Entropies>(wire)).transpose()?;
        if let Some(patches) = &patches {
            self.patch_stats.add(batch, patches);
        }
        for (s, span) in batch.spans.iter().enumerate() {
            let open = self.open.entry(span.row).or_insert_with(|| Open {
                group: groups[s].clone(),
                cluster: clusters[s].clone(),
                ..Open::default()
            });
            open.nats += loss.span_nats(s);
            open.bytes += (span.range.len() - span.context) as u64;
            if let Some(patches) = &patches {
                open.patches += patches.n_counted(batch, s) as u64;
            }
            if span.range.start == 0
                && !span.range.is_empty()
                && !self.samples.contains_key(&open.group)
            {
                let sample = self.sample(batch, s, patches.as_deref(), entropies.as_deref());
                let group = self.open[&span.row].group.clone();
                self.samples.insert(group.clone(), Sample { group, ..sample });
            }
            if span.last {
                let done = self.open.remove(&span.row).unwrap_or_default();
                if !done.nats.is_finite() {
                    let first = self.graph.first_not_finite(batch, &self.step.goal)?;
                    return Err(StepError::other(format!(
                        "the loss of the document in row {} is not finite{first}",
                        span.row
                    )));
                }
                self.total.add(done.nats, done.bytes);
                if let Some(group) = &done.group {
                    self.groups.entry(group.clone()).or_default().add(done.nats, done.bytes);
                }
                self.documents.push(&DocumentLine {
                    row: span.row,
                    group: done.group,
                    cluster: done.cluster,
                    bytes: done.bytes,
                    nats: done.nats,
                    patches: done.patches,
                })?;
            }
        }
        Ok(())
    }

    fn sample(
        &self,
        batch: &Batch,
        s: usize,
        patches: Option<&blt_core::patch::Patches>,
        entropies: Option<&Vec<f32>>,
    ) -> Sample {
        let bytes = batch.bytes(s);
        let mut len = bytes.len().min(self.step.sample_bytes);
        // End at a character border, so that the report does not show a broken character.
        while len < bytes.len() && len > 0 && bytes[len] & 0xC0 == 0x80 {
            len -= 1;
        }
        let first = batch.offsets[s] + 1;
        let starts = patches.map(|p| {
            let of_span = &p.starts[p.span_offsets[s]..p.span_offsets[s + 1]];
            of_span
                .iter()
                .filter(|&&at| at >= first && at < first + len)
                .map(|&at| at - first)
                .collect()
        });
        // The entropy of a byte is an output at the id before it.
        let entropies = entropies.map(|e| e[first - 1..first - 1 + len].to_vec());
        Sample {
            group: None,
            row: batch.spans[s].row,
            bytes: bytes[..len].to_vec(),
            starts,
            entropies,
        }
    }

    /// Forward FLOPs per byte of the goal, by node, and the sum over those that only find where
    /// patches start. Metrics cost extra; their own FLOPs are not counted.
    fn flops(&self, plan: &Plan) -> Result<(BTreeMap<String, f64>, f64), StepError> {
        let bytes = self.total.bytes as f64;
        let goal = [self.step.goal.as_str()];
        let of_goal: BTreeSet<&str> =
            plan.needs(&goal)?.into_iter().map(|node| node.name.as_str()).collect();
        let per_node =
            self.profile.flops().into_iter().filter(|(node, _)| of_goal.contains(node.as_str()));
        let by_node: BTreeMap<String, f64> =
            per_node.map(|(node, flops)| (node, flops as f64 / bytes)).collect();
        let behind = nodes_behind_borders(plan, &goal)?;
        let of_nodes = by_node.iter().filter(|(node, _)| behind.contains(*node)).map(|(_, f)| *f);
        let inside = patcher_flops(self.graph);
        let of_parts =
            inside.iter().filter(|(node, _)| !behind.contains(*node)).map(|(node, flops)| {
                (flops - self.patcher_flops.get(node).unwrap_or(&0)) as f64 / bytes
            });
        let entropy = of_nodes.chain(of_parts).fold(0.0, |a, b| a + b);
        Ok((by_node, entropy))
    }

    fn result(&self, plan: &Plan, counts: &Counts) -> Result<EvaluateResult, StepError> {
        let bytes = self.total.bytes as f64;
        let refs = self.step.computed();
        let (flops_by_node, entropy_flops) = self.flops(plan)?;
        let parameters = self.graph.n_parameters_by_node().into_iter();
        let patches = self.patches_wire.as_ref().map(|_| self.patch_stats.patches);
        let bytes_per_patch = patches.map(|p| bytes / p as f64);
        let span_bytes = bytes / self.spans as f64;
        let groups = || self.groups.iter();
        let metrics = self.metrics.sums.iter();
        let lengths = self.patch_stats.histogram.iter();
        let lengths = lengths.map(|(&length, &count)| (length as u64, count.into())).collect();
        Ok(EvaluateResult {
            goal: self.step.goal.clone(),
            split: self.step.split.name().to_owned(),
            by: self.step.by.clone(),
            bpb: self.total.bpb(),
            bpb_by: groups().map(|(group, sums)| (group.clone(), sums.bpb())).collect(),
            bytes: self.total.bytes.into(),
            bytes_by: groups().map(|(group, sums)| (group.clone(), sums.bytes.into())).collect(),
            documents: self.total.documents.into(),
            nulls: counts.nulls.into(),
            empty: counts.empty.into(),
            patches: patches.map(Number::from),
            bytes_per_patch,
            entropy_model: self.entropies_wire.as_deref().map(node_of).map(str::to_owned),
            patch_lengths: self.patches_wire.as_ref().map(|_| lengths),
            flops_per_byte: Some(flops_by_node.values().fold(0.0, |a, b| a + b)),
            entropy_flops_per_byte: Some(entropy_flops),
            flops_by_node,
            closed_form_flops_per_byte: closed_form_flops(plan, &refs, bytes_per_patch, span_bytes),
            parameters: self.graph.n_parameters().into(),
            parameters_by_node: parameters.map(|(node, count)| (node, count.into())).collect(),
            boundary_lookahead: boundary_lookahead(plan, &refs)?,
            metrics: metrics.map(|(name, (sum, n))| (name.clone(), Some(sum / n))).collect(),
            prepared: self.graph.prepared_summary(),
            latents: self.latents.clone(),
            matched: self.matched.as_ref().map(serde_json::to_value).transpose()?,
        })
    }

    /// Writes the results. `seconds`: what measuring took.
    fn finish(mut self, cx: &StepCx, counts: &Counts, seconds: f64) -> Result<(), StepError> {
        let dir = cx.dir();
        self.documents.sync()?;
        StepResult::Evaluate(self.result(cx.plan(), counts)?).write(dir)?;
        let samples: Vec<&Sample> = self.samples.values().collect();
        write_atomic(dir.join("samples.json"), serde_json::to_string(&samples)?)?;
        let timing = Timing {
            evaluate_bytes_per_second: Some(self.total.bytes as f64 / seconds),
            seconds_by_node: Some(self.profile.seconds()),
            ..Timing::default()
        };
        timing.write(dir)?;
        let bpb = self.total.bpb().unwrap_or(f64::NAN);
        cx.progress().finish(&format!(
            "{bpb:.4} bits per byte over {} bytes in {} documents",
            self.total.bytes, self.total.documents
        ));
        Ok(())
    }
}

/// The node of a wire.
fn node_of(wire: &str) -> &str {
    wire.split_once('.').map_or(wire, |(node, _)| node)
}

/// Forward FLOPs of patchers inside nodes since the graph was built, by node.
fn patcher_flops(graph: &TrainedGraph) -> BTreeMap<String, u64> {
    let flops = graph.facilities().map(|(node, f)| (node, f.patcher_flops()));
    flops.filter(|(_, flops)| *flops > 0).collect()
}
