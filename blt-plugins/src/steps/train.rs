use crate::checkpoint::{self, CHECKPOINT_DIR, ResumeFolder};
use crate::device::backend;
use crate::lint::warn_untrained;
use crate::ports::Loss;
use crate::sources::{check_sources, fingerprints};
use crate::trained_graph::TrainedGraph;
use crate::trained_graph::reading::Batches;
use blt_core::bytes::Batch;
use blt_core::optim::{AdamWConfig, Decay};
use blt_data::{BatchState, Request};
use blt_derive::{params, step};
use blt_graph::{JsonLines, NodeError, Plan, Step, StepCx, StepError};
use blt_report::results::{MetricsLine, StepResult, Timing, TrainResult};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

/// Trains the parameters that have a gradient path to `goal`, with AdamW (decoupled decay), linear
/// warm-up and cosine decay.
///
/// Before the first optimiser step, nodes learn thresholds (for `bytes_per_patch`) and tokenizers,
/// which stay fixed from then on. Documents are shuffled with the pipeline's seed while they are
/// read. Writes `checkpoints/final`.
#[params]
pub struct Train {
    /// The wire of the loss to minimise.
    pub goal: String,
    /// Number of optimiser steps.
    pub steps: u64,
    /// Most ids in a micro-batch (the bytes, and one BOS for each span). A longer span becomes a
    /// micro-batch of its own, so the source's `span_bytes` should be smaller.
    pub batch_bytes: usize,
    /// Micro-batches in each optimiser step.
    #[default(1)]
    pub accumulate: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Optimiser steps of linear warm-up; a tenth of `steps` by default.
    pub warmup: Option<u64>,
    /// After warm-up: `cosine` (down to `min_lr`) or `constant`.
    #[default(Decay::Cosine)]
    #[schemars(with = "String")]
    pub decay: Decay,
    /// Learning rate at the end of the cosine, as a share of `lr`.
    #[default(0.1)]
    pub min_lr: f64,
    /// AdamW's decoupled weight decay.
    #[default(0.1)]
    pub weight_decay: f64,
    /// AdamW's beta1 and beta2.
    #[default((0.9, 0.95))]
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    #[default(1e-8)]
    pub eps: f64,
    /// Largest global norm of the gradient; null turns clipping off.
    #[default(Some(1.0))]
    pub clip: Option<f64>,
    /// Optimiser steps between checkpoints, the most that a killed run loses.
    #[default(100)]
    pub checkpoint_every: u64,
    /// Optimiser steps between lines of metrics.jsonl.
    #[default(10)]
    pub log_every: u64,
    /// Keep only the inputs of transformer blocks, and compute the rest again in the backward pass.
    /// This takes less memory and about a third more time, and gives the same bits. (`--path
    /// reference` ignores it.)
    #[default(false)]
    pub recompute: bool,
    /// The checkpoint directory to continue from: it gives parameters, moments, thresholds and
    /// tokenizers.
    pub from: Option<PathBuf>,
}

