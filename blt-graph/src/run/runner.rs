//! [`Runner`]: the steps of every variant, through the store, into a run directory.
//!
//! ```text
//! runs/<name>/<id>/            id: start time (UTC) and four hex digits; names sort by time
//!   pipeline.yaml              the pipeline as written
//!   resolved.yaml              the pipeline with overrides applied and defaults written out
//!   explained.yaml             each variant so, and behind each value where it came from
//!   steps.json                 the keys of the steps in the store
//!   graph.svg                  the graph of the first variant
//!   status.json                running, done, failed or interrupted; the error; times
//!   metrics.jsonl              the metrics of every step in order; each line has the variant (and
//!                              the seed, if there are several)
//!   timings.jsonl              the timings, likewise
//!   outputs/, checkpoints/     links to the files of the steps in the store
//! runs/<name>/latest           link to the newest run
//! runs/.store/                 see [`store`](crate::run::store)
//! ```
//!
//! **Stopping and continuing.** A stopped pipeline that is run again has the same keys. Finished
//! steps are used as they are. The stopped step receives its directory back and continues from its
//! last checkpoint. This is the default: the key holds everything that the result depends on, so
//! continuing and starting anew end in the same bits, and nobody loses an hour of work by
//! forgetting a flag. [`Resume::Run`] also continues in the stopped run's directory instead of
//! making a new one; [`Resume::Fresh`] removes the files of stopped steps.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::draw::Drawing;
use crate::error::StepError;
use crate::files::{FileError, JsonLines, write_atomic};
use crate::plan::{Plan, check_all, explain, merge_same};
use crate::progress::{Progress, Silent, StepHeading};
use crate::run::error::RunError;
use crate::run::jobs::at_once;
use crate::run::keys::{Keyed, step_keys};
use crate::run::options::{Resume, RunOptions, choose_variants};
use crate::run::publish::{gather, publish};
use crate::run::report::{PlanRun, RunReport, StepRun};
use crate::run::rundir::{RunDir, State, Status};
use crate::run::store::{Claim, Finished, Store};
use crate::run::time::utc;
use crate::spec::{BASE_VARIANT, PipelineSpec};
use crate::step::{Earlier, StepCx};
use crate::world::World;

static SILENT: Silent = Silent;

/// Runs a pipeline.
///
/// Before the first step starts, the runner checks every variant and asks every step what it
/// depends on, which opens the data. So a misspelt column of the last variant is found at once.
#[derive(Clone)]
pub struct Runner<'a> {
    spec: &'a PipelineSpec,
    base_dir: PathBuf,
    options: RunOptions,
    progress: &'a dyn Progress,
    interrupt: Arc<AtomicBool>,
    lent: World,
}

impl<'a> Runner<'a> {
    /// A run of `spec`. Relative paths in it start from `base_dir`, the folder of its file.
    pub fn new(spec: &'a PipelineSpec, base_dir: impl Into<PathBuf>, options: RunOptions) -> Self {
        Runner {
            spec,
            base_dir: base_dir.into(),
            options,
            progress: &SILENT,
            interrupt: Arc::default(),
            lent: World::new(),
        }
    }

