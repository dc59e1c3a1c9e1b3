//! Units scored by who is told of them, and record batches in memory: the same bits as a run's own.

use crate::bench::*;
use blt_graph::run::{RunOptions, Runner};
use blt_graph::{PipelineSpec, StepError};
use blt_plugins::scoring::{RemoteStep, Scheduler, Unit, UnitDone};
use blt_plugins::steps::{BatchOptions, BatchScorer, Worker};
use std::path::PathBuf;
use std::rc::Rc;

const UNITS: &str =
    "emit: [log_probs, entropies, patch_lengths], context_bytes: 3, part_bytes: 1, by: id";

type Done<'a> = &'a mut dyn FnMut(usize, &UnitDone) -> Result<(), StepError>;

struct Told<F>(F);

impl<F: Fn(&RemoteStep, &[&Unit], Done) -> Result<(), StepError>> Scheduler for Told<F> {
    fn score(&self, step: &RemoteStep, units: &[&Unit], done: Done) -> Result<(), StepError> {
        (self.0)(step, units, done)
    }
}

fn input(bench: &Bench) {
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 2);
    write_parquet(&bench.path("in/b.parquet"), &texts(&ROWS[..3]), 10);
}

fn pipeline(score: &str) -> String {
    graph("{node: ParquetBytes, path: in, span_bytes: 20}", ENTROPY)
        + &format!("  - score: {{goal: loss, {score}}}\n")
}

/// Runs with the units given away; the step's directory, or the error.
fn run(
    bench: &Bench,
    runs: &str,
    scheduler: impl Fn(&RemoteStep, &[&Unit], Done) -> Result<(), StepError> + 'static,
) -> Result<PathBuf, String> {
    let spec = PipelineSpec::parse(&pipeline(UNITS), "score.yaml").unwrap();
    let options = RunOptions { runs_dir: bench.path(runs), ..RunOptions::new("test build") };
    let scheduler: Rc<dyn Scheduler> = Rc::new(Told(scheduler));
    let report = Runner::new(&spec, bench.dir.path(), options)
        .lend(scheduler)
        .run()
        .map_err(|e| e.render(false))?;
    Ok(report.plans[0].steps.last().unwrap().dir.clone())
}

/// What a process is told crosses as JSON.
fn worker(step: &RemoteStep) -> Result<Worker, StepError> {
    Worker::open(serde_json::from_str(&serde_json::to_string(step)?)?, 1)
}

#[test]
fn units_given_away_leave_what_a_run_leaves() {
    let bench = Bench::new();
    input(&bench);
    let own = bench.run(&pipeline(UNITS));
    let given = run(&bench, "given", |step, units, done| {
        assert_eq!(units.len(), 5);
        let mut worker = worker(step)?;
        for (at, unit) in units.iter().enumerate().rev() {
            // The first try was lost after it had written the part.
            worker.score(unit)?;
            let answer = worker.score(&serde_json::from_str(&serde_json::to_string(unit)?)?)?;
            done(at, &answer)?;
            done(at, &answer)?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(files(&given.join("outputs")), files(&own.join("outputs")));
    assert_eq!(file_names(&given), file_names(&own));
    assert_eq!(result(&given), result(&own));
}

#[test]
fn what_was_given_away_before_is_not_again() {
    let bench = Bench::new();
    input(&bench);
    let error = run(&bench, "given", |step, units, done| {
        let mut worker = worker(step)?;
        for (at, unit) in units.iter().enumerate().skip(2) {
            done(at, &worker.score(unit)?)?;
        }
        Err(StepError::other("the cluster is gone"))
    });
    assert!(error.unwrap_err().contains("the cluster is gone"));
    let given = run(&bench, "given", |step, units, done| {
        assert_eq!(units.len(), 2);
        let mut worker = worker(step)?;
        (0..2).try_for_each(|at| done(at, &worker.score(units[at])?))
    })
    .unwrap();
    let own = bench.run(&pipeline(UNITS));
    assert_eq!(files(&given.join("outputs")), files(&own.join("outputs")));
    assert_eq!(result(&given), result(&own));
}

#[test]
fn a_worker_that_sees_something_else_says_so() {
    let bench = Bench::new();
    input(&bench);
    let place = bench.path("in/a.parquet");
    let changed = run(&bench, "changed", move |step, units, _| {
        write_parquet(&place, &texts(&ROWS[..5]), 2);
        worker(step)?.score(units[0]).map(|_| ())
    });
    let error = changed.unwrap_err();
    assert!(
        error.contains("in/a.parquet is not here as it was when the work was divided"),
        "{error}"
    );

    let fails = |change: fn(&mut RemoteStep)| {
        let told = run(&bench, "told", move |step, _, _| {
            let mut step = step.clone();
            change(&mut step);
            worker(&step).map(|_| ())
        });
        told.unwrap_err()
    };
    let error = fails(|step| step.version = "0.0.1".into());
    assert!(
        error.contains("begun by version 0.0.1") && error.contains("install the same version"),
        "{error}"
    );
    let error = fails(|step| step.seed += 1);
    assert!(error.contains("the model is") && error.contains("one checkpoint"), "{error}");

    let answer = || UnitDone { cpu_features: String::new(), seconds_by_node: Default::default() };
    let error = run(&bench, "lies", move |_, _, done| done(0, &answer())).unwrap_err();
    assert!(
        error.contains("a worker wrote") && error.contains("storage that all machines see"),
        "{error}"
    );
    let error = run(&bench, "lies", |_, _, _| Ok(())).unwrap_err();
    assert!(error.contains("before all units were scored"), "{error}");
}

#[test]
fn record_batches_get_the_bits_of_parts() {
    let bench = Bench::new();
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 10);
    let score = "emit: [log_probs, entropies, patch_lengths], context_bytes: 3";
    let part = read_parquet(&bench.run(&pipeline(score)).join("outputs/in/a.parquet"));
    std::fs::write(bench.path("score.yaml"), pipeline(score)).unwrap();
    let options = BatchOptions { checkpoint: bench.path("score.yaml"), ..BatchOptions::default() };
    let scorer = BatchScorer::open(&options, 1).unwrap_or_else(|e| panic!("{e}"));
    let rows = texts(&ROWS);
    let pieces = [rows.slice(0, 3), rows.slice(3, 0), rows.slice(3, 5)];
    let (schema, scored) = scorer.score(&rows.schema(), &pieces).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(schema.fields(), part.schema().fields());
    assert_eq!(scored.iter().map(|b| b.num_rows()).collect::<Vec<_>>(), [3, 0, 5]);
    assert_eq!(arrow::compute::concat_batches(&schema, &scored).unwrap().columns(), part.columns());
    let error = scorer.score(&schema, &scored).unwrap_err().to_string();
    assert!(error.contains("the record batch has columns `n_bytes`"), "{error}");
}
