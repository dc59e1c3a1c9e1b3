//! The [`Step`] trait: what a pipeline does with its graph (train, evaluate, score, ...).

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{NodeError, chain};
use crate::plan::Plan;
use crate::world::World;

/// A step: a struct whose fields are its parameters, registered by [`step!`](crate::step!).
///
/// A step writes files into its own directory ([`StepCx::dir`]), and elsewhere only where a
/// parameter names a place and [`Step::stands`] looks after it. What it leaves in its directory is
/// kept under a key of all that it depends on, and a later run with the same key uses it again,
/// possibly for another variant or pipeline: so nothing in the files may depend on the variant's or
/// run's name. By convention `metrics.jsonl` and `timings.jsonl` (one JSON object a line) are
/// gathered into the run's, `checkpoints/` and `outputs/` are linked into the run's folders of
/// those names, and `result.json` is read by whoever builds the report.
///
/// A step that is stopped, by Ctrl-C or by kill -9, is given the same directory again with
/// [`StepCx::resumed`] true, and is to end in the same bits as if it had not been stopped.
pub trait Step: Serialize + DeserializeOwned + JsonSchema + 'static {
    /// The key in `run:`.
    const NAME: &'static str;
    /// The step in a pipeline, as YAML: `train: {goal: loss, steps: 100}`.
    const EXAMPLE: &'static str;

    /// The wires that this step computes: `node` or `node.port`. Only what they need is built. A
    /// step without goals depends on all earlier steps.
    fn goals(&self) -> Vec<String>;

    /// Checks the parameters against the plan. Opens no file.
    ///
    /// # Errors
    /// [`NodeError::param`] where a parameter is at fault.
    fn check(&self, plan: &Plan) -> Result<(), NodeError>;

    /// Whether later steps may read what this one leaves (training does; an evaluation changes
    /// nothing that a later training would notice, and says `false`, so that a change of it
    /// repeats no training).
    fn feeds_later_steps(&self) -> bool {
        true
    }

    /// Whether what the finished step of [`StepCx::dir`] left outside of that directory is still
    /// there; else it is run again. A step that writes into its directory alone has nothing to
    /// look at.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn stands(&self, cx: &StepCx) -> Result<bool, StepError> {
        let _ = cx;
        Ok(true)
    }

    /// All that the result depends on beside the graph, the parameters, the seed, earlier steps and
    /// the program: fingerprints of the data. May open files. Called before the step has a
    /// directory.
    ///
    /// # Errors
    /// If the data cannot be found or read.
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError>;

    /// Does the work.
    ///
    /// # Errors
    /// [`StepError::Interrupted`] when [`StepCx::interrupted`] became true and the state is saved;
    /// anything else as it is.
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError>;
}

/// A [`Step`] with its types erased.
pub(crate) trait AnyStep: Any {
    fn goals(&self) -> Vec<String>;
    fn check(&self, plan: &Plan) -> Result<(), NodeError>;
    fn feeds_later_steps(&self) -> bool;
    fn stands(&self, cx: &StepCx) -> Result<bool, StepError>;
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError>;
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError>;
    fn params(&self) -> Result<serde_json::Value, serde_json::Error>;
}

impl<S: Step> AnyStep for S {
    fn goals(&self) -> Vec<String> {
        Step::goals(self)
    }
    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        Step::check(self, plan)
    }
    fn feeds_later_steps(&self) -> bool {
        Step::feeds_later_steps(self)
    }
    fn stands(&self, cx: &StepCx) -> Result<bool, StepError> {
        Step::stands(self, cx)
    }
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        Step::depends(self, cx)
    }
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        Step::run(self, cx)
    }
    fn params(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }
}

/// Why a step did not finish. Takes any other error by `?`, and therefore is not
/// [`std::error::Error`] itself.
#[derive(Debug)]
pub enum StepError {
    /// It was asked to stop, saved its state, and can be continued.
    Interrupted,
    /// Something in the document is at fault.
    Document(Diagnostics),
    /// Anything else.
    Failed {
        /// The error.
        error: Box<dyn StdError + Send + Sync>,
        /// What the user can do.
        help: Option<String>,
    },
}

impl StepError {
    /// A message, or an error (boxed ones too).
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        match error.into().downcast::<Diagnostics>() {
            Ok(diagnostics) => StepError::Document(*diagnostics),
            Err(error) => StepError::Failed { error, help: None },
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(self, text: impl Into<String>) -> Self {
        match self {
            StepError::Failed { error, .. } => StepError::Failed { error, help: Some(text.into()) },
            other => other,
        }
    }

    /// What a user reads, in `rustc`'s form.
    pub fn render(&self, color: bool) -> String {
        match self {
            StepError::Interrupted => self.to_string(),
            StepError::Document(diagnostics) => diagnostics.render(color),
            StepError::Failed { error, help } => {
                Diagnostic::error(chain(error.as_ref())).help(help.as_deref()).render(color)
            }
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::Interrupted => f.write_str("interrupted; run it again to continue"),
            StepError::Document(diagnostics) => diagnostics.fmt(f),
            StepError::Failed { error, help } => {
                f.write_str(&chain(error.as_ref()))?;
                match help {
                    Some(help) => write!(f, " (help: {help})"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        StepError::other(error)
    }
}

impl From<NodeError> for StepError {
    fn from(error: NodeError) -> Self {
        StepError::Failed {
            help: error.help.clone(),
            error: error.without_help().to_string().into(),
        }
    }
}

/// Which of the two equal ways to compute is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputePath {
    /// Fused operations over packed slices.
    #[default]
    Fused,
    /// Operations composed of the tensor library's own: slower, and the meaning of the fused ones.
    Reference,
}

impl ComputePath {
    /// What a pipeline that names no path takes: fused operations are the processor's own.
    pub fn on(device: &str) -> Self {
        if device == "cpu" { ComputePath::Fused } else { ComputePath::Reference }
    }
}

impl fmt::Display for ComputePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ComputePath::Fused => "fused",
            ComputePath::Reference => "reference",
        })
    }
}

