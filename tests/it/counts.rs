//! An NgramLm in a pipeline: fitted by the step that needs it, kept in checkpoints, read back.

use crate::common::{PIPELINE, Place, text};
use serde_json::Value;
use std::fs;

const LM: &str = "{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}";
const TRAIN_LM: &str = "  - train: {goal: entropy.loss, steps: 4, batch_bytes: 512, lr: 4e-3, \
                        checkpoint_every: 2, log_every: 1}\n";

/// The tiny pipeline with counts for its entropy model, and `more` steps.
fn counts(more: &str) -> Place {
    assert!(PIPELINE.contains(LM) && PIPELINE.contains(TRAIN_LM));
    let place = Place::new().edit(LM, "{node: NgramLm, in: docs, order: 3, memory_mb: 1}");
    let yaml = place.yaml.replace(TRAIN_LM, "") + more;
    place.with(&yaml)
}

fn results(place: &Place) -> Value {
    let dir = place.done(&[]).dir;
    serde_json::from_slice(&fs::read(dir.join("results.json")).unwrap()).unwrap()
}

/// The results of the evaluate steps of the only variant.
fn evaluated(results: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut open = vec![results];
    while let Some(value) = open.pop() {
        if let (Some(goal), Some(bpb)) = (value.get("goal"), value.get("bpb")) {
            found.push((goal.as_str().unwrap().to_owned(), bpb.clone()));
        }
        match value {
            Value::Object(fields) => open.extend(fields.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    found
}

fn bpb(results: &Value, goal: &str) -> f64 {
    let found = evaluated(results);
    let of_goal = found.iter().find(|(name, bpb)| name == goal && bpb.is_number());
    of_goal.unwrap_or_else(|| panic!("{goal}: {found:?}")).1.as_f64().unwrap()
}

#[test]
fn counts_cut_patches_are_measured_and_are_read_back_with_the_model() {
    let place = counts("  - evaluate: {goal: entropy.loss}\n");
    let done = place.done(&[]);
    assert!(!done.stderr.contains("warning: base: no step trains"), "{}", done.stderr);
    let trained = results(&place);
    let (model, alone) = (bpb(&trained, "loss"), bpb(&trained, "entropy.loss"));
    assert!(alone < 6.0, "counts know more than single bytes do: {alone}");
    let state = place.path("runs/tiny/latest/checkpoints/0-train/final/state.json");
    assert!(state.is_file() && state.with_file_name("entropy.counts").is_file());
    let read = place.with(
        "name: read
seed: 7
graph:
  docs: {node: ParquetBytes, path: docs.parquet, column: text, split: {valid: 0.2, by: id, calibration: 0.3}}
  blt:  {node: Blt, in: docs, checkpoint: runs/tiny/latest/checkpoints/0-train/final}
run:
  - evaluate: {goal: blt.loss}
  - evaluate: {goal: blt.entropy_loss}
",
    );
    let again = results(&read);
    assert_eq!(bpb(&again, "blt.loss"), model);
    assert_eq!(bpb(&again, "blt.entropy_loss"), alone);
    // Trained on, the model keeps its counts.
    let on = read.edit(
        "  - evaluate: {goal: blt.loss}\n",
        "  - train: {goal: blt.loss, steps: 1, batch_bytes: 512, lr: 1e-9}\n",
    );
    let on = on.done(&[]);
    assert!(on.dir.join("checkpoints/0-train/final/entropy.counts").is_file());
}

#[test]
fn a_baseline_needs_no_train_step() {
    let place = counts("");
    let (graph, _) = place.yaml.split_once("  patches:").unwrap();
    let yaml = format!("{graph}run:\n  - evaluate: {{goal: entropy.loss}}\n");
    let place = place.with(&yaml);
    assert!(bpb(&results(&place), "entropy.loss") < 6.0);
}

#[test]
fn what_counts_cannot_do_is_refused_by_name() {
    for (step, expected) in [
        ("  - export: {goal: loss}\n", "an entropy model of counts (NgramLm)"),
        (
            "  - train: {goal: entropy.loss, steps: 4, batch_bytes: 512, lr: 4e-3}\n",
            "`entropy.loss` has no parameters to train",
        ),
    ] {
        let output = counts(step).run(&[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    for (param, expected) in [
        ("order: 9", "`order` of `entropy` (NgramLm) is 9; expected integer from 1 to 8"),
        ("memory_mb: 0", "is 0; expected integer from 1 to"),
        ("memory_mb: 18446744073709551615", "is 18446744073709551615; expected integer from 1 to"),
        ("fit_bytes: 0", "is 0; expected integer from 1 to"),
    ] {
        let node = format!("{{node: NgramLm, in: docs, {param}}}");
        let output = Place::new().edit(LM, &node).run(&[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{param}: {stderr}");
        assert!(stderr.contains(expected), "{param}: {stderr}");
    }
}