/// State of the training loop, in a checkpoint that a run can resume from.
#[derive(Serialize, Deserialize)]
struct Progress {
    step: u64,
    /// The position of the reader of documents.
    data: BatchState,
    /// Bytes trained on.
    bytes: u64,
    /// Sums since the last line of metrics.jsonl.
    window: Window,
    /// Lines of metrics.jsonl and timings.jsonl written up to this state.
    metrics_lines: u64,
    timings_lines: u64,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Window {
    nats: f64,
    bytes: u64,
    norm: f64,
}

impl Train {
    fn optimiser(&self) -> AdamWConfig {
        AdamWConfig {
            lr: self.lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip: self.clip,
            warmup: self.warmup.unwrap_or(self.steps / 10),
            decay: self.decay,
            min_lr: self.min_lr,
            steps: self.steps,
        }
    }
}

#[step(example = "goal: loss, steps: 300, batch_bytes: 16384, lr: 2e-3")]
impl Step for Train {
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        if !plan.goal(&self.goal)?.is::<Loss>() {
            return Err(NodeError::param(
                "goal",
                format!("`{}` is not a Loss, and training minimises one", self.goal),
            ));
        }
        for (name, value) in [
            ("steps", self.steps),
            ("batch_bytes", self.batch_bytes as u64),
            ("accumulate", self.accumulate as u64),
        ] {
            if value == 0 {
                return Err(NodeError::param(name, format!("{name} must be at least 1")));
            }
        }
        if self.checkpoint_every == 0 || self.log_every == 0 {
            let name = if self.log_every == 0 { "log_every" } else { "checkpoint_every" };
            return Err(NodeError::param(name, format!("{name} must be at least 1")));
        }
        for (name, value, low, high) in [
            ("lr", self.lr, 0.0, f64::MAX),
            ("min_lr", self.min_lr, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, f64::MAX),
            ("betas", self.betas.0, 0.0, 1.0 - 1e-12),
            ("betas", self.betas.1, 0.0, 1.0 - 1e-12),
            ("eps", self.eps, f64::MIN_POSITIVE, f64::MAX),
            ("clip", self.clip.unwrap_or(1.0), f64::MIN_POSITIVE, f64::MAX),
        ] {
            if !(low..=high).contains(&value) {
                let range = if high == f64::MAX {
                    format!("at least {low}")
                } else {
                    format!("from {low} to {high}")
                };
                return Err(NodeError::param(name, format!("{name} is {value}; expected {range}")));
            }
        }
        if self.warmup.is_some_and(|w| w > self.steps) {
            return Err(NodeError::param(
                "warmup",
                format!("warm-up is longer than the {} steps", self.steps),
            ));
        }
        Ok(())
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        backend(cx)?;
        // The check does not depend on the shuffle buffer.
        check_sources(
            cx,
            &[&self.goal],
            &Request { exclude_calibration: true, ..Request::training(cx.seed(), 1) },
        )?;
        warn_untrained(cx)?;
        let mut on = fingerprints(cx, &[&self.goal])?;
        if let Some(from) = &self.from {
            let digests = checkpoint::digests(&cx.base_dir().join(from));
            let digests = digests.map_err(|e| cx.refuse(&e.at_param("from")))?;
            on.extend(digests.iter().map(|digest| format!("from {digest}")));
        }
        Ok(on)
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let mut graph = TrainedGraph::build(cx, &[&self.goal])?;
        let shuffle_buffer = graph.source()?.handle.shuffle_buffer;
        if let Some(from) = &self.from {
            let from = cx.base_dir().join(from);
            restore(&mut graph, &from).map_err(|e| at_from(cx, e))?;
        }
        let resume = ResumeFolder::of(cx.dir());
        let latest =
            if cx.resumed() { resume.latest(|line| cx.progress().message(line))? } else { None };
        let state: Option<Progress> = match &latest {
            Some(path) => {
                let training = restore(&mut graph, path)?;
                Some(serde_json::from_value(training.unwrap_or_default())?)
            }
            None => None,
        };
        graph.prepare(cx)?;
        let request =
            Request { exclude_calibration: true, ..Request::training(cx.seed(), shuffle_buffer) };
        let batches = match &state {
            None => graph.batches(request, self.batch_bytes),
            Some(state) => graph.resume_batches(request, self.batch_bytes, &state.data),
        }?
        .read_ahead(2 * self.accumulate);
        graph.backend().recompute(self.recompute);
        let mut training = Training::new(self, cx, &graph, batches, state)?;
        if latest.is_some() {
            let step = training.state.step;
            cx.progress().message(&format!("going on after step {step} of {}", self.steps));
        }
        cx.progress().start(&format!("train {}", self.goal), Some(self.steps));
        training.run(&resume)?;
        training.finish()?;
        Ok(resume.remove()?)
    }
}