/// An earlier step of the same variant that a step depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Its place in `run:`, from 0.
    pub index: usize,
    /// [`Step::NAME`].
    pub step: String,
    /// Its key in the store.
    pub key: String,
    /// Its finished directory.
    pub dir: PathBuf,
    /// Its goals.
    pub goals: Vec<String>,
}

/// Told how far a step is. The terminal's implementation draws bars; [`Silent`] draws nothing.
pub trait Progress {
    /// The runner turns to a step of a variant.
    fn step(&self, heading: &StepHeading);
    /// Work of `total` units (steps, bytes, documents; unknown if `None`) begins.
    fn start(&self, what: &str, total: Option<u64>);
    /// `done` units are done in all; `fields` are what is worth showing, in this order: `[("bpb",
    /// "2.314")]`.
    fn update(&self, done: u64, fields: &[(&str, String)]);
    /// The work that [`start`](Progress::start) began has ended.
    fn finish(&self, summary: &str);
    /// A line that is to stay.
    fn message(&self, line: &str);
}

/// Which step of which variant the runner turns to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepHeading {
    /// The variant's name.
    pub variant: String,
    /// The pipeline's seed.
    pub seed: u64,
    /// The step's place among all steps of all variants, from 0.
    pub index: usize,
    /// How many steps all variants have together.
    pub total: usize,
    /// [`Step::NAME`].
    pub step: String,
    /// Its goals.
    pub goals: Vec<String>,
    /// Whether an earlier run's result is used as it is.
    pub reused: bool,
}

/// A [`Progress`] that shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &StepHeading) {}
    fn start(&self, _: &str, _: Option<u64>) {}
    fn update(&self, _: u64, _: &[(&str, String)]) {}
    fn finish(&self, _: &str) {}
    fn message(&self, _: &str) {}
}

/// What a step is given.
pub struct StepCx<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) index: usize,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) resumed: bool,
    pub(crate) earlier: Vec<Earlier>,
    pub(crate) threads: usize,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) interrupt: Arc<AtomicBool>,
    pub(crate) lent: World,
}

impl<'a> StepCx<'a> {
    /// Of a step that is worked on outside its run, by another process that was told of it: it has
    /// no directory, shows no progress, and nobody interrupts it.
    pub fn outside(plan: &'a Plan, index: usize, earlier: Vec<Earlier>, threads: usize) -> Self {
        StepCx {
            plan,
            index,
            dir: None,
            resumed: false,
            earlier,
            threads,
            progress: &Silent,
            interrupt: Arc::default(),
            lent: World::new(),
        }
    }

    /// What the program lends to steps under the type `T`
    /// ([`Runner::lend`](crate::run::Runner::lend)).
    pub fn lent<T: 'static>(&self) -> Option<Rc<T>> {
        self.lent.get::<T>()
    }

    /// The checked graph of the variant.
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// The variant's name, for messages. Not for files: another variant may use them.
    pub fn variant(&self) -> &str {
        &self.plan.variant
    }

    /// The pipeline's seed.
    pub fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// The folder that relative paths in parameters start from.
    pub fn base_dir(&self) -> &Path {
        &self.plan.base_dir
    }

    /// The step's place in `run:`, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The directory that [`Step::run`] fills. It becomes visible to others when the step has
    /// finished.
    ///
    /// # Panics
    /// In [`Step::depends`], which is asked before there is a directory.
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().expect("a step has a directory in `run`, not in `depends`")
    }

    /// Whether the directory holds what an interrupted run of this very step left.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Earlier steps of this variant whose goals share a node with this one's, in order.
    pub fn earlier(&self) -> &[Earlier] {
        &self.earlier
    }

    /// The device: `cpu`, `cuda`.
    pub fn device(&self) -> &str {
        &self.plan.device
    }

    /// Fused or reference.
    pub fn path(&self) -> ComputePath {
        self.plan.path
    }

    /// How many threads to use. Results may not depend on it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where to report progress.
    pub fn progress(&self) -> &dyn Progress {
        self.progress
    }

    /// An error of the step's parameters, pointing at the step.
    pub fn refuse(&self, error: &NodeError) -> StepError {
        StepError::Document(self.plan.diagnose_step(self.index, error).into())
    }

    /// Whether the user wants to stop: save the state and return [`StepError::Interrupted`].
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// The flag itself, for loops on other threads.
    pub fn interrupt_flag(&self) -> Arc<AtomicBool> {
        self.interrupt.clone()
    }
}
