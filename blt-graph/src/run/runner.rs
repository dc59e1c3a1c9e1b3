//! [`Runner`]: the steps of every variant, through the store, into a run directory.
//!
//! ```text
//! runs/<name>/<id>/            id: when it began (UTC) and four hex digits, so that names sort by time
//!   pipeline.yaml              as written
//!   resolved.yaml              overrides made and defaults written out; a pipeline again
//!   status.json                running, done, failed or interrupted; the error; times
//!   metrics.jsonl              every step's metrics in order, each line with its variant (and its seed, if there are several)
//!   timings.jsonl              likewise
//!   outputs/, checkpoints/     linked from the steps' directories in the store
//! runs/<name>/latest           link to the newest
//! runs/.store/                 see [`store`](crate::run::store)
//! ```
//!
//! **Stopping and going on.** Running a stopped pipeline again finds the same keys: finished steps
//! are used as they are, and the step that was stopped is given its directory back and goes on from
//! its last checkpoint. This is the default, because the key holds all that the result depends on,
//! so that going on and beginning anew end in the same bits, and nobody wants to lose an hour by
//! forgetting a flag. [`Resume::Run`] also goes on in the run directory that was stopped instead of
//! making a new one; [`Resume::Fresh`] throws partial steps away.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::files::{FileError, JsonLines, write_atomic};
use crate::plan::{Plan, check_all, subgraph_value};
use crate::run::rundir::{RunDir, State, Status, utc};
use crate::run::store::{Claim, Finished, STORE_FORMAT, Store, key_of};
use crate::spec::{BASE_VARIANT, PipelineSpec};
use crate::step::{Earlier, Progress, Silent, StepCx, StepError, StepHeading};
use crate::world::World;

static SILENT: Silent = Silent;

/// What becomes of work that an earlier run left unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// A new run directory; steps that were stopped go on where they were.
    #[default]
    Steps,
    /// As `Steps`, but in the run directory of the latest run of this pipeline, if that did not
    /// finish.
    Run,
    /// A new run directory; what stopped steps left is thrown away.
    Fresh,
}

/// How a pipeline is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where runs go.
    pub runs_dir: PathBuf,
    /// Where the store is; `<runs_dir>/.store` if `None`.
    pub store_dir: Option<PathBuf>,
    /// Identifies the program: its version, and in a development tree a hash of the sources. Part
    /// of every key, and so are the crates that the nodes and steps used come from.
    pub build: String,
    /// The number type that is computed in, for keys.
    pub dtype: String,
    /// What the processor can do, as far as it changes bits, for keys: [`cpu_features`].
    pub cpu_features: String,
    /// Threads that steps may use. Not part of keys: results do not depend on it.
    pub threads: usize,
    /// Only these variants, of all that are checked; all if empty.
    pub variants: Vec<String>,
    /// What becomes of unfinished work.
    pub resume: Resume,
}

