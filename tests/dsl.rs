//! YAML and the Rust DSL are two spellings of one graph.

use blt::prelude::*;
use std::path::Path;

#[path = "../examples/dsl.rs"]
mod example;

/// The graph with every default written out, so that what is left out in one spelling may stand in the other.
fn resolved(graph: GraphSpec) -> GraphSpec {
    let pipeline = PipelineSpec::new("p", graph).step(Evaluate::new("loss"));
    let plan = blt_graph::Plan::check(&pipeline, "base", 0, Path::new(".")).unwrap_or_else(|e| panic!("{}", e.render(false)));
    plan.resolved().graph
}

#[test]
fn the_example_is_the_ablation_s_graph() {
    let yaml = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/ablation_patching.yaml");
    let yaml = PipelineSpec::read(yaml).unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!(resolved(example::graph()).to_value(), resolved(yaml.graph).to_value());
}

#[test]
fn the_dsl_round_trips_through_yaml() {
    let pipeline = PipelineSpec::new("p", example::graph()).step(Evaluate::new("loss"));
    let again = PipelineSpec::parse(&pipeline.to_yaml(), "p.yaml").unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!(again.to_yaml(), pipeline.to_yaml());
    assert_eq!(resolved(again.graph).to_value(), resolved(example::graph()).to_value());
}
