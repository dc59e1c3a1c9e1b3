//! `check` as people and other programs use it.

use crate::common::{Place, text};
use serde_json::Value;
use std::fs;

/// What `check` prints: its exit code, standard output, standard error.
fn check(place: &Place, args: &[&str]) -> (Option<i32>, String, String) {
    let output = place.command(&[&["check"], args].concat()).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The tiny pipeline with three slips: of a seed, a parameter, and the section `report`.
fn three_slips() -> Place {
    let place = Place::new().edit("seed: 7", "seed: x").edit("k: 2", "poling: max, k: 2");
    let yaml = format!("{}report: {{clutser: work}}\n", place.yaml);
    place.with(&yaml)
}

#[test]
fn every_error_in_one_pass() {
    let place = three_slips();
    let (code, _, said) = check(&place, &["pipeline.yaml"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.matches("error[BLT").count(), 3, "{said}");
    for at in ["x\n\ngraph", "poling: max", "clutser"] {
        assert!(said.contains(&place.at(at)), "{at}\n{said}");
    }
}

#[test]
fn what_other_programs_read() {
    let place = three_slips();
    let (code, said, _) = check(&place, &["pipeline.yaml", "--format", "json"]);
    let read: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, read["diagnostics"].as_array().unwrap().len()), (Some(1), 3), "{said}");
    let key = &read["diagnostics"][1];
    assert_eq!(
        (&key["code"], &key["fix"]["text"]),
        (&"BLT0203".into(), &"pooling".into()),
        "{said}"
    );
    let start = key["fix"]["at"]["start_byte"].as_u64().unwrap() as usize;
    assert!(place.yaml[start..].starts_with("poling: max"), "{said}");

    let (_, said, _) = check(&place, &["pipeline.yaml", "--format", "github"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].starts_with("::error file=pipeline.yaml,line=2,endLine=2,col=7,"), "{said}");

    let (_, said, _) = check(&place, &["pipeline.yaml", "--format", "sarif"]);
    let read: Value = serde_json::from_str(&said).unwrap();
    let run = &read["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    for result in run["results"].as_array().unwrap() {
        assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]), "{result:#}");
    }
    let fix = &run["results"][1]["fixes"][0]["artifactChanges"][0]["replacements"][0];
    assert_eq!(fix["insertedContent"]["text"], "pooling", "{said}");
}

#[test]
fn many_files_and_pages() {
    let place = Place::new();
    let page = format!(
        "# A page\n\n```yaml\n{}```\n\nNo pipeline:\n\n```yaml\na: 1\n```\n\n```yaml\n{}```\n",
        place.yaml,
        place.yaml.replace("layers: 1, heads: 2, k: 2", "lyers: 1, heads: 2, k: 2"),
    );
    fs::write(place.path("page.md"), &page).unwrap();
    let (code, fine, said) = check(&place, &["pipeline.yaml", "page.md"]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!((fine.matches(": ok").count(), said.matches("error[").count()), (2, 1), "{said}");
    let line = page.lines().position(|line| line.contains("lyers")).unwrap() + 1;
    assert!(said.contains(&format!("page.md:{line}:")), "{said}");
    fs::write(place.path("page.md"), "# Nothing").unwrap();
    let (code, fine, _) = check(&place, &["page.md"]);
    assert_eq!((code, fine.contains("page.md: no pipeline in it")), (Some(0), true), "{fine}");
}

#[test]
fn a_value_of_an_argument_is_pointed_at_there() {
    let place = Place::new();
    for (set, at, says) in [
        ("graph.latent.layers=two", "--set:1:21", "should be an integer"),
        ("graph.latent.heads=3", "--set:1:20", "not divisible by 3 heads"),
        ("latent.layers=2", "--set:1:1", "graph.latent.layers=2"),
        ("run.train.lr=2", "--set:1:1", "run.1.train.lr=2"),
        ("device=gpu", "--set:1:8", "there is no device `gpu`"),
    ] {
        let (code, _, said) = check(&place, &["pipeline.yaml", "--set", set]);
        assert_eq!(code, Some(1), "{set}\n{said}");
        assert!(said.contains(at) && said.contains(says), "{set}\n{said}");
    }
}

#[test]
fn codes_are_explained() {
    let place = Place::new();
    let explain = |args: &[&str]| place.command(&[&["explain"], args].concat()).output().unwrap();
    let said = text(&explain(&["blt0203"]).stdout);
    assert!(said.starts_with("BLT0203: A node or step has no such parameter."), "{said}");
    let all = text(&explain(&[]).stdout);
    assert!(all.lines().filter(|line| line.starts_with("BLT")).count() > 20, "{all}");
    let near = explain(&["BLT9203"]);
    assert_eq!(near.status.code(), Some(1));
    assert!(text(&near.stderr).contains("did you mean `BLT"), "{}", text(&near.stderr));
}