/// Reads parameters and moments from a checkpoint, and returns the state of the training loop.
fn restore(graph: &mut TrainedGraph, dir: &Path) -> Result<Option<serde_json::Value>, StepError> {
    let training = graph.restore(dir, true)?;
    graph.restore_moments(dir)?;
    Ok(training)
}

/// A running [`Train`] step.
struct Training<'a> {
    train: &'a Train,
    cx: &'a StepCx<'a>,
    graph: &'a TrainedGraph,
    batches: Batches<'a>,
    optimiser: AdamWConfig,
    /// Optimiser steps that led to the parameters before this training began.
    t0: u64,
    state: Progress,
    metrics: JsonLines,
    timings: JsonLines,
    started: Instant,
    /// Bytes trained on before `started`.
    first_bytes: u64,
    /// When the last line of metrics.jsonl was written, and the bytes trained on by then.
    clock: (Instant, u64),
}

impl<'a> Training<'a> {
    fn new(
        train: &'a Train,
        cx: &'a StepCx<'a>,
        graph: &'a TrainedGraph,
        batches: Batches<'a>,
        state: Option<Progress>,
    ) -> Result<Self, StepError> {
        let state = state.unwrap_or_else(|| Progress {
            step: 0,
            data: batches.state().clone(),
            bytes: 0,
            window: Window::default(),
            metrics_lines: 0,
            timings_lines: 0,
        });
        let lines = |name, lines| JsonLines::open(cx.dir().join(name), lines);
        Ok(Training {
            metrics: lines("metrics.jsonl", state.metrics_lines)?,
            timings: lines("timings.jsonl", state.timings_lines)?,
            optimiser: train.optimiser(),
            t0: graph.t() - state.step,
            started: Instant::now(),
            first_bytes: state.bytes,
            clock: (Instant::now(), state.bytes),
            train,
            cx,
            graph,
            batches,
            state,
        })
    }

    fn run(&mut self, resume: &ResumeFolder) -> Result<(), StepError> {
        let Train { steps, checkpoint_every, log_every, .. } = *self.train;
        while self.state.step < steps {
            self.step()?;
            let step = self.state.step;
            if step.is_multiple_of(log_every) || step == steps {
                self.log()?;
            }
            // After the last optimiser step, only the result is saved.
            let stop = self.cx.interrupted() && step < steps;
            if stop || step < steps && step.is_multiple_of(checkpoint_every) {
                self.save(resume)?;
            }
            if stop {
                return Err(StepError::Interrupted);
            }
        }
        Ok(())
    }

    /// Makes one optimiser step.
    fn step(&mut self) -> Result<(), StepError> {
        let (goal, step) = (&self.train.goal, self.state.step + 1);
        let not_finite = |what: &str| {
            StepError::other(format!("the {what} of `{goal}` is not finite at step {step}"))
                .help("lower `lr`, or lengthen `warmup`")
        };
        let micro: Vec<Rc<Batch>> = (0..self.train.accumulate)
            .map(|_| self.batches.next_or_end())
            .collect::<Result<_, _>>()?;
        let total: usize = micro.iter().map(|batch| batch.n_counted_bytes()).sum();
        for batch in micro {
            let bytes = batch.n_counted_bytes();
            let loss = self.graph.gradients(&batch, goal, bytes as f64 / total as f64)?;
            let nats = loss.total_nats();
            if !nats.is_finite() {
                return Err(not_finite("loss"));
            }
            self.state.window.nats += nats;
            self.state.window.bytes += bytes as u64;
            self.state.bytes += bytes as u64;
        }
        let norm = self.graph.update(&self.optimiser, step, self.t0 + step)?;
        if !norm.is_finite() {
            return Err(not_finite("gradient"));
        }
        self.state.window.norm = norm;
        self.state.step = step;
        Ok(())
    }