    /// Lends `value` to the steps, which find it by its type ([`StepCx::lent`]). A program changes
    /// with it how a step does its work. The results must not depend on it, since no key holds it.
    #[must_use]
    pub fn lend<T: 'static>(mut self, value: T) -> Self {
        self.lent.insert(value);
        self
    }

    /// Reports progress to `progress`.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Stops when `flag` becomes true. The running step saves its state first.
    #[must_use]
    pub fn interrupt(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = flag;
        self
    }

    /// Runs the pipeline.
    ///
    /// # Errors
    /// See [`RunError`]. `status.json` holds the message too.
    pub fn run(&self) -> Result<RunReport, RunError> {
        self.run_with(|_| Ok(()))
    }

    /// Runs the pipeline, and calls `finish` to write `results.json`, a report and the like before
    /// the run counts as done.
    ///
    /// # Errors
    /// See [`RunError`]. `status.json` holds the message too.
    pub fn run_with(
        &self,
        finish: impl FnOnce(&RunReport) -> Result<(), StepError>,
    ) -> Result<RunReport, RunError> {
        let plans = self.plans()?;
        for warning in plans.iter().flat_map(|plan| &plan.warnings) {
            self.progress.message(&warning.render(false));
        }
        if let Some(plan) = plans.iter().find(|plan| plan.steps().is_empty()) {
            let variant = &plan.variant;
            let mut diagnostic = Diagnostic::error(
                "the pipeline has no steps, so there is nothing to run",
            )
            .help(Some("give `run:` with a line `- train: {goal: ...}` or the like for each step"));
            if *variant != BASE_VARIANT {
                diagnostic = diagnostic.note(format!("in the variant `{variant}`"));
            }
            return Err(Diagnostics::from(diagnostic).into());
        }
        let store = self.options.store();
        let keyed =
            plans.iter().map(|plan| self.keys(plan, &store)).collect::<Result<Vec<_>, _>>()?;
        let resolved = self.resolved(&plans);
        let unfinished = match self.options.resume {
            Resume::Run => RunDir::unfinished(&self.options.runs_dir, &self.spec.name, &resolved),
            Resume::Steps | Resume::Fresh => None,
        };
        let mut locked = None;
        if let Some(dir) = unfinished {
            // None if another process is at work in it.
            locked = store.lock_run(&dir.path)?.map(|lock| (dir, Some(lock)));
        }
        let (dir, lock) = match locked {
            Some(locked) => locked,
            None => (RunDir::create(&self.options.runs_dir, &self.spec.name)?, None),
        };
        let started = dir.status().map_or_else(utc, |status| status.started);
        let status = |state, error| Status {
            state,
            error,
            started: started.clone(),
            ended: (state != State::Running).then(utc),
        };
        dir.set_status(&status(State::Running, None))?;
        // One error from here on is in `status.json`.
        let locked = lock.map_or_else(|| store.lock_run(&dir.path), |lock| Ok(Some(lock)));
        let result = locked.map_err(RunError::from).and_then(|lock| {
            let _lock = lock;
            self.run_ahead(&plans, &store)
                .and_then(|runner| runner.run_in(&dir, &started, plans, keyed, &store, &resolved))
                .and_then(|report| {
                    finish(&report).map_err(RunError::Report)?;
                    Ok(report)
                })
        });
        let ended = match &result {
            Ok(_) => status(State::Done, None),
            Err(error) if error.interrupted() => status(State::Interrupted, None),
            Err(error) => status(State::Failed, Some(error.to_string())),
        };
        let written = dir.set_status(&ended);
        // Return the first error: on a full disk, the second is only a consequence.
        let report = result?;
        written?;
        Ok(report)
    }

    /// What [`run`](Self::run) would do: each step of each variant and seed in order, as its heading.
    /// It opens the data, runs nothing and writes nothing.
    ///
    /// # Errors
    /// As a run before its first step.
    pub fn dry_run(&self) -> Result<Vec<StepHeading>, RunError> {
        let plans = self.plans()?;
        let store = self.options.store();
        let total = plans.iter().map(|plan| plan.steps().len()).sum();
        let mut headings: Vec<StepHeading> = Vec::with_capacity(total);
        // A step that another variant runs first is reused too.
        let mut seen = BTreeSet::new();
        for plan in &plans {
            for (index, keyed) in self.keys(plan, &store)?.into_iter().enumerate() {
                let reused = store.has(&keyed.key) || seen.contains(&keyed.key);
                headings.push(heading(plan, index, (headings.len(), total), reused));
                seen.insert(keyed.key);
            }
        }
        Ok(headings)
    }

    /// The plans of the variants that are asked for.
    fn plans(&self) -> Result<Vec<Plan>, RunError> {
        let plans = check_all(self.spec, &self.base_dir)?;
        let plans = choose_variants(plans, &self.options.variants, |plan| &plan.variant)?;
        // Differences are taken to the baseline, so it is the last to be left out.
        let baseline = self.spec.report.get("baseline").and_then(Value::as_str);
        let (plans, messages) = merge_same(plans, baseline);
        messages.iter().for_each(|message| self.progress.message(message));
        Ok(plans)
    }

    /// Where several variants are to run at once, runs all steps into the store, and returns a
    /// runner that finds them there and says no more of them.
    fn run_ahead(&self, plans: &[Plan], store: &Store) -> Result<Self, RunError> {
        if self.options.jobs == 1 || plans.len() == 1 {
            return Ok(self.clone());
        }
        // A plan stays on its thread, so each job checks its own.
        let (base_dir, options, interrupt) = (&self.base_dir, &self.options, &self.interrupt);
        let total = plans.iter().map(|plan| plan.steps().len()).sum();
        let mut first = 0;
        let work = plans.iter().map(|plan| {
            first += plan.steps().len();
            (first - plan.steps().len(), (*plan.spec).clone(), plan.variant.clone(), plan.seed)
        });
        let run = |(first, spec, variant, seed): (usize, PipelineSpec, String, u64),
                   threads: usize,
                   progress: &dyn Progress| {
            let options = RunOptions { threads, jobs: 1, ..options.clone() };
            let runner = Runner::new(&spec, base_dir, options).progress(progress);
            let runner = runner.interrupt(interrupt.clone());
            let plan = Plan::check(&spec, &variant, seed, base_dir)?;
            for (index, keyed) in runner.keys(&plan, store)?.iter().enumerate() {
                let heading = heading(&plan, index, (first + index, total), store.has(&keyed.key));
                runner.step(&plan, index, keyed, store, heading)?;
            }
            Ok(())
        };
        at_once(work.collect(), (options.jobs, options.threads), self.progress, run)?;
        Ok(Runner { progress: &SILENT, ..self.clone() })
    }

    fn keys(&self, plan: &Plan, store: &Store) -> Result<Vec<Keyed>, RunError> {
        step_keys(plan, store, &self.options, |index, earlier| {
            self.cx(plan, index, earlier, None, false)
        })
    }

    fn cx<'b>(
        &self,
        plan: &'b Plan,
        index: usize,
        earlier: Vec<Earlier>,
        dir: Option<PathBuf>,
        resumed: bool,
    ) -> StepCx<'b>
    where
        'a: 'b,
    {
        StepCx {
            plan,
            index,
            dir,
            resumed,
            earlier,
            threads: self.options.threads,
            progress: self.progress,
            interrupt: self.interrupt.clone(),
            program: self.options.program(),
            detect_anomaly: self.options.detect_anomaly,
            lent: self.lent.clone(),
        }
    }

    fn run_in(
        &self,
        dir: &RunDir,
        started: &str,
        plans: Vec<Plan>,
        keyed: Vec<Vec<Keyed>>,
        store: &Store,
        resolved: &str,
    ) -> Result<RunReport, RunError> {
        write_atomic(dir.path.join("pipeline.yaml"), self.spec.written())?;
        write_atomic(dir.path.join("resolved.yaml"), resolved)?;
        let keys: BTreeSet<&String> = keyed.iter().flatten().map(|keyed| &keyed.key).collect();
        write_atomic(dir.path.join("steps.json"), format!("{:#}\n", json!(keys)))?;
        let first = plans.iter().filter(|plan| plan.seed == plan.spec.seeds[0]);
        let explained: Vec<String> = first.map(|plan| explain(self.spec, plan)).collect();
        write_atomic(dir.path.join("explained.yaml"), explained.join("---\n"))?;
        if let Some(plan) = plans.first() {
            write_atomic(dir.path.join("graph.svg"), Drawing::of(self.spec, plan).svg())?;
        }
        let mut metrics = JsonLines::open(dir.path.join("metrics.jsonl"), 0)?;
        let mut timings = JsonLines::open(dir.path.join("timings.jsonl"), 0)?;
        for folder in ["outputs", "checkpoints"] {
            let path = dir.path.join(folder);
            if path.exists() {
                // Left by the interrupted run that continues here. All of it is linked again.
                fs::remove_dir_all(&path).map_err(FileError::on("remove", &path))?;
            }
            fs::create_dir(&path).map_err(FileError::on("create", &path))?;
        }
        let total = keyed.iter().map(Vec::len).sum();
        let mut done = 0;
        let mut runs = Vec::new();
        let several_seeds = plans.iter().any(|plan| plan.seed != plans[0].seed);
        let several_variants = plans.iter().any(|plan| plan.variant != plans[0].variant);
        for (plan, keyed) in plans.into_iter().zip(keyed) {
            let mut steps = Vec::new();
            for (index, keyed) in keyed.into_iter().enumerate() {
                let heading = heading(&plan, index, (done, total), store.has(&keyed.key));
                let (finished, reused) = self.step(&plan, index, &keyed, store, heading)?;
                done += 1;
                let mut tag = Map::new();
                tag.insert("variant".to_string(), json!(plan.variant));
                if several_seeds {
                    tag.insert("seed".to_string(), json!(plan.seed));
                }
                tag.insert("run_step".to_string(), json!(index));
                gather(&finished.dir.join("metrics.jsonl"), &tag, &mut metrics)?;
                gather(&finished.dir.join("timings.jsonl"), &tag, &mut timings)?;
                steps.push(StepRun {
                    index,
                    step: plan.steps()[index].entry.name.to_string(),
                    goals: plan.steps()[index].goals.clone(),
                    key: keyed.key,
                    dir: finished.dir.clone(),
                    reused,
                    _held: finished,
                });
            }
            let mut place = PathBuf::new();
            if several_variants {
                place.push(&plan.variant);
            }
            if several_seeds {
                place.push(format!("seed-{}", plan.seed));
            }
            publish(&dir.path, &place, &steps)?;
            runs.push(PlanRun { plan, steps });
        }
        metrics.sync()?;
        timings.sync()?;
        Ok(RunReport { dir: dir.clone(), started: started.to_string(), plans: runs })
    }

    /// Finds a step's files in the store, or runs the step. Returns whether they were found.
    fn step(
        &self,
        plan: &Plan,
        index: usize,
        keyed: &Keyed,
        store: &Store,
        heading: StepHeading,
    ) -> Result<(Finished, bool), RunError> {
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(RunError::of_step(plan, index, StepError::Interrupted));
        }
        let mut said = false;
        let made_by = format!("{}, {}, seed {}", plan.pipeline, plan.variant, plan.seed);
        let behaviour = plan.steps()[index].behaviour();
        let of_step = |error| RunError::of_step(plan, index, error);
        loop {
            let fresh = self.options.resume == Resume::Fresh;
            let claim = store.claim(&keyed.what, &made_by, fresh, || {
                if !std::mem::replace(&mut said, true) {
                    self.progress.message("another process is running this step; waiting for it");
                }
                !self.interrupt.load(Ordering::Relaxed)
            })?;
            let work = match claim {
                Claim::GaveUp => return Err(of_step(StepError::Interrupted)),
                Claim::Work(work) => work,
                Claim::Finished(finished) => {
                    let dir = Some(finished.dir.clone());
                    let cx = self.cx(plan, index, keyed.earlier.clone(), dir, false);
                    if behaviour.stands(&cx).map_err(of_step)? {
                        self.progress.step(&StepHeading { reused: true, ..heading });
                        return Ok((finished, true));
                    }
                    drop(finished);
                    store.discard(&keyed.key)?;
                    continue;
                }
            };
            self.progress.step(&StepHeading { reused: false, ..heading });
            if let Some(damage) = work.damage() {
                self.progress.message(&format!(
                    "warning: what this step left in the store is damaged, so it runs again: {damage}"
                ));
            }
            let mut cx =
                self.cx(plan, index, keyed.earlier.clone(), Some(work.dir()), work.resumed());
            behaviour.run(&mut cx).map_err(of_step)?;
            return Ok((work.finish()?, false));
        }
    }

    /// `resolved.yaml`: all variants with every default written out. If there are several, each
    /// replaces the graph and the steps as a whole.
    fn resolved(&self, plans: &[Plan]) -> String {
        let head = format!("# Relative paths start from {}\n", self.base_dir.display());
        let mut spec = plans[0].resolved();
        spec.seeds = self.spec.seeds.clone();
        if plans.iter().all(|plan| plan.variant == BASE_VARIANT) {
            return head + &spec.to_yaml();
        }
        for plan in plans.iter().filter(|plan| plan.seed == plan.spec.seeds[0]) {
            let value = plan.resolved().to_value();
            let edits = ["device", "path", "graph", "run", "report"]
                .iter()
                .filter_map(|key| Some((key.to_string(), value.get(*key)?.clone())));
            let mut edits: Vec<(String, Value)> = edits.collect();
            if plan.spec.seeds != self.spec.seeds {
                edits.push(("seeds".to_string(), json!(plan.spec.seeds)));
            }
            spec.ablate.named.push((plan.variant.clone(), edits));
        }
        head + &spec.to_yaml()
    }
}

/// The heading of step `index` of `plan`, which is number `done` of `total` steps.
fn heading(plan: &Plan, index: usize, (done, total): (usize, usize), reused: bool) -> StepHeading {
    StepHeading {
        variant: plan.variant.clone(),
        seed: plan.seed,
        index: done,
        total,
        step: plan.steps()[index].entry.name.to_string(),
        goals: plan.steps()[index].goals.clone(),
        reused,
    }
}
