//! Execution: only what goals need is built and run, each node once, values dropped after their
//! last use.

#[allow(dead_code)]
mod nodes;

use std::cell::RefCell;
use std::path::Path;
use std::rc::{Rc, Weak};

use blt_graph::{
    AnyValue, BuildCx, CheckCx, ErrorHelp, Graph, Live, Node, NodeError, NodeObserver,
    PipelineSpec, Plan, Port, RunCx, World, derive_seed,
};
use nodes::{Add, Constant, Measured, Number, Scale, Show, Source, Text, batch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

fn plan(yaml: &str) -> Plan {
    let spec = PipelineSpec::parse(yaml, "live.yaml").unwrap();
    Plan::check(&spec, "base", 5, Path::new(".")).unwrap_or_else(|error| panic!("{error}"))
}

const DIAMOND: &str = "\
graph:
  unused: {node: Constant, value: 9}
  sum: {node: Add, in: {left: twice, right: thrice}}
  thrice: {node: Scale, in: source, factor: 3}
  twice: {node: Scale, in: source, factor: 2}
  source: {node: Source}
  text: {node: Show, in: sum, digits: 1, measure: true}
  text2: {node: Show, in: sum, digits: 2}
  length: {node: Scale, in: text.length, factor: 10}
";

#[derive(Default)]
struct Log(RefCell<Vec<String>>);

impl NodeObserver for Log {
    fn before(&self, node: &str) {
        self.0.borrow_mut().push(format!("+{node}"));
    }
    fn after(&self, node: &str) {
        self.0.borrow_mut().push(format!("-{node}"));
    }
}

#[test]
fn each_needed_node_runs_once_after_its_inputs() {
    let log = Rc::new(Log::default());
    let live = Live::build(&plan(DIAMOND), &["text", "sum"], World::new()).unwrap();
    live.observe(log.clone());
    let names: Vec<&str> = live.nodes().collect();
    assert_eq!(names, ["source", "thrice", "twice", "sum", "text"]);
    let mut outputs = live.run(&batch(1.5), &["text", "sum.sum"]).unwrap();
    assert_eq!(outputs.get::<Number>("sum.sum").unwrap(), 7.5);
    assert_eq!(&*outputs.take::<Text>("text").unwrap(), "7.5");
    assert!(outputs.take::<Text>("text").is_err(), "it was taken");
    let expected = "+source -source +thrice -thrice +twice -twice +sum -sum +text -text";
    assert_eq!(log.0.take().join(" "), expected);
    // Another goal of the same graph needs less.
    assert_eq!(live.get::<Number>(&batch(2.0), "twice").unwrap(), 4.0);
    assert_eq!(log.0.take().join(" "), "+source -source +twice -twice");
    assert_eq!(live.facility::<Measured>("text").unwrap().0.get(), 0);
    assert!(live.facility::<Measured>("twice").is_none());
}

#[test]
fn a_given_value_takes_the_place_of_its_node_and_of_what_only_it_reads() {
    let log = Rc::new(Log::default());
    let live = Live::build(&plan(DIAMOND), &["sum"], World::new()).unwrap();
    live.observe(log.clone());
    let two = |wire| (wire, AnyValue::new::<Number>(2.0));
    // Two nodes at once, neither of them a source.
    assert_eq!(live.get::<Number>(&[two("twice"), two("thrice.scaled")], "sum").unwrap(), 4.0);
    assert_eq!(log.0.take().join(" "), "+thrice -thrice +twice -twice +sum -sum");
    let failed = |given: &[(&str, AnyValue)]| live.run(given, &["sum"]).unwrap_err().to_string();
    assert!(failed(&[]).contains("no step has handed in a batch"), "{}", failed(&[]));
    let text = ("source", AnyValue::new::<Text>("2".into()));
    assert!(failed(&[text]).contains("`source` carries Number, and is given Text"));
    assert!(failed(&[two("unused")]).contains("`unused` is not among the goals"));
}

#[test]
fn an_optional_output_is_computed_when_somebody_wants_it() {
    let measured = |goals: &[&str]| {
        let live = Live::build(&plan(DIAMOND), goals, World::new()).unwrap();
        live.run(&batch(1.0), goals).unwrap();
        live.facility::<Measured>("text").unwrap().0.get()
    };
    assert_eq!(measured(&["text"]), 0);
    assert_eq!(measured(&["text.length"]), 1);
    assert_eq!(measured(&["length"]), 1);
    assert_eq!(measured(&["text", "length", "text.length"]), 1);
}

#[test]
fn a_nodes_seed_depends_on_the_seed_and_its_name_alone() {
    let seeds = |yaml: &str, goals: &[&str]| {
        let live = Live::build(&plan(yaml), goals, World::new()).unwrap();
        live.facilities::<u64>().into_iter().map(|(name, seed)| (name, *seed)).collect::<Vec<_>>()
    };
    let both = seeds(DIAMOND, &["text2", "text"]);
    assert_eq!(
        both,
        [
            ("text".to_string(), derive_seed(5, "text")),
            ("text2".to_string(), derive_seed(5, "text2"))
        ]
    );
    let simple =
        "graph:\n  a: {node: Constant, value: 1}\n  text2: {node: Show, in: a, digits: 0}\n";
    assert_eq!(seeds(simple, &["text2"]), both[1..]);
    assert_ne!(derive_seed(5, "text"), derive_seed(6, "text"));
}

/// A value that tells when it is gone.
enum Tracked {}
impl Port for Tracked {
    const NAME: &'static str = "Tracked";
    const PORT: &'static str = "tracked";
    type Value = Rc<Vec<u8>>;
    type Info = ();
}

/// Makes a value, remembering a weak link to it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Make {}

#[derive(Default)]
struct Made(RefCell<Weak<Vec<u8>>>);

impl Node for Make {
    const NAME: &'static str = "Make";
    const INPUTS: &'static [&'static str] = &[];
    const OUTPUTS: &'static [&'static str] = &["value"];
    const EXAMPLE: &'static str = "{node: Make}";
    type In = ();
    type Out = Tracked;
    type State = ();
    fn check(&self, _: (), _: &CheckCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn build(&self, _: (), _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn run(&self, _: &(), _: (), cx: &RunCx) -> Result<Rc<Vec<u8>>, NodeError> {
        let value = Rc::new(vec![1, 2, 3]);
        cx.world.get::<Made>().unwrap().0.replace(Rc::downgrade(&value));
        Ok(value)
    }
}
blt_graph::node!(Make);

/// Adds up a value, and then drops it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Use {
    /// Whether it is the last to use the value, so that nobody else holds it.
    last: bool,
}