impl RunOptions {
    /// Runs in `runs/`, on all processors, by the program that `build` identifies.
    pub fn new(build: impl Into<String>) -> Self {
        RunOptions {
            runs_dir: PathBuf::from("runs"),
            store_dir: None,
            build: build.into(),
            dtype: "f32".to_string(),
            cpu_features: cpu_features(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            variants: Vec::new(),
            resume: Resume::Steps,
        }
    }

    /// The store that a run with these options uses.
    pub fn store(&self) -> Store {
        Store::new(self.store_dir.clone().unwrap_or_else(|| self.runs_dir.join(".store")))
    }
}

/// The architecture and those vector extensions of this processor that numeric libraries choose
/// code by.
pub fn cpu_features() -> String {
    let mut features = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx", std::arch::is_x86_feature_detected!("avx")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ];
        features.extend(found.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    features.join("+")
}

/// A step of a finished run.
#[derive(Debug)]
pub struct StepRun {
    /// Its place in `run:`, from 0.
    pub index: usize,
    /// [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// Its goals.
    pub goals: Vec<String>,
    /// Its key.
    pub key: String,
    /// Its finished directory in the store, which stays while this lives.
    pub dir: PathBuf,
    /// Whether it had been run before.
    pub reused: bool,
    _held: Finished,
}

/// A variant with one seed, of a finished run.
pub struct PlanRun {
    /// What was run.
    pub plan: Plan,
    /// Its steps, in order.
    pub steps: Vec<StepRun>,
}

/// What a run did.
pub struct RunReport {
    /// Where.
    pub dir: RunDir,
    /// When it began, UTC.
    pub started: String,
    /// Variant by variant, in each seed by seed.
    pub plans: Vec<PlanRun>,
}

/// Why a run did not finish.
#[derive(Debug)]
pub enum RunError {
    /// The pipeline is wrong; nothing was run.
    Document(Diagnostics),
    /// A step did not finish.
    Step {
        /// The variant.
        variant: String,
        /// The seed.
        seed: u64,
        /// The step's place in `run:`.
        index: usize,
        /// The step's name.
        step: String,
        /// Why.
        error: StepError,
    },
    /// The results could not be put together after all steps.
    Report(StepError),
    /// The run directory or the store could not be written.
    File(FileError),
}

impl RunError {
    /// Whether the user stopped it.
    pub fn interrupted(&self) -> bool {
        matches!(
            self,
            RunError::Step { error: StepError::Interrupted, .. }
                | RunError::Report(StepError::Interrupted)
        )
    }

    /// What a user reads, in `rustc`'s form.
    pub fn render(&self, color: bool) -> String {
        match self {
            RunError::Document(diagnostics) => diagnostics.render(color),
            RunError::Step { error: StepError::Interrupted, .. } => self.to_string(),
            RunError::Step { error: StepError::Document(diagnostics), .. } => {
                let noted =
                    diagnostics.0.iter().map(|d| d.clone().note(self.to_string_without_cause()));
                Diagnostics(noted.collect()).render(color)
            }
            RunError::Step { error: StepError::Failed { error, help }, .. } => {
                Diagnostic::error(crate::node::chain(error.as_ref()))
                    .note(self.to_string_without_cause())
                    .help(help.as_deref())
                    .render(color)
            }
            RunError::Report(error) => error.render(color),
            RunError::File(error) => Diagnostic::error(crate::node::chain(error)).render(color),
        }
    }

    fn to_string_without_cause(&self) -> String {
        match self {
            RunError::Step { variant, seed, index, step, .. } => {
                let variant = if variant == BASE_VARIANT {
                    String::new()
                } else {
                    format!(" of the variant `{variant}`")
                };
                format!("step `run.{index}.{step}`{variant} did not finish (seed {seed})")
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Document(diagnostics) => diagnostics.fmt(f),
            RunError::Step { error, .. } => {
                write!(f, "{}: {error}", self.to_string_without_cause())
            }
            RunError::Report(error) => error.fmt(f),
            RunError::File(error) => f.write_str(&crate::node::chain(error)),
        }
    }
}

impl std::error::Error for RunError {}

impl From<FileError> for RunError {
    fn from(error: FileError) -> Self {
        RunError::File(error)
    }
}

impl From<Diagnostics> for RunError {
    fn from(diagnostics: Diagnostics) -> Self {
        RunError::Document(diagnostics)
    }
}

/// Runs a pipeline.
///
/// Every variant is checked, and every step says what it depends on (which opens the data), before
/// the first step starts: so a misspelt column of the last variant is found at once.
pub struct Runner<'a> {
    spec: &'a PipelineSpec,
    base_dir: PathBuf,
    options: RunOptions,
    progress: &'a dyn Progress,
    interrupt: Arc<AtomicBool>,
    lent: World,
}

/// A step with its key, before it is run.
struct Keyed {
    what: Value,
    key: String,
    earlier: Vec<Earlier>,
}

impl<'a> Runner<'a> {
    /// A run of `spec`; relative paths in it start from `base_dir`, the folder of its file.
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

    /// Lends `value` to the steps, which find it by its type ([`StepCx::lent`]): how a program has
    /// a step do something in another way than its own. The results may not depend on it, for
    /// no key holds it.
    #[must_use]
    pub fn lend<T: 'static>(mut self, value: T) -> Self {
        self.lent.insert(value);
        self
    }

    /// Tells `progress` how far it is.
    #[must_use]
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Stops when `flag` becomes true; the step that runs saves its state first.
    #[must_use]
    pub fn interrupt(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = flag;
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// See [`RunError`]; `status.json` says it too.
    pub fn run(&self) -> Result<RunReport, RunError> {
        self.run_with(|_| Ok(()))
    }

    /// Runs it, and has `finish` write what is made of the results (`results.json`, a report)
    /// before the run counts as done.
    ///
    /// # Errors
    /// See [`RunError`]; `status.json` says it too.
    pub fn run_with(
        &self,
        finish: impl FnOnce(&RunReport) -> Result<(), StepError>,
    ) -> Result<RunReport, RunError> {
        let plans = self.chosen(check_all(self.spec, &self.base_dir)?)?;
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
        let dir = match unfinished {
            Some(dir) => dir,
            None => RunDir::create(&self.options.runs_dir, &self.spec.name)?,
        };
        let started = dir.status().map_or_else(utc, |status| status.started);
        let status = |state, error| Status {
            state,
            error,
            started: started.clone(),
            ended: (state != State::Running).then(utc),
        };
        dir.set_status(&status(State::Running, None))?;
        let result =
            self.run_in(&dir, &started, plans, keyed, &store, &resolved).and_then(|report| {
                finish(&report).map_err(RunError::Report)?;
                Ok(report)
            });
        let ended = match &result {
            Ok(_) => status(State::Done, None),
            Err(error) if error.interrupted() => status(State::Interrupted, None),
            Err(error) => status(State::Failed, Some(error.to_string())),
        };
        let written = dir.set_status(&ended);
        // The first error is the one to tell: on a full disk, the second only says so again.
        let report = result?;
        written?;
        Ok(report)
    }

    /// The plans of the variants that the options name.
    fn chosen(&self, plans: Vec<Plan>) -> Result<Vec<Plan>, Diagnostics> {
        choose_variants(plans, &self.options.variants, |plan| &plan.variant)
    }

    /// What every step of a plan depends on, and its key.
    fn keys(&self, plan: &Plan, store: &Store) -> Result<Vec<Keyed>, RunError> {
        let mut keyed: Vec<Keyed> = Vec::new();
        let mut reached: Vec<Vec<usize>> = Vec::new();
        for (index, step) in plan.steps().iter().enumerate() {
            let needed = plan
                .needed(&step.goals)
                .map_err(|error| RunError::Document(plan.diagnose_step(index, &error).into()))?;
            let shares = |other: &Vec<usize>| {
                step.goals.is_empty() || other.iter().any(|node| needed.contains(node))
            };
            let earlier: Vec<Earlier> = (0..index)
                .filter(|other| {
                    step.goals.is_empty() || plan.steps()[*other].step.feeds_later_steps()
                })
                .filter(|other| shares(&reached[*other]) || plan.steps()[*other].goals.is_empty())
                .map(|other| Earlier {
                    index: other,
                    step: plan.steps()[other].entry.name.to_string(),
                    key: keyed[other].key.clone(),
                    dir: store.dir(&keyed[other].key),
                    goals: plan.steps()[other].goals.clone(),
                })
                .collect();
            let cx = self.cx(plan, index, earlier.clone(), None, false);
            let mut depends =
                step.step.depends(&cx).map_err(|error| self.step_error(plan, index, error))?;
            for node in needed.iter().map(|node| &plan.nodes[*node]) {
                let of_node = node.node.depends(&plan.base_dir).map_err(|error| {
                    self.step_error(
                        plan,
                        index,
                        StepError::Document(plan.diagnose(&node.name, &error).into()),
                    )
                })?;
                depends.extend(of_node.into_iter().map(|what| format!("{} {what}", node.name)));
            }
            let mut crates = plan.origins(&needed);
            crates.insert((step.entry.origin.krate, step.entry.origin.version));
            let what = json!({
                "format": STORE_FORMAT,
                "step": step.entry.name,
                "params": step.params,
                "goals": step.goals,
                "graph": subgraph_value(plan, &needed),
                "seed": plan.seed,
                "depends": depends,
                "earlier": earlier.iter().map(|earlier| &earlier.key).collect::<Vec<_>>(),
                "build": self.options.build,
                "crates": crates.into_iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>(),
                "path": plan.path.to_string(),
                "device": plan.device,
                "dtype": self.options.dtype,
                "cpu": self.options.cpu_features,
            });
            keyed.push(Keyed { key: key_of(&what), what, earlier });
            reached.push(needed);
        }
        Ok(keyed)
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
            lent: self.lent.clone(),
        }
    }

    fn step_error(&self, plan: &Plan, index: usize, error: StepError) -> RunError {
        let step = plan.steps()[index].entry.name.to_string();
        RunError::Step { variant: plan.variant.clone(), seed: plan.seed, index, step, error }
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
        let mut metrics = JsonLines::open(dir.path.join("metrics.jsonl"), 0)?;
        let mut timings = JsonLines::open(dir.path.join("timings.jsonl"), 0)?;
        for folder in ["outputs", "checkpoints"] {
            let path = dir.path.join(folder);
            if path.exists() {
                // Of the interrupted run that goes on here; all of it is linked again.
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
                let heading = StepHeading {
                    variant: plan.variant.clone(),
                    seed: plan.seed,
                    index: done,
                    total,
                    step: plan.steps()[index].entry.name.to_string(),
                    goals: plan.steps()[index].goals.clone(),
                    reused: store.has(&keyed.key),
                };
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

    /// Finds a step's files in the store, or runs it; whether they were found.
    fn step(
        &self,
        plan: &Plan,
        index: usize,
        keyed: &Keyed,
        store: &Store,
        heading: StepHeading,
    ) -> Result<(Finished, bool), RunError> {
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(self.step_error(plan, index, StepError::Interrupted));
        }
        if store.has(&keyed.key) {
            let cx =
                self.cx(plan, index, keyed.earlier.clone(), Some(store.dir(&keyed.key)), false);
            let stands = plan.steps()[index].step.stands(&cx);
            if !stands.map_err(|error| self.step_error(plan, index, error))? {
                store.discard(&keyed.key)?;
            }
        }
        let mut said = false;
        let made_by = format!("{}, {}, seed {}", plan.pipeline, plan.variant, plan.seed);
        let claim =
            store.claim(&keyed.what, &made_by, self.options.resume == Resume::Fresh, || {
                if !std::mem::replace(&mut said, true) {
                    self.progress.message("another process is running this step; waiting for it");
                }
                !self.interrupt.load(Ordering::Relaxed)
            })?;
        match claim {
            Claim::Finished(finished) => {
                self.progress.step(&StepHeading { reused: true, ..heading });
                Ok((finished, true))
            }
            Claim::GaveUp => Err(self.step_error(plan, index, StepError::Interrupted)),
            Claim::Work(work) => {
                self.progress.step(&StepHeading { reused: false, ..heading });
                let mut cx =
                    self.cx(plan, index, keyed.earlier.clone(), Some(work.dir()), work.resumed());
                let ran = plan.steps()[index].step.run(&mut cx);
                ran.map_err(|error| self.step_error(plan, index, error))?;
                Ok((work.finish()?, false))
            }
        }
    }

    /// All variants with everything written out. Several become variants that replace the graph and
    /// the steps whole.
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

/// Those of `all` whose variants are among `names`; all of them where no name is given.
///
/// # Errors
/// A name that no variant has.
pub fn choose_variants<T>(
    mut all: Vec<T>,
    names: &[String],
    name_of: impl Fn(&T) -> &str,
) -> Result<Vec<T>, Diagnostics> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|one| name_of(one) != **name)) {
        let mut known: Vec<&str> = all.iter().map(&name_of).collect();
        known.dedup();
        let message =
            format!("no variant is called `{unknown}`; there are `{}`", known.join("`, `"));
        let meant = nearest(unknown, known).map(|name| format!("did you mean `{name}`?"));
        return Err(Diagnostic::error(message).help(meant).into());
    }
    all.retain(|one| names.is_empty() || names.iter().any(|name| name == name_of(one)));
    Ok(all)
}

/// Copies the lines of `from`, if it is there, each after `tag`.
fn gather(from: &Path, tag: &Map<String, Value>, to: &mut JsonLines) -> Result<(), FileError> {
    let text = match fs::read_to_string(from) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::on("read", from)(error)),
    };
    for line in text.lines() {
        let fields: Map<String, Value> = serde_json::from_str(line)
            .map_err(|error| FileError::on("read", from)(io::Error::other(error)))?;
        let mut object = tag.clone();
        object.extend(fields);
        to.push(&object)?;
    }
    Ok(())
}

