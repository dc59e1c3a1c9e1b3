//! Grids with groups of options, and overrides of variants.

#[allow(dead_code)]
mod nodes;

use std::path::Path;

use blt_graph::{PipelineSpec, Plan, check_all, merge_same};
use serde_json::{Value, json};

const GRAPH: &str = "\
graph:
  a: {node: Constant, value: 1}
  b: {node: Scale, in: a, factor: 2}
run: [sum: {goal: b, steps: 3}]
";

fn parse(ablate: &str) -> PipelineSpec {
    let yaml = format!("{GRAPH}{ablate}");
    PipelineSpec::parse(&yaml, "sweep.yaml").unwrap_or_else(|e| panic!("{e}"))
}

fn refused(ablate: &str) -> String {
    let spec = PipelineSpec::parse(&format!("{GRAPH}{ablate}"), "sweep.yaml");
    spec.and_then(|spec| spec.variants().map(|_| ())).expect_err(ablate).to_string()
}

fn plans(spec: &PipelineSpec) -> Vec<Plan> {
    check_all(spec, Path::new(".")).unwrap_or_else(|e| panic!("{e}"))
}

/// Each variant's name, with the value of `a`, the factor of `b` and the steps.
fn made(plans: &[Plan]) -> Vec<(&str, Value)> {
    let param = |plan: &Plan, node: &str, name: &str| plan.node(node).unwrap().params[name].clone();
    let steps = |plan: &Plan| plan.spec.run[0].params["steps"].clone();
    plans
        .iter()
        .map(|plan| {
            let numbers = (param(plan, "a", "value"), param(plan, "b", "factor"), steps(plan));
            (plan.variant.as_str(), json!(numbers))
        })
        .collect()
}

#[test]
fn groups_of_options_multiply_with_paths() {
    let spec = parse(
        "ablate:
  plain: {}
  grid:
    size: {1M: {}, 3M: {graph.a.value: 3.0, run.0.sum.steps: 9}}
    scale: {half: {graph.b.factor: 0.5}, other: {graph.b: {node: Scale, in: a, factor: 7.0}}}
    graph.b.in: [a]
",
    );
    let plans = plans(&spec);
    assert_eq!(
        made(&plans),
        [
            ("plain", json!([1.0, 2.0, 3])),
            ("size=1M,scale=half,in=a", json!([1.0, 0.5, 3])),
            ("size=1M,scale=other,in=a", json!([1.0, 7.0, 3])),
            ("size=3M,scale=half,in=a", json!([3.0, 0.5, 9])),
            ("size=3M,scale=other,in=a", json!([3.0, 7.0, 9])),
        ]
    );
    let again = PipelineSpec::parse(&spec.to_yaml(), "again.yaml").unwrap();
    assert_eq!(again.ablate, spec.ablate);
}

#[test]
fn a_path_ends_where_it_differs_from_other_paths_and_from_groups() {
    let spec = parse(
        "ablate: {grid: {factor: {x: {graph.a.value: 5}}, graph.b.factor: [4], run.0.sum.steps: [1]}}\n",
    );
    assert_eq!(spec.variant_names().unwrap(), ["factor=x,b.factor=4,sum.steps=1"]);
}

#[test]
fn bad_grids_are_refused_with_their_place() {
    for (grid, says) in [
        ("size: {}", "`size` should be a list of values, or a map from options"),
        ("size: {1M: 3}", "`1M` should be a map from paths to values, and is a number"),
        ("graph.b: {x: {}}", "`graph.b` is a path, and wants a list of values"),
        ("path: {fused: {}}", "`path` is a path, and wants a list of values"),
        ("size: {a/b: {}}", "`a/b` cannot be a part of a variant's name"),
        ("'s=t': {a: {}}", "`s=t` cannot be a part of a variant's name"),
        ("size: {a: {}, b: {}}", "`b` sets the same as `a`"),
        ("size: {a: {graph.c.value: 1}}", "`graph.c.value` names nothing"),
        (
            "size: {a: {graph.a.value: 1}, b: {}}, graph.a.value: [2, 3]",
            "`graph.a.value` replaces `graph.a.value`, which `size` sets",
        ),
        (
            "size: {a: {graph.b.factor: 1}}, scale: {x: {graph.b: {node: Scale, in: a}}}",
            "`scale` replaces `graph.b.factor`, which `size` sets",
        ),
    ] {
        let said = refused(&format!("ablate: {{grid: {{{grid}}}}}\n"));
        assert!(said.contains(says) && said.contains("sweep.yaml:5"), "{grid}: {said}");
    }
}

