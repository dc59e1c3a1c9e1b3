//! The [`Step`] trait: what a pipeline does with its graph (train, evaluate, score, ...).

use std::any::Any;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{NodeError, StepError};
use crate::plan::{Plan, PlannedStep};
use crate::progress::{Progress, Silent};
use crate::registry::{Origin, ParsedStep, StepEntry, parse, write_params};
use crate::spec::ComputePath;
use crate::world::World;

/// A step: a struct whose fields are its parameters, registered by [`step!`](crate::step!).
///
/// A step writes files into its own directory, [`StepCx::dir`]. It writes elsewhere only where a
/// parameter names a place, and then [`Step::stands`] checks that place. The store keeps the
/// directory under a key of everything that the result depends on. A later run with the same key
/// uses the directory again, possibly for another variant or pipeline, so nothing in the files may
/// depend on the name of the variant or of the run.
///
/// The runner treats some names in the directory specially. The lines of `metrics.jsonl` and
/// `timings.jsonl` (one JSON object a line) are copied into the run's files of the same names;
/// `checkpoints/` and `outputs/` are linked into the run's folders; the report reads `result.json`.
///
/// A step that was stopped, by Ctrl-C or by `kill -9`, receives the same directory again with
/// [`StepCx::resumed`] true. Its result must be the same, bit for bit, as without the stop.
pub trait Step: Serialize + DeserializeOwned + JsonSchema + 'static {
    /// The step's key in `run:`.
    const NAME: &'static str;
    /// The step in a pipeline, as YAML: `train: {goal: loss, steps: 100}`.
    const EXAMPLE: &'static str;

    /// The wires that this step computes: `node` or `node.port`. Only the nodes that they need are
    /// built. A step without goals depends on all earlier steps.
    fn goals(&self) -> Vec<String>;

    /// Checks the parameters against the plan. Opens no file.
    ///
    /// # Errors
    /// [`NodeError::param`] where a parameter is at fault.
    fn check(&self, plan: &Plan) -> Result<(), NodeError>;

    /// Whether the results of later steps depend on this one. A training step returns `true`. An
    /// evaluation returns `false`, so that changing it repeats no training after it.
    fn feeds_later_steps(&self) -> bool {
        true
    }

    /// Whether the files that the finished step of [`StepCx::dir`] wrote outside of that directory
    /// are still there. If not, the step runs again. The default, `true`, is right for a step that
    /// writes only into its directory.
    ///
    /// # Errors
    /// If the files cannot be checked.
    fn stands(&self, cx: &StepCx) -> Result<bool, StepError> {
        let _ = cx;
        Ok(true)
    }

    /// Fingerprints of the data: everything that the result depends on beside the graph, the
    /// parameters, the seed, earlier steps and the program. Called before the step has a
    /// directory. May open files.
    ///
    /// # Errors
    /// If the data cannot be found or read.
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError>;

    /// Runs the step.
    ///
    /// # Errors
    /// [`StepError::Interrupted`] once [`StepCx::interrupted`] is true and the state is saved; any
    /// other error as it is.
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError>;
}

/// The functions of a [`Step`] that need a plan, with the step's type erased.
pub(crate) trait AnyStep: Any {
    fn check(&self, plan: &Plan) -> Result<(), NodeError>;
    fn stands(&self, cx: &StepCx) -> Result<bool, StepError>;
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError>;
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError>;
}

impl<S: Step> AnyStep for S {
    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        Step::check(self, plan)
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
}

/// What an entry's `parse` puts into [`ParsedStep::step`]. A plan carries it as `dyn Any`: a step
/// knows plans, so a plan must not know steps.
type ErasedStep = Box<dyn AnyStep>;