/// Links a plan's `outputs/` and `checkpoints/` into the run. Checkpoints always stand in a folder
/// named after their step; outputs do if several steps of the plan left some.
fn publish(run: &Path, place: &Path, steps: &[StepRun]) -> Result<(), FileError> {
    let with_outputs = steps.iter().filter(|step| step.dir.join("outputs").is_dir()).count();
    for step in steps {
        let own = format!("{}-{}", step.index, step.step);
        let checkpoints = step.dir.join("checkpoints");
        if checkpoints.is_dir() {
            link_tree(&checkpoints, &run.join("checkpoints").join(place).join(&own))?;
        }
        let outputs = step.dir.join("outputs");
        if outputs.is_dir() {
            let to = run.join("outputs").join(place);
            link_tree(&outputs, &if with_outputs > 1 { to.join(&own) } else { to })?;
        }
    }
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::create_dir_all(to).map_err(FileError::on("create", to))?;
    for item in fs::read_dir(from).map_err(FileError::on("read", from))? {
        let item = item.map_err(FileError::on("read", from))?;
        let (source, target) = (item.path(), to.join(item.file_name()));
        if item.file_type().map_err(FileError::on("read", &source))?.is_dir() {
            link_tree(&source, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            // Another file system, or one without links.
            fs::copy(&source, &target).map_err(FileError::on("write", &target))?;
        }
    }
    Ok(())
}
