//! [`StepEntry`]: a registered step.

use std::any::Any;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::registry::{Origin, ParamError, schema_of};
use crate::schema;

/// Registers a [`Step`](crate::Step): `blt_graph::step!(Train);`
#[macro_export]
macro_rules! step {
    ($step:ty) => {
        $crate::inventory::submit! {
            $crate::registry::StepEntry::of::<$step>($crate::registry::Origin {
                krate: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                file: file!(),
                line: line!(),
            })
        }
    };
}

/// A registered step.
pub struct StepEntry {
    /// [`Step::NAME`](crate::Step::NAME).
    pub name: &'static str,
    /// [`Step::EXAMPLE`](crate::Step::EXAMPLE).
    pub example: &'static str,
    /// Where it was registered.
    pub origin: Origin,
    pub(crate) schema: fn() -> schemars::Schema,
    pub(crate) parse: fn(&Value) -> Result<ParsedStep, ParamError>,
}

/// A step, made from its parameters.
#[derive(Clone)]
pub(crate) struct ParsedStep {
    /// The parameters, defaults included.
    pub params: Map<String, Value>,
    /// [`Step::goals`](crate::Step::goals).
    pub goals: Vec<String>,
    /// [`Step::feeds_later_steps`](crate::Step::feeds_later_steps).
    pub feeds_later_steps: bool,
    /// The step. Only `step.rs` knows its type.
    pub step: Rc<dyn Any>,
}

impl StepEntry {
    /// JSON Schema of the parameters.
    pub fn schema(&self) -> &'static Value {
        schema_of(self.name, self.origin, self.schema)
    }

    /// The doc comment.
    pub fn doc(&self) -> String {
        schema::doc(self.schema())
    }

    pub(crate) fn parse(&self, params: &Value) -> Result<ParsedStep, ParamError> {
        (self.parse)(params)
    }
}

inventory::collect!(StepEntry);
