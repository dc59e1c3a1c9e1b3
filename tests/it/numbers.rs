//! Numbers that nobody means: each parameter of every node and step is tried at 12 integers or 8
//! floats. What cannot be is refused by `check`, with what is expected; nothing panics, and what
//! passes runs.

use crate::common::{PIPELINE, Place, text};
use crate::registry::{corpus, pipeline, role};
use blt::graph::registry;
use blt::graph::{Diagnostics, PipelineSpec, Plan, check_all};
use blt::plugins::need_of_plan;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const INTEGERS: [u64; 12] =
    [0, 1, 2, 3, 7, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 40) + 1, 1 << 53, 1 << 63, u64::MAX];
const FLOATS: [f64; 8] = [-1.0, 0.0, 1e-300, 0.5, 1.0, 1e3, 1e39, 1e308];

/// A number somewhere in the parameters: its path, and its schema.
struct Numeric {
    path: Vec<String>,
    schema: Value,
    /// Other keys that must be there beside it, in a map inside a parameter.
    beside: Map<String, Value>,
}

impl Numeric {
    fn is_integer(&self) -> bool {
        self.schema["type"].to_string().contains("integer")
    }

    fn values(&self) -> Vec<Value> {
        match self.is_integer() {
            true => INTEGERS.map(Value::from).to_vec(),
            false => FLOATS.map(Value::from).to_vec(),
        }
    }

    fn in_range(&self, value: &Value) -> bool {
        let bound = |name: &str| self.schema[name].as_f64().expect("a range");
        let value = value.as_f64().unwrap();
        (bound("minimum")..=bound("maximum")).contains(&value)
    }

    /// The parameters with `value` here.
    fn put(&self, params: &Map<String, Value>, value: &Value) -> Map<String, Value> {
        let mut of = value.clone();
        for (depth, key) in self.path.iter().enumerate().skip(1).rev() {
            of = match key.parse::<usize>() {
                // Lists of numbers, and pairs.
                Ok(index) => {
                    let default = params.get(&self.path[0]).cloned().unwrap_or(json!([0.5, 0.5]));
                    let mut list = default.as_array().cloned().unwrap_or_default();
                    list.resize(list.len().max(index + 1), of.clone());
                    list[index] = of;
                    Value::Array(list)
                }
                Err(_) => {
                    let mut map = if depth == 1 { self.beside.clone() } else { Map::new() };
                    map.insert(key.clone(), of);
                    Value::Object(map)
                }
            };
        }
        let mut params = params.clone();
        params.insert(self.path[0].clone(), of);
        params
    }
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|t| root.pointer(t.trim_start_matches('#')));
    target.unwrap_or(schema)
}

/// Every number in the parameters that a schema describes.
fn numbers(root: &Value) -> Vec<Numeric> {
    let mut found = Vec::new();
    walk(root, root, &mut Vec::new(), &Map::new(), &mut found);
    found
}

fn walk(
    root: &Value,
    schema: &Value,
    path: &mut Vec<String>,
    beside: &Map<String, Value>,
    found: &mut Vec<Numeric>,
) {
    let schema = resolve(root, schema);
    let types = schema["type"].to_string();
    if types.contains("integer") || types.contains("number") {
        let (path, schema, beside) = (path.clone(), schema.clone(), beside.clone());
        found.push(Numeric { path, schema, beside });
        return;
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for one in schema[key].as_array().into_iter().flatten() {
            walk(root, one, path, beside, found);
        }
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let mut others = Map::new();
        for other in schema["required"].as_array().into_iter().flatten().filter(|o| *o != name) {
            let other = other.as_str().unwrap();
            let of = resolve(root, &schema["properties"][other]);
            let least = of.get("minimum").cloned().unwrap_or(json!("scored"));
            others.insert(other.into(), least);
        }
        path.push(name.clone());
        walk(root, of, path, if path.len() > 1 { &others } else { beside }, found);
        path.pop();
    }
    let mut inside = |key: &str, of: &Value| {
        path.push(key.into());
        walk(root, of, path, beside, found);
        path.pop();
    };
    if schema["items"].is_object() {
        inside("0", &schema["items"]);
    }
    for (index, of) in schema["prefixItems"].as_array().into_iter().flatten().enumerate() {
        inside(&index.to_string(), of);
    }
    if schema["additionalProperties"].is_object() {
        inside("latent", &schema["additionalProperties"]);
    }
}