    /// Writes a line of metrics.jsonl and one of timings.jsonl.
    fn log(&mut self) -> Result<(), StepError> {
        let (goal, Progress { step, bytes, .. }) = (&self.train.goal, &self.state);
        let (step, bytes) = (*step, *bytes);
        let window = std::mem::take(&mut self.state.window);
        let bpb = window.nats / std::f64::consts::LN_2 / window.bytes.max(1) as f64;
        let lr = self.optimiser.lr_at(step);
        self.metrics.push(&MetricsLine {
            goal: Some(goal.clone()),
            step: Some(step),
            bpb: Some(bpb),
            lr: Some(lr),
            grad_norm: Some(window.norm),
            bytes: Some(bytes),
            ..MetricsLine::default()
        })?;
        let (since, before) = self.clock;
        let rate = (bytes - before) as f64 / since.elapsed().as_secs_f64();
        self.timings.push(&json!({
            "goal": goal, "step": step, "seconds": since.elapsed().as_secs_f64(), "bytes_per_second": rate,
        }))?;
        self.state.metrics_lines += 1;
        self.state.timings_lines += 1;
        self.clock = (Instant::now(), bytes);
        let fields = [("bpb", format!("{bpb:.3}")), ("bytes/s", format!("{rate:.0}"))];
        self.cx.progress().update(step, &fields);
        Ok(())
    }

    /// Writes a checkpoint to resume from, and removes older ones.
    fn save(&mut self, resume: &ResumeFolder) -> Result<(), StepError> {
        self.metrics.sync()?;
        self.timings.sync()?;
        self.state.data = self.batches.state().clone();
        let step = self.state.step;
        let training = serde_json::to_value(&self.state)?;
        self.graph.save(&resume.at(step), self.t0 + step, Some(training))?;
        Ok(resume.keep_only(step)?)
    }

    /// Writes the final checkpoint and the results.
    fn finish(mut self) -> Result<(), StepError> {
        self.graph.check_end()?;
        self.metrics.sync()?;
        self.timings.sync()?;
        let (dir, Progress { step, bytes, .. }) = (self.cx.dir(), &self.state);
        self.graph.save(&dir.join(CHECKPOINT_DIR), self.t0 + step, None)?;
        let seconds = self.started.elapsed().as_secs_f64();
        let result = TrainResult {
            goal: self.train.goal.clone(),
            steps: *step,
            bytes: *bytes,
            parameters: self.graph.n_parameters() as u64,
            prepared: self.graph.prepared_summary(),
        };
        StepResult::Train(result).write(dir)?;
        let rate = (bytes - self.first_bytes) as f64 / seconds;
        Timing { train_bytes_per_second: Some(rate), ..Timing::default() }.write(dir)?;
        self.cx.progress().finish(&format!("{bytes} bytes in {seconds:.1} s"));
        Ok(())
    }
}

/// Points an error of the checkpoint that `from` names at `from`.
fn at_from(cx: &StepCx, error: StepError) -> StepError {
    let StepError::Failed { error, help } = error else { return error };
    let error = NodeError::param("from", error);
    cx.refuse(&match help {
        Some(help) => error.help(help),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::Window;

    /// A fast but inexact JSON parser gets the last bit of 17-digit numbers wrong; a resumed run
    /// would then differ.
    #[test]
    fn what_a_checkpoint_records_comes_back_to_the_bit() {
        let mut nats = 0.1f64;
        for _ in 0..2000 {
            nats = nats * 1.618 + 1.0 / 3.0;
            if nats > 1e9 {
                nats /= 7e11;
            }
            let window = Window { nats, bytes: 0, norm: 1.0 / nats };
            let text = serde_json::to_string(&serde_json::to_value(window).unwrap()).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let read: Window = serde_json::from_value(value).unwrap();
            assert_eq!(
                (read.nats.to_bits(), read.norm.to_bits()),
                (nats.to_bits(), (1.0 / nats).to_bits()),
                "{text}"
            );
        }
    }
}
