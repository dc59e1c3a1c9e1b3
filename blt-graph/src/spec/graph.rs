//! [`GraphSpec`]: a graph as written.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Keys of a node in YAML that are not parameters.
pub const RESERVED: [&str; 3] = ["node", "in", "doc"];

/// Whether `name` can be written in wires and document paths: letters, digits, `_` and `-`, not
/// empty.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// The nodes of a graph, in the order written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GraphSpec {
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// One node of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// The node's name in the graph.
    pub name: String,
    /// The kind of node: [`Node::NAME`](crate::Node::NAME).
    pub node: String,
    /// The wires into it.
    pub inputs: Inputs,
    /// The parameters that are written.
    pub params: Map<String, Value>,
    /// The author's comment.
    pub doc: Option<String>,
}

/// A node's wires; each is `node` or `node.port`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Inputs {
    /// No `in:`.
    #[default]
    None,
    /// `in: wire`.
    One(String),
    /// `in: {port: wire}`.
    Map(Vec<(String, String)>),
}

impl GraphSpec {
    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The nodes that `goals` (`node` or `node.port`) need, in the order written.
    pub fn needed<S: AsRef<str>>(&self, goals: &[S]) -> GraphSpec {
        let name = |wire: &str| wire.split('.').next().unwrap_or_default().to_owned();
        let mut open: Vec<String> = goals.iter().map(|goal| name(goal.as_ref())).collect();
        let mut found = BTreeSet::new();
        while let Some(node) = open.pop() {
            if found.insert(node.clone()) {
                match self.node(&node).map(|node| &node.inputs) {
                    Some(Inputs::One(wire)) => open.push(name(wire)),
                    Some(Inputs::Map(wires)) => {
                        open.extend(wires.iter().map(|(_, wire)| name(wire)))
                    }
                    Some(Inputs::None) | None => {}
                }
            }
        }
        GraphSpec {
            nodes: self.nodes.iter().filter(|node| found.contains(&node.name)).cloned().collect(),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        self.nodes
            .iter()
            .map(|node| (node.name.clone(), node.to_value()))
            .collect::<Map<_, _>>()
            .into()
    }
}

impl NodeSpec {
    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("node".into(), json!(self.node));
        match &self.inputs {
            Inputs::None => {}
            Inputs::One(wire) => {
                map.insert("in".into(), json!(wire));
            }
            Inputs::Map(wires) => {
                let wires = wires.iter().map(|(port, wire)| (port.clone(), json!(wire)));
                map.insert("in".into(), Value::Object(wires.collect()));
            }
        }
        if let Some(doc) = &self.doc {
            map.insert("doc".into(), json!(doc));
        }
        map.extend(self.params.clone());
        Value::Object(map)
    }
}
