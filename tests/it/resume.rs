//! The same seed gives the same bytes: run again, on other numbers of threads, killed and resumed,
//! interrupted and resumed. And what did not change is not computed again.

use crate::common::{Done, Place, status, text, tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What must not differ between two runs of one pipeline: every metric and every byte of every
/// checkpoint.
#[derive(PartialEq)]
struct Bytes {
    metrics: String,
    checkpoints: Vec<(String, Vec<u8>)>,
}

impl Bytes {
    fn of(run: &Path) -> Self {
        let checkpoints = tree(&run.join("checkpoints"));
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(
            checkpoints
                .iter()
                .any(|(name, bytes)| name.ends_with("model.safetensors") && bytes.len() > 10_000)
        );
        assert!(metrics.lines().count() >= 2);
        Bytes { metrics, checkpoints }
    }
}

#[track_caller]
fn assert_same(a: &Bytes, b: &Bytes, what: &str) {
    assert_eq!(a.metrics, b.metrics, "metrics.jsonl: {what}");
    let names =
        |bytes: &Bytes| bytes.checkpoints.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(a), names(b), "checkpoint files: {what}");
    for ((name, a), (_, b)) in a.checkpoints.iter().zip(&b.checkpoints) {
        assert!(a == b, "{name} differs: {what}");
    }
}

/// Steps of the model's training in the tests that stop it: enough that a process is seen in the
/// middle of them.
const LONG: &str = "steps: 300";

/// The pipeline whose second step is long. Its checkpoints fall between its lines of metrics, so
/// that they must hold the sums of the line to come.
fn long() -> Place {
    let short =
        "{goal: loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}";
    Place::new().edit(
        short,
        &format!(
            "{{goal: loss, {LONG}, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 7}}"
        ),
    )
}

/// As [`long`], with every setting of training that keeps something from one optimiser step to
/// another.
fn long_with_settings() -> Place {
    let train = format!("{{goal: loss, {LONG},");
    let settings = "packing: best_fit, accumulate: 2, average: {last: 1}, lr_by: {latent: 0.5}, \
        log_parts: true, evaluate: {every: 5},";
    long()
        .edit(&train, &format!("{train} {settings}"))
        .edit("calibration: 0.3}}", "calibration: 0.3}, span_bytes: 20}")
}

fn start(place: &Place, args: &[&str]) -> Child {
    let mut command = place.command(&[&["pipeline.yaml"], args].concat());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The whole checkpoint of a step that runs or was stopped, and its step; None if there is none.
fn checkpoint(store: &Path) -> Option<(PathBuf, u64)> {
    let list = |dir: &Path| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|item| Some(item.ok()?.path()))
            .collect::<Vec<_>>()
    };
    let partial = list(store).into_iter().filter(|p| p.extension().is_some_and(|e| e == "partial"));
    let found = partial
        .flat_map(|p| list(&p.join("resume")))
        .filter(|p| p.extension().is_none() && p.join("state.json").is_file());
    found
        .filter_map(|p| Some((p.clone(), p.file_name()?.to_str()?.parse().ok()?)))
        .max_by_key(|(_, step)| *step)
}

