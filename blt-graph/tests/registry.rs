//! The registry, walked; and what it says of itself.

#[allow(dead_code)]
mod nodes;

use blt_graph::{help, registry, testing};

#[test]
fn every_node_and_step_is_documented_and_its_example_fits() {
    let names: Vec<&str> = registry::nodes().iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["Add", "Columns", "Constant", "Scale", "Show", "Source"]);
    let steps: Vec<&str> = registry::steps().iter().map(|entry| entry.name).collect();
    assert_eq!(steps, ["look", "sum"]);
    assert_eq!(testing::self_test(), [""; 0]);
    let origin = registry::find("Scale").unwrap().origin;
    assert_eq!((origin.krate, origin.version), (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")));
    assert!(origin.file.ends_with("nodes/mod.rs") && origin.line > 1);
}

#[test]
fn help_is_the_doc_comment_ports_parameters_and_an_example() {
    let version = env!("CARGO_PKG_VERSION");
    let scale = format!(
        "\
Scale (node, blt-graph {version})

Multiplies a number, and adds an offset if there is one.

The result is held within limits.

Inputs:
  number  Number (what a bare `in: wire` feeds)
  offset  Number (may be left out)

Outputs:
  scaled  Number

Parameters:
  factor: number (default 1.0)
      What to multiply by.
  rule: \"global\" or \"relative\" (default \"global\")
      How.
      `global`: By the factor.
      `relative`: By the factor and the limit.
  limits: {{low: number, high: number}} (default {{\"low\":-1000000000.0,\"high\":1000000000.0}})
      The bounds of the result.
  sizes: list of integer >= 0 (default [])
      Sizes that nobody needs.

Example:
  {{node: Scale, in: x, factor: 2.0, limits: {{low: 0.0, high: 9.0}}}}
"
    );
    assert_eq!(help("node", "Scale").unwrap(), scale);
    let show = help("node", "Show").unwrap();
    assert!(show.contains("  text    Text (what a bare wire to the node means)\n"), "{show}");
    assert!(show.contains("  length  Number (computed when used)\n"), "{show}");
    let sum = help("step", "sum").unwrap();
    assert!(sum.starts_with("sum (step, ") && sum.contains("  goal: string (required)\n"), "{sum}");
    assert!(sum.contains("  fail_after: integer >= 0 (may be left out)\n"), "{sum}");
    let unknown = help("node", "Scael").unwrap_err().to_string();
    assert!(
        unknown.contains("no node is called `Scael`") && unknown.contains("did you mean `Scale`?"),
        "{unknown}"
    );
    assert!(help("step", "loook").unwrap_err().to_string().contains("`look`"));
}
