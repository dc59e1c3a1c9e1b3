//! How a model is trained, and what its latents are worth: packing, rates by part, averaged
//! weights, micro-batches, the probe.

use crate::common::{Done, Place, write_parquet};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The step that trains the model of [`Place`]'s pipeline, as it is written there.
const TRAIN: &str =
    "{goal: loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The results of the only variant.
fn results(done: &Done) -> Value {
    let results = json(&done.dir.join("results.json"));
    let variants = results["variants"].as_object().unwrap();
    variants.values().next().unwrap().clone()
}

/// The lines of metrics.jsonl of the goal `loss`.
fn metrics(done: &Done) -> Vec<Value> {
    let lines = fs::read_to_string(done.dir.join("metrics.jsonl")).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["goal"] == "loss").collect()
}

fn weights(done: &Done) -> Vec<u8> {
    fs::read(done.dir.join("checkpoints/1-train/final/model.safetensors")).unwrap()
}

/// The pipeline without its entropy model, in spans of 32 ids.
fn spans_of_32() -> Place {
    let place = Place::new();
    let yaml =
        place.yaml.lines().filter(|l| !l.contains("entropy: ") && !l.contains("entropy.loss"));
    let yaml: String = yaml.map(|l| format!("{l}\n")).collect();
    place
        .with(&yaml)
        .edit(
            "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}",
            "{node: StridePatch, in: docs, stride: 3}",
        )
        .edit("calibration: 0.3}}", "calibration: 0.3}, span_bytes: 31}")
}

/// Micro-batches that end differently many documents have one gradient with the batch of them all.
#[test]
fn micro_batches_with_eos_are_one_batch() {
    let documents: Vec<String> = (0..200)
        .map(|i| {
            let spans = if i % 3 == 0 { 3 } else { 1 };
            format!("document {i:03} ").repeat(8)[..31 * spans].to_owned()
        })
        .collect();
    let trained = |settings: &str| {
        let place = spans_of_32()
            .edit(
                "in: {logits: decoder, bytes: docs}",
                "in: {logits: decoder, bytes: docs}, eos: true",
            )
            .edit(TRAIN, &format!("{{goal: loss, steps: 4, lr: 4e-3, log_every: 1, {settings}}}"));
        let documents: Vec<Option<&str>> = documents.iter().map(|d| Some(d.as_str())).collect();
        write_parquet(&place.path("docs.parquet"), &documents);
        metrics(&place.done(&[]))
    };
    let one = trained("batch_bytes: 256");
    let four = trained("batch_bytes: 64, accumulate: 4");
    assert_eq!(one.len(), 4);
    for (one, four) in one.iter().zip(&four) {
        assert_eq!(one["bytes"], four["bytes"]);
        for number in ["bpb", "grad_norm"] {
            let (a, b) = (one[number].as_f64().unwrap(), four[number].as_f64().unwrap());
            assert!((a - b).abs() < 1e-4 * a, "{number}: {one} and {four}");
        }
    }
}

#[test]
fn batches_that_fit_best_are_full() {
    let fill = |packing: &str| {
        let place = spans_of_32().edit(
            TRAIN,
            &format!("{{goal: loss, steps: 40, batch_bytes: 32, lr: 4e-3, packing: {packing}}}"),
        );
        results(&place.done(&[]))["steps"][0]["train"]["fill"].as_f64().unwrap()
    };
    let (next, best) = (fill("next_fit"), fill("best_fit"));
    assert!(next < 0.9 && best > 0.95, "{next} and {best}");
}

#[test]
fn the_mean_of_the_last_weights_is_what_is_left() {
    let trained = |average: &str| {
        let train = TRAIN.replace("log_every: 1}", &format!("log_every: 1{average}}}"));
        Place::new().edit(TRAIN, &train).done(&[])
    };
    let last = trained("");
    // Of one step only: the last weights.
    let one = trained(", average: {last: 0.25}");
    assert!(weights(&last) == weights(&one));
    let (half, ema) = (trained(", average: {last: 0.5}"), trained(", average: {ema: 0.5}"));
    assert!(weights(&half) != weights(&last) && weights(&ema) != weights(&half));
    // Training does not change, and the evaluation reads the mean.
    assert_eq!(metrics(&half), metrics(&last));
    assert_ne!(results(&half)["bpb"], results(&last)["bpb"]);
}

#[test]
fn a_part_that_learns_at_no_rate_stays() {
    let tables = |settings: &str| {
        let train = TRAIN.replace("lr: 4e-3", &format!("lr: 4e-3{settings}"));
        let done = Place::new()
            .edit("ngrams: [3], table: 64", "ngrams: [3], table: 64, table_init: zero")
            .edit(TRAIN, &train)
            .done(&[]);
        let file = done.dir.join("checkpoints/1-train/final/model.safetensors");
        let file = blt_core::tensor_file::TensorFile::open(&file).unwrap();
        let read = |name: &str, shape: &[usize]| file.get_f32(name, shape).unwrap();
        let tokens = read("model.local_encoder.embed_tokens.weight", &[260, 16]);
        (read("model.encoder_hash_tok_embedding.weight", &[64, 16]), tokens)
    };
    let trained = tables("");
    let frozen = tables(", lr_by: {model.encoder_hash_tok_embedding: 0}");
    assert!(trained.0.iter().any(|&x| x != 0.0) && frozen.0.iter().all(|&x| x == 0.0));
    // The node's other parameters learn as ever, unless the node is named.
    let node = tables(", lr_by: {embed: 0, model.encoder_hash_tok_embedding: 1}");
    assert!(node.0.iter().any(|&x| x != 0.0) && node.1 != frozen.1);
}

