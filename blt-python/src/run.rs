//! `blt._blt.run`: a pipeline, as `blt-run` runs it, with its `score` steps' units given to a
//! scheduler in Python.

use crate::error::{Error, message, step_error};
use crate::scorer::all_threads;
use blt_data::storage::Location;
use blt_graph::run::{RunError, RunOptions, Runner};
use blt_graph::{PipelineSpec, Progress, Step, StepError, StepHeading};
use blt_plugins::scoring::{RemoteStep, Scheduler, Unit, UnitDone};
use blt_plugins::steps::Score;
use blt_report::progress;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the interpreter is asked whether there was a Ctrl-C.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// A Python function `(step, units) -> iterator of (place in units, answer) or None`: None says
/// that nothing is new, and is given about once a second, so that there is a chance to stop. All
/// are JSON.
struct PythonScheduler {
    function: Py<PyAny>,
    /// What it raised, to be raised again at the end.
    raised: Rc<RefCell<Option<PyErr>>>,
    interrupt: Arc<AtomicBool>,
}

impl PythonScheduler {
    fn error(&self, py: Python<'_>, error: PyErr) -> StepError {
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            return StepError::Interrupted;
        }
        let text = match error.is_instance_of::<Error>(py) {
            true => error.value(py).to_string(),
            false => error.to_string(),
        };
        *self.raised.borrow_mut() = Some(error);
        StepError::other(text)
    }
}

impl Scheduler for PythonScheduler {
    fn score(
        &self,
        step: &RemoteStep,
        units: &[&Unit],
        done: &mut dyn FnMut(usize, &UnitDone) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let step = serde_json::to_string(step)?;
        let units = units.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        Python::attach(|py| {
            let wrong = |error| self.error(py, error);
            let answers = self
                .function
                .bind(py)
                .call1((step, units))
                .and_then(|a| a.try_iter())
                .map_err(wrong)?;
            let mut take = || -> Result<(), StepError> {
                for answer in answers.clone() {
                    if self.interrupt.load(Ordering::Relaxed) {
                        return Err(StepError::Interrupted);
                    }
                    let answer: Option<(usize, String)> =
                        answer.and_then(|a| a.extract()).map_err(wrong)?;
                    if let Some((at, answer)) = answer {
                        done(at, &serde_json::from_str(&answer)?)?;
                    }
                }
                Ok(())
            };
            let taken = take();
            // What it still has in hand is given up at once, and not when somebody collects it.
            if answers.hasattr("close").map_err(wrong)? {
                answers.call_method0("close").map_err(wrong)?;
            }
            taken
        })
    }
}

/// Progress on standard error, which notices Ctrl-C.
struct Watched {
    inner: Box<dyn Progress>,
    interrupt: Arc<AtomicBool>,
    asked: Cell<Instant>,
}

impl Progress for Watched {
    fn step(&self, heading: &StepHeading) {
        self.inner.step(heading);
    }
    fn start(&self, what: &str, total: Option<u64>) {
        self.inner.start(what, total);
    }
    fn update(&self, done: u64, fields: &[(&str, String)]) {
        self.inner.update(done, fields);
        if self.asked.get().elapsed() >= ASK_EVERY {
            self.asked.set(Instant::now());
            if Python::attach(|py| py.check_signals()).is_err() {
                self.interrupt.store(true, Ordering::Relaxed);
            }
        }
    }
    fn finish(&self, summary: &str) {
        self.inner.finish(summary);
    }
    fn message(&self, line: &str) {
        self.inner.message(line);
    }
}

/// Identifies this library for the store's keys, as `blt-run` is by its own file.
fn build_id(library: &Path) -> std::io::Result<String> {
    Ok(format!("{} {}", env!("CARGO_PKG_VERSION"), blake3::hash(&std::fs::read(library)?).to_hex()))
}

