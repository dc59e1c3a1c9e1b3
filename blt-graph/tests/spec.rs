//! Specs: YAML and Rust say the same, and what is written is read back.

#[allow(dead_code)]
mod nodes;

use std::path::Path;

use blt_graph::spec::{Ablation, Axis, BASE_VARIANT, Inputs, NodeSpec, StepSpec};
use blt_graph::{ComputePath, Graph, GraphSpec, PipelineSpec, Plan, Wire, check_all, describe};
use nodes::{Add, Columns, Constant, Look, Number, Scale, Show, Sum};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const YAML: &str = "\
name: both
doc: The same in YAML and in Rust.
seed: 42
graph:
  a: {node: Constant, value: 1.5}
  b: {node: Scale, in: a, factor: 2.0}
  c: {node: Scale, in: {number: a, offset: b}, rule: relative}
  sum: {node: Add, in: {left: b, right: c}}
  text: {node: Show, in: sum, digits: 4, measure: true}
  columns: {node: Columns, in: text}
  long: {node: Scale, in: text.length}
run:
- sum: {goal: columns, steps: 10}
- look: {goal: long}
ablate:
  two: {graph.columns.heads: 2}
  other: {graph.c: {node: Scale, in: b, factor: 3.0}}
";

fn in_rust() -> PipelineSpec {
    let mut g = Graph::new();
    let a = g.add("a", Constant { value: 1.5 }, ());
    let b = g.add("b", Scale { factor: 2.0, ..Scale::default() }, (&a, None::<Wire<Number>>));
    let c = g.add("c", Scale { rule: nodes::Rule::Relative, ..Scale::default() }, (a.clone(), &b));
    let sum = g.add("sum", Add {}, (&b, c));
    let (text, length) = g.add("text", Show { digits: 4, measure: true }, &sum);
    g.add("columns", Columns { heads: 4 }, text);
    g.add("long", Scale::default(), (&length, None::<&Wire<Number>>));
    let mut spec = PipelineSpec::new("both", g.finish())
        .seeds([42])
        .step(Sum { goal: "columns".into(), steps: 10, fail_after: None, file: None })
        .step(Look { goal: "long".into(), note: String::new() })
        .variant("two", [("graph.columns.heads", json!(2))])
        .variant("other", [("graph.c", json!({"node": "Scale", "in": "b", "factor": 3.0}))]);
    spec.doc = Some("The same in YAML and in Rust.".into());
    spec
}

#[test]
fn yaml_and_rust_are_two_spellings_of_one_spec() {
    let from_yaml = PipelineSpec::parse(YAML, "both.yaml").unwrap();
    let from_rust = in_rust();
    assert_eq!(from_yaml, from_rust);
    assert_eq!(PipelineSpec::parse(&from_rust.to_yaml(), "x.yaml").unwrap(), from_rust);
    assert_eq!(from_yaml.written(), YAML);
    assert_eq!(check_all(&from_rust, Path::new(".")).unwrap().len(), 2);
}

#[test]
fn block_and_flow_style_anchors_and_quotes_say_the_same() {
    let flow = "graph: {a: {node: Constant, value: 1}, b: {node: Add, in: {left: a, right: a}}, c: {node: Constant, value: 1}}";
    let block = "\
# a comment
\"graph\":
  a: &one
    node: 'Constant'   # another
    value: 1
  b:
    node: Add
    in:
      left: a
      right: a
  c: *one
";
    assert_eq!(
        PipelineSpec::parse(block, "x.yaml").unwrap(),
        PipelineSpec::parse(flow, "x.yaml").unwrap()
    );
}

#[test]
fn the_name_is_the_files_unless_it_is_written() {
    let yaml = "graph:\n  a: {node: Constant, value: 1}\n";
    assert_eq!(PipelineSpec::parse(yaml, "pipelines/score.yaml").unwrap().name, "score");
    assert_eq!(PipelineSpec::parse(&format!("name: x\n{yaml}"), "score.yaml").unwrap().name, "x");
}

#[test]
fn a_wire_of_a_graph_in_rust_that_was_named_twice_is_found() {
    let mut g = Graph::new();
    g.add("a", Constant { value: 1.0 }, ());
    g.add("a", Constant { value: 2.0 }, ());
    let spec = PipelineSpec::new("twice", g.finish());
    let said = check_all(&spec, Path::new(".")).err().unwrap().to_string();
    assert!(said.contains("two nodes are called `a`"), "{said}");
}

