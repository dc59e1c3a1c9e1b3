//! The training loop: optimiser steps, lines of metrics, checkpoints.

use super::average::Averaging;
use super::held_out::Curve;
use super::params::Train;
use super::spikes::Spikes;
use crate::checkpoint::{CHECKPOINT_DIR, ResumeFolder};
use crate::trained_graph::TrainedGraph;
use crate::trained_graph::reading::Batches;
use blt_core::bytes::Batch;
use blt_core::optim::AdamWConfig;
use blt_data::{BatchState, Packing};
use blt_graph::{JsonLines, StepCx, StepError};
use blt_report::results::{MetricsLine, ONLINE_FILE, SPIKE, StepResult, Timing, TrainResult};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// State of the training loop, in a checkpoint that a run can resume from.
#[derive(Serialize, Deserialize)]
pub struct Progress {
    pub step: u64,
    /// The position of the reader of documents.
    pub data: BatchState,
    /// Bytes trained on.
    bytes: u64,
    /// Ids in all micro-batches, BOS of every span included.
    ids: u64,
    /// Sums since the last line of metrics.jsonl.
    window: Window,
    /// Lines of metrics.jsonl and timings.jsonl written up to this state.
    metrics_lines: u64,
    timings_lines: u64,
    /// Lines of online.jsonl.
    online_lines: u64,
    #[serde(default)]
    spikes: Spikes,
    /// The hashes of the logs' lines up to this state, in the order of [`LOGS`].
    #[serde(default)]
    logs: Vec<String>,
}

/// The logs of a training, of which a stopped step keeps the lines up to its checkpoint.
const LOGS: [&str; 3] = ["metrics.jsonl", "timings.jsonl", ONLINE_FILE];

impl Progress {
    /// The first log in the step's directory `dir` that is not as the checkpoint left it.
    pub fn changed_log(&self, dir: &Path) -> Option<&'static str> {
        let lines = [self.metrics_lines, self.timings_lines, self.online_lines];
        let same = |(file, lines, hash): &(&str, u64, &String)| {
            JsonLines::open(dir.join(file), *lines).is_ok_and(|log| log.hash() == **hash)
        };
        let mut logs = LOGS.iter().zip(lines).zip(&self.logs).map(|((f, l), h)| (*f, l, h));
        logs.find(|log| !same(log)).map(|(file, ..)| file)
    }
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Window {
    nats: f64,
    bytes: u64,
    norm: f64,
}

/// What a training may have beside its loop.
pub struct Parts<'a> {
    /// Factors of the learning rate, by parameter.
    pub rates: Vec<f64>,
    pub averaging: Option<Averaging<'a>>,
    pub curve: Option<Curve>,
}

/// A running [`Train`] step.
pub struct Training<'a> {
    train: &'a Train,
    cx: &'a StepCx<'a>,
    graph: &'a TrainedGraph,
    batches: Batches<'a>,
    optimiser: AdamWConfig,
    /// Optimiser steps that led to the parameters before this training began.
    t0: u64,
    parts: Parts<'a>,
    state: Progress,
    metrics: JsonLines,
    online: JsonLines,
    timings: JsonLines,
    /// Of the last gradient by node, with `log_parts`.
    norms: BTreeMap<String, f64>,
    started: Instant,
    /// Bytes trained on before `started`.
    first_bytes: u64,
    /// When the last line of metrics.jsonl was written, and the bytes trained on by then.
    clock: (Instant, u64),
}

impl<'a> Training<'a> {
    pub fn new(
        train: &'a Train,
        cx: &'a StepCx<'a>,
        graph: &'a TrainedGraph,
        batches: Batches<'a>,
        state: Option<Progress>,
        parts: Parts<'a>,
    ) -> Result<Self, StepError> {
        let state = state.unwrap_or_else(|| Progress {
            step: 0,
            data: batches.state().clone(),
            bytes: 0,
            ids: 0,
            window: Window::default(),
            metrics_lines: 0,
            timings_lines: 0,
            online_lines: 0,
            spikes: Spikes::default(),
            logs: Vec::new(),
        });
        let lines = |name, lines| JsonLines::open(cx.dir().join(name), lines);
        Ok(Training {
            metrics: lines(LOGS[0], state.metrics_lines)?,
            timings: lines(LOGS[1], state.timings_lines)?,
            online: lines(LOGS[2], state.online_lines)?,
            norms: BTreeMap::new(),
            optimiser: train.optimiser(),
            t0: graph.t() - state.step,
            started: Instant::now(),
            first_bytes: state.bytes,
            clock: (Instant::now(), state.bytes),
            train,
            cx,
            graph,
            batches,
            parts,
            state,
        })
    }

