use crate::device::backend;
use crate::memory;
use crate::plan_queries::patches_wire;
use crate::ports::Loss;
use crate::profile::{NodeCost, NodeProfile};
use crate::size::{self, Training};
use crate::sources::{check_sources, fingerprints};
use crate::trained_graph::TrainedGraph;
use blt_core::bytes::Batch;
use blt_core::flops::BACKWARD;
use blt_core::optim::AdamWConfig;
use blt_core::sizes::MAX_BYTES;
use blt_data::Request;
use blt_derive::{params, step};
use blt_graph::{NodeError, Plan, Step, StepCx, StepError};
use blt_report::results::{BenchResult, NodeSeconds, PhaseRate, StepResult, TrainingMemory};
use std::rc::Rc;
use std::time::Instant;

/// Measures the speed of training, evaluating and patching a goal, the time of each node, and the
/// memory of training.
///
/// Parameters are those that earlier steps left, or fresh ones; changes by training are not kept.
/// Batches are read before the clock starts. Writes `result.json`. `blt-run bench PIPELINE` runs
/// this step in place of the pipeline's own.
#[params]
pub struct Bench {
    /// The wire to compute. It must be a loss unless `train` is false.
    pub goal: String,
    /// Also measure optimiser steps (forward, backward, AdamW).
    #[default(true)]
    pub train: bool,
    /// Most ids in a micro-batch of training.
    #[default(16 * 1024)]
    #[range(1..=MAX_BYTES)]
    pub batch_bytes: usize,
    /// Micro-batches in each optimiser step.
    #[default(1)]
    #[range(1..=1 << 20)]
    pub accumulate: usize,
    /// As in the step `train`.
    #[default(false)]
    pub recompute: bool,
    /// Most ids in a batch of evaluation and patching.
    #[default(32 * 1024)]
    #[range(1..=MAX_BYTES)]
    pub evaluation_batch_bytes: usize,
    /// Timed repetitions of each phase.
    #[default(10)]
    #[range(1..=1 << 20)]
    pub repeats: usize,
    /// Repetitions of each phase before the timed ones.
    #[default(3)]
    #[range(0..=1 << 20)]
    pub warmup: usize,
    /// Number of different batches; the repetitions cycle through them.
    #[default(4)]
    #[range(1..=1 << 20)]
    pub batches: usize,
}

impl Bench {
    /// What it holds of batches at once.
    pub(crate) fn memory(&self) -> Training {
        let batch_bytes = self.batch_bytes.max(self.evaluation_batch_bytes);
        Training { batch_bytes, accumulate: self.accumulate, trains: self.train }
    }

    fn request(&self, cx: &StepCx, buffer: usize) -> Request {
        Request { exclude_calibration: true, ..Request::training(cx.seed(), buffer) }
    }

    /// Reads the first batches of training.
    fn read(
        &self,
        cx: &StepCx,
        graph: &TrainedGraph,
        ids: usize,
        count: usize,
    ) -> Result<Vec<Rc<Batch>>, StepError> {
        let request = self.request(cx, graph.source()?.handle.shuffle_buffer);
        let mut batches = graph.batches(request, ids)?;
        (0..count).map(|_| batches.next_or_end()).collect()
    }
}