#[test]
fn what_scalars_mean() {
    let yaml = "\
report:
  a: [1, -2, 0x1f, 0o17, 18446744073709551615, 007, 1_000]
  b: [1.0, 2e-3, .5, -1.5E+3, 1.]
  c: [true, False, yes, no, on, ~, null, '', '1', \"a\\tb\"]
  d: [inf, nan, infinity, +, 0x, e5, 1e5x]
  e: [!!str 5, !!int 5]
  f: |
    two
    lines
  g:
graph: {}
";
    let spec = PipelineSpec::parse(yaml, "s.yaml").unwrap_or_else(|e| panic!("{e}"));
    let expected = json!({
        "a": [1, -2, 31, 15, u64::MAX, "007", "1_000"],
        "b": [1.0, 0.002, 0.5, -1500.0, 1.0],
        "c": [true, false, "yes", "no", "on", null, null, "", "1", "a\tb"],
        "d": ["inf", "nan", "infinity", "+", "0x", "e5", "1e5x"],
        "e": ["5", 5],
        "f": "two\nlines\n",
        "g": null,
    });
    assert_eq!(Value::Object(spec.report), expected);
}

#[test]
fn variants_are_edits_of_the_whole() {
    let spec = PipelineSpec::parse(YAML, "both.yaml").unwrap();
    let variants = spec.variants().unwrap();
    let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["two", "other"]);
    assert_eq!(
        variants[0].spec.graph.node("columns").unwrap().params,
        *json!({"heads": 2}).as_object().unwrap()
    );
    assert_eq!(variants[1].spec.graph.node("c").unwrap().inputs, Inputs::One("b".into()));
    assert_eq!(variants[1].spec.graph.node("columns"), spec.graph.node("columns"));
    let alone = PipelineSpec::parse(&YAML[..YAML.find("ablate").unwrap()], "both.yaml").unwrap();
    assert_eq!(alone.ablate, Ablation::default());
    assert_eq!(alone.variants().unwrap()[0].name, BASE_VARIANT);
}

#[test]
fn a_grid_is_the_product_of_its_lists() {
    let yaml = "\
graph:
  a: {node: Constant, value: 1}
  b: {node: Scale, in: a}
  c: {node: Scale, in: b}
run: [sum: {goal: c}]
ablate:
  plain: {}
  grid:
    graph.b.factor: [1, 2]
    graph.c.factor: [3.5]
    graph.a: [{node: Constant, value: 5}, {node: Constant, value: 6}]
";
    let spec = PipelineSpec::parse(yaml, "grid.yaml").unwrap();
    let variants = spec.variants().unwrap();
    let names: Vec<&str> = variants.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "plain",
            "b.factor=1,c.factor=3.5,graph.a=Constant-1",
            "b.factor=1,c.factor=3.5,graph.a=Constant-2",
            "b.factor=2,c.factor=3.5,graph.a=Constant-1",
            "b.factor=2,c.factor=3.5,graph.a=Constant-2",
        ]
    );
    let last = &variants[4].spec.graph;
    let param = |node: &str, name: &str| last.node(node).unwrap().params[name].clone();
    assert_eq!(
        (param("a", "value"), param("b", "factor"), param("c", "factor")),
        (json!(6), json!(2), json!(3.5))
    );
}

