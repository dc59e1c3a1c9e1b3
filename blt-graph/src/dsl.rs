//! [`Graph`]: a graph written in Rust. It makes the same [`GraphSpec`] as YAML does.
//!
//! ```
//! # use blt_graph::{BuildCx, CheckCx, Graph, Node, NodeError, Port, RunCx};
//! # use schemars::JsonSchema;
//! # use serde::{Deserialize, Serialize};
//! # enum Number {}
//! # impl Port for Number {
//! #     const NAME: &'static str = "Number";
//! #     const PORT: &'static str = "number";
//! #     type Value = f64;
//! #     type Info = ();
//! # }
//! # #[derive(Serialize, Deserialize, JsonSchema)]
//! # struct Constant { value: f64 }
//! # impl Node for Constant {
//! #     const NAME: &'static str = "Constant";
//! #     const INPUTS: &'static [&'static str] = &[];
//! #     const OUTPUTS: &'static [&'static str] = &["value"];
//! #     const EXAMPLE: &'static str = "{node: Constant, value: 1.0}";
//! #     type In = ();
//! #     type Out = Number;
//! #     type State = ();
//! #     fn check(&self, _: (), _: &CheckCx) -> Result<(), NodeError> { Ok(()) }
//! #     fn build(&self, _: (), _: &mut BuildCx) -> Result<(), NodeError> { Ok(()) }
//! #     fn run(&self, _: &(), _: (), _: &RunCx) -> Result<f64, NodeError> { Ok(self.value) }
//! # }
//! # #[derive(Serialize, Deserialize, JsonSchema)]
//! # struct Add {}
//! # impl Node for Add {
//! #     const NAME: &'static str = "Add";
//! #     const INPUTS: &'static [&'static str] = &["left", "right"];
//! #     const OUTPUTS: &'static [&'static str] = &["sum"];
//! #     const EXAMPLE: &'static str = "{node: Add, in: {left: a, right: b}}";
//! #     type In = (Number, Number);
//! #     type Out = Number;
//! #     type State = ();
//! #     fn check(&self, _: ((), ()), _: &CheckCx) -> Result<(), NodeError> { Ok(()) }
//! #     fn build(&self, _: ((), ()), _: &mut BuildCx) -> Result<(), NodeError> { Ok(()) }
//! #     fn run(&self, _: &(), (l, r): (f64, f64), _: &RunCx) -> Result<f64, NodeError> { Ok(l + r) }
//! # }
//! let mut g = Graph::new();
//! let two = g.add("two", Constant { value: 2.0 }, ());
//! let four = g.add("four", Add {}, (&two, &two));
//! let _eight = g.add("eight", Add {}, (&four, &four));
//! let spec = g.finish();
//! assert_eq!(spec.node("four").unwrap().node, "Add");
//! ```
//!
//! The type of a wire includes its port type, so a wire of the wrong type does not compile.

use serde_json::{Map, Value};

use crate::node::Node;
use crate::port::{IntoWires, Ports};
use crate::registry::{NodeEntry, Origin};
use crate::schema;
use crate::spec::{GraphSpec, Inputs, NodeSpec, PipelineSpec, StepSpec};
use crate::step::Step;

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Graph {
    spec: GraphSpec,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `node` as `name`, reading from `inputs`: `()` for none, a wire for one, a tuple of
    /// wires for more. Returns the wire of its output, or a tuple of wires. Names are checked
    /// later, with the rest of the graph.
    ///
    /// # Panics
    /// If `node` cannot be serialised, which derived `Serialize` on plain parameters always can.
    pub fn add<N: Node>(
        &mut self,
        name: &str,
        node: N,
        inputs: impl IntoWires<N::In>,
    ) -> <N::Out as Ports>::Wires {
        let origin = Origin { krate: "", version: "", file: "", line: 0 };
        let entry = NodeEntry::of::<N>(origin);
        let paths = inputs.paths();
        let given: Vec<usize> = (0..paths.len()).filter(|port| paths[*port].is_some()).collect();
        // The short form where YAML has one, so that the two specs are equal.
        let inputs = match given.as_slice() {
            [] => Inputs::None,
            [only] if entry.bare_input() == Some(*only) => {
                Inputs::One(paths[*only].clone().unwrap_or_default())
            }
            _ => {
                let wires = N::INPUTS
                    .iter()
                    .zip(paths)
                    .filter_map(|(port, wire)| Some((port.to_string(), wire?)));
                Inputs::Map(wires.collect())
            }
        };
        let params = written_params(&node, entry.schema());
        self.spec.nodes.push(NodeSpec {
            name: name.to_string(),
            node: N::NAME.to_string(),
            inputs,
            params,
            doc: None,
        });
        N::Out::wires(name, N::OUTPUTS)
    }

    /// The graph.
    pub fn finish(self) -> GraphSpec {
        self.spec
    }
}

/// The parameters that differ from their defaults, as a user would write them in YAML.
fn written_params(params: &impl serde::Serialize, schema: &Value) -> Map<String, Value> {
    let value =
        serde_json::to_value(params).expect("parameters are plain data, which can be serialised");
    let Value::Object(map) = value else { return Map::new() };
    let known = schema::params(schema);
    let is_default = |name: &str, value: &Value| {
        known.iter().any(|p| {
            p.name == name
                && !p.required
                && (p.default.as_ref() == Some(value) || (p.default.is_none() && value.is_null()))
        })
    };
    map.into_iter().filter(|(name, value)| !is_default(name, value)).collect()
}

impl PipelineSpec {
    /// Adds `step` after the others.
    ///
    /// # Panics
    /// If `step` cannot be serialised, which derived `Serialize` on plain parameters always can.
    #[must_use]
    pub fn step<S: Step>(mut self, step: S) -> Self {
        let schema = schemars::SchemaGenerator::default().into_root_schema_for::<S>().to_value();
        self.run
            .push(StepSpec { step: S::NAME.to_string(), params: written_params(&step, &schema) });
        self
    }

    /// Sets the seeds. The pipeline runs once with each, one after the other.
    #[must_use]
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = u64>) -> Self {
        self.seeds = seeds.into_iter().collect();
        self
    }

    /// Adds the variant `name`, which sets each path to a value.
    #[must_use]
    pub fn variant<'a>(
        mut self,
        name: &str,
        edits: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Self {
        let edits = edits.into_iter().map(|(path, value)| (path.to_string(), value)).collect();
        self.ablate.named.push((name.to_string(), edits));
        self
    }
}
