//! [`NodeEntry`]: a registered node.

use std::rc::Rc;

use serde_json::{Map, Value};

use crate::node::{AnyNode, Node};
use crate::port::{Ports, SlotType};
use crate::registry::{Origin, ParamError, parse, schema_of, write_params};
use crate::schema;

/// Registers a [`Node`]: `blt_graph::node!(StridePatch);`
#[macro_export]
macro_rules! node {
    ($node:ty) => {
        $crate::inventory::submit! {
            $crate::registry::NodeEntry::of::<$node>($crate::registry::Origin {
                krate: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                file: file!(),
                line: line!(),
            })
        }
    };
}

/// A registered node.
pub struct NodeEntry {
    /// [`Node::NAME`].
    pub name: &'static str,
    /// [`Node::INPUTS`].
    pub inputs: &'static [&'static str],
    /// [`Node::OUTPUTS`].
    pub outputs: &'static [&'static str],
    /// [`Node::EXAMPLE`].
    pub example: &'static str,
    /// Where it was registered.
    pub origin: Origin,
    in_slots: fn() -> Vec<SlotType>,
    out_slots: fn() -> Vec<SlotType>,
    schema: fn() -> schemars::Schema,
    parse: fn(&Value) -> Result<ParsedNode, ParamError>,
}

/// A node, made from its parameters.
pub(crate) struct ParsedNode {
    /// The parameters, defaults included.
    pub params: Map<String, Value>,
    pub node: Rc<dyn AnyNode>,
}

impl NodeEntry {
    /// The entry that [`node!`](crate::node!) submits.
    pub const fn of<N: Node>(origin: Origin) -> Self {
        NodeEntry {
            name: N::NAME,
            inputs: N::INPUTS,
            outputs: N::OUTPUTS,
            example: N::EXAMPLE,
            origin,
            in_slots: <N::In as Ports>::slots,
            out_slots: <N::Out as Ports>::slots,
            schema: || schemars::SchemaGenerator::default().into_root_schema_for::<N>(),
            parse: |params| {
                let node: N = parse(params)?;
                Ok(ParsedNode { params: write_params(&node)?, node: Rc::new(node) })
            },
        }
    }

    /// The types of the input ports, in order.
    pub fn in_slots(&self) -> Vec<SlotType> {
        (self.in_slots)()
    }

    /// The types of the output ports, in order.
    pub fn out_slots(&self) -> Vec<SlotType> {
        (self.out_slots)()
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> &'static Value {
        schema_of(self.name, self.origin, self.schema)
    }

    /// The doc comment.
    pub fn doc(&self) -> String {
        schema::doc(self.schema())
    }

    /// The index of the input that a bare `in: wire` feeds: the only input, or the only one that is
    /// not optional.
    pub(crate) fn bare_input(&self) -> Option<usize> {
        let slots = self.in_slots();
        if slots.len() == 1 {
            return Some(0);
        }
        let mut required = slots.iter().enumerate().filter(|(_, slot)| !slot.optional);
        match (required.next(), required.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    }

    pub(crate) fn parse(&self, params: &Value) -> Result<ParsedNode, ParamError> {
        (self.parse)(params)
    }
}

inventory::collect!(NodeEntry);