#[test]
fn overrides_reach_what_is_written_and_what_has_a_default() {
    let spec = PipelineSpec::parse(YAML, "both.yaml").unwrap();
    let set =
        |assignment: &str| spec.set(assignment).unwrap_or_else(|e| panic!("{assignment}: {e}"));
    let params = |spec: &PipelineSpec, node: &str| {
        Value::Object(spec.graph.node(node).unwrap().params.clone())
    };
    assert_eq!(params(&set("graph.a.value=3"), "a"), json!({"value": 3}));
    assert_eq!(
        params(&set("graph.b.rule=relative"), "b"),
        json!({"factor": 2.0, "rule": "relative"})
    );
    // A part of a default: the rest of the default stays.
    let limits = json!({"factor": 2.0, "limits": {"low": -1e9, "high": 5}});
    assert_eq!(params(&set("graph.b.limits.high=5"), "b"), limits);
    // Another port beside a bare wire.
    let wires = Inputs::Map(vec![("number".into(), "a".into()), ("offset".into(), "a".into())]);
    assert_eq!(set("graph.b.in.offset=a").graph.node("b").unwrap().inputs, wires);
    assert_eq!(
        params(&set("graph.b = {node: Scale, in: a, sizes: [1, 2]}"), "b"),
        json!({"sizes": [1, 2]})
    );
    assert_eq!(set("run.0.sum.steps=7").run[0].params["steps"], json!(7));
    assert_eq!(set("seeds=[1, 2]").seeds, [1, 2]);
    assert_eq!(set("seed=9").seeds, [9]);
    assert_eq!(set("path=reference").compute_path, Some(ComputePath::Reference));
    assert_eq!(set("report.baseline=two").report["baseline"], json!("two"));
    assert_eq!(set("doc=").doc, None);
    // It wins over what a variant sets itself.
    let two = &set("graph.columns.heads=1").variants().unwrap()[0].spec;
    assert_eq!(params(two, "columns"), json!({"heads": 1}));
}

#[test]
fn fused_operations_are_taken_on_the_processor_alone() {
    let path = |lines: &str| {
        let spec = PipelineSpec::parse(&format!("{YAML}{lines}"), "both.yaml").unwrap();
        check_all(&spec, Path::new(".")).unwrap()[0].compute_path
    };
    assert_eq!(path(""), ComputePath::Fused);
    assert_eq!(path("device: cuda:1\n"), ComputePath::Reference);
    // As written; what computes says whether it can.
    assert_eq!(path("device: cuda\npath: fused\n"), ComputePath::Fused);
    assert_eq!(path("device: cpu\npath: reference\n"), ComputePath::Reference);
}

#[test]
fn a_plan_knows_shapes_order_and_use() {
    let spec = PipelineSpec::parse(YAML, "both.yaml").unwrap();
    let plans = check_all(&spec, Path::new("some/folder")).unwrap();
    let plan = &plans[1];
    assert_eq!((plan.variant.as_str(), plan.seed, plan.device.as_str()), ("other", 42, "cpu"));
    let goal = plan.goal("text").unwrap();
    assert!(goal.is::<nodes::Text>() && !goal.is::<Number>());
    assert_eq!(goal.info::<nodes::Text>().unwrap().width, 4);
    assert_eq!((goal.port, goal.node.entry.name), ("text", "Show"));
    let names: Vec<&str> =
        plan.needs(&["columns"]).unwrap().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "sum", "text", "columns"]);
    assert_eq!(plan.node("c").unwrap().params["factor"], json!(3.0));
    assert_eq!(plan.node("c").unwrap().params["rule"], json!("global"));
    assert_eq!(plan.node("c").unwrap().downcast::<Scale>().unwrap().factor, 3.0);
    assert!(plan.node("c").unwrap().downcast::<Add>().is_none());
    assert_eq!(plan.steps()[0].downcast::<Sum>().unwrap().steps, 10);
    assert!(plan.steps()[0].downcast::<Look>().is_none());
    let resolved = plan.resolved();
    let again = PipelineSpec::parse(&resolved.to_yaml(), "resolved.yaml").unwrap();
    assert_eq!(again, resolved);
    let plan_again = Plan::check(&again, "other", 42, Path::new(".")).unwrap();
    assert_eq!(plan_again.resolved(), resolved);
    let expected = "\
both (variant other, seed 42)
The same in YAML and in Rust.

graph
  a        Constant
             .value: Number
  b        Scale <- number: a.value
             .scaled: Number
  c        Scale <- number: b.scaled
             .scaled: Number
  sum      Add <- left: b.scaled, right: c.scaled
             .sum: Number
  text     Show <- sum.sum
             .text: Text { width: 4 }
             .length: Number
  columns  Columns <- text.text
             .count: Number
  long     Scale <- number: text.length
             .scaled: Number

run
  0  sum {goal: columns, steps: 10, fail_after: null, file: null}
  1  look {goal: long, note: \"\"}
";
    assert_eq!(describe(plan), expected);
}

