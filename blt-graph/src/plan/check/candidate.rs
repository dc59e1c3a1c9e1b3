//! [`Candidate`]: a node whose kind is known.

use std::rc::Rc;

use serde_json::{Map, Value};

use crate::diagnostic::Diagnostic;
use crate::node::AnyNode;
use crate::plan::find::{Named, PortId};
use crate::plan::params::{check_params, parsed};
use crate::registry::{NodeEntry, find, unknown};
use crate::spec::{NodeSpec, PipelineSpec};

/// A node on its way into a plan.
pub(super) struct Candidate<'a> {
    pub spec: &'a NodeSpec,
    pub entry: &'static NodeEntry,
    /// The node and its parameters, defaults included; `None` if the parameters are wrong.
    pub node: Option<(Rc<dyn AnyNode>, Map<String, Value>)>,
    /// The wire into each input, as far as it is right.
    pub inputs: Vec<Option<PortId>>,
    /// Whether all wires are right.
    pub wired: bool,
}

impl Named for Candidate<'_> {
    fn name(&self) -> &str {
        &self.spec.name
    }
    fn entry(&self) -> &'static NodeEntry {
        self.entry
    }
}

impl<'a> Candidate<'a> {
    /// Looks up the kind of `node` and reads its parameters. `None` if there is no such kind.
    pub(super) fn new(
        spec: &'a PipelineSpec,
        node: &'a NodeSpec,
        found: &mut Vec<Diagnostic>,
    ) -> Option<Self> {
        let places = &spec.places;
        let path = ["graph", node.name.as_str()];
        let Some(entry) = find(&node.node) else {
            if node.node.is_empty() {
                // It has no kind, which its form was refused for.
                return None;
            }
            let path = ["graph", &node.name, "node"];
            let mut diagnostic = unknown("node", &node.node).at(places.value(&path));
            diagnostic.path = path.join(".");
            found.push(diagnostic);
            return None;
        };
        let what = format!("`{}` ({})", node.name, entry.name);
        let schema = entry.schema();
        let mut kept = None;
        if check_params(schema, &node.params, places, &path, &what, found) {
            let read = |params: &Value| entry.parse(params);
            let at = (places, &path[..]);
            kept = parsed(schema, &node.params, at, &what, found, read)
                .map(|node| (node.node, node.params));
        }
        let inputs = vec![None; entry.inputs.len()];
        Some(Candidate { spec: node, entry, node: kept, inputs, wired: false })
    }
}
