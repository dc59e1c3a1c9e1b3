//! `blt-run bench` measures what the pipeline does: its goals, its sizes, its FLOPs. How fast is
//! not asserted.

use crate::common::{Place, text};
use serde_json::Value;

fn bench(place: &Place, args: &[&str]) -> Value {
    let output = place
        .command(&[&["bench", "pipeline.yaml", "--repeats", "2", "--warmup", "1"], args].concat())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn goals_are_measured_with_the_sizes_of_their_steps() {
    let place = Place::new();
    let found = bench(&place, &["--format", "json", "--batches", "1"]);
    let goals = found["goals"].as_array().unwrap();
    let names: Vec<&str> = goals.iter().map(|g| g["measured"]["goal"].as_str().unwrap()).collect();
    assert_eq!(names, ["entropy.loss", "loss"]);
    let of_model = &goals[1]["measured"];
    let (training, evaluation) = (&of_model["training"], &of_model["evaluation"]);
    // At most 512 ids.
    let ids = training["bytes_per_repetition"].as_f64().unwrap();
    assert!((256.0..=512.0).contains(&ids), "{ids}");
    let nodes = |phase: &Value| -> Vec<String> {
        phase["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["node"].as_str().unwrap().to_owned())
            .collect()
    };
    let graph = ["docs", "entropy", "patches", "embed", "encoder", "latent", "decoder", "loss"]
        .map(str::to_owned);
    let mut of_evaluation = nodes(evaluation);
    of_evaluation.sort();
    let mut sorted = graph.to_vec();
    sorted.sort();
    assert_eq!(of_evaluation, sorted);
    assert_eq!(nodes(training).last().unwrap(), "AdamW step");
    assert_eq!(nodes(&of_model["patching"]), ["docs", "entropy", "patches"]);
    // Training falls, and nothing backward is spent on the entropy model, which the loss does not
    // reach.
    assert!(training["last_nats_per_byte"].as_f64() < training["first_nats_per_byte"].as_f64());
    let of = |phase: &Value, name: &str| {
        phase["nodes"].as_array().unwrap().iter().find(|n| n["node"] == name).unwrap().clone()
    };
    assert_eq!(of(training, "entropy")["backward_seconds"], 0.0);
    assert!(of(training, "decoder")["backward_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(
        of_model["training_memory"]["parameters_and_moments_bytes"].as_u64(),
        Some(12 * of_model["parameters"].as_u64().unwrap())
    );
}

#[test]
fn flops_are_those_that_evaluation_counts() {
    // One batch of all training documents is not to be had; documents of one length make every
    // batch cost the same a byte.
    let text = "0123456789abcdefghijklmnopqrstu".to_owned();
    let place = Place::new().edit(
        "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}",
        "{node: StridePatch, in: docs, stride: 4}",
    );
    let place = place.edit(
        "  - train: {goal: entropy.loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}\n",
        "",
    );
    let place = place.edit(
        "  entropy: {node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}\n",
        "",
    );
    crate::common::write_parquet(&place.path("docs.parquet"), &vec![Some(text.as_str()); 160]);
    let found = bench(&place, &["--format", "json"]);
    let measured = found["goals"][0]["measured"]["evaluation"]["flops_per_byte"].as_f64().unwrap();
    let done = place.done(&[]);
    let results: Value =
        serde_json::from_slice(&std::fs::read(done.dir.join("results.json")).unwrap()).unwrap();
    let counted = results["variants"]["base"]["flops_per_byte"].as_f64().unwrap();
    // Evaluation divides by bytes, the bench by ids: 32 ids for 31 bytes.
    assert!((measured * 32.0 / 31.0 / counted - 1.0).abs() < 1e-9, "{measured} {counted}");
}

#[test]
fn the_table_and_what_is_refused() {
    let place = Place::new();
    let output = place
        .command(&["bench", "pipeline.yaml", "--repeats", "1", "--goal", "loss"])
        .output()
        .unwrap();
    let table = text(&output.stdout);
    for line in [
        "training, by node",
        "evaluation, by node",
        "patching, by node",
        "memory",
        "decoder",
        "% of the machine",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    assert!(!table.contains("entropy.loss"), "{table}");
    assert!(place.runs().is_empty(), "a bench leaves no run");
    for (args, expected) in [
        (["--goal", "los"], "no step of the pipeline has the goal `los`"),
        (["--variant", "stride"], "no variant is called `stride`; there are `base`"),
    ] {
        let output =
            place.command(&[&["bench", "pipeline.yaml"][..], &args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}
