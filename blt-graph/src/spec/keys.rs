//! [`PipelineKeys`]: the keys of a pipeline, their texts and their forms. [`schema`] has them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde_json::Value;

use crate::spec::ComputePath;

/// A pipeline: a graph, the steps to run over it, and its variants.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is what is used; `reader.rs` reads the tree")]
struct PipelineKeys {
    /// The pipeline's name, and that of its folder in `runs/`. Without it, the name of the file.
    name: Option<String>,
    /// What the pipeline is for.
    doc: Option<String>,
    /// The seed of its runs, from 0 to 2^64 - 1; 0 without it. Initialisation and shuffling derive
    /// from it and from a node's name.
    seed: Option<u64>,
    /// Several seeds, in place of `seed`: each variant runs once with each, and intervals are over
    /// seeds too.
    #[schemars(length(min = 1))]
    seeds: Option<Vec<u64>>,
    /// Where to compute: `cpu` (the default), `cuda` (the first GPU) or `cuda:N`.
    device: Option<String>,
    /// The compute path. Without it, `fused` on the processor and `reference` on a GPU.
    path: Option<ComputePath>,
    /// The nodes by name. Each has `node`, its kind; `in`, the wires that come in; `doc`, a text;
    /// and its parameters. `blt-run nodes` lists the kinds.
    graph: BTreeMap<String, Value>,
    /// The steps, in order. Each is one key, the step, with its parameters. `blt-run steps` lists
    /// them.
    run: Option<Vec<Value>>,
    /// The variants: by name, a map from paths to the values that replace what is there, and `grid`.
    ablate: Option<Ablate>,
    /// What the report compares.
    report: Option<BTreeMap<String, Value>>,
}

/// The variants of a pipeline.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is what is used")]
struct Ablate {
    /// Makes a variant for each combination of its keys' choices. A key is a path with a list of
    /// values, or the name of a group with a map from options to the paths that they set.
    grid: Option<BTreeMap<String, Axis>>,
    #[serde(flatten)]
    named: BTreeMap<String, BTreeMap<String, Value>>,
}

/// The choices of a key of a grid.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "its schema is what is used")]
enum Axis {
    Values(#[schemars(length(min = 1))] Vec<Value>),
    Options(BTreeMap<String, BTreeMap<String, Value>>),
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    schemars::SchemaGenerator::default().into_root_schema_for::<PipelineKeys>().to_value()
});

/// The JSON Schema of a pipeline's keys, in which nodes, steps and `report` may be anything.
pub(crate) fn schema() -> &'static Value {
    &SCHEMA
}

/// The keys of a pipeline.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> + Clone {
    let properties = SCHEMA.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(key, _)| key.as_str())
}