#[step(example = "goal: loss, batch_bytes: 4096")]
impl Step for Bench {
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        if !plan.goal(&self.goal)?.is::<Loss>() && self.train {
            let msg = format!("`{}` is not a Loss, and training minimises one", self.goal);
            return Err(
                NodeError::param("goal", msg).help("`train: false` measures evaluation alone")
            );
        }
        size::check(plan, &[&self.goal], Some(self.memory()))
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        backend(cx)?;
        check_sources(cx, &[&self.goal], &self.request(cx, 1))?;
        fingerprints(cx, &[&self.goal])
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        memory::reset_peak();
        memory::begin();
        let mut graph = TrainedGraph::build(cx, &[&self.goal])?;
        graph.prepare(cx)?;
        let machine = machine_rate(cx)?;
        let measuring = Measuring { step: self, cx, graph: &graph, machine };
        // Training comes first, so that its memory does not include what evaluation leaves behind.
        let training = self.train.then(|| measuring.training()).transpose()?;
        let (training, training_memory) = training.unzip();
        let batches = self.read(cx, &graph, self.evaluation_batch_bytes, self.batches)?;
        let work: Vec<&[Rc<Batch>]> = batches.chunks(1).collect();
        let forward = |name, wire: &str| {
            measuring.phase(name, &work, |_, _, batches| measuring.forward(wire, &batches[0]))
        };
        let evaluation = forward("evaluate", &self.goal)?;
        let patches = patches_wire(cx.plan(), &[&self.goal])?;
        let patching = patches.map(|wire| forward("patch", &wire)).transpose()?;
        let result = BenchResult {
            goal: self.goal.clone(),
            path: cx.compute_path().to_string(),
            device: graph.backend().device(),
            threads: cx.threads() as u64,
            simd: blt_core::backend::fused::level().to_owned(),
            machine_flops_per_second: machine,
            parameters: graph.n_parameters() as u64,
            training,
            training_memory,
            evaluation,
            patching,
            peak_memory_bytes: memory::peak().filter(|_| cx.device() == "cpu"),
        };
        StepResult::Bench(result).write(cx.dir())
    }
}

/// The best rate of large f32 matrix products on the device, in FLOP/s.
fn machine_rate(cx: &StepCx) -> Result<f64, StepError> {
    if cx.device() == "cpu" {
        return Ok(blt_core::backend::fused::machine_rate());
    }
    let backend = backend(cx)?;
    let n = 4096;
    let weight = backend.add_param([n, n], vec![0.5; n * n], false)?;
    let x = backend.constant(n, n, vec![1.0; n * n])?;
    let mut best: f64 = 0.0;
    for _ in 0..8 {
        let started = Instant::now();
        backend.linear(&x, weight)?;
        backend.synchronize()?;
        best = best.max(2.0 * (n as f64).powi(3) / started.elapsed().as_secs_f64());
    }
    Ok(best)
}

struct Measuring<'a> {
    step: &'a Bench,
    cx: &'a StepCx<'a>,
    graph: &'a TrainedGraph,
    machine: f64,
}