/// A pipeline in which one number is to be tried.
struct Tried {
    name: String,
    numeric: Numeric,
    spec: PipelineSpec,
    /// The step, by its index; else the node of this name.
    step: Option<usize>,
    node: &'static str,
}

impl Tried {
    fn with(&self, value: &Value) -> PipelineSpec {
        let mut spec = self.spec.clone();
        let params = match self.step {
            Some(index) => &mut spec.run[index].params,
            None => {
                let node = spec.graph.nodes.iter_mut().find(|node| node.name == self.node);
                &mut node.expect("the node under test").params
            }
        };
        *params = self.numeric.put(params, value);
        spec
    }

    fn check(&self, value: &Value) -> Result<Vec<Plan>, Diagnostics> {
        check_all(&self.with(value), Path::new("."))
    }
}

fn parse(yaml: &str) -> PipelineSpec {
    PipelineSpec::parse(yaml, "x.yaml").unwrap_or_else(|e| panic!("{yaml}\n{e}"))
}

/// Every number of every node and step that `blt-run` has.
fn all() -> Vec<Tried> {
    let mut all = Vec::new();
    let shipped = registry::nodes().into_iter().filter(|n| !n.origin.file.starts_with("tests/"));
    for entry in shipped {
        let spec = parse(&pipeline(entry).unwrap());
        let node = role(entry).unwrap();
        for numeric in numbers(entry.schema()) {
            let name = format!("{}.{}", entry.name, numeric.path.join("."));
            all.push(Tried { name, numeric, spec: spec.clone(), step: None, node });
        }
    }
    let graph = &PIPELINE[..PIPELINE.find("run:").unwrap()];
    let steps = registry::steps().into_iter();
    for entry in steps.filter(|step| !step.origin.file.starts_with("tests/")) {
        let spec = parse(&format!("{graph}run:\n  - {}\n", entry.example));
        for numeric in numbers(entry.schema()) {
            let name = format!("{}.{}", entry.name, numeric.path.join("."));
            all.push(Tried { name, numeric, spec: spec.clone(), step: Some(0), node: "" });
        }
    }
    all
}

#[test]
fn every_number_has_a_range_and_what_is_outside_is_refused_by_check() {
    let mut names = BTreeSet::new();
    for tried in all() {
        let Tried { name, numeric, .. } = &tried;
        names.insert(name.clone());
        let bounded =
            numeric.schema["minimum"].is_number() && numeric.schema["maximum"].is_number();
        assert!(bounded, "{name} has no range: write `#[range(1..=64)]` above it");
        for value in numeric.values() {
            let answer = tried.check(&value).err().map(|e| e.to_string());
            if !numeric.in_range(&value) {
                let answer = answer.unwrap_or_else(|| panic!("{name}: {value} passes"));
                let said = answer.contains(&format!(" is {value}; expected "));
                assert!(said, "{name}: {value}\n{answer}");
            }
        }
    }
    for name in [
        "ByteEmbed.ngrams.0",
        "train.betas.1",
        "train.lr_by.latent",
        "evaluate.match.bytes_per_patch",
    ] {
        assert!(names.contains(name), "{names:?}");
    }
    assert!(names.len() > 90, "{}: {names:?}", names.len());
}

/// Numbers of things that are done one after the other: a great one takes long, and nothing else.
const TIME: [&str; 7] = [
    "train.steps",
    "train.accumulate",
    "bench.accumulate",
    "bench.repeats",
    "bench.warmup",
    "bench.batches",
    "train.evaluate.bytes",
];

