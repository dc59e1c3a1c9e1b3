mod average;
mod held_out;
mod params;
mod rates;
mod spikes;
mod training;

pub use params::{Average, HeldOut, Train};

use crate::checkpoint::{self, CheckpointState, ResumeFolder, StateError};
use crate::device::backend;
use crate::lint::warn_untrained;
use crate::ports::Loss;
use crate::size;
use crate::sources::{check_sources, fingerprints};
use crate::trained_graph::TrainedGraph;
use average::Averaging;
use blt_data::{Packer, Request};
use blt_derive::step;
use blt_graph::{NodeError, Plan, Step, StepCx, StepError};
use held_out::Curve;
use std::path::Path;
use training::{Parts, Progress, Training};

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
        rates::check(&self.lr_by, plan, &self.goal)?;
        size::check(plan, &[&self.goal], Some(self.memory()))?;
        self.check_values()
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        backend(cx)?;
        // The check does not depend on the shuffle buffer.
        check_sources(
            cx,
            &[&self.goal],
            &Request { exclude_calibration: true, ..Request::training(cx.seed(), 1) },
        )?;
        if self.evaluate.is_some() {
            held_out::check(cx, &self.goal)?;
        }
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
        if graph.params().is_empty() {
            let msg = format!("`{}` has no parameters to train", self.goal);
            return Err(cx.refuse(&NodeError::param("goal", msg).help(
                "leave the step out: counts (NgramLm) are fitted by the first step that needs them",
            )));
        }
        let shuffle_buffer = graph.source()?.handle.shuffle_buffer;
        if let Some(from) = &self.from {
            let from = cx.base_dir().join(from);
            restore(&mut graph, &from).map_err(|e| at_from(cx, e))?;
        }
        let resume = ResumeFolder::of(cx.dir());
        let mut latest =
            if cx.resumed() { resume.latest(|line| cx.progress().message(line))? } else { None };
        let mut state: Option<Progress> = match &latest {
            Some(path) => {
                let of = CheckpointState::read(path).map_err(StateError::into_step_error)?;
                Some(serde_json::from_value(of.training.unwrap_or_default())?)
            }
            None => None,
        };
        if let Some(file) = state.as_ref().and_then(|state| state.changed_log(cx.dir())) {
            cx.progress().message(&format!(
                "warning: `{file}` is not what the stopped step wrote; the step begins anew"
            ));
            resume.remove()?;
            (latest, state) = (None, None);
        }
        if let Some(path) = &latest {
            restore(&mut graph, path)?;
        }
        let rates = rates::of(&self.lr_by, graph.params()).map_err(|e| cx.refuse(&e))?;
        graph.prepare(cx)?;
        let averaging = self.average.as_ref().map(|average| {
            let begun = latest.as_deref().zip(state.as_ref().map(|state| state.step));
            Averaging::new(average, self.steps, &graph, begun)
        });
        let averaging = averaging.transpose()?;
        let request =
            Request { exclude_calibration: true, ..Request::training(cx.seed(), shuffle_buffer) };
        let source = graph.source()?;
        let packer = Packer::new(source.handle.span_bytes, self.batch_bytes)?;
        let packer = Packer { packing: self.packing, ..packer };
        let from = state.as_ref().map(|state| &state.data);
        let batches = graph.read(source, request, packer, from)?.read_ahead(2 * self.accumulate);
        graph.backend().recompute(self.recompute);
        let curve = self.evaluate.as_ref();
        let curve = curve.map(|of| Curve::read(of, cx, &graph, self.batch_bytes)).transpose()?;
        let parts = Parts { rates, averaging, curve };
        let mut training = Training::new(self, cx, &graph, batches, state, parts)?;
        if latest.is_some() {
            let step = training.step_done();
            cx.progress().message(&format!("going on after step {step} of {}", self.steps));
        }
        cx.progress().start(&format!("train {}", self.goal), Some(self.steps));
        training.run(&resume)?;
        training.finish()?;
        Ok(resume.remove()?)
    }
}

/// Reads parameters and moments from a checkpoint.
fn restore(graph: &mut TrainedGraph, dir: &Path) -> Result<(), StepError> {
    graph.restore(dir, true)?;
    graph.restore_moments(dir)
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