#[test]
fn a_grid_that_is_too_large_is_refused_before_it_is_made() {
    let values = format!("{:?}", (0..1000).collect::<Vec<_>>());
    let said = refused(&format!("ablate: {{grid: {{seed: {values}, graph.a.value: {values}}}}}\n"));
    assert!(said.contains("1000 x 1000 = 1000000 variants, and at most 10000"), "{said}");
    let axis = |i: usize| format!("o{i}: {{a: {{}}, b: {{graph.a.value: {i}}}}}");
    let axes = |n| (0..n).map(axis).collect::<Vec<_>>().join(", ");
    // Values that hide each other are told first, so these are counted alone.
    let mut spec = parse(&format!("ablate: {{grid: {{{}}}}}\n", axis(0)));
    let one = spec.ablate.grid[0].clone();
    spec.ablate.grid = (0..64).map(|i| (format!("o{i}"), one.1.clone())).collect();
    let said = spec.variants().unwrap_err().to_string();
    assert!(said.contains(" = more than 2^64 variants"), "{said}");
    assert!(refused(&format!("ablate: {{grid: {{{}}}}}\n", axes(2))).contains("replaces"));
}

#[test]
fn an_override_is_the_last_word_and_may_name_one_variant() {
    let ablate = "ablate:
  short: {run.0.sum.steps: 2}
  long:  {run.0.sum.steps: 7}
  other: {graph.b: {node: Look, in: a}, graph.a.value: 4, run: [look: {goal: a}]}
  grid: {graph.b.factor: [5, 6]}
report: {baseline: long}
";
    let spec = parse(&ablate.replace("node: Look, in: a", "node: Show, in: a, digits: 3"));
    let set = |spec: &PipelineSpec, assignment: &str| {
        spec.set(assignment).unwrap_or_else(|e| panic!("{assignment}: {e}"))
    };
    let wins = set(&spec, "graph.a.value=9");
    for plan in plans(&wins) {
        assert_eq!(plan.node("a").unwrap().params["value"], json!(9.0), "{}", plan.variant);
    }

    // What an override made the same runs once; the baseline is the one that stays.
    let same = set(&set(&spec, "run.0.sum.steps=1"), "long:graph.b.factor=2");
    let (kept, said) = merge_same(plans(&same), Some("long"));
    let names: Vec<&str> = kept.iter().map(|plan| plan.variant.as_str()).collect();
    assert_eq!(names, ["long", "other", "factor=5", "factor=6"]);
    assert_eq!(
        said,
        [
            "--set run.0.sum.steps changes nothing in `other`, where the path names nothing",
            "--set made `short` the same as `long`, which runs for all of them",
        ]
    );
    let (kept, _) = merge_same(plans(&same), None);
    assert_eq!(kept[0].variant, "short");
    // Nothing is left out that was written twice.
    let twice = parse("ablate: {one: {}, two: {}}\n");
    assert_eq!(merge_same(plans(&twice), None).0.len(), 2);
    assert_eq!(merge_same(plans(&set(&twice, "seed=3")), None).0.len(), 2);

    // One variant, and what it put there.
    let one = set(&set(&spec, "other:graph.b.digits=5"), "factor=5:graph.a.value=8");
    let plans = plans(&one);
    let value = |i: usize| plans[i].node("a").unwrap().params["value"].clone();
    assert_eq!(plans[2].node("b").unwrap().params["digits"], json!(5));
    assert_eq!([value(0), value(3), value(4)], [json!(1.0), json!(8.0), json!(1.0)]);
    for (assignment, says) in [
        ("short:graph.b.digits=5", "`graph.b.digits` names nothing: `b` (Scale) has no `digits`"),
        ("graph.b.digits=5", "`graph.b.digits` names nothing"),
        ("shrot:graph.a.value=5", "`shrot:graph.a.value` names nothing"),
    ] {
        let said = spec.set(assignment).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
    let base = parse("");
    let one = set(&base, "base:graph.a.value=5");
    assert_eq!(made(&self::plans(&one)), [("base", json!([5.0, 2.0, 3]))]);
}