#[test]
fn a_node_that_one_variant_uses_is_no_mistake() {
    let yaml = "\
graph:
  a: {node: Constant, value: 1}
  b: {node: Show, in: a, digits: 3}
  c: {node: Columns, in: b, heads: 3}
  d: {node: Scale, in: c}
run: [sum: {goal: d}]
ablate:
  all: {}
  direct: {graph.d.in: a}
";
    let plans = check_all(&PipelineSpec::parse(yaml, "x.yaml").unwrap(), Path::new(".")).unwrap();
    assert!(plans[0].node("b").unwrap().used && !plans[1].node("b").unwrap().used);
    assert!(describe(&plans[1]).contains("not used in this variant"));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9_.:,\\[\\]{}#&*!|>'\"%@`~ \\\\\n\t=<?+-]{0,12}",
        "\\PC{0,8}",
        prop::sample::select(vec![
            "null",
            "true",
            "No",
            "1e5",
            "0x1f",
            "007",
            "-",
            "~",
            ".inf",
            "1_0",
            "=",
            "<<",
            "0b1",
            "\u{85}",
            "a\u{2028} b",
            "\u{2029}\u{1f600}",
            "\u{feff}",
            "\u{7f}",
            "-.5",
            "+1",
            "1:30"
        ])
        .prop_map(String::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has finite numbers", |x| x.is_finite())
            .prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,6}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn params() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec(("p_[a-z0-9_.-]{0,6}", value()), 0..4)
        .prop_map(|entries| entries.into_iter().collect())
}

fn node() -> impl Strategy<Value = NodeSpec> {
    let inputs = prop_oneof![
        Just(Inputs::None),
        text().prop_map(Inputs::One),
        prop::collection::btree_map("[a-z]{1,5}", text(), 0..3)
            .prop_map(|map| Inputs::Map(map.into_iter().collect())),
    ];
    (text(), inputs, params(), prop::option::of(text())).prop_map(|(node, inputs, params, doc)| {
        NodeSpec { name: String::new(), node, inputs, params, doc }
    })
}

fn pipeline() -> impl Strategy<Value = PipelineSpec> {
    let graph = prop::collection::btree_map("[\\p{L}0-9_-]{1,6}", node(), 0..4).prop_map(|nodes| {
        GraphSpec {
            nodes: nodes.into_iter().map(|(name, node)| NodeSpec { name, ..node }).collect(),
        }
    });
    let step = ("[a-z]{1,6}", params()).prop_map(|(step, params)| StepSpec { step, params });
    let named = prop::collection::btree_map(
        "[a-z0-9-]{5,9}",
        prop::collection::btree_map("[a-z.]{1,8}", value(), 0..3)
            .prop_map(|map| map.into_iter().collect()),
        0..3,
    );
    (
        "[a-z][a-z _-]{0,8}[a-z]",
        prop::option::of(text()),
        prop::collection::btree_set(any::<u64>(), 1..3),
        graph,
        prop::collection::vec(step, 0..3),
        named,
        prop::collection::btree_map(
            "[a-z.]{1,8}",
            prop::collection::btree_set(any::<u8>(), 1..3),
            0..2,
        ),
        params(),
    )
        .prop_map(|(name, doc, seeds, graph, run, named, grid, report)| {
            let mut spec = PipelineSpec::new(name, graph);
            spec.doc = doc;
            spec.seeds = seeds.into_iter().collect();
            spec.run = run;
            spec.ablate.named = named.into_iter().collect();
            spec.ablate.grid = grid
                .into_iter()
                .map(|(k, v)| (k, Axis::Values(v.into_iter().map(Value::from).collect())))
                .collect();
            spec.report = report;
            spec
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_is_written_is_read_back(spec in pipeline()) {
        let yaml = spec.to_yaml();
        let again = PipelineSpec::parse(&yaml, "again.yaml");
        prop_assert_eq!(again.map_err(|e| format!("{e}\n{yaml}")), Ok(spec));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z0-9:,\\[\\]{}#&*!|>'\"% \n\t<?~日é\u{feff}-]{0,60}") {
        if let Err(diagnostics) = PipelineSpec::parse(&text, "x.yaml") {
            prop_assert!(!diagnostics.render(false).is_empty());
        }
    }
}