#[test]
fn the_worth_of_latents_is_measured_beside_the_rest() {
    let evaluated = |settings: &str| {
        let place = Place::new().edit("{goal: loss, by: domain}", settings);
        results(&place.done(&[]))
    };
    let plain = evaluated("{goal: loss, by: domain}");
    let probed = evaluated("{goal: loss, by: domain, probe: latents}");
    let other_batches = evaluated("{goal: loss, by: domain, probe: latents, batch_bytes: 64}");
    let latents = &probed["latents"];
    let number =
        |of: &Value, name: &str| of[name].as_f64().unwrap_or_else(|| panic!("no {name} in {of}"));
    let groups = latents["by"].as_object().unwrap();
    assert_eq!(groups.keys().collect::<Vec<_>>(), ["a", "b"]);
    for (of, bpb, others) in [
        (&latents["all"], &probed["bpb"], &other_batches["latents"]["all"]),
        (&groups["a"], &probed["bpb_by"]["a"], &other_batches["latents"]["by"]["a"]),
    ] {
        // The mean is of as many documents as fill some batches, so that it depends on their size.
        assert!((number(of, "bpb") - bpb.as_f64().unwrap()).abs() < 1e-6);
        assert!((number(of, "zero_bpb") - number(others, "zero_bpb")).abs() < 1e-6);
        assert!((number(of, "other_bpb") - number(others, "other_bpb")).abs() < 1e-3);
        let smaller = number(of, "mean_bpb").min(number(of, "other_bpb"));
        assert!((number(of, "worth") - (smaller - number(of, "bpb"))).abs() < 1e-6);
        assert!(number(of, "half_width") > 0.0 && number(of, "clusters") > 6.0);
        for name in ["mean_bpb", "other_bpb", "zero_bpb"] {
            assert!(number(of, name) != number(of, "bpb"), "{name} is of other latents: {of}");
        }
    }
    let rank = number(latents, "rank");
    assert!((1.0..=32.0).contains(&rank), "{rank} of a width of 32");
    assert!(number(latents, "cross_attention") > 0.0);
    // Nothing else moves.
    let without = |results: &Value| {
        let mut results = results.clone();
        let map = results.as_object_mut().unwrap();
        for key in ["latents", "steps", "train_bytes_per_second", "evaluate_bytes_per_second"] {
            map.remove(key);
        }
        map.remove("seconds_by_node");
        results
    };
    assert_eq!(without(&probed), without(&plain));
    assert!(plain.get("latents").is_none());
}

#[test]
fn training_shows_held_out_documents_and_parts() {
    let trained = |settings: &str| {
        let train = TRAIN.replace("log_every: 1}", &format!("log_every: 2{settings}}}"));
        Place::new().edit(TRAIN, &train).done(&[])
    };
    let plain = trained("");
    let shown = trained(", log_parts: true, evaluate: {every: 1, bytes: 100000}");
    // Looking does not change training.
    assert!(weights(&plain) == weights(&shown));
    let (losses, curve): (Vec<Value>, Vec<Value>) =
        metrics(&shown).into_iter().partition(|line| line.get("bpb").is_some());
    assert_eq!((losses.len(), curve.len()), (2, 4));
    // After the last step the curve has read what the evaluation reads.
    let last = curve[3]["valid_bpb"].as_f64().unwrap();
    assert!((last - results(&shown)["bpb"].as_f64().unwrap()).abs() < 1e-6, "{last}");
    for line in &losses {
        let by = line["grad_norm_by"].as_object().unwrap();
        assert_eq!(by.keys().collect::<Vec<_>>(), ["decoder", "embed", "encoder", "latent"]);
        let squares: f64 = by.values().map(|norm| norm.as_f64().unwrap().powi(2)).sum();
        let norm = line["grad_norm"].as_f64().unwrap();
        assert!((squares.sqrt() - norm).abs() < 1e-6 * norm, "{line}");
    }
    let page = fs::read_to_string(shown.dir.join("report.html")).unwrap();
    for title in ["Held-out loss of loss", "Gradient norm by node"] {
        assert!(page.contains(title), "no `{title}` on the page");
    }
}

#[test]
fn first_passes_over_the_same_documents_are_paired() {
    let train = "{goal: loss, steps: 60, batch_bytes: 64, lr: 4e-3}";
    let place = spans_of_32().edit(TRAIN, train);
    let yaml = format!(
        "{}report: {{baseline: base}}\nablate:\n  base: {{}}\n  wide: {{graph.latent.dim: 64}}\n  batches: {{run.0.train.batch_bytes: 96}}\n",
        place.yaml
    );
    let done = place.with(&yaml).done(&[]);
    let results = json(&done.dir.join("results.json"));
    let difference = &results["variants"]["wide"]["online_difference"];
    assert!(difference["bpb"].as_f64().unwrap() != 0.0 && difference["se"].as_f64().unwrap() > 0.0);
    // Other batches are not paired.
    assert!(results["variants"]["batches"].get("online_difference").is_none());
}