/// Runs a pipeline; the run's directory, and the closing table.
///
/// `set`: overrides, `path=value`. `output`: where the score step's parts go. `schedule`: see
/// `blt.ray`. `quiet`: no progress. `library`: this library's own file.
#[pyfunction]
#[pyo3(signature = (pipeline, set, output, runs, store, threads, schedule, quiet, library))]
#[allow(clippy::too_many_arguments)]
pub fn run(
    py: Python<'_>,
    pipeline: PathBuf,
    set: Vec<String>,
    output: Option<String>,
    runs: PathBuf,
    store: Option<PathBuf>,
    threads: Option<NonZeroUsize>,
    schedule: Py<PyAny>,
    quiet: bool,
    library: PathBuf,
) -> PyResult<(PathBuf, String)> {
    py.detach(|| {
        let (spec, dir) = read(&pipeline, &set, output.as_deref())?;
        let mut options = RunOptions::new(build_id(&library)?);
        options.runs_dir = std::path::absolute(runs)?;
        options.store_dir = store.map(std::path::absolute).transpose()?;
        options.threads = threads.map_or_else(all_threads, NonZeroUsize::get);
        // Fails where the process already has a pool; results do not depend on it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
        let interrupt = Arc::new(AtomicBool::new(false));
        let inner: Box<dyn Progress> =
            if quiet { Box::new(blt_graph::Silent) } else { progress::for_stderr() };
        let progress =
            Watched { inner, interrupt: interrupt.clone(), asked: Cell::new(Instant::now()) };
        let raised = Rc::default();
        let scheduler: Rc<dyn Scheduler> = Rc::new(PythonScheduler {
            function: schedule,
            raised: Rc::clone(&raised),
            interrupt: interrupt.clone(),
        });
        let runner = Runner::new(&spec, dir, options)
            .progress(&progress)
            .interrupt(interrupt)
            .lend(scheduler);
        let mut table = String::new();
        let ended = runner.run_with(|report| {
            table = blt_report::finish(report, &spec)?.table();
            Ok(())
        });
        match ended {
            Ok(report) => Ok((report.dir.path, table)),
            Err(error) if error.interrupted() => {
                Err(PyKeyboardInterrupt::new_err(error.to_string()))
            }
            Err(error) => Err(self::raised(&raised, &error)),
        }
    })
}

/// What Python raised, if it was something of its own; else what the run says.
fn raised(raised: &RefCell<Option<PyErr>>, error: &RunError) -> PyErr {
    match raised.borrow_mut().take() {
        Some(own) if !Python::attach(|py| own.is_instance_of::<Error>(py)) => own,
        _ => message(&error.render(false)),
    }
}

/// The pipeline with its overrides, and the folder that its paths start from.
fn read(file: &Path, set: &[String], output: Option<&str>) -> PyResult<(PipelineSpec, PathBuf)> {
    let document = |diagnostics| step_error(&StepError::Document(diagnostics));
    let mut spec = PipelineSpec::read(file).map_err(document)?;
    for assignment in set {
        spec = spec.set(assignment).map_err(document)?;
    }
    if let Some(output) = output {
        let scores: Vec<usize> =
            (0..spec.run.len()).filter(|&i| spec.run[i].step == Score::NAME).collect();
        let [index] = scores.as_slice() else {
            let (file, n) = (file.display(), scores.len());
            return Err(Error::new_err(format!(
                "{file} has {n} score steps, and `output` is of one (help: set `run.0.score.output`)"
            )));
        };
        // Who calls means a folder from where the call is made; the pipeline means one beside it.
        let place = Location::parse(output, Path::new(""))
            .map_err(|e| Error::new_err(e.to_string()))?
            .absolute()?;
        let place = serde_json::Value::from(place.to_string());
        spec = spec.set(&format!("run.{index}.score.output={place}")).map_err(document)?;
    }
    blt_report::check_report(&spec).map_err(document)?;
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((spec, std::path::absolute(dir)?))
}
