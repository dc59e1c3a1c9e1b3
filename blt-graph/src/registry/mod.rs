//! Every node and step that is linked into the program, by name.
//!
//! One line beside a node's `impl` registers it: [`node!`](crate::node!), or
//! [`step!`](crate::step!) for a step. There is no central list. A linker drops a crate that no
//! code names, so a program names it: `use my_plugin as _;`.

mod lookup;
mod node_entry;
mod origin;
mod params;
mod step_entry;

pub(crate) use lookup::unknown;
pub use lookup::{duplicates, find, find_step, nodes, steps};
pub use node_entry::NodeEntry;
pub use origin::Origin;
pub(crate) use params::{ParamError, parse, schema_of, write_params};
pub(crate) use step_entry::ParsedStep;
pub use step_entry::StepEntry;