impl Node for Use {
    const NAME: &'static str = "Use";
    const INPUTS: &'static [&'static str] = &["value", "after"];
    const OUTPUTS: &'static [&'static str] = &["total"];
    const EXAMPLE: &'static str = "{node: Use, in: x, last: true}";
    type In = (Tracked, Option<Number>);
    type Out = Number;
    type State = ();
    fn check(&self, _: ((), Option<()>), _: &CheckCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn build(&self, _: ((), Option<()>), _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn run(
        &self,
        _: &(),
        (value, _): (Rc<Vec<u8>>, Option<f64>),
        cx: &RunCx,
    ) -> Result<f64, NodeError> {
        let made = cx.world.get::<Made>().unwrap();
        let total = f64::from(value.iter().sum::<u8>());
        assert_eq!(
            Rc::strong_count(&value) == 1,
            self.last,
            "the last reader alone holds the value"
        );
        drop(value);
        assert_eq!(made.0.borrow().upgrade().is_none(), self.last);
        Ok(total)
    }
}
blt_graph::node!(Use);

#[test]
fn a_value_is_dropped_after_its_last_use() {
    let mut g = Graph::new();
    let value = g.add("value", Make {}, ());
    let first = g.add("first", Use { last: false }, (&value, None::<blt_graph::Wire<Number>>));
    let last = g.add("last", Use { last: true }, (&value, &first));
    g.add("sum", Add {}, (first, last));
    let spec = PipelineSpec::new("drop", g.finish());
    let plan = Plan::check(&spec, "base", 0, Path::new(".")).unwrap();
    let mut world = World::new();
    world.insert(Made::default());
    let live = Live::build(&plan, &["sum"], world).unwrap();
    assert_eq!(live.get::<Number>(&[], "sum").unwrap(), 12.0);
}

/// Fails with an error of a library.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Full {}

impl Node for Full {
    const NAME: &'static str = "Full";
    const INPUTS: &'static [&'static str] = &[];
    const OUTPUTS: &'static [&'static str] = &["value"];
    const EXAMPLE: &'static str = "{node: Full}";
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
        Err(std::io::Error::other("the device is full"))?
    }
}
blt_graph::node!(Full);

#[test]
fn what_a_step_knows_of_an_error_is_the_help_of_its_diagnostic() {
    let plan = plan("graph:\n  full: {node: Full}\n");
    let failed = |world: World| {
        let live = Live::build(&plan, &["full"], world).unwrap();
        live.run(&[], &["full"]).unwrap_err()
    };
    let plain = failed(World::new());
    assert!(plain.diagnostics.to_string().contains("the device is full"), "{plain}");
    assert!(!plain.diagnostics.to_string().contains("use less"), "{plain}");
    assert!(plain.cause::<std::io::Error>().is_some());
    let mut world = World::new();
    world.insert(ErrorHelp(|error| {
        error.downcast_ref::<std::io::Error>().map(|_| "use less".to_owned())
    }));
    let helped = failed(world);
    assert!(helped.diagnostics.to_string().contains("use less"), "{helped}");
}

#[test]
fn a_graph_in_rust_runs() {
    let mut g = Graph::new();
    let source = g.add("source", Source { path: None }, ());
    let two = g.add("two", Constant { value: 2.0 }, ());
    let scaled = g.add("scaled", Scale { factor: 10.0, ..Scale::default() }, (&source, Some(&two)));
    let (_text, length) = g.add("text", Show { digits: 3, measure: true }, &scaled);
    let path = length.path();
    let plan =
        Plan::check(&PipelineSpec::new("rust", g.finish()), "base", 0, Path::new(".")).unwrap();
    let live = Live::build(&plan, &["text", &path], World::new()).unwrap();
    assert_eq!(path, "text.length");
    assert_eq!(live.get::<Number>(&batch(1.0), &path).unwrap(), 6.0);
    assert_eq!(&*live.get::<Text>(&batch(1.0), "text").unwrap(), "12.000");
}
