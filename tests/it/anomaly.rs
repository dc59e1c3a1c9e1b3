//! Numbers that go wrong in training: looked for after the last step too, and named.

use crate::common::{Done, Place, text};
use std::fs;

const TRAIN: &str =
    "{goal: loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}";

fn trained(settings: &str) -> Place {
    Place::new().edit(TRAIN, &format!("{{goal: loss, batch_bytes: 512, {settings}}}"))
}

/// A learning rate and a decay, each in its range, under which one step leaves infinite weights.
const WRONG: &str = "lr: 1e30, weight_decay: 1e10";

fn refused(place: &Place, args: &[&str]) -> String {
    let output = place.run(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    stderr
}

#[test]
fn parameters_are_looked_at_after_the_last_step() {
    let place = trained(&format!("steps: 1, {WRONG}"));
    let said = refused(&place, &[]);
    assert!(
        said.contains("the model of `loss` is not finite at step 1: the parameter `"),
        "{said}"
    );
    let kept = fs::read_dir(place.path("runs/.store")).unwrap().flatten();
    let partial = kept.map(|item| item.path()).find(|p| p.to_string_lossy().contains("partial"));
    assert!(!partial.unwrap().join("checkpoints/final").exists(), "no checkpoint is left");
}

#[test]
fn the_first_that_is_not_finite_is_named() {
    let place = || trained(&format!("steps: 3, {WRONG}"));
    let said = refused(&place(), &[]);
    assert!(said.contains("of `loss` is not finite at step 2: the parameter `"), "{said}");
    assert!(said.contains("the first that is not finite"), "{said}");
    // With the flag, when it is made and not when it is read.
    let said = refused(&place(), &["--detect-anomaly"]);
    assert!(said.contains("of `loss` is not finite at step 1: the parameter `"), "{said}");
}

#[test]
fn looking_for_anomalies_changes_no_number() {
    let metrics = |done: &Done| fs::read_to_string(done.dir.join("metrics.jsonl")).unwrap();
    let (plain, watched) =
        (Place::new().done(&[]), Place::new().done(&["--detect-anomaly", "--threads", "1"]));
    assert_eq!(metrics(&plain), metrics(&watched));
}

#[test]
fn a_loss_spike_is_in_metrics_table_and_report() {
    let done = trained("steps: 60, warmup: 60, lr: 30.0, log_every: 5").done(&[]);
    assert!(done.stderr.contains("were loss spikes"), "{}", done.stderr);
    let metrics = fs::read_to_string(done.dir.join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"spikes\":["), "{metrics}");
    for file in ["report.html", "results.json"] {
        assert!(fs::read_to_string(done.dir.join(file)).unwrap().contains("spikes"), "{file}");
    }
}