impl StepEntry {
    /// The entry that [`step!`](crate::step!) submits.
    pub const fn of<S: Step>(origin: Origin) -> Self {
        StepEntry {
            name: S::NAME,
            example: S::EXAMPLE,
            origin,
            schema: || schemars::SchemaGenerator::default().into_root_schema_for::<S>(),
            parse: |params| {
                let step: S = parse(params)?;
                Ok(ParsedStep {
                    params: write_params(&step)?,
                    goals: step.goals(),
                    feeds_later_steps: step.feeds_later_steps(),
                    step: Rc::new(Box::new(step) as ErasedStep),
                })
            },
        }
    }
}

impl PlannedStep {
    /// The step itself, parameters and all, if it is an `S`: `planned.downcast::<Train>()`.
    pub fn downcast<S: Step>(&self) -> Option<&S> {
        (self.behaviour() as &dyn Any).downcast_ref()
    }

    pub(crate) fn behaviour(&self) -> &dyn AnyStep {
        let erased: &ErasedStep =
            self.step.downcast_ref().expect("only `StepEntry::of` makes the step of a plan");
        &**erased
    }
}

/// An earlier step of the same variant that a step depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// The position in `run:`, from 0.
    pub index: usize,
    /// [`Step::NAME`].
    pub step: String,
    /// The step's key in the store.
    pub key: String,
    /// The step's finished directory.
    pub dir: PathBuf,
    /// The step's goals.
    pub goals: Vec<String>,
}

/// What a step receives from the runner.
pub struct StepCx<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) index: usize,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) resumed: bool,
    pub(crate) earlier: Vec<Earlier>,
    pub(crate) threads: usize,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) interrupt: Arc<AtomicBool>,
    pub(crate) program: String,
    pub(crate) detect_anomaly: bool,
    pub(crate) lent: World,
}

impl<'a> StepCx<'a> {
    /// The context of a step that another process works on, outside of the step's run. It has no
    /// directory, shows no progress, and is never interrupted. `program` is that of the run.
    pub fn outside(
        plan: &'a Plan,
        index: usize,
        earlier: Vec<Earlier>,
        threads: usize,
        program: String,
    ) -> Self {
        StepCx {
            plan,
            index,
            dir: None,
            resumed: false,
            earlier,
            threads,
            progress: &Silent,
            interrupt: Arc::default(),
            program,
            detect_anomaly: false,
            lent: World::new(),
        }
    }

    /// The value of type `T` that the program lends to steps
    /// ([`Runner::lend`](crate::run::Runner::lend)).
    pub fn lent<T: 'static>(&self) -> Option<Rc<T>> {
        self.lent.get::<T>()
    }

    /// The checked variant.
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// The variant's name, for messages. Not for files, which other variants may use.
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

    /// The step's position in `run:`, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The directory that [`Step::run`] writes into. Other processes see it once the step has
    /// finished.
    ///
    /// # Panics
    /// In [`Step::depends`], which is called before the directory exists.
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().expect("a step has a directory in `run`, not in `depends`")
    }

    /// Whether the directory holds the state of an interrupted run of this very step.
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

    /// Fused or reference operations.
    pub fn compute_path(&self) -> ComputePath {
        self.plan.compute_path
    }

    /// The number of threads to use. The results must not depend on it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The program and its arithmetic
    /// ([`RunOptions::program`](crate::run::RunOptions::program)), on which bits depend.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Whether to look at every value as it is made, for the first that is not finite
    /// ([`RunOptions::detect_anomaly`](crate::run::RunOptions::detect_anomaly)).
    pub fn detect_anomaly(&self) -> bool {
        self.detect_anomaly
    }

    /// The receiver of progress reports.
    pub fn progress(&self) -> &dyn Progress {
        self.progress
    }

    /// An error of the step's parameters, as a diagnostic that points at the step.
    pub fn refuse(&self, error: &NodeError) -> StepError {
        StepError::Document(self.plan.diagnose_step(self.index, error).into())
    }

    /// Whether the user wants to stop. If so, save the state and return
    /// [`StepError::Interrupted`].
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// What becomes true when the user wants to stop, for other threads.
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        self.interrupt.clone()
    }
}
