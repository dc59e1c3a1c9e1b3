use crate::data::{BatchReader, BatchState, Packer, Request};
use crate::loaded::{
    CHECKPOINT_DIR, CheckpointState, Feed, Loaded, STATE_FILE, backend, check_sources,
    device_failed, fingerprints, warn_untrained,
};
use crate::ports::Loss;
use blt_core::backend::ParamId;
use blt_core::bytes::Batch;
use blt_core::checkpoint;
use blt_core::optim::{AdamWConfig, Decay};
use blt_graph::{JsonLines, NodeError, Plan, Step, StepCx, StepError, write_atomic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

/// Trains the parameters that have a gradient path to `goal`, with AdamW (decoupled decay), linear
/// warm-up and cosine decay.
///
/// Before the first step, nodes learn what they must know before training (a threshold for
/// `bytes_per_patch`, a tokenizer); it is frozen then. Documents are shuffled by the pipeline's
/// seed while they stream. Leaves `checkpoints/final`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The loss to minimise, a wire.
    pub goal: String,
    /// Optimiser steps.
    pub steps: u64,
    /// Ids in a micro-batch (bytes, and one BOS a span), at most; a span that is longer is a
    /// micro-batch of its own, so the source's `span_bytes` should be below it.
    pub batch_bytes: usize,
    /// Micro-batches in an optimiser step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up; a tenth of `steps` where left out.
    #[serde(default)]
    pub warmup: Option<u64>,
    /// After warm-up: `cosine` (down to `min_lr`) or `constant`.
    #[serde(default = "cosine")]
    #[schemars(with = "String")]
    pub decay: Decay,
    /// Share of `lr` that the cosine ends at.
    #[serde(default = "tenth")]
    pub min_lr: f64,
    /// AdamW's decoupled weight decay.
    #[serde(default = "tenth")]
    pub weight_decay: f64,
    /// AdamW's beta1 and beta2.
    #[serde(default = "betas")]
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    #[serde(default = "adam_eps")]
    pub eps: f64,
    /// Largest global norm of the gradient; null: no clipping.
    #[serde(default = "clip")]
    pub clip: Option<f64>,
    /// Steps between checkpoints: what a kill loses at most.
    #[serde(default = "hundred")]
    pub checkpoint_every: u64,
    /// Steps between lines of metrics.jsonl.
    #[serde(default = "ten")]
    pub log_every: u64,
    /// Keep only the inputs of transformer blocks and compute the rest again in the backward pass:
    /// less memory, about a third more time, the same bits. (`--path reference` keeps
    /// everything.)
    #[serde(default)]
    pub recompute: bool,
    /// A checkpoint directory to continue from: parameters, moments, thresholds and tokenizers.
    #[serde(default)]
    pub from: Option<PathBuf>,
}

fn one() -> usize {
    1
}

fn ten() -> u64 {
    10
}

fn hundred() -> u64 {
    100
}

fn tenth() -> f64 {
    0.1
}

fn cosine() -> Decay {
    Decay::Cosine
}

fn betas() -> (f64, f64) {
    (0.9, 0.95)
}

fn adam_eps() -> f64 {
    1e-8
}

fn clip() -> Option<f64> {
    Some(1.0)
}

