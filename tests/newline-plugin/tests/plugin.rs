//! A node of the user's own, in a crate of the user's own, works as a built-in one, and nothing
//! outside this crate knows of it.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn plugin(args: &[&str], runs: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_newline-plugin"))
        .args(args)
        .current_dir(runs)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "exit {:?}\n{stderr}", output.status.code());
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn its_nodes_are_listed_with_their_docs() {
    let here = Path::new(".");
    let list = stdout(&plugin(&["nodes"], here));
    for (name, doc) in [
        ("NewlinePatch", "A patch starts after each newline"),
        ("TopKAccuracy", "How often the next byte is"),
        ("ThinDecoder", "A decoder without transformer layers"),
        ("CodeFiles", "The files of a folder whose names end in"),
    ] {
        let line = list
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{list}"));
        assert!(line.contains(doc), "{line}");
        let help = stdout(&plugin(&["nodes", name], here));
        assert!(help.contains(doc) && help.contains("{node: "), "{help}");
    }
    assert!(list.contains("LocalEncoder"), "the built-in ones are there as well\n{list}");
    assert!(stdout(&plugin(&["nodes", "NewlinePatch"], here)).contains("max_patch_length"));
}

#[test]
fn the_registry_finds_nothing_wrong_with_them() {
    use newline_plugin as _;
    assert_eq!(blt::graph::testing::self_test(), [""; 0]);
    assert!(blt::graph::registry::find("NewlinePatch").is_some());
}

#[test]
fn its_pipeline_runs_and_its_report_shows_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = concat!(env!("CARGO_MANIFEST_DIR"), "/newline.yaml");
    let output = plugin(
        &[
            yaml,
            "--set",
            "run.0.train.steps=2",
            "--set",
            "run.0.train.batch_bytes=2048",
            "--set",
            "run.1.evaluate.limit=12",
        ],
        dir.path(),
    );
    let run = dir.path().join(stdout(&output).trim_end().lines().last().unwrap());

    let results: Value =
        serde_json::from_slice(&fs::read(run.join("results.json")).unwrap()).unwrap();
    let variants = results["variants"].as_object().unwrap();
    assert_eq!(variants.keys().collect::<Vec<_>>(), ["newline", "stride-6"]);
    for (name, variant) in variants {
        let share = variant["metrics"]["top_5_accuracy"]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {variant}"));
        assert!((0.0..=1.0).contains(&share), "{name}: {share}");
        assert!(
            variant["bpb"].as_f64().is_some_and(|bpb| bpb > 0.0 && bpb < 12.0),
            "{name}: {variant}"
        );
    }
    // The patcher did patch: at most 16 bytes each, as its parameter says, and some are that long.
    let lengths = variants["newline"]["patch_lengths"].as_object().unwrap();
    assert_eq!(lengths.keys().map(|length| length.parse::<u64>().unwrap()).max(), Some(16));
    assert_ne!(variants["newline"]["patches"], variants["stride-6"]["patches"]);

    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("NewlinePatch"), "the report names the plugin's patcher");
    assert!(report.contains("top_5_accuracy"), "the report shows the plugin's metric");
}

#[test]
fn its_patcher_generates_and_its_decoder_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines/corpus/sample.parquet");
    let yaml = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/newline.yaml")).unwrap();
    let yaml = yaml.replace("../../pipelines/corpus/sample.parquet", corpus);
    let write = |name: &str, yaml: &str| {
        fs::write(dir.path().join(name), yaml).unwrap();
        let sets =
            ["run.0.train.steps=2", "run.0.train.batch_bytes=2048", "run.1.evaluate.limit=4"];
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = [name].into_iter().chain(sets).collect();
        let run = stdout(&plugin(&args, dir.path()));
        let run = run.trim_end().lines().last().unwrap().to_owned();
        Command::new(env!("CARGO_BIN_EXE_newline-plugin"))
            .args(["generate", name, "--checkpoint", &format!("{run}/checkpoints/0-train/final")])
            .args(["--goal", "loss", "--bytes", "20", "--variant", "newline"])
            .current_dir(dir.path())
            .output()
            .unwrap()
    };
    let yaml = yaml
        .split("report:")
        .next()
        .unwrap()
        .replace("  stride-6: {graph.patches: {node: StridePatch, in: docs, stride: 6}}\n", "");
    let output = write("newline.yaml", &yaml);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout(&output).len() > 1);

    let decoder = "{node: LocalDecoder, in: {bytes: encoder.bytes, patches: latent}, layers: 1, heads: 2, window: 64}";
    assert!(yaml.contains(decoder));
    let thin =
        "{node: ThinDecoder, in: {bytes: encoder.bytes, patches: latent}, heads: 2, eps: 1e-5}";
    let output = write("thin.yaml", &yaml.replace(decoder, thin));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for say in ["does not run id by id", "ThinDecoder", "Facilities::decode", "thin.yaml:"] {
        assert!(stderr.contains(say), "no `{say}` in {stderr}");
    }
}

#[test]
fn its_source_feeds_the_built_in_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = concat!(env!("CARGO_MANIFEST_DIR"), "/newline.yaml");
    let docs =
        "graph.docs={node: CodeFiles, path: ., suffixes: [.rs], split: {valid: 0.4, by: path}}";
    let run = "run=[{evaluate: {goal: loss, split: all, metrics: [top5]}}]";
    let output = plugin(&[yaml, "--variant", "newline", "--set", docs, "--set", run], dir.path());
    let run = dir.path().join(stdout(&output).trim_end().lines().last().unwrap());
    let results: Value =
        serde_json::from_slice(&fs::read(run.join("results.json")).unwrap()).unwrap();
    let evaluated = &results["variants"]["newline"];
    let files = |dir: &str| {
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap();
        files.map(|file| fs::metadata(file.unwrap().path()).unwrap().len()).collect::<Vec<_>>()
    };
    let files = [files("src"), files("tests")].concat();
    assert_eq!(evaluated["documents"], files.len());
    assert_eq!(evaluated["bytes"], files.iter().sum::<u64>());
}

#[test]
fn a_misspelt_parameter_is_refused_as_that_of_a_built_in_node() {
    let yaml = concat!(env!("CARGO_MANIFEST_DIR"), "/newline.yaml");
    let set = "graph.patches.max_patch_lenght=4";
    let output = Command::new(env!("CARGO_BIN_EXE_newline-plugin"))
        .args(["check", yaml, "--set", set])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("`max_patch_lenght`") && stderr.contains("did you mean"), "{stderr}");
}

#[test]
fn no_source_outside_this_crate_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut open: Vec<PathBuf> =
        ["src", "blt-core", "blt-graph", "blt-plugins"].map(|dir| root.join(dir)).into();
    let mut read = 0;
    while let Some(dir) = open.pop() {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "toml") {
                read += 1;
                let source = fs::read_to_string(&path).unwrap();
                for name in [
                    "NewlinePatch",
                    "newline_patch",
                    "newline-plugin",
                    "TopKAccuracy",
                    "ThinDecoder",
                    "CodeFiles",
                ] {
                    assert!(!source.contains(name), "{} names {name}", path.display());
                }
            }
        }
    }
    assert!(read > 60, "only {read} sources were read");
}
