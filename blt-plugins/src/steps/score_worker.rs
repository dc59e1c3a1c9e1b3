//! The `score` step in another process.

use super::generate::Generate;
use super::score::Score;
use crate::profile::NodeProfile;
use crate::scoring::{Job, RemoteStep, Scorer, Unit, UnitDone, Units};
use blt_graph::run::cpu_features;
use blt_graph::{PipelineSpec, Plan, StepCx, StepError};
use std::rc::Rc;

/// A `score` step in another process. It holds the model, and scores units one after the other.
pub struct Worker {
    step: RemoteStep,
    scorer: Scorer,
    job: Job,
    profile: Rc<NodeProfile>,
}

impl Worker {
    /// Builds the model of the step, and opens the files of the input. `threads`: the number of
    /// threads that nodes are told; the caller installs the thread pool.
    ///
    /// # Errors
    /// If the version differs, or files that the pipeline names are missing here or differ from
    /// those of the process that divided the step.
    pub fn open(step: RemoteStep, threads: usize) -> Result<Self, StepError> {
        let version = env!("CARGO_PKG_VERSION");
        if step.version != version {
            let msg = format!(
                "the step was begun by version {}, and this worker has version {version}",
                step.version
            );
            return Err(StepError::other(msg).help("install the same version on all machines"));
        }
        let spec = PipelineSpec::parse(&step.pipeline, "the resolved pipeline")
            .map_err(StepError::Document)?;
        let plan = Plan::check(&spec, &step.variant, step.seed, &step.base_dir)
            .map_err(StepError::Document)?;
        let score = Score::of(&plan, step.index)
            .or_else(|| Generate::of(&plan, step.index))
            .ok_or_else(|| StepError::other(format!("step {} is no score step", step.index)))?;
        let (earlier, program) = (step.earlier.clone(), step.program.clone());
        let cx = StepCx::outside(&plan, step.index, earlier, threads, program);
        let scorer = score.scorer(&cx)?;
        let model = scorer.graph().digest()?;
        if model != step.model {
            let msg =
                format!("the model is {model} here, and {} where the step was divided", step.model);
            return Err(StepError::other(msg)
                .help("all machines read one checkpoint, which stays as it is meanwhile"));
        }
        let job = score.whole_job(&cx, &scorer)?;
        let profile = scorer.profile();
        Ok(Worker { step, scorer, job, profile })
    }

    /// Scores a unit and writes its part. An existing part is replaced.
    ///
    /// # Errors
    /// If the unit is not one of this job; otherwise as [`Scorer::score`].
    pub fn score(&mut self, unit: &Unit) -> Result<UnitDone, StepError> {
        if !self.job.has(unit, &self.step.model) {
            let msg = format!("{} is not here as it was when the work was divided", unit.input);
            return Err(StepError::other(msg)
                .help("all machines read the same files, of one size and time of modification, which stay as they are meanwhile"));
        }
        let units = Units { model: self.step.model.clone(), units: vec![unit.clone()] };
        self.scorer.score(&self.job, &units, &[0], &self.step.outputs, &mut |_| Ok(()))?;
        let costs = self.profile.take().into_iter().map(|(node, cost)| (node, cost.seconds));
        Ok(UnitDone { cpu_features: cpu_features(), seconds_by_node: costs.collect() })
    }
}