/// The training loop's state in a checkpoint that a run resumes from.
#[derive(Serialize, Deserialize)]
struct Progress {
    step: u64,
    /// Where the reader stands.
    data: BatchState,
    /// Bytes trained on.
    bytes: u64,
    /// Sums since the last line of metrics.
    window: Window,
    /// Lines of metrics.jsonl and timings.jsonl that belong to this state.
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
    /// All else at its default.
    pub fn new(goal: impl Into<String>, steps: u64, batch_bytes: usize, lr: f64) -> Self {
        Train {
            goal: goal.into(),
            steps,
            batch_bytes,
            accumulate: one(),
            lr,
            warmup: None,
            decay: cosine(),
            min_lr: tenth(),
            weight_decay: tenth(),
            betas: betas(),
            eps: adam_eps(),
            clip: clip(),
            checkpoint_every: hundred(),
            log_every: ten(),
            recompute: false,
            from: None,
        }
    }

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

impl Step for Train {
    const NAME: &'static str = "train";
    const EXAMPLE: &'static str = "train: {goal: loss, steps: 300, batch_bytes: 16384, lr: 2e-3}";

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
        // The shuffle's settings do not bear on what is checked.
        check_sources(
            cx,
            &[&self.goal],
            &Request { exclude_calibration: true, ..Request::training(cx.seed(), 1) },
        )?;
        warn_untrained(cx)?;
        let mut on = fingerprints(cx, &[&self.goal])?;
        if let Some(from) = &self.from {
            let dir = cx.base_dir().join(from);
            CheckpointState::read(&dir).map_err(|e| at_from(cx, e))?;
            for file in [STATE_FILE, checkpoint::MODEL_FILE, checkpoint::OPTIMIZER_FILE] {
                let path = dir.join(file);
                let bytes = std::fs::read(&path).map_err(|e| {
                    at_from(
                        cx,
                        StepError::other(format!("cannot read checkpoint {}: {e}", path.display())),
                    )
                })?;
                on.push(format!("from {file} {}", blake3::hash(&bytes)));
            }
        }
        Ok(on)
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let dir = cx.dir().to_owned();
        let mut loaded = Loaded::build(cx, &[&self.goal])?;
        if let Some(from) = &self.from {
            let from = cx.base_dir().join(from);
            let restored = loaded.restore(&from, true).and_then(|_| loaded.restore_moments(&from));
            restored.map_err(|e| at_from(cx, e))?;
        }
        let resumed = if cx.resumed() { latest(&dir)? } else { None };
        let mut state = None;
        if let Some(path) = &resumed {
            let training = loaded.restore(path, true)?;
            loaded.restore_moments(path)?;
            let training: Progress = serde_json::from_value(training.unwrap_or_default())?;
            state = Some(training);
        }
        loaded.prepare(cx)?;
        let t0 = match &state {
            Some(s) => loaded.t - s.step,
            None => loaded.t,
        };

        let request = Request {
            exclude_calibration: true,
            lists: loaded.lists(),
            ..Request::training(cx.seed(), loaded.source.shuffle_buffer)
        };
        let packer = Packer::new(loaded.source.span_bytes, self.batch_bytes)?;
        let source = loaded.source.source.clone();
        let reader = match &state {
            None => BatchReader::new(source, request, packer),
            Some(s) => BatchReader::restore(source, request, packer, &s.data),
        }
        .map_err(|e| loaded.data_error(e))?;
        let mut reader = reader.read_ahead(2 * self.accumulate);
        let (mut metrics_lines, mut timings_lines) =
            state.as_ref().map_or((0, 0), |s| (s.metrics_lines, s.timings_lines));
        let mut metrics = JsonLines::open(dir.join("metrics.jsonl"), metrics_lines)?;
        let mut timings = JsonLines::open(dir.join("timings.jsonl"), timings_lines)?;
        let (mut step, mut bytes, mut window) =
            state.as_ref().map_or((0, 0, Window::default()), |s| (s.step, s.bytes, s.window));

