//! YAML and the Rust DSL are two spellings of one graph.

use blt::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[path = "../../examples/dsl.rs"]
mod example;

/// What a graph means: each node's kind, its parameters with every default written out, and its
/// wires as `node.port`.
fn meaning(graph: GraphSpec) -> BTreeMap<String, Value> {
    let pipeline = PipelineSpec::new("p", graph).step(Evaluate::new("loss"));
    let plan = blt_graph::Plan::check(&pipeline, "base", 0, Path::new("."))
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    let node = |n: &blt_graph::PlannedNode| {
        (n.name.clone(), json!([n.entry.name, n.params, plan.wires(n)]))
    };
    plan.nodes().iter().map(node).collect()
}

#[test]
fn the_example_is_the_ablation_s_graph() {
    let yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/ablation_patching.yaml");
    let yaml = PipelineSpec::read(yaml).unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!(meaning(example::graph()), meaning(yaml.graph));
}

#[test]
fn the_dsl_round_trips_through_yaml() {
    let pipeline = PipelineSpec::new("p", example::graph()).step(Evaluate::new("loss"));
    let again = PipelineSpec::parse(&pipeline.to_yaml(), "p.yaml")
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!(again.to_yaml(), pipeline.to_yaml());
    assert_eq!(meaning(again.graph), meaning(example::graph()));
}
