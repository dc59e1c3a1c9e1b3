//! What the program says of a pipeline: where each value came from, its schema, its keys, its graph.

use crate::common::{Place, text};
use blt::graph::json_schema;
use blt::plugins as _;
use blt::report::report_schema;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn said(place: &Place, args: &[&str]) -> String {
    let output = place.command(args).output().unwrap();
    assert!(output.status.success(), "{args:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// The tiny pipeline with two variants.
fn with_variants() -> Place {
    let place = Place::new();
    let ablate = "ablate:\n  entropy: {}\n  stride:\n    graph.patches: {node: StridePatch, in: docs, stride: 5}\n";
    let yaml = format!("{}{ablate}", place.yaml);
    place.with(&yaml)
}

#[test]
fn each_value_has_its_origin() {
    let place = with_variants();
    let args = ["explain", "pipeline.yaml", "--variant", "stride", "--set", "graph.latent.heads=4"];
    let args = [&args[..], &["--set", "graph.docs.split.valid=0.5"]].concat();
    let explained = said(&place, &args);
    let origin = |line: &str| {
        let found: Vec<&str> =
            explained.lines().filter(|l| l.trim_start().starts_with(line)).collect();
        let [found] = found[..] else { panic!("`{line}`: {found:?}\n{explained}") };
        found.split_once("# ").unwrap().1.to_owned()
    };
    assert_eq!(origin("name: tiny"), "pipeline.yaml:1");
    assert_eq!(origin("device: cpu"), "default");
    assert_eq!(origin("valid: 0.5"), "--set graph.docs.split.valid=0.5");
    assert_eq!(origin("calibration: 0.3"), "pipeline.yaml:5");
    assert_eq!(origin("heads: 4"), "--set graph.latent.heads=4");
    let stride = place.yaml.lines().position(|line| line.contains("stride: 5")).unwrap() + 1;
    assert_eq!(origin("stride: 5"), format!("variant stride, pipeline.yaml:{stride}"));
    assert_eq!(origin("max_patch_length:"), "default of StridePatch");
    assert!(explained.contains("# default of train"), "{explained}");

    // It is a pipeline, and the same one.
    let again = place.path("again.yaml");
    fs::write(&again, &explained).unwrap();
    let checked = said(&place, &["check", "again.yaml"]);
    assert!(checked.contains("base, seed 7") && checked.contains(": ok"), "{checked}");
}

#[test]
fn a_run_keeps_what_it_was() {
    let run = with_variants().edit("steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}\n  - evaluate", "steps: 2, batch_bytes: 512, lr: 4e-3}\n  - evaluate").done(&["--variant", "stride"]);
    let read = |name: &str| fs::read_to_string(run.dir.join(name)).unwrap();
    assert!(read("explained.yaml").contains("# variant stride, pipeline.yaml:"));
    let keys: Vec<String> = serde_json::from_str(&read("steps.json")).unwrap();
    assert_eq!(keys.len(), 3, "{keys:?}");
    let machine: Value = serde_json::from_str(&read("machine.json")).unwrap();
    let command = machine["command"].as_str().unwrap();
    assert!(command.ends_with("pipeline.yaml --variant stride"), "{command}");
    let report = read("report.html");
    assert!(report.contains("<svg xmlns") && report.contains("default of StridePatch"));
}

/// Whether `schema`, or a part of it, accepts `value`. It knows the keywords that the schema has, and
/// no others; a validator's crate would bring thirty more into every build of the tests.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema != &Value::Bool(false) };
    let all = |schemas: &Value, value: &Value| -> Vec<bool> {
        schemas.as_array().unwrap().iter().map(|schema| accepts(root, schema, value)).collect()
    };
    let object = value.as_object();
    keywords.iter().all(|(keyword, of)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" | "default" | "format" | "then" => true,
        "$ref" => {
            let target = root.pointer(of.as_str().unwrap().strip_prefix('#').unwrap());
            accepts(root, target.unwrap_or_else(|| panic!("{of} leads nowhere")), value)
        }
        "const" => of == value,
        "enum" => of.as_array().unwrap().contains(value),
        "type" => {
            let of = of.as_array().cloned().unwrap_or_else(|| vec![of.clone()]);
            of.iter().any(|of| match of.as_str().unwrap() {
                "null" => value.is_null(),
                "boolean" => value.is_boolean(),
                "string" => value.is_string(),
                "array" => value.is_array(),
                "object" => value.is_object(),
                "number" => value.is_number(),
                "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
                other => panic!("the type {other}"),
            })
        }
        "minimum" => value.as_f64().is_none_or(|n| n >= of.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|n| n <= of.as_f64().unwrap()),
        "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= of.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|a| a.len() as u64 <= of.as_u64().unwrap()),
        "minProperties" => object.is_none_or(|o| o.len() as u64 >= of.as_u64().unwrap()),
        "maxProperties" => object.is_none_or(|o| o.len() as u64 <= of.as_u64().unwrap()),
        "required" => {
            let names = of.as_array().unwrap();
            object.is_none_or(|o| names.iter().all(|name| o.contains_key(name.as_str().unwrap())))
        }
        "anyOf" => all(of, value).contains(&true),
        "oneOf" => all(of, value).iter().filter(|fits| **fits).count() == 1,
        "allOf" => !all(of, value).contains(&false),
        "if" => !accepts(root, of, value) || accepts(root, &keywords["then"], value),
        "items" => value.as_array().is_none_or(|a| a.iter().all(|item| accepts(root, of, item))),
        "prefixItems" => {
            let schemas = of.as_array().unwrap().iter();
            value.as_array().is_none_or(|a| a.iter().zip(schemas).all(|(i, s)| accepts(root, s, i)))
        }
        "properties" => object.is_none_or(|o| {
            o.iter().all(|(key, value)| of.get(key).is_none_or(|of| accepts(root, of, value)))
        }),
        "additionalProperties" => object.is_none_or(|o| {
            let own = keywords.get("properties");
            let more = o.iter().filter(|(key, _)| own.is_none_or(|own| own.get(key).is_none()));
            more.into_iter().all(|(_, value)| accepts(root, of, value))
        }),
        // Of names alone, which `check` reads too.
        "propertyNames" => true,
        other => panic!("the schema has the keyword `{other}`, and this test does not know it"),
    })
}