    /// Optimiser steps made so far.
    pub fn step_done(&self) -> u64 {
        self.state.step
    }

    pub fn run(&mut self, resume: &ResumeFolder) -> Result<(), StepError> {
        let Train { steps, checkpoint_every, log_every, .. } = *self.train;
        while self.state.step < steps {
            if !self.step()? {
                // Before the first step there is nothing to keep, and a checkpoint of this step may
                // be there already.
                if self.state.step > 0 && !resume.at(self.state.step).exists() {
                    self.write(resume)?;
                }
                return Err(StepError::Interrupted);
            }
            let step = self.state.step;
            if let Some(averaging) = &mut self.parts.averaging {
                averaging.after(step)?;
            }
            if let Some(curve) = &self.parts.curve
                && let Some(bpb) = curve.after(step, self.graph, &self.train.goal)?
            {
                self.log_held_out(bpb)?;
            }
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

    /// Makes one optimiser step. Returns false, and leaves everything as it was before, if the user
    /// wants to stop meanwhile.
    fn step(&mut self) -> Result<bool, StepError> {
        let (goal, step) = (&self.train.goal, self.state.step + 1);
        let not_finite = |what: &str, first: String| {
            StepError::other(format!("the {what} of `{goal}` is not finite at step {step}{first}"))
                .help("lower `lr`, or lengthen `warmup`")
        };
        self.state.data = self.batches.state().clone();
        let mut micro: Vec<Rc<Batch>> = Vec::new();
        while micro.len() < self.train.accumulate {
            if self.cx.interrupted() {
                return Ok(false);
            }
            micro.push(self.batches.next_or_end()?);
        }
        let first_pass = self.batches.state().cursor.epoch == 0;
        let (mut step_nats, mut step_bytes, mut step_ids) = (0.0, 0, 0);
        let targets = |batch: &Rc<Batch>| self.graph.n_targets(batch, goal);
        let total: usize = micro.iter().map(targets).sum();
        let mut window = self.state.window;
        for batch in &micro {
            if self.cx.interrupted() {
                self.graph.forget_gradients();
                return Ok(false);
            }
            let bytes = batch.n_counted_bytes();
            let share = targets(batch) as f64 / total as f64;
            if self.cx.detect_anomaly()
                && let Some(found) = self.graph.output_not_finite(batch, goal)?
            {
                return Err(not_finite("forward pass", format!(": {found}")));
            }
            let loss = self.graph.gradients(batch, goal, share)?;
            let nats = loss.total_nats();
            if !nats.is_finite() {
                return Err(not_finite("loss", self.graph.first_not_finite(batch, goal)?));
            }
            if self.cx.detect_anomaly()
                && let Some(found) = self.graph.gradient_not_finite()?
            {
                return Err(not_finite("gradient", format!(": {found}")));
            }
            (step_nats, step_bytes) = (step_nats + nats, step_bytes + bytes as u64);
            step_ids += batch.len() as u64;
            window.nats += nats;
            window.bytes += bytes as u64;
        }
        let logs = step.is_multiple_of(self.train.log_every) || step == self.train.steps;
        if self.train.log_parts && logs {
            self.norms = self.graph.gradient_norms()?;
        }
        let norm =
            self.graph.update_by(&self.optimiser, &self.parts.rates, step, self.t0 + step)?;
        if !norm.is_finite() {
            let found = self.graph.gradient_not_finite()?;
            let found = found.map_or_else(String::new, |found| format!(": {found}"));
            return Err(not_finite("gradient", found));
        }
        // The next step would see them in its loss; after the last step nobody would.
        if (step == self.train.steps || self.cx.detect_anomaly())
            && let Some(found) = self.graph.parameter_not_finite()?
        {
            return Err(not_finite("model", format!(": {found}")));
        }
        if first_pass {
            self.online.push(&(step_bytes, step_nats))?;
            self.state.online_lines += 1;
        }
        self.state.spikes.see(step, step_nats / step_bytes.max(1) as f64);
        self.state.bytes += step_bytes;
        self.state.ids += step_ids;
        self.state.window = Window { norm, ..window };
        self.state.step = step;
        Ok(true)
    }

    /// Writes a line of metrics.jsonl with the loss on held-out documents.
    fn log_held_out(&mut self, bpb: f64) -> Result<(), StepError> {
        self.metrics.push(&MetricsLine {
            goal: Some(self.train.goal.clone()),
            step: Some(self.state.step),
            valid_bpb: Some(bpb),
            bytes: Some(self.state.bytes),
            ..MetricsLine::default()
        })?;
        self.state.metrics_lines += 1;
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
            grad_norm_by: self.train.log_parts.then(|| std::mem::take(&mut self.norms)),
            bytes: Some(bytes),
            spikes: self.state.spikes.take_new(),
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

    /// Writes a checkpoint to resume from after the step made last, and removes older ones.
    fn save(&mut self, resume: &ResumeFolder) -> Result<(), StepError> {
        self.state.data = self.batches.state().clone();
        self.write(resume)
    }

    /// As `save`, to resume from where `data` of the state is.
    fn write(&mut self, resume: &ResumeFolder) -> Result<(), StepError> {
        self.metrics.sync()?;
        self.timings.sync()?;
        self.online.sync()?;
        self.state.logs =
            [&self.metrics, &self.timings, &self.online].map(JsonLines::hash).to_vec();
        let step = self.state.step;
        let training = serde_json::to_value(&self.state)?;
        let average = |dir: &Path| match &self.parts.averaging {
            Some(averaging) => averaging.save(dir),
            None => Ok(()),
        };
        self.graph.save_with(&resume.at(step), self.t0 + step, Some(training), average)?;
        Ok(resume.keep_only(step)?)
    }

    /// Writes the final checkpoint and the results.
    pub fn finish(mut self) -> Result<(), StepError> {
        self.graph.check_end()?;
        self.metrics.sync()?;
        self.timings.sync()?;
        self.online.sync()?;
        if let Some(averaging) = &self.parts.averaging {
            averaging.write()?;
        }
        let (dir, Progress { step, bytes, ids, .. }) = (self.cx.dir(), &self.state);
        let room = self.train.batch_bytes as f64 * self.train.accumulate as f64 * *step as f64;
        let fill = *ids as f64 / room;
        if self.train.packing == Packing::BestFit && fill < 0.95 {
            let (span, batch) = (self.graph.source()?.handle.span_bytes, self.train.batch_bytes);
            let fitting = batch / batch.div_ceil(span + 1) - 1;
            self.cx.progress().message(&format!(
                "batches are {:.0} % full: spans of {span} bytes, {} ids with BOS, do not divide `batch_bytes: {batch}`; `span_bytes: {fitting}` does",
                100.0 * fill,
                span + 1
            ));
        }
        self.graph.save(&dir.join(CHECKPOINT_DIR), self.t0 + step, None)?;
        let seconds = self.started.elapsed().as_secs_f64();
        let result = TrainResult {
            goal: self.train.goal.clone(),
            steps: *step,
            bytes: *bytes,
            fill: Some(fill),
            parameters: self.graph.n_parameters() as u64,
            prepared: self.graph.prepared_summary(),
            spikes: self.state.spikes.count(),
        };
        StepResult::Train(result).write(dir)?;
        let rate = (bytes - self.first_bytes) as f64 / seconds;
        Timing { train_bytes_per_second: Some(rate), ..Timing::default() }.write(dir)?;
        if let Some(spikes) = self.state.spikes.count() {
            self.cx.progress().message(&format!("warning: {spikes} optimiser steps were loss spikes ({SPIKE}); `spikes` in metrics.jsonl lists them"));
        }
        self.cx.progress().finish(&format!(
            "{bytes} bytes in {seconds:.1} s, batches {:.0} % full",
            100.0 * fill
        ));
        Ok(())
    }
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
