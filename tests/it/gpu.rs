//! Pipelines on a GPU: they train as on the processor, checkpoints move both ways, and the bench
//! measures them.
//!
//! Each test's body takes the arguments that name a device. Everywhere it runs with `--path
//! reference`, the operations that a GPU computes, on the processor; with a GPU at hand,
//! `.ci/cuda-build test --release --workspace --features cuda -- --ignored --nocapture
//! --test-threads 1 on_a_gpu`.

use crate::common::{Place, text, tree};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Space patches: no border depends on a threshold, which rounding could move.
fn place() -> Place {
    let place = Place::new();
    let yaml =
        place.yaml.lines().filter(|l| !l.contains("entropy: ") && !l.contains("entropy.loss"));
    let yaml: String = yaml.map(|l| format!("{l}\n")).collect();
    let entropy = "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}";
    let place = place.with(&yaml).edit(entropy, "{node: SpacePatch, in: docs}");
    place.edit(
        "steps: 4, batch_bytes: 512, lr: 4e-3",
        "steps: 24, batch_bytes: 512, lr: 8e-3, clip: 0.5",
    )
}

/// The bits per byte of each step of training, and of evaluation.
fn numbers(run: &Path) -> (Vec<f64>, f64) {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps: Vec<f64> = steps
        .filter(|line| line["step"].is_u64())
        .map(|line| line["bpb"].as_f64().unwrap())
        .collect();
    let results: Value =
        serde_json::from_slice(&fs::read(run.join("results.json")).unwrap()).unwrap();
    (steps, results["variants"]["base"]["bpb"].as_f64().unwrap())
}

fn assert_close(
    what: &str,
    (steps, end): &(Vec<f64>, f64),
    (expected_steps, expected_end): &(Vec<f64>, f64),
) {
    assert_eq!(steps.len(), expected_steps.len(), "{what}: steps");
    for (i, (got, expected)) in
        steps.iter().chain([end]).zip(expected_steps.iter().chain([expected_end])).enumerate()
    {
        assert!(
            (got / expected - 1.0).abs() < 1e-3,
            "{what}: bits per byte at {i}: {got}, expected {expected}"
        );
    }
}

/// The one checkpoint that a run left.
fn checkpoint(run: &Path) -> PathBuf {
    let folder = run.join("checkpoints");
    let files: Vec<PathBuf> =
        tree(&folder).into_iter().map(|(path, _)| folder.join(path)).collect();
    let found: Vec<&PathBuf> = files.iter().filter(|path| path.ends_with("state.json")).collect();
    assert_eq!(found.len(), 1, "{files:?}");
    fs::canonicalize(found[0].parent().unwrap()).unwrap()
}

/// Trains on both, and continues each one's checkpoint (parameters, moments, step count) on both.
fn trains_and_moves(device: &[&str]) {
    let place = place();
    let processor = numbers(&place.done(&[]).dir);
    let there = place.done(device);
    let on_device = numbers(&there.dir);
    println!("bits per byte by step on the processor: {processor:?}\non {device:?}: {on_device:?}");
    assert!(on_device.0.last().unwrap() + 0.5 < on_device.0[0], "training falls");
    assert_close("training", &on_device, &processor);

    let here = place.done(&[]);
    let mut continued = Vec::new();
    for from in [checkpoint(&here.dir), checkpoint(&there.dir)] {
        for args in [&[][..], device] {
            let from = format!("run.0.train.from={}", from.display());
            continued.push(numbers(&place.done(&[args, &["--set", &from]].concat()).dir));
        }
    }
    let first = &continued[0];
    assert!(first.0[0] + 0.5 < processor.0[0], "a continued training begins where the other ended");
    for other in &continued[1..] {
        assert_close("a checkpoint that moved", other, first);
    }
}

/// With an entropy model, its threshold and its patches.
fn entropy_patches(device: &[&str]) {
    let place = Place::new();
    let (processor, device) = (numbers(&place.done(&[]).dir), numbers(&place.done(device).dir));
    // A border that rounding moves changes a bit per byte by little, and little is allowed.
    assert!(
        (processor.1 / device.1 - 1.0).abs() < 1e-2,
        "{} on the processor, {} on the device",
        processor.1,
        device.1
    );
}

fn is_measured(device: &[&str], name: &str) {
    let place = place();
    let args = [&["bench", "pipeline.yaml", "--repeats", "3", "--warmup", "1"], device].concat();
    let output = place.command(&args).output().unwrap();
    let table = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    println!("{table}");
    assert!(table.contains(&format!("reference on {name}")), "{table}");
    assert!(
        ["training", "evaluation", "decoder", "AdamW step"].iter().all(|part| table.contains(part)),
        "{table}"
    );
}

const PROCESSOR: [&str; 2] = ["--path", "reference"];

#[test]
fn training_and_checkpoints_agree_on_the_processor() {
    trains_and_moves(&PROCESSOR);
}

#[test]
fn entropy_patches_agree_on_the_processor() {
    entropy_patches(&PROCESSOR);
}

#[test]
fn the_bench_measures_the_reference_on_the_processor() {
    is_measured(&PROCESSOR, "cpu");
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;

    const GPU: [&str; 2] = ["--device", "cuda:0"];

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn training_and_checkpoints_agree() {
        trains_and_moves(&GPU);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn entropy_patches_agree() {
        entropy_patches(&GPU);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn the_bench_measures_it() {
        is_measured(&GPU, "cuda:0");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = place();
        let pipeline = root.join("pipelines/ablation_patching.yaml");
        let output = place
            .command(&["bench", pipeline.to_str().unwrap(), "--device", "cuda:0", "--goal", "loss"])
            .output()
            .unwrap();
        println!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.success());
    }
}