/// Whether the schema of pipelines accepts a text of YAML.
fn schema() -> impl Fn(&str) -> bool {
    let schema = json_schema(&report_schema());
    move |yaml| accepts(&schema, &schema, &serde_yaml::from_str(yaml).unwrap())
}

#[test]
fn the_schema_accepts_what_check_accepts() {
    let fits = schema();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for folder in ["pipelines", "pipelines/studies"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") {
                let yaml = fs::read_to_string(&path).unwrap();
                assert!(fits(&yaml), "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 7, "{seen} pipelines");
    let pages = ["README.md", "docs/pipelines.md", "docs/scoring.md", "docs/tutorial.md"];
    for page in pages {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for block in blocks.filter(|block| block.lines().any(|line| line == "graph:")) {
            assert!(fits(block), "{page}\n{block}");
        }
    }
}

#[test]
fn the_schema_refuses_what_is_broken() {
    let fits = schema();
    let place = with_variants();
    assert!(fits(&place.yaml));
    for (old, new) in [
        ("graph:", "grpah:"),
        ("seed: 7", "seed: -1"),
        ("seed: 7", "seed: seven"),
        ("node: EntropyPatch", "node: EntropyPach"),
        ("bytes_per_patch: 3}", "bytes_per_pach: 3}"),
        ("bytes_per_patch: 3}", "bytes_per_patch: 3, rule: globl}"),
        ("bytes_per_patch: 3}", "bytes_per_patch: [3]}"),
        ("in: {bytes: docs, entropies: entropy}", "in: {byts: docs, entropies: entropy}"),
        ("in: {bytes: docs, entropies: entropy}", "in: docs"),
        ("column: text,", ""),
        ("valid: 0.2, by: id", "vaild: 0.2, by: id"),
        ("- evaluate:", "- evalute:"),
        ("by: domain}", "bye: domain}"),
        ("ablate:\n", "ablate: [1]\nx:\n"),
        ("name: tiny", "report: {baselin: x}"),
        ("name: tiny", "path: fast"),
    ] {
        assert!(place.yaml.contains(old), "{old}");
        let broken = place.yaml.replacen(old, new, 1);
        assert!(!fits(&broken), "`{new}` is accepted");
    }
}

#[test]
fn keys_are_documented() {
    let place = Place::new();
    let all = said(&place, &["keys"]);
    for key in ["seeds:", "device:", "ablate:", "report:"] {
        assert!(all.contains(key), "{key}\n{all}");
    }
    assert!(all.contains("\"fused\" or \"reference\""), "{all}");
    for (key, says) in [
        ("report", "controls:"),
        ("grid", "A key is a path with a list of"),
        ("split", "calibration:"),
        ("rule", "\"global\""),
    ] {
        let said = said(&place, &["keys", key]);
        assert!(said.contains(says), "{key}\n{said}");
    }
    let output = place.command(&["keys", "splt"]).output().unwrap();
    assert!(text(&output.stderr).contains("did you mean `split`?"), "{}", text(&output.stderr));
}

#[test]
fn a_graph_is_drawn() {
    let place = with_variants();
    let mermaid = said(&place, &["graph", "pipeline.yaml", "--format", "mermaid"]);
    assert!(mermaid.contains("flowchart TD") && mermaid.contains("-->|\"PatchStates"), "{mermaid}");
    assert!(mermaid.contains("%% stride: graph.patches = {node: StridePatch"), "{mermaid}");
    let dot = said(&place, &["graph", "pipeline.yaml", "--format", "dot", "--variant", "stride"]);
    assert!(dot.starts_with("digraph \"tiny, variant stride\"") && dot.ends_with("}\n"), "{dot}");
    let svg = said(&place, &["graph", "pipeline.yaml", "--format", "svg"]);
    assert_eq!(svg.matches("<rect").count(), 8, "{svg}");
    assert_eq!(svg.matches("marker-end").count(), 11, "{svg}");
    assert!(svg.contains("g-varies") && svg.ends_with("</svg>\n"), "{svg}");
}

#[test]
fn a_plan_says_what_the_store_has() {
    let place = with_variants();
    let before = said(&place, &["plan", "pipeline.yaml"]);
    // The two variants share the step that trains the entropy model.
    assert!(before.ends_with("6 steps, 1 of them stored\n"), "{before}");
    assert!(before.starts_with("entropy  seed 7  to run  train entropy.loss\n"), "{before}");
    assert!(place.runs().is_empty());
    place.done(&["--variant", "entropy"]);
    let after = said(&place, &["plan", "pipeline.yaml", "--variant", "entropy"]);
    assert!(after.ends_with("3 steps, 3 of them stored\n"), "{after}");
}

#[test]
fn a_shell_completes() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(&place, &["completions", shell]).contains("completions"), "{shell}");
    }
}

#[test]
fn a_store_is_cleaned_of_what_no_run_uses() {
    let place = Place::new();
    let run = place.done(&[]);
    let clean = |args: &[&str]| said(&place, &[&["store", "clean"], args].concat());
    let removed = |said: &str, n: usize| {
        assert!(said.contains(&format!("{n} kept steps")), "{n}: {said}");
    };
    removed(&clean(&["--unnamed"]), 0);
    removed(&clean(&["--older-than", "1d"]), 0);
    fs::remove_dir_all(&run.dir).unwrap();
    let would = clean(&["--unnamed", "--dry-run"]);
    assert!(would.starts_with("would remove 3 kept steps") && would.contains(" MiB"), "{would}");
    removed(&clean(&["--unnamed", "--older-than", "1d"]), 0);
    removed(&clean(&["--unnamed"]), 3);
    let wrong = place.command(&["store", "clean", "--older-than", "soon"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
}
