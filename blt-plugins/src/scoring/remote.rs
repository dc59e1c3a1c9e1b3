//! Units scored by other processes, on this machine or others that share its storage.
//!
//! The `score` step runs where it always does, and divides the work as it always does; only the
//! units that are left to do go to a [`Scheduler`] that the program lends to it
//! ([`Runner::lend`](blt_graph::run::Runner::lend)). The scheduler brings each [`Unit`], with the
//! [`RemoteStep`], to some process, whose [`Worker`](crate::steps::Worker) builds the same model and job again, holds the
//! unit's key against its own, and writes the part as this process would. Both cross as JSON.

use super::job::{Unit, Units};
use super::outputs::Outputs;
use super::scorer::Seen;
use super::summary::Summary;
use blt_graph::run::cpu_features;
use blt_graph::{Earlier, StepCx, StepError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A `score` step, as another process is told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoteStep {
    /// The version of this crate; a process with another does not score.
    pub version: String,
    /// The pipeline as YAML, resolved to one variant and seed.
    pub pipeline: String,
    pub variant: String,
    pub seed: u64,
    /// What relative paths in it start from; absolute.
    pub base_dir: PathBuf,
    /// The step's place in `run:`, from 0.
    pub index: usize,
    pub earlier: Vec<Earlier>,
    /// A digest of the model.
    pub model: String,
    /// Where parts go; absolute.
    pub outputs: Outputs,
}

/// What a [`Worker`](crate::steps::Worker) answers for a unit whose part is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnitDone {
    /// The processor, as far as it changes bits.
    pub cpu_features: String,
    pub seconds_by_node: BTreeMap<String, f64>,
}

/// Brings units to workers. Lent to the runner as `Rc<dyn Scheduler>`.
pub trait Scheduler {
    /// Has each of `units` scored by a [`Worker`](crate::steps::Worker) of `step`, in any order, again where a process or
    /// machine was lost, and calls `done` with its place in `units` once its worker has
    /// answered.
    ///
    /// # Errors
    /// What `done` answers, or why a unit cannot be scored.
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
            outputs: Outputs { dir: outputs.dir.absolute()?, partial: absolute(&outputs.partial)? },
        })
    }

    /// Has units scored elsewhere: the summary of each, in their order, and seconds by node over
    /// all workers.
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