/// Starts the pipeline and sends it `signal` once it has a checkpoint of `step` or a later one. The
/// child, and the checkpoint that was left; None if it was done before the signal came.
fn stopped(
    place: &Place,
    args: &[&str],
    signal: &str,
    step: u64,
) -> Option<(std::process::Output, u64)> {
    let store = place.path("runs/.store");
    let mut child = start(place, args);
    let begun = Instant::now();
    loop {
        if checkpoint(&store).is_some_and(|(_, at)| at >= step) {
            break;
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "no checkpoint after five minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = std::process::Command::new("sh")
        .args(["-c", &format!("kill -{signal} {}", child.id())])
        .status()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    // It may have ended on its own just before.
    let ended_well = output.status.success() || !sent.success();
    // A `--fresh` run may have been killed when it had thrown the old checkpoint away.
    (!ended_well).then(|| (output, checkpoint(&store).map_or(step, |(_, at)| at)))
}

/// As [`stopped`], in a fresh place each time until it was stopped in the middle.
fn stopped_in_the_middle(
    place: fn() -> Place,
    args: &[&str],
    signal: &str,
    step: u64,
) -> (Place, std::process::Output, u64) {
    for _ in 0..10 {
        let place = place();
        if let Some((output, at)) = stopped(&place, args, signal, step) {
            return (place, output, at);
        }
    }
    panic!("ten runs were done before a signal reached them: lengthen LONG");
}

fn reused(done: &Done) -> Vec<bool> {
    let headings = done.stderr.lines().filter(|line| line.starts_with('['));
    headings.map(|line| line.contains("(unchanged, reused)")).collect()
}

#[test]
fn the_same_bytes_each_time_and_on_any_number_of_threads() {
    // Empty stores, each in a folder of its own.
    let runs: Vec<Bytes> = ["1", "1", "2", "5"]
        .map(|threads| Bytes::of(&Place::new().done(&["--threads", threads]).dir))
        .into();
    assert_same(&runs[0], &runs[1], "run again");
    assert_same(&runs[0], &runs[2], "two threads");
    assert_same(&runs[0], &runs[3], "five threads");
    let other = Bytes::of(&Place::new().done(&["--threads", "1", "--set", "seed=8"]).dir);
    assert!(other != runs[0], "another seed gives other bytes, or nothing is compared here");
}

#[test]
fn killed_and_resumed() {
    let whole = Bytes::of(&long().done(&[]).dir);
    for args in [&[][..], &["--resume"], &["--fresh"]] {
        let (place, output, _) = stopped_in_the_middle(long, &[], "KILL", 6);
        assert_eq!(output.status.code(), None, "killed");
        let [killed] = &place.runs()[..] else { panic!("one run") };
        assert_eq!(status(killed)["state"], "running");
        assert!(!killed.join("results.json").exists());
        // Again, further on: what goes on from a checkpoint writes checkpoints that one can go on
        // from.
        if let Some((_, at)) = stopped(&place, args, "KILL", 40) {
            assert!(at >= 40);
        }
        let kept = checkpoint(&place.path("runs/.store"));
        let before = kept.map(|(path, _)| {
            let state: serde_json::Value =
                serde_json::from_slice(&fs::read(path.join("state.json")).unwrap()).unwrap();
            let lines = state["training"]["timings_lines"].as_u64().unwrap();
            let timings =
                fs::read_to_string(path.ancestors().nth(2).unwrap().join("timings.jsonl")).unwrap();
            timings.lines().take(lines as usize).map(String::from).collect::<Vec<_>>()
        });
        let done = place.done(args);
        assert_same(&whole, &Bytes::of(&done.dir), &format!("killed, then run with {args:?}"));
        // Times tell whether it went on or began anew: no two trainings take the same nanoseconds
        // at every step.
        if let Some(before) = before {
            let after = fs::read_to_string(done.dir.join("timings.jsonl")).unwrap();
            let after = after.lines().filter(|line| line.contains("\"goal\":\"loss\""));
            let went_on = before.iter().zip(after).all(|(before, after)| {
                let tagged = before.replacen('{', "{\"variant\":\"base\",\"run_step\":1,", 1);
                tagged == after
            });
            assert_eq!(went_on, args != ["--fresh"], "{args:?}");
        }
        // `--resume` goes on in the run directory itself.
        assert_eq!(
            place.runs().contains(&done.dir) && place.runs().len() == 1,
            args == ["--resume"]
        );
    }
}

#[test]
fn counts_are_kept_over_a_kill() {
    let counts = || {
        let place = long().edit(
            "{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}",
            "{node: NgramLm, in: docs, order: 3}",
        );
        let (graph, steps) = place.yaml.split_once("  - train: {goal: entropy.loss").unwrap();
        let yaml = format!("{graph}{}", steps.split_once('\n').unwrap().1);
        place.with(&yaml)
    };
    let whole = Bytes::of(&counts().done(&["--threads", "1"]).dir);
    assert!(whole.checkpoints.iter().any(|(name, _)| name.ends_with("entropy.counts")));
    let stopped = (0..10).find_map(|_| {
        let place = counts();
        stopped(&place, &[], "KILL", 6).map(|_| place)
    });
    let done = stopped.expect("ten runs were done before a signal reached them").done(&[]);
    assert_same(&whole, &Bytes::of(&done.dir), "killed, then run again");
    assert!(done.stderr.contains("going on after step"), "{}", done.stderr);
}

#[test]
fn killed_and_resumed_with_every_setting() {
    let whole = Bytes::of(&long_with_settings().done(&[]).dir);
    let (place, output, at) = stopped_in_the_middle(long_with_settings, &[], "KILL", 20);
    assert_eq!(output.status.code(), None, "killed");
    assert!(at >= 20);
    assert_same(&whole, &Bytes::of(&place.done(&[]).dir), "killed");
    let plain = Bytes::of(&long().done(&[]).dir);
    assert!(plain != whole, "the settings do something, or nothing is compared here");
}

#[test]
fn a_damaged_checkpoint_is_named_and_not_resumed_from() {
    let whole = Bytes::of(&long().done(&[]).dir);
    let (place, ..) = stopped_in_the_middle(long, &[], "KILL", 6);
    let (kept, _) = checkpoint(&place.path("runs/.store")).unwrap();
    let path = kept.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let done = place.done(&[]);
    let said = &done.stderr;
    assert!(said.contains("the bytes of `model.safetensors` are not those"), "{said}");
    assert!(
        said.contains("the step begins anew") && !said.contains("going on after step"),
        "{said}"
    );
    assert_same(&whole, &Bytes::of(&done.dir), "begun anew");
}

#[test]
fn a_log_of_a_stopped_step_that_was_changed_is_named() {
    let whole = Bytes::of(&long().done(&[]).dir);
    let (place, ..) = stopped_in_the_middle(long, &[], "KILL", 14);
    let (checkpoint, _) = checkpoint(&place.path("runs/.store")).unwrap();
    let log = checkpoint.ancestors().nth(2).unwrap().join("metrics.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("\"bpb\":", "\"bpb\":1", 1)).unwrap();
    let done = place.done(&[]);
    let said = "`metrics.jsonl` is not what the stopped step wrote; the step begins anew";
    assert!(done.stderr.contains(said), "{}", done.stderr);
    assert_same(&whole, &Bytes::of(&done.dir), "a log was changed");
}

#[test]
fn interrupted_and_resumed() {
    let whole = Bytes::of(&long().done(&[]).dir);
    let (place, output, at) = stopped_in_the_middle(long, &[], "INT", 4);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted") && stderr.contains("run it again"), "{stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.lines().any(|line| line.starts_with("error")),
        "{stderr}"
    );
    let [run] = &place.runs()[..] else { panic!("one run") };
    assert_eq!(status(run)["state"], "interrupted");
    assert!(!run.join("results.json").exists());
    // It saved where it was, at whatever step that was: the log holds the lines up to there and no
    // more.
    let (checkpoint, _) = checkpoint(&place.path("runs/.store")).unwrap();
    let step = checkpoint.ancestors().nth(2).unwrap();
    let lines = fs::read_to_string(step.join("metrics.jsonl")).unwrap().lines().count() as u64;
    assert_eq!(lines, at / 7, "a line every seven steps up to the checkpoint");

    let done = place.done(&[]);
    assert_same(&whole, &Bytes::of(&done.dir), "interrupted");
    assert_eq!(
        reused(&done),
        [true, false, false],
        "the entropy model is not trained again\n{}",
        done.stderr
    );
}

/// A step of so many micro-batches that it never ends.
#[test]
fn a_signal_is_looked_for_between_micro_batches() {
    use std::io::Read;
    let place = Place::new().edit(
        "{goal: loss, steps: 4, batch_bytes: 512,",
        "{goal: loss, steps: 4, accumulate: 1000000, batch_bytes: 512,",
    );
    let mut child = start(&place, &[]);
    let mut stderr = child.stderr.take().unwrap();
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.contains("train loss") {
        let read = stderr.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended by itself: {said}");
        said += &text(&buffer[..read]);
    }
    let kill = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    stderr.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
}

#[test]
fn interrupted_between_micro_batches_and_resumed() {
    let many = || {
        Place::new().edit(
            "{goal: loss, steps: 4, batch_bytes: 512,",
            "{goal: loss, steps: 12, accumulate: 100, batch_bytes: 512,",
        )
    };
    let whole = many().done(&[]);
    // The entropy model's training leaves a checkpoint of step 2 as well, and none of step 4.
    let (place, output, _) = stopped_in_the_middle(many, &[], "INT", 4);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let resumed = place.done(&[]);
    assert!(resumed.stderr.contains("going on after step"), "{}", resumed.stderr);
    assert_same(&Bytes::of(&whole.dir), &Bytes::of(&resumed.dir), "stopped inside a step");
}

#[test]
fn an_unchanged_step_is_reused() {
    let place = Place::new();
    let first = place.done(&[]);
    assert_eq!(reused(&first), [false; 3], "{}", first.stderr);
    let second = place.done(&["--threads", "1"]);
    assert_eq!(reused(&second), [true; 3], "{}", second.stderr);
    assert_same(&Bytes::of(&first.dir), &Bytes::of(&second.dir), "reused");
    let results = |done: &Done| {
        let mut results: serde_json::Value =
            serde_json::from_slice(&fs::read(done.dir.join("results.json")).unwrap()).unwrap();
        results.as_object_mut().unwrap().remove("id");
        results
    };
    assert_eq!(results(&first), results(&second));
    // The store's entries are gone after `clean`, and then all is computed again, to the same
    // bytes.
    let cleaned = place.command(&["store", "clean"]).output().unwrap();
    let said = text(&cleaned.stdout);
    assert!(
        said.starts_with("removed 3 kept steps, ") && said.ends_with("; 0 are in use\n"),
        "{said}"
    );
    let third = place.done(&[]);
    assert_eq!(reused(&third), [false; 3]);
    assert_same(&Bytes::of(&first.dir), &Bytes::of(&third.dir), "an emptied store");
}

#[test]
fn what_depends_on_a_change_is_computed_again_and_nothing_else() {
    let place = Place::new();
    place.done(&[]);
    // Steps: the entropy model's training, the model's, the evaluation.
    for (set, expected) in [
        ("graph.latent.layers=2", [true, false, false]),
        ("graph.patches.bytes_per_patch=4", [true, false, false]),
        ("run.1.train.lr=1e-3", [true, false, false]),
        ("run.2.evaluate.limit=5", [true, true, false]),
        ("graph.entropy.layers=2", [false, false, false]),
        ("run.0.train.steps=5", [false, false, false]),
        ("seed=8", [false, false, false]),
        ("doc=words", [true, true, true]),
        ("graph.latent.doc=words", [true, true, true]),
    ] {
        let done = place.done(&["--set", set]);
        assert_eq!(reused(&done), expected, "{set}\n{}", done.stderr);
    }
    // The same rows in a file that was written again: its modification time is part of what is
    // depended on.
    let path = place.path("docs.parquet");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(fs::metadata(&path).unwrap().modified().unwrap() + Duration::from_secs(2))
        .unwrap();
    drop(file);
    assert_eq!(reused(&place.done(&[])), [false; 3]);
}

#[test]
fn variants_share_what_they_have_in_common() {
    let place = Place::new();
    let ablate = "\nablate:\n  entropy:  {}\n  relative: {graph.patches.rule: relative}\n  stride:   {graph.patches: {node: StridePatch, in: docs, stride: 3}}\n";
    let yaml = format!("{}{ablate}", place.yaml);
    let place = place.with(&yaml);
    let done = place.done(&[]);
    // Three steps a variant, the first of which trains the entropy model.
    assert_eq!(
        reused(&done),
        [false, false, false, true, false, false, true, false, false],
        "{}",
        done.stderr
    );
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(done.dir.join("results.json")).unwrap()).unwrap();
    let variants: Vec<&String> = results["variants"].as_object().unwrap().keys().collect();
    assert_eq!(variants, ["entropy", "relative", "stride"]);
    // One of them alone is what it was among the others.
    let alone = place.done(&["--variant", "relative", "--store", "another"]);
    let of = |done: &Done, variant: &str| {
        let metrics = fs::read_to_string(done.dir.join("metrics.jsonl")).unwrap();
        metrics
            .lines()
            .filter(|line| line.contains(&format!("\"variant\":\"{variant}\"")))
            .map(String::from)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&done, "relative"), of(&alone, "relative"));
    assert!(!of(&done, "relative").is_empty());
    assert_ne!(of(&done, "relative"), of(&done, "stride"));
}