/// What passes `check` and needs little memory, run: the greatest number of every fifth parameter,
/// and all of all with `BLT_SWEEP=all`.
#[test]
fn what_check_lets_pass_runs_or_is_refused() {
    let every = std::env::var_os("BLT_SWEEP").is_some_and(|value| value == "all");
    let mut place = Place::new();
    corpus(&place);
    let mut ran = 0;
    // So that a fault is an error, and takes no memory from others.
    let limited = "ulimit -v 8000000; exec \"$@\"";
    let tried = all().into_iter().filter(|tried| !TIME.contains(&tried.name.as_str()));
    for tried in tried.step_by(if every { 1 } else { 5 }) {
        let cheap = |value: &&Value| {
            let plans = tried.check(value).unwrap_or_default();
            let need = plans.first().map(|plan| need_of_plan(plan).unwrap());
            need.is_some_and(|need| need.bytes < 64 << 20 && need.parameters < 4 << 20)
        };
        let values = tried.numeric.values();
        let mut passes: Vec<&Value> = values.iter().filter(cheap).collect();
        if !every {
            passes.drain(..passes.len().saturating_sub(1));
        }
        for value in passes {
            let mut spec = tried.with(value);
            for step in spec.run.iter_mut().filter(|step| step.step == "train") {
                step.params.insert("steps".into(), json!(1));
            }
            place = place.with(&spec.to_yaml());
            let mut command = std::process::Command::new("sh");
            command.current_dir(place.dir.path()).args(["-c", limited, "sh"]);
            command.arg(env!("CARGO_BIN_EXE_blt-run")).args(["pipeline.yaml", "--threads", "2"]);
            let output = command.output().unwrap();
            let (code, stderr) = (output.status.code(), text(&output.stderr));
            let told = code == Some(0) || code == Some(1) && stderr.contains("error: ");
            assert!(
                told && !stderr.contains("panicked"),
                "{} = {value}: {code:?}\n{stderr}",
                tried.name
            );
            ran += 1;
        }
    }
    assert!(ran > 10, "{ran}");
}

/// The sizes that the issue of this suite names, as a user writes them.
#[test]
fn absurd_sizes_are_refused_by_check_in_words() {
    let check = |place: &Place| {
        let output = place.command(&["check", "pipeline.yaml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let (wide, place) = ((1u64 << 40) + 1, Place::new);
    for (old, new, said) in [
        (
            "in: encoder.patches, dim: 32",
            format!("in: encoder.patches, dim: {wide}"),
            "is 1099511627777; expected integer from 1 to 1048576",
        ),
        ("ngrams: [3]", format!("ngrams: [{}]", 1u64 << 40), "`ngrams.0` of `embed`"),
        (
            "- train: {goal: loss, steps: 4, batch_bytes: 512",
            format!("- train: {{goal: loss, steps: 4, batch_bytes: {}", 1u64 << 60),
            "expected integer from 1 to 2147483647",
        ),
        // In range, one by one.
        (
            "in: encoder.patches, dim: 32, layers: 1",
            "in: encoder.patches, dim: 1048576, layers: 100".into(),
            "of memory",
        ),
        (
            "in: encoder.patches, dim: 32, layers: 1",
            "in: encoder.patches, dim: 32, ffn: 16000000, layers: 9000".into(),
            "most of its parameters",
        ),
        (
            "- train: {goal: loss, steps: 4, batch_bytes: 512",
            "- train: {goal: loss, steps: 4, accumulate: 1000000, batch_bytes: 2000000000".into(),
            "lower `batch_bytes` or `accumulate`",
        ),
    ] {
        let said_by = check(&place().edit(old, &new));
        assert!(said_by.contains(said), "{new}\n{said_by}");
    }
    let output = place().command(&["check", "pipeline.yaml"]).output().unwrap();
    let line = text(&output.stdout);
    assert!(line.contains(" parameters, at least 0.0") && line.contains(" GB of memory"), "{line}");
}

/// A value of megabytes is named, and not repeated.
#[test]
fn a_line_of_megabytes_is_not_printed_whole() {
    let long = "x".repeat(2_000_000);
    for (old, new) in [
        ("column: text", format!("colum: \"{long}\"")),
        ("node: Latent", format!("node: \"{long}\"")),
        ("split: {valid", format!("split: {{more: \"{long}\", valid")),
        (
            "layers: 1, heads: 2, window: 16}\n  patches",
            format!("layers: \"{long}\", heads: 2, window: 16}}\n  patches"),
        ),
    ] {
        let place = Place::new().edit(old, &new);
        let output = place.command(&["check", "pipeline.yaml"]).output().unwrap();
        let printed = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(printed.len() < 20_000 && printed.contains("pipeline.yaml:"), "{}", printed.len());
    }
}