        let optimiser = self.optimiser();
        let ids: Vec<ParamId> = loaded.ids();
        let backend = loaded.session.backend.clone();
        backend.recompute(self.recompute);
        let started = Instant::now();
        let (mut clock, mut clock_bytes, first_bytes) = (Instant::now(), bytes, bytes);
        if resumed.is_some() {
            cx.progress().message(&format!("going on after step {step} of {}", self.steps));
        }
        cx.progress().start(&format!("train {}", self.goal), Some(self.steps));
        while step < self.steps {
            let micro: Vec<Rc<Batch>> = (0..self.accumulate)
                .map(|_| {
                    let batch = reader.next_batch().map_err(|e| loaded.data_error(e))?;
                    batch
                        .map(Rc::new)
                        .ok_or_else(|| StepError::other("the training documents ran out"))
                })
                .collect::<Result<_, _>>()?;
            let total: usize = micro.iter().map(|b| b.n_counted_bytes()).sum();
            for batch in micro {
                loaded.session.loss_weight.set(batch.n_counted_bytes() as f64 / total as f64);
                loaded.live.world().insert(Feed(batch.clone()));
                backend.record(true);
                let loss = loaded.get::<Loss>(&self.goal)?;
                backend.backward(&loss.loss).map_err(device_failed)?;
                let nats: f64 = (0..batch.n_spans()).map(|s| loss.span_nats(s)).sum();
                if !nats.is_finite() {
                    return Err(StepError::other(format!(
                        "the loss of `{}` is not finite at step {}",
                        self.goal,
                        step + 1
                    ))
                    .help("lower `lr`, or lengthen `warmup`"));
                }
                window.nats += nats;
                window.bytes += batch.n_counted_bytes() as u64;
                bytes += batch.n_counted_bytes() as u64;
            }
            backend.record(false);
            step += 1;
            let norm = optimiser.step(&*backend, &ids, step, t0 + step).map_err(device_failed)?;
            if !norm.is_finite() {
                return Err(StepError::other(format!(
                    "the gradient of `{}` is not finite at step {step}",
                    self.goal
                ))
                .help("lower `lr`, or lengthen `warmup`"));
            }
            window.norm = norm;
            if step % self.log_every == 0 || step == self.steps {
                let bpb = window.nats / std::f64::consts::LN_2 / window.bytes.max(1) as f64;
                let lr = optimiser.lr_at(step);
                metrics.push(&json!({
                    "goal": self.goal, "step": step, "bpb": bpb, "lr": lr, "grad_norm": window.norm, "bytes": bytes,
                }))?;
                let rate = (bytes - clock_bytes) as f64 / clock.elapsed().as_secs_f64();
                timings.push(&json!({
                    "goal": self.goal, "step": step, "seconds": clock.elapsed().as_secs_f64(), "bytes_per_second": rate,
                }))?;
                metrics_lines += 1;
                timings_lines += 1;
                (clock, clock_bytes, window) = (Instant::now(), bytes, Window::default());
                cx.progress().update(
                    step,
                    &[("bpb", format!("{bpb:.3}")), ("bytes/s", format!("{rate:.0}"))],
                );
            }
            let stop = cx.interrupted();
            if step < self.steps && (step % self.checkpoint_every == 0 || stop) {
                metrics.sync()?;
                timings.sync()?;
                let progress = Progress {
                    step,
                    data: reader.state().clone(),
                    bytes,
                    window,
                    metrics_lines,
                    timings_lines,
                };
                let path = dir.join(RESUME_DIR).join(format!("{step:08}"));
                loaded.save(&path, t0 + step, Some(serde_json::to_value(progress)?))?;
                drop_older(&dir, step)?;
            }
            // After the last step there is nothing to save but the result.
            if stop && step < self.steps {
                return Err(StepError::Interrupted);
            }
        }
        loaded.check_end()?;
        metrics.sync()?;
        timings.sync()?;
        loaded.save(&dir.join(CHECKPOINT_DIR), t0 + step, None)?;
        let seconds = started.elapsed().as_secs_f64();
        let result = json!({
            "kind": "train", "goal": self.goal, "steps": step, "bytes": bytes, "parameters": loaded.n_parameters(),
            "prepared": loaded.prepared_summary(),
        });
        write_atomic(dir.join("result.json"), serde_json::to_string_pretty(&result)?)?;
        let timing = json!({ "train_bytes_per_second": (bytes - first_bytes) as f64 / seconds });
        write_atomic(dir.join("timing.json"), timing.to_string())?;
        // Renamed first: a kill in the middle of removing must not leave half a checkpoint to
        // resume from.
        let (resume, done) = (dir.join(RESUME_DIR), dir.join("resume.done"));
        if resume.exists() {
            std::fs::rename(&resume, &done)?;
        }
        if done.exists() {
            std::fs::remove_dir_all(done)?;
        }
        cx.progress().finish(&format!("{bytes} bytes in {seconds:.1} s"));
        Ok(())
    }
}

/// An error of the checkpoint that `from` names, pointing there.
fn at_from(cx: &StepCx, error: StepError) -> StepError {
    let StepError::Failed { error, help } = error else { return error };
    let error = NodeError::param("from", error);
    let error = match help {
        Some(help) => error.help(help),
        None => error,
    };
    StepError::Document(cx.plan().diagnose_step(cx.index(), &error).into())
}

/// Checkpoints of a step that has not finished.
const RESUME_DIR: &str = "resume";

/// The newest whole checkpoint of a step that was stopped.
fn latest(dir: &Path) -> Result<Option<PathBuf>, StepError> {
    let resume = dir.join(RESUME_DIR);
    if !resume.exists() {
        return Ok(None);
    }
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(resume)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    found.retain(|p| p.extension().is_none());
    found.sort();
    Ok(found.pop())
}

fn drop_older(dir: &Path, step: u64) -> Result<(), StepError> {
    for entry in std::fs::read_dir(dir.join(RESUME_DIR))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy() != format!("{step:08}")) {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

blt_graph::step!(Train);

#[cfg(test)]
mod tests {
    use super::Window;

    /// Numbers of seventeen digits are where a hasty reader of JSON is off by a bit, and a resumed
    /// run with it.
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
