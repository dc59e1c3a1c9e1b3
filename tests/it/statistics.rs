//! What a run claims, and what the claims rest on: clusters, seeds, intervals.

use crate::common::{Place, parquet_batch, text, texts};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use std::fs::{self, File};
use std::sync::Arc;

/// The tiny pipeline in three variants, on documents of nine works; `work` has the value that
/// `of_row` gives.
fn place(report: &str, of_row: fn(usize) -> Option<String>) -> Place {
    let place = Place::new();
    let entropy = "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}";
    let yaml: String = place
        .yaml
        .lines()
        .filter(|line| !line.contains("entropy: ") && !line.contains("entropy.loss"))
        .map(|line| format!("{line}\n"))
        .collect();
    let ablate = "ablate:
  stride-3: {}
  stride-8: {graph.patches.stride: 8}
  space: {graph.patches: {node: SpacePatch, in: docs}}
";
    let place = place
        .with(&format!("{yaml}{ablate}report: {report}\n"))
        .edit(entropy, "{node: StridePatch, in: docs, stride: 3}")
        .edit("valid: 0.2", "valid: 0.5");
    let texts = texts();
    let batch = parquet_batch(&texts.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let works: ArrayRef = Arc::new(StringArray::from_iter((0..texts.len()).map(of_row)));
    let mut columns: Vec<(&str, ArrayRef)> = vec![("work", works)];
    let schema = batch.schema();
    columns.extend(schema.fields().iter().map(|f| f.name().as_str()).zip(batch.columns().to_vec()));
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )
    .unwrap();
    let file = File::create(place.path("docs.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    place
}

fn nine(row: usize) -> Option<String> {
    Some(format!("work {}", row % 9))
}

/// The run's results.json and what it printed, on one line.
fn run(place: &Place, args: &[&str]) -> (Value, String) {
    let output = place.run(args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let run = place.path(printed.trim_end().lines().last().unwrap());
    let results = fs::read_to_string(run.join("results.json")).unwrap();
    assert!(fs::read_to_string(run.join("report.html")).unwrap().contains("difference ± 95 %"));
    let words = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    (serde_json::from_str(&results).unwrap(), words)
}

#[test]
fn clusters_and_seeds_make_the_intervals() {
    let place = place("{baseline: stride-3, cluster: work}", nine).edit("seed: 7", "seeds: [1, 2]");
    let (results, table) = run(&place, &[]);
    assert_eq!(results["cluster"], "work");
    let difference = &results["variants"]["space"]["difference"];
    assert_eq!(
        (&difference["clusters"], difference["by"].as_object().unwrap().len()),
        (&9.into(), 2)
    );
    for key in ["se", "se_clusters", "df", "half_width", "half_width_simultaneous", "p", "p_holm"] {
        assert!(difference[key].is_f64(), "{key} of {difference}");
    }
    let wider = |a: &str, b: &str| difference[a].as_f64() >= difference[b].as_f64();
    assert!(wider("half_width_simultaneous", "half_width") && wider("p_holm", "p"));
    assert_eq!(results["order"].as_array().unwrap().len(), 2);
    assert!(table.contains("over 2 seeds and 9 clusters of documents (`work`); p"), "{table}");
    // Without the column documents are the clusters, and nothing else changes.
    let place = place.edit(", cluster: work", "");
    let (alone, table) = run(&place, &[]);
    let again = &alone["variants"]["space"]["difference"];
    for key in ["bpb", "se_documents", "se_seeds", "se"] {
        assert_eq!(again[key], difference[key], "{key}");
    }
    assert!(again["clusters"].as_u64() > Some(20) && alone.get("cluster").is_none());
    assert!(table.contains("documents, each a cluster of its own"), "{table}");
}

#[test]
fn few_clusters_make_no_interval() {
    let three = |row: usize| Some(["x", "y", "z"][row % 3].to_owned());
    let (results, table) = run(&place("{baseline: stride-3, cluster: work}", three), &[]);
    let difference = &results["variants"]["space"]["difference"];
    assert_eq!(difference["clusters"], 3);
    assert!(difference.get("half_width").is_none() && difference.get("p").is_none());
    assert!(table.contains("No intervals and no claims"), "{table}");
}

#[test]
fn a_cluster_column_that_is_missing_or_null_is_refused_before_anything_runs() {
    let refused = |place: &Place, says: &[&str]| {
        let output = place.run(&[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
        for say in says {
            assert!(stderr.contains(say), "no `{say}` in\n{stderr}");
        }
        assert!(place.runs().is_empty(), "a run was begun\n{stderr}");
    };
    let report = "{baseline: stride-3, cluster: wrok}";
    let misspelt = place(report, nine);
    refused(&misspelt, &["no column `wrok`", "did you mean `work`", &misspelt.at("wrok")]);
    let null = place("{cluster: work}", |row| nine(row).filter(|_| row < 100));
    refused(&null, &["column `work` is null in row 1", "leave `report.cluster` out"]);
    let number = place("{cluster: 3}", nine);
    refused(&number, &["`report.cluster` is 3", "the name of a column"]);
    let key = place("{clusters: work}", nine);
    refused(&key, &["`report` has no `clusters`", "report: {cluster: work}\n"]);
}

#[test]
fn controls_are_measured_and_never_ranked() {
    let report = "{baseline: stride-3, controls: {stride-8: {of: stride-3, what: longer patches}}}";
    let (results, table) = run(&place(report, nine), &[]);
    let control = &results["instrument"]["controls"]["stride-8"];
    assert_eq!((&control["arm"], &control["what"]), (&"stride-3".into(), &"longer patches".into()));
    assert!(control["difference"]["half_width"].is_f64() && control["half_widths"].is_f64());
    assert!(table.contains("── controls, not ranked ─"), "{table}");
    let order = results["order"].as_array().unwrap();
    assert!(order.iter().all(|pair| pair["variant"] != "stride-8" && pair["next"] != "stride-8"));
    assert!(results["variants"]["stride-8"]["difference"].get("p_holm").is_none());
    // Space patches are of another size than strides of three; what is a control may be.
    assert_eq!(results["unequal_patches"].as_object().unwrap().len(), 1);
    assert!(table.contains("Warning: not the same patch size."), "{table}");
}

#[test]
fn controls_that_are_wrong_are_one_error() {
    for (controls, says) in [
        ("{strid-8: space}", vec!["a control is \"strid-8\"", "controls: {stride-8: space}}\n"]),
        (
            "{stride-8: spaec}",
            vec!["`stride-8` controls \"spaec\"", "controls: {stride-8: space}}\n"],
        ),
        ("{stride-8: {at: space}}", vec!["the control `stride-8` is", "expected `controls:"]),
        ("[stride-8]", vec!["`report.controls` is [\"stride-8\"]", "expected `controls:"]),
        ("{stride-3: space}", vec!["`stride-3` is the baseline"]),
        ("{stride-8: space, space: stride-3}", vec!["which is a control itself"]),
    ] {
        let place = place(&format!("{{baseline: stride-3, controls: {controls}}}"), nine);
        let stderr = text(&place.run(&[]).stderr);
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
        assert!(stderr.contains("pipeline.yaml:") && place.runs().is_empty(), "{stderr}");
        for say in says {
            assert!(stderr.contains(say), "no `{say}` in\n{stderr}");
        }
    }
}

#[test]
fn another_goal_is_a_row_of_its_own_or_a_table_below() {
    let place = Place::new();
    let evaluate = "  - evaluate: {goal: loss, by: domain}";
    let yaml =
        place.yaml.replace(evaluate, &format!("  - evaluate: {{goal: entropy.loss}}\n{evaluate}"));
    let ablate = "ablate: {entropy: {}, deeper: {graph.latent.layers: 2}}\n";
    let report = "report: {baseline: entropy, references: {small model: entropy.loss}}\n";
    let place = place.with(&format!("{yaml}{ablate}{report}"));
    let (results, table) = run(&place, &[]);
    let reference = &results["references"]["small model"];
    assert_eq!(reference["goal"], "entropy.loss");
    assert!(reference["difference"]["half_width"].is_f64(), "{reference}");
    assert!(results["variants"]["deeper"].get("evaluations").is_none());
    let row = format!("small model {:.4}", reference["bpb"].as_f64().unwrap());
    assert!(table.contains("── references ─") && table.contains(&row), "no {row} in\n{table}");
    // Not named, its numbers are the variants' own and stand below.
    let place = place.edit(", references: {small model: entropy.loss}", "");
    let (results, table) = run(&place, &[]);
    let before = &results["variants"]["deeper"]["evaluations"][0]["evaluate"];
    assert_eq!((&before["goal"], &before["bpb"]), (&reference["goal"], &reference["bpb"]));
    assert_eq!(results["variants"]["deeper"]["goal"], "loss");
    assert!(table.contains("other goals, bits/byte entropy.loss entropy "), "{table}");
    let wrong = place.edit("{baseline: entropy}", "{references: {small: entropy.los}}");
    let stderr = text(&wrong.run(&[]).stderr);
    assert!(stderr.contains("{small: entropy.loss}"), "{stderr}");
    assert!(stderr.contains(&wrong.at("entropy.los}")), "{stderr}");
}
