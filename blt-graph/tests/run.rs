//! Runs: what they leave, what is used again, and how they go on after being stopped.

#[allow(dead_code)]
mod nodes;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blt_graph::run::{Resume, RunError, RunOptions, RunReport, Runner, State};
use blt_graph::{PipelineSpec, Progress, StepError, StepHeading};

const YAML: &str = "\
name: sums
seed: 3
graph:
  source: {node: Source}
  base: {node: Scale, in: source, factor: 2}
  top: {node: Scale, in: base, factor: 10}
run:
  - sum: {goal: base, steps: 4}
  - look: {goal: base}
  - sum: {goal: top, steps: 2}
  - look: {goal: top}
ablate:
  ten: {}
  hundred: {graph.top.factor: 100}
";

/// Writes down what it is told, and pulls the plug after a number of updates.
#[derive(Default)]
struct Told {
    steps: RefCell<Vec<String>>,
    stop_after: Option<u64>,
    flag: Arc<AtomicBool>,
}

impl Progress for Told {
    fn step(&self, heading: &StepHeading) {
        let StepHeading { variant, seed, index, total, step, goals, reused } = heading;
        let mark = if *reused { " reused" } else { "" };
        self.steps.borrow_mut().push(format!(
            "{}/{total} {variant} {seed} {step} {}{mark}",
            index + 1,
            goals.join(",")
        ));
    }
    fn start(&self, _: &str, _: Option<u64>) {}
    fn update(&self, done: u64, fields: &[(&str, String)]) {
        assert_eq!(fields[0].0, "total");
        if Some(done) == self.stop_after {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
    fn finish(&self, _: &str) {}
    fn message(&self, line: &str) {
        self.steps.borrow_mut().push(line.to_string());
    }
}

struct Bench {
    dir: tempfile::TempDir,
    options: RunOptions,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options =
            RunOptions { runs_dir: dir.path().join("runs"), ..RunOptions::new("test build") };
        Bench { dir, options }
    }

    fn run_with(
        &self,
        yaml: &str,
        options: RunOptions,
        told: &Told,
    ) -> Result<RunReport, RunError> {
        let spec = PipelineSpec::parse(yaml, "sums.yaml").unwrap();
        Runner::new(&spec, self.dir.path(), options)
            .progress(told)
            .interrupt(told.flag.clone())
            .run()
    }

    /// Runs, and returns which steps were really run.
    fn run(&self, yaml: &str, options: &RunOptions) -> (RunReport, Vec<String>) {
        let told = Told::default();
        let report =
            self.run_with(yaml, options.clone(), &told).unwrap_or_else(|error| panic!("{error}"));
        let mut lines = told.steps.take();
        lines.retain(|line| !line.ends_with(" reused"));
        (report, lines.iter().map(|line| line.split_once(' ').unwrap().1.to_string()).collect())
    }

    fn latest(&self) -> PathBuf {
        self.options.runs_dir.join("sums/latest")
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref())
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

#[test]
fn a_run_leaves_its_directory_and_shares_steps_between_variants() {
    let bench = Bench::new();
    let (report, ran) = bench.run(YAML, &bench.options);
    assert_eq!(
        ran,
        [
            "ten 3 sum base",
            "ten 3 look base",
            "ten 3 sum top",
            "ten 3 look top",
            "hundred 3 sum top",
            "hundred 3 look top"
        ]
    );
    let dir = &report.dir.path;
    assert_eq!(report.dir.status().unwrap().state, State::Done);
    assert!(report.dir.status().unwrap().ended.is_some());
    assert_eq!(read(dir.join("pipeline.yaml")), YAML);
    assert_eq!(fs::canonicalize(bench.latest()).unwrap(), fs::canonicalize(dir).unwrap());
    assert!(report.dir.id.starts_with("20") && report.dir.id.contains("T"), "{}", report.dir.id);
    let metrics = read(dir.join("metrics.jsonl"));
    let lines: Vec<&str> = metrics.lines().collect();
    assert_eq!(lines.len(), 12);
    assert_eq!(lines[0], r#"{"variant":"ten","run_step":0,"step":1,"total":0.0}"#);
    assert_eq!(lines[11], r#"{"variant":"hundred","run_step":2,"step":2,"total":200.0}"#);
    // Checkpoints by step; each variant's outputs by step, because two steps left some.
    assert_eq!(read(dir.join("checkpoints/ten/0-sum/total.txt")), "12");
    assert_eq!(read(dir.join("checkpoints/hundred/2-sum/total.txt")), "200");
    // An evaluation depends on trainings before it, and a training not on evaluations.
    assert_eq!(read(dir.join("outputs/ten/1-look/earlier.txt")), "0 sum");
    assert_eq!(read(dir.join("outputs/hundred/3-look/earlier.txt")), "0 sum, 2 sum");
    let totals: Vec<String> =
        report.plans.iter().map(|plan| read(plan.steps[2].dir.join("result.json"))).collect();
    assert_eq!(totals, [r#"{"total":20.0}"#, r#"{"total":200.0}"#]);
    assert_eq!(report.plans[0].steps[0].key, report.plans[1].steps[0].key);
    assert!(!report.plans[0].steps[0].reused && report.plans[1].steps[0].reused);

    // resolved.yaml is a pipeline again, with the same keys.
    let resolved = read(dir.join("resolved.yaml"));
    assert!(resolved.contains("limits"), "{resolved}");
    drop(report);
    let (again, ran) = bench.run(&resolved, &bench.options);
    assert_eq!(ran, [""; 0]);
    assert_eq!(read(again.dir.path.join("metrics.jsonl")), metrics);
}

#[test]
fn a_step_is_run_again_when_something_that_it_depends_on_changes_and_only_then() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("data.txt"), "one").unwrap();
    let yaml = YAML.replace("{goal: base, steps: 4}", "{goal: base, steps: 4, file: data.txt}");
    bench.run(&yaml, &bench.options);
    let same: [&str; 0] = [];
    // Nothing, order, defaults, threads, variant names, a node that nobody reaches from here.
    assert_eq!(bench.run(&yaml, &bench.options).1, same);
    let reordered = yaml
        .replace("  source: {node: Source}\n", "")
        .replace("run:", "  source: {node: Source}\nrun:");
    assert_eq!(bench.run(&reordered, &bench.options).1, same);
    assert_eq!(
        bench.run(&yaml.replace("in: source,", "in: source, rule: global,"), &bench.options).1,
        same
    );
    assert_eq!(bench.run(&yaml, &RunOptions { threads: 1, ..bench.options.clone() }).1, same);
    assert_eq!(bench.run(&yaml.replace("ten: {}", "dix: {}"), &bench.options).1, same);
    // A later step's parameter changes that step; an evaluation's changes itself alone.
    let ran = bench
        .run(&yaml.replace("{goal: top, steps: 2}", "{goal: top, steps: 3}"), &bench.options)
        .1;
    assert_eq!(ran, ["ten 3 sum top", "ten 3 look top", "hundred 3 sum top", "hundred 3 look top"]);
    let ran = bench
        .run(&yaml.replace("look: {goal: base}", "look: {goal: base, note: x}"), &bench.options)
        .1;
    assert_eq!(ran, ["ten 3 look base"]);
    // Everything else changes everything.
    let all = 6;
    assert_eq!(bench.run(&yaml.replace("seed: 3", "seed: 4"), &bench.options).1.len(), all);
    assert_eq!(bench.run(&yaml.replace("factor: 2}", "factor: 2.5}"), &bench.options).1.len(), all);
    assert_eq!(bench.run(&format!("{yaml}path: reference\n"), &bench.options).1.len(), all);
    assert_eq!(bench.run(&format!("{yaml}device: cuda\n"), &bench.options).1.len(), all);
    assert_eq!(
        bench.run(&yaml, &RunOptions { build: "other".into(), ..bench.options.clone() }).1.len(),
        all
    );
    assert_eq!(
        bench.run(&yaml, &RunOptions { dtype: "f64".into(), ..bench.options.clone() }).1.len(),
        all
    );
    assert_eq!(
        bench
            .run(&yaml, &RunOptions { cpu_features: "none".into(), ..bench.options.clone() })
            .1
            .len(),
        all
    );
    fs::write(bench.dir.path().join("data.txt"), "two").unwrap();
    assert_eq!(bench.run(&yaml, &bench.options).1.len(), all);
    // And with an emptied store.
    bench.options.store().clean(|_| true).unwrap();
    assert_eq!(bench.run(&yaml, &bench.options).1.len(), all);
}

#[test]
fn seeds_are_run_one_after_the_other_and_marked() {
    let bench = Bench::new();
    let (report, ran) = bench.run(&YAML.replace("seed: 3", "seeds: [3, 5]"), &bench.options);
    assert_eq!(ran.len(), 12);
    let order: Vec<(String, u64)> =
        report.plans.iter().map(|run| (run.plan.variant.clone(), run.plan.seed)).collect();
    let expected = [("ten", 3), ("ten", 5), ("hundred", 3), ("hundred", 5)];
    assert_eq!(order, expected.map(|(name, seed)| (name.to_string(), seed)));
    let metrics = read(report.dir.path.join("metrics.jsonl"));
    assert!(
        metrics.starts_with(r#"{"variant":"ten","seed":3,"run_step":0,"step":1,"#),
        "{metrics}"
    );
    assert_eq!(read(report.dir.path.join("checkpoints/ten/seed-5/0-sum/total.txt")), "12");
}

#[test]
fn a_stopped_run_goes_on_to_the_same_files() {
    let whole = Bench::new();
    let (expected, _) = whole.run(YAML, &whole.options);
    let expected = read(expected.dir.path.join("metrics.jsonl"));

    for resume in [Resume::Steps, Resume::Run, Resume::Fresh] {
        let bench = Bench::new();
        let told = Told { stop_after: Some(3), ..Told::default() };
        let error = bench.run_with(YAML, bench.options.clone(), &told).err().unwrap();
        assert!(error.interrupted(), "{error}");
        let stopped = fs::canonicalize(bench.latest()).unwrap();
        assert!(read(stopped.join("status.json")).contains("\"interrupted\""));
        let partial = bench.options.store().list().unwrap().remove(0);
        assert!(partial.partial && partial.step == "sum" && partial.goals == ["base"]);
        assert_eq!(read(partial.dir.join("metrics.jsonl")).lines().count(), 3);
        // As kill -9 would leave it: a torn line after the last checkpoint.
        let mut torn = read(partial.dir.join("metrics.jsonl"));
        torn.push_str("{\"step\":4,\"tot");
        fs::write(partial.dir.join("metrics.jsonl"), torn).unwrap();

        let told = Told::default();
        let options = RunOptions { resume, ..bench.options.clone() };
        let report = bench.run_with(YAML, options, &told).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read(report.dir.path.join("metrics.jsonl")), expected);
        let same_dir = fs::canonicalize(&report.dir.path).unwrap() == stopped;
        assert_eq!(same_dir, resume == Resume::Run);
        assert_eq!(report.dir.status().unwrap().state, State::Done);
        // A finished run is not taken up again.
        let next = bench.run(YAML, &RunOptions { resume: Resume::Run, ..bench.options.clone() }).0;
        assert_ne!(next.dir.id, report.dir.id);
    }
}

#[test]
fn a_step_that_fails_says_where_and_leaves_a_status() {
    let bench = Bench::new();
    let yaml = YAML.replace("{goal: top, steps: 2}", "{goal: top, steps: 2, fail_after: 1}");
    let error = bench.run_with(&yaml, bench.options.clone(), &Told::default()).err().unwrap();
    let expected = "\
error: it was told to fail
 |
 = note: step `run.2.sum` of the variant `ten` did not finish (seed 3)
 = help: do not tell it to";
    assert_eq!(error.render(false), expected);
    let status = read(bench.latest().join("status.json"));
    assert!(status.contains("\"failed\"") && status.contains("it was told to fail"), "{status}");
}

#[test]
fn data_is_looked_for_before_the_first_step_runs() {
    let bench = Bench::new();
    let yaml = format!("{YAML}  last: {{run.2.sum.file: no-such.txt}}\n");
    let error = bench.run_with(&yaml, bench.options.clone(), &Told::default()).err().unwrap();
    let said = error.render(false);
    assert!(
        said.contains("cannot read `no-such.txt`") && said.contains("give a file that exists"),
        "{said}"
    );
    assert!(!bench.options.runs_dir.exists(), "nothing was written");
}

#[test]
fn the_report_belongs_to_the_run() {
    let bench = Bench::new();
    let spec = PipelineSpec::parse(YAML, "sums.yaml").unwrap();
    let runner = Runner::new(&spec, bench.dir.path(), bench.options.clone());
    let error = runner.run_with(|_| Err(StepError::other("no ink"))).err().unwrap();
    assert_eq!(error.to_string(), "no ink");
    assert!(read(bench.latest().join("status.json")).contains("\"failed\""));
    runner.run_with(|report| Ok(fs::write(report.dir.path.join("results.json"), "{}")?)).unwrap();
    assert!(bench.latest().join("results.json").exists());
}

#[test]
fn a_pipeline_without_steps_has_nothing_to_run() {
    let bench = Bench::new();
    let yaml = "graph:\n  a: {node: Constant, value: 1}\n";
    let error = bench.run_with(yaml, bench.options.clone(), &Told::default()).err().unwrap();
    assert!(error.to_string().contains("has no steps"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("runs"), "a file where the folder should be").unwrap();
    let error = bench.run_with(YAML, bench.options.clone(), &Told::default()).err().unwrap();
    assert!(matches!(error, RunError::File(_)) && error.to_string().contains("runs"), "{error}");
}

#[test]
fn variants_at_once_leave_what_they_leave_one_by_one() {
    let seeds = YAML.replace("seed: 3", "seeds: [3, 4]");
    let run = |jobs| {
        let bench = Bench::new();
        let options = RunOptions { jobs, ..bench.options.clone() };
        let told = Told::default();
        let report = bench.run_with(&seeds, options, &told).unwrap_or_else(|e| panic!("{e}"));
        let dir = report.dir.path.clone();
        let mut files = vec![read(dir.join("metrics.jsonl")), read(dir.join("resolved.yaml"))];
        for place in ["ten/seed-3", "ten/seed-4", "hundred/seed-3", "hundred/seed-4"] {
            files.push(read(dir.join(format!("checkpoints/{place}/2-sum/total.txt"))));
        }
        // The first line of the resolved pipeline names the folder of this very run.
        files[1] = files[1].split_once('\n').unwrap().1.to_string();
        (files, told.steps.take())
    };
    let (one_by_one, _) = run(1);
    for jobs in [2, 9] {
        let (files, said) = run(jobs);
        assert_eq!(files, one_by_one);
        let headings = said.iter().filter(|line| line.contains("/16 ")).count();
        assert_eq!(headings, 16, "each step is told once: {said:?}");
    }
}

#[test]
fn a_job_that_fails_stops_what_has_not_begun() {
    let yaml = YAML.replace(
        "  hundred: {graph.top.factor: 100}",
        "  fails: {run.2.sum.fail_after: 1}\n  hundred: {graph.top.factor: 100}",
    );
    let bench = Bench::new();
    let options = RunOptions { jobs: 2, ..bench.options.clone() };
    let error = bench.run_with(&yaml, options, &Told::default()).err().unwrap();
    let RunError::Step { variant, index: 2, .. } = &error else { panic!("{error}") };
    assert_eq!(variant, "fails");
    assert!(read(bench.latest().join("status.json")).contains("\"failed\""));
}
