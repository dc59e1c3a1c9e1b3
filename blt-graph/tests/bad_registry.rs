//! What the self test finds: nodes that are wrong on purpose, in a program of their own.

use std::path::Path;

use blt_graph::{BuildCx, CheckCx, Node, NodeError, PipelineSpec, Port, RunCx, check_all, testing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

enum Number {}
impl Port for Number {
    const NAME: &'static str = "Number";
    const PORT: &'static str = "number";
    type Value = f64;
    type Info = ();
}

macro_rules! constant {
    ($type:ident, $name:literal, $outputs:expr, $example:literal) => {
        impl Node for $type {
            const NAME: &'static str = $name;
            const INPUTS: &'static [&'static str] = &[];
            const OUTPUTS: &'static [&'static str] = $outputs;
            const EXAMPLE: &'static str = $example;
            type In = ();
            type Out = Number;
            type State = ();
            fn check(&self, _: (), _: &CheckCx) -> Result<(), NodeError> {
                Ok(())
            }
            fn build(&self, _: (), _: &mut BuildCx) -> Result<(), NodeError> {
                Ok(())
            }
            fn run(&self, _: &(), _: (), _: &RunCx) -> Result<f64, NodeError> {
                Ok(0.0)
            }
        }
        blt_graph::node!($type);
    };
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Undocumented {
    size: usize,
}
constant!(Undocumented, "Undocumented", &["value", "more"], "{node: Undocumented, sise: 3}");

/// Has a parameter that hides the node's wires.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Reserved {
    /// What?
    #[serde(rename = "in")]
    input: usize,
}
constant!(Reserved, "Reserved", &["a.b"], "{node: Other}");

/// One.
#[derive(Serialize, Deserialize, JsonSchema)]
struct One {}
constant!(One, "Twin", &["value"], "{node: Twin}");

/// Two.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Two {}
constant!(Two, "Twin", &["value"], "{node: Twin");

#[test]
fn the_self_test_finds_what_is_wrong() {
    let wrong = testing::self_test().join("\n");
    for expected in [
        "two nodes are called `Twin`: blt-graph",
        "Undocumented (blt-graph",
        "it has no doc comment",
        "parameter `size` has no doc comment",
        "OUTPUTS names 2 ports, its type has 1",
        "has no parameter `sise`",
        "a parameter may not be called `in`",
        "`a.b`: a port name is",
        "its example is of `Other`",
        "its example does not parse",
    ] {
        assert!(wrong.contains(expected), "not found: {expected}\nin:\n{wrong}");
    }
}

#[test]
fn a_name_claimed_twice_stops_every_pipeline() {
    let spec = PipelineSpec::parse("graph:\n  a: {node: Twin}\n", "x.yaml").unwrap();
    let said = check_all(&spec, Path::new(".")).err().unwrap().to_string();
    assert!(
        said.contains("two nodes are called `Twin`") && said.contains("bad_registry.rs:"),
        "{said}"
    );
}