impl Measuring<'_> {
    /// Runs forward, and returns the nats of the goal if it is a loss.
    fn forward(&self, goal: &str, batch: &Rc<Batch>) -> Result<Option<f64>, StepError> {
        let mut values = self.graph.run(batch, &[goal])?;
        let is_loss = self.cx.plan().goal(goal)?.is::<Loss>();
        let loss = is_loss.then(|| values.take::<Loss>(goal)).transpose()?;
        Ok(loss.map(|loss| loss.total_nats()))
    }

    /// Times `run` on the elements of `work`, cycling through them. `run` gets the profile, the
    /// number of the repetition (from 0, warm-up included) and the batches, and returns nats.
    fn phase(
        &self,
        name: &str,
        work: &[&[Rc<Batch>]],
        mut run: impl FnMut(&NodeProfile, u64, &[Rc<Batch>]) -> Result<Option<f64>, StepError>,
    ) -> Result<PhaseRate, StepError> {
        let Bench { warmup, repeats, goal, .. } = self.step;
        let profile = self.graph.profile();
        self.cx.progress().start(&format!("{name} {goal}"), Some((warmup + repeats) as u64));
        let (mut rates, mut bytes, mut seconds) = (Vec::new(), 0, 0.0);
        let (mut first, mut last) = (None, None);
        for repetition in 0..warmup + repeats {
            if self.cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            if repetition == *warmup {
                profile.take();
            }
            let batches = work[repetition % work.len()];
            let ids: usize = batches.iter().map(|batch| batch.len()).sum();
            let started = Instant::now();
            let sum = run(&profile, repetition as u64, batches)?;
            self.graph.backend().synchronize()?;
            let took = started.elapsed().as_secs_f64();
            let counted: usize = batches.iter().map(|batch| batch.n_counted_bytes()).sum();
            last = sum.map(|sum| sum / counted.max(1) as f64);
            first = first.or(last);
            if repetition >= *warmup {
                rates.push(ids as f64 / took);
                (bytes, seconds) = (bytes + ids, seconds + took);
            }
            self.cx
                .progress()
                .update(repetition as u64 + 1, &[("bytes/s", format!("{:.0}", ids as f64 / took))]);
        }
        self.cx.progress().finish(name);
        rates.sort_by(f64::total_cmp);
        let costs = profile.take();
        let per_repetition = 1.0 / *repeats as f64;
        let flops_of = |cost: &NodeCost| (cost.flops + BACKWARD * cost.recorded_flops) as f64;
        let flops: f64 = costs.values().map(flops_of).sum();
        let median = rates[rates.len() / 2];
        let flops_per_second = median * flops / bytes as f64;
        let graph = self.graph.nodes().chain([OPTIMISER]);
        let nodes = graph.filter_map(|node| Some((node, costs.get(node)?))).map(|(node, cost)| {
            NodeSeconds {
                node: node.to_owned(),
                forward_seconds: cost.seconds * per_repetition,
                backward_seconds: cost.backward_seconds * per_repetition,
                flops: flops_of(cost) * per_repetition,
            }
        });
        let nodes: Vec<NodeSeconds> = nodes.collect();
        Ok(PhaseRate {
            bytes_per_second: median,
            slowest_bytes_per_second: rates[0],
            fastest_bytes_per_second: rates[rates.len() - 1],
            mean_seconds: seconds * per_repetition,
            bytes_per_repetition: bytes as f64 * per_repetition,
            flops_per_byte: flops / bytes as f64,
            flops_per_second,
            share_of_machine: flops_per_second / self.machine,
            first_nats_per_byte: first,
            last_nats_per_byte: last,
            nodes,
        })
    }

    /// Measures optimiser steps, and the memory that they take.
    fn training(&self) -> Result<(PhaseRate, TrainingMemory), StepError> {
        let (step, graph) = (self.step, self.graph);
        let batches =
            step.read(self.cx, graph, step.batch_bytes, step.accumulate * step.batches)?;
        let work: Vec<&[Rc<Batch>]> = batches.chunks(step.accumulate).collect();
        let backend = graph.backend();
        backend.recompute(step.recompute);
        let optimiser = AdamWConfig::constant(3e-4);
        let rate = self.phase("train", &work, |profile, repetition, batches| {
            if repetition == step.warmup as u64 {
                backend.touch_moments(&graph.param_ids());
                memory::reset_peak();
            }
            let total: usize = batches.iter().map(|b| graph.n_targets(b, &step.goal)).sum();
            let mut nats = 0.0;
            for batch in batches {
                let share = graph.n_targets(batch, &step.goal) as f64 / total as f64;
                nats += graph.gradients(batch, &step.goal, share)?.total_nats();
            }
            backend.synchronize()?;
            let started = Instant::now();
            graph.update(&optimiser, repetition + 1, repetition + 1)?;
            backend.synchronize()?;
            profile.add_seconds(OPTIMISER, started.elapsed().as_secs_f64());
            Ok(Some(nats))
        })?;
        let peak = memory::peak();
        let moments: u64 = 3 * 4 * graph.n_parameters() as u64;
        // Resident memory is the host's, not that of a GPU.
        let on_host = backend.device() == "cpu";
        let beyond = memory::begin()
            .zip(peak)
            .filter(|_| on_host)
            .map(|(begin, peak)| peak.saturating_sub(begin + moments));
        Ok((rate, TrainingMemory { parameters_and_moments_bytes: moments, beyond_bytes: beyond }))
    }
}

/// The name of the optimiser among those of the nodes. No node has a name with a space.
const OPTIMISER: &str = "AdamW step";
