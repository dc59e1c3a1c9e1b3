//! Units scored by other processes, on this machine or others that share its storage.
//!
//! The `score` step divides the work as usual, and gives the units that are left to do to a
//! [`Scheduler`], which the program lends to it ([`Runner::lend`](blt_graph::run::Runner::lend)).
//! The scheduler sends each [`Unit`], with the [`RemoteStep`], to some process as JSON. There a
//! [`Worker`](crate::steps::Worker) builds the same model and job, compares the key of the unit
//! with its own, and writes the part as this process would.

use super::outputs::Outputs;
use super::scorer::Seen;
use super::summary::Summary;
use super::units::{Unit, Units};
use blt_graph::run::cpu_features;
use blt_graph::{Earlier, StepCx, StepError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A `score` step as other processes receive it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoteStep {
    /// The version of this crate. A process with another version refuses the step.
    pub version: String,
    /// The pipeline as YAML, resolved to one variant and seed.
    pub pipeline: String,
    /// The name of the variant.
    pub variant: String,
    /// The seed.
    pub seed: u64,
    /// The absolute path that relative paths in the pipeline start from.
    pub base_dir: PathBuf,
    /// The index of the step in `run:`.
    pub index: usize,
    /// The steps before it, which left the parameters.
    pub earlier: Vec<Earlier>,
    /// A digest of the model.
    pub model: String,
    /// The program that divided the step, and its arithmetic.
    pub program: String,
    /// Where parts are written, as absolute paths.
    pub outputs: Outputs,
}

/// The answer of a [`Worker`](crate::steps::Worker) that has written the part of a unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitDone {
    /// The features of the processor on which the last bits of scores depend.
    pub cpu_features: String,
    /// Forward seconds of each node.
    pub seconds_by_node: BTreeMap<String, f64>,
}

/// Sends units to workers. The runner is lent one as `Rc<dyn Scheduler>`.
pub trait Scheduler {
    /// Has each of `units` scored by a [`Worker`](crate::steps::Worker) of `step`, in any order,
    /// and again if a process or machine is lost. Calls `done` with the index of a unit once its
    /// worker has answered.
    ///
    /// # Errors
    /// Errors of `done`, or why a unit cannot be scored.
    fn score(
        &self,
        step: &RemoteStep,
        units: &[&Unit],
        done: &mut dyn FnMut(usize, &UnitDone) -> Result<(), StepError>,
    ) -> Result<(), StepError>;
}

impl RemoteStep {
    pub(crate) fn new(cx: &StepCx, units: &Units, outputs: &Outputs) -> Result<Self, StepError> {
        let plan = cx.plan();
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let earlier = cx
            .earlier()
            .iter()
            .map(|earlier| Ok(Earlier { dir: absolute(&earlier.dir)?, ..earlier.clone() }));
        Ok(RemoteStep {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: plan.resolved().to_yaml(),
            variant: plan.variant.clone(),
            seed: plan.seed,
            base_dir: absolute(&plan.base_dir)?,
            index: cx.index(),
            earlier: earlier.collect::<std::io::Result<_>>()?,
            model: units.model.clone(),
            program: cx.program().to_owned(),
            outputs: Outputs { dir: outputs.dir.absolute()?, partial: absolute(&outputs.partial)? },
        })
    }

    /// Has the units `which` scored by other processes. Returns the summary of each, in their
    /// order, and seconds by node over all workers.
    pub(crate) fn score(
        &self,
        scheduler: &dyn Scheduler,
        units: &Units,
        which: &[usize],
        watch: &mut dyn FnMut(&Seen) -> Result<(), StepError>,
        message: &mut dyn FnMut(&str),
    ) -> Result<(Vec<Summary>, BTreeMap<String, f64>), StepError> {
        let chosen: Vec<&Unit> = which.iter().map(|&i| &units.units[i]).collect();
        let mut summaries: Vec<Option<Summary>> = vec![None; chosen.len()];
        let mut seconds = BTreeMap::<String, f64>::new();
        let mut seen = Seen::default();
        let mut processors = BTreeSet::from([cpu_features()]);
        let mut done = |at: usize, answer: &UnitDone| {
            let Some(summary) = summaries.get_mut(at).filter(|summary| summary.is_none()) else {
                return Ok(());
            };
            let unit = chosen[at];
            let found = self.outputs.find(unit)?.ok_or_else(|| {
                let path = self.outputs.path(unit);
                StepError::other(format!("a worker wrote {path}, and it is not there"))
                    .help("parts, input and checkpoints lie on storage that all machines see under the same path")
            })?;
            seen.rows += unit.rows;
            seen.bytes += found.all.bytes;
            seen.nats += found.all.nats;
            *summary = Some(found);
            for (node, of_unit) in &answer.seconds_by_node {
                *seconds.entry(node.clone()).or_default() += of_unit;
            }
            if processors.insert(answer.cpu_features.clone()) {
                message(&format!(
                    "{} was scored on a processor with {}, and this one has {}: the last bits of scores may differ",
                    unit.part,
                    answer.cpu_features,
                    cpu_features()
                ));
            }
            watch(&seen)
        };
        if !chosen.is_empty() {
            scheduler.score(self, &chosen, &mut done)?;
        }
        let summaries: Option<Vec<Summary>> = summaries.into_iter().collect();
        let summaries = summaries
            .ok_or_else(|| StepError::other("the scheduler ended before all units were scored"))?;
        Ok((summaries, seconds))
    }
}
