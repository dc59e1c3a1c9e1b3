//! Sweeps as a user runs them: overrides, jobs, and equal patch sizes.

use crate::common::{Done, Place};
use serde_json::Value;
use std::fs;

fn results(done: &Done) -> Value {
    serde_json::from_slice(&fs::read(done.dir.join("results.json")).unwrap()).unwrap()
}

fn variants(results: &Value) -> Vec<&str> {
    results["variants"].as_object().unwrap().keys().map(String::as_str).collect()
}

fn place(more: &str) -> Place {
    let place = Place::new();
    let yaml = format!("{}{more}", place.yaml);
    place.with(&yaml)
}

const ABLATE: &str = "
ablate:
  short: {run.1.train.steps: 2}
  long:  {run.1.train.steps: 3}
  grid:
    patcher:
      stride: {graph.patches: {node: StridePatch, in: docs, stride: 3.5}}
      control:
        graph.patches: {node: SpacePatch, in: docs}
        graph.encoder.in.patches: shuffled
report: {baseline: long}
";

#[test]
fn variants_that_an_override_made_the_same_run_once_and_jobs_change_no_number() {
    let place = place(ABLATE);
    let yaml = place.yaml.replace(
        "  embed: ",
        "  shuffled: {node: ShuffledPatch, in: {bytes: docs, patches: patches}}\n  embed: ",
    );
    let place = place.with(&yaml);
    let set = ["--set", "run.1.train.steps=4", "--set", "patcher=stride:run.1.train.lr=1e-3"];
    let done = place.done(&set);
    assert!(
        done.stderr.contains("--set made `short` the same as `long`"),
        "the two are named: {}",
        done.stderr
    );
    let one_by_one = results(&done);
    assert_eq!(variants(&one_by_one), ["long", "patcher=stride", "patcher=control"]);
    let of = |variant: &str| &one_by_one["variants"][variant];
    assert_eq!(of("long")["bpb_to_baseline"], Value::Null);
    assert_eq!(of("patcher=control")["boundary_lookahead"], true);
    assert_eq!(of("patcher=stride")["boundary_lookahead"], false);
    let jobs = place.done(&[&set[..], &["--jobs", "2", "--runs", "others"]].concat());
    let mut at_once = results(&jobs);
    at_once["id"] = one_by_one["id"].clone();
    let numbers = |results: &Value| {
        let mut results = results.clone();
        for variant in results["variants"].as_object_mut().unwrap().values_mut() {
            // Rates are times.
            variant
                .as_object_mut()
                .unwrap()
                .retain(|key, _| !key.ends_with("_per_second") && !key.starts_with("seconds"));
            variant.as_object_mut().unwrap().remove("steps");
        }
        results
    };
    assert_eq!(numbers(&at_once), numbers(&one_by_one));
}

#[test]
fn patch_sizes_are_matched_on_what_is_scored() {
    let evaluate = "evaluate: {goal: loss, by: domain}";
    let plain = Place::new().done(&[]);
    let plain = &results(&plain)["variants"]["base"];
    let own = plain["bytes_per_patch"].as_f64().unwrap();
    let wanted = own + 0.6;
    for groups in [false, true] {
        let matching = format!(
            "evaluate: {{goal: loss, by: domain, match: {{bytes_per_patch: {wanted}, on: scored, groups: {groups}}}}}"
        );
        let done = Place::new().edit(evaluate, &matching).done(&[]);
        let found = &results(&done)["variants"]["base"];
        let size = found["bytes_per_patch"].as_f64().unwrap();
        assert!((size / wanted - 1.0).abs() <= 0.01, "{size} for {wanted}");
        // What training found stays, and both rates are there.
        assert_eq!(found["prepared"], plain["prepared"]);
        let matched = &found["matched"];
        let pairs: Vec<&Value> = match groups {
            false => vec![&matched["all"]],
            true => matched["groups"].as_object().unwrap().values().collect(),
        };
        assert_eq!(pairs.len(), if groups { 2 } else { 1 });
        for pair in pairs {
            let size = pair["matched"]["bytes_per_patch"].as_f64().unwrap();
            assert!((size / wanted - 1.0).abs() <= 0.01, "{pair}");
            assert_ne!(pair["matched"]["rule"], pair["trained"]["rule"]);
        }
        if !groups {
            assert_eq!(matched["all"]["trained"]["bytes_per_patch"], own);
            assert_eq!(matched["all"]["matched"]["bytes_per_patch"], size);
        }
        assert!(done.stderr.contains("bytes per patch; as trained"), "{}", done.stderr);
    }
}

#[test]
fn a_patch_size_that_cannot_be_matched_is_said_with_the_nearest() {
    let evaluate = "evaluate: {goal: loss, by: domain}";
    let fails = |place: Place, says: &[&str]| {
        let output = place.run(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        says.iter().for_each(|says| assert!(said.contains(says), "{says}: {said}"));
    };
    let matching = |more: &str| format!("evaluate: {{goal: loss, by: domain, match: {{{more}}}}}");
    let place = || Place::new().edit(evaluate, &matching("bytes_per_patch: 4000"));
    fails(place(), &["`patches`", "no threshold gives 4000 bytes per patch within 1 %", "nearest"]);
    let stride = "{node: StridePatch, in: docs, stride: 3}";
    let patches = "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}";
    fails(
        place().edit(patches, stride),
        &["`patches` makes patches of 2.9", "no threshold to change that"],
    );
    let place = Place::new()
        .edit(evaluate, "evaluate: {goal: loss, match: {bytes_per_patch: 3, groups: true}}");
    fails(place, &["give `by`"]);
    let place = Place::new().edit(evaluate, &matching("bytes_per_patch: 3, onn: scored"));
    fails(place, &["`onn`"]);
}
