//! [`find_port`]: the node and output that a wire names.

use crate::diagnostic::{Diagnostic, list, nearest};
use crate::error::NodeError;
use crate::registry::NodeEntry;
use crate::spec::Places;

crate::code! {
    /// A wire or a goal leads to nothing.
    ///
    /// A wire is the name of a node, or `node.port` for one of its outputs; the bare name means the
    /// first output. `blt-run nodes NAME` names the outputs of a kind of node, `blt-run graph FILE`
    /// those of a pipeline.
    pub(crate) NO_WIRE = "BLT0301"
}

/// One output of one node of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortId {
    pub node: usize,
    pub port: usize,
}

/// A node with a name, as [`find_port`] needs it.
pub(crate) trait Named {
    fn name(&self) -> &str;
    fn entry(&self) -> &'static NodeEntry;
}

/// The error of a wire that names nothing.
pub(crate) struct Missing {
    message: String,
    suggestion: Option<String>,
    note: Option<String>,
}

impl Missing {
    /// The error, for a goal that a program asks for.
    pub fn into_error(self) -> NodeError {
        let error = NodeError::other(self.message);
        match self.suggestion {
            Some(suggestion) => error.help(format!("did you mean `{suggestion}`?")),
            None => error,
        }
    }

    /// The error, for a wire that is written at `path`.
    pub fn into_diagnostic(self, places: &Places, path: &[&str]) -> Diagnostic {
        let mut diagnostic =
            NO_WIRE.error(self.message).at(places.value(path)).suggest(self.suggestion);
        diagnostic.notes.extend(self.note);
        diagnostic.path = path.join(".");
        diagnostic
    }
}

/// The node and output that the wire `node` or `node.port` names.
pub(crate) fn find_port<N: Named>(wire: &str, nodes: &[N]) -> Result<(usize, usize), Missing> {
    let (name, port) = match wire.split_once('.') {
        Some((name, port)) => (name, Some(port)),
        None => (wire, None),
    };
    let Some(index) = nodes.iter().position(|node| node.name() == name) else {
        let near = nearest(name, nodes.iter().map(Named::name));
        return Err(Missing {
            message: format!("the graph has no node `{name}`"),
            suggestion: near
                .map(|near| port.map_or_else(|| near.to_string(), |port| format!("{near}.{port}"))),
            note: near
                .is_none()
                .then(|| format!("its nodes are {}", list(nodes.iter().map(Named::name)))),
        });
    };
    let outputs = nodes[index].entry().outputs;
    let Some(port) = port else { return Ok((index, 0)) };
    match outputs.iter().position(|output| *output == port) {
        Some(port) => Ok((index, port)),
        None => Err(Missing {
            message: format!("`{name}` ({}) has no output `{port}`", nodes[index].entry().name),
            suggestion: nearest(port, outputs.iter().copied()).map(|near| format!("{name}.{near}")),
            note: Some(format!("its outputs: {}", list(outputs.iter().copied()))),
        }),
    }
}

/// The message about output `port` of `node`, which the node's parameters turn off.
pub(crate) fn not_given(node: &impl Named, port: usize) -> String {
    let entry = node.entry();
    format!(
        "`{}` ({}) gives no `{}` with these parameters",
        node.name(),
        entry.name,
        entry.outputs[port]
    )
}
