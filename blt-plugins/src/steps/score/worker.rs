//! A `score` step made ready in another process.

use super::Score;
use crate::profile::NodeProfile;
use crate::scoring::{Job, RemoteStep, Scorer, Unit, UnitDone, Units};
use blt_graph::run::cpu_features;
use blt_graph::{PipelineSpec, Plan, StepCx, StepError};
use std::rc::Rc;

/// A `score` step made ready in another process: it holds the model, and scores one unit after the
/// other.
pub struct Worker {
    step: RemoteStep,
    scorer: Scorer,
    job: Job,
    profile: Rc<NodeProfile>,
}

impl Worker {
    /// Builds the step's model, and looks at the input's files. `threads`: for messages to nodes;
    /// who calls decides the pool.
    ///
    /// # Errors
    /// If the version is another one, or what the pipeline names is not here as it was where the
    /// step was divided.
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
            .ok_or_else(|| StepError::other(format!("step {} is no score step", step.index)))?;
        let cx = StepCx::outside(&plan, step.index, step.earlier.clone(), threads);
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

    /// Scores a unit and writes its part, in place of one that is there.
    ///
    /// # Errors
    /// If it is no unit of this job, or as [`Scorer::score`].
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
