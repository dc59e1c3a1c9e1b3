//! Parameters to and from the struct of a node or step.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::registry::Origin;

/// The schema that `make` makes, made once for each entry: a check asks for it at every node.
pub(crate) fn schema_of(
    name: &'static str,
    origin: Origin,
    make: fn() -> schemars::Schema,
) -> &'static Value {
    type Entry = (&'static str, &'static str, u32);
    static MADE: Mutex<BTreeMap<Entry, &'static Value>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((name, origin.file, origin.line))
        .or_insert_with(|| Box::leak(Box::new(make().to_value())))
}

/// Why parameters do not fit their struct.
#[derive(Debug)]
pub(crate) struct ParamError {
    /// The place in the parameters: `split`, `valid`. Empty for the parameters as a whole.
    pub path: Vec<String>,
    /// serde's message.
    pub message: String,
}

/// The struct that `params` describe.
pub(crate) fn parse<T: DeserializeOwned>(params: &Value) -> Result<T, ParamError> {
    serde_path_to_error::deserialize(params).map_err(|error| ParamError {
        path: error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                Segment::Seq { index } => Some(index.to_string()),
                Segment::Map { key } => Some(key.clone()),
                Segment::Enum { .. } | Segment::Unknown => None,
            })
            .collect(),
        message: error.into_inner().to_string(),
    })
}

/// The parameters of `component`, defaults included.
pub(crate) fn write_params<T: Serialize>(component: &T) -> Result<Map<String, Value>, ParamError> {
    match serde_json::to_value(component) {
        Ok(Value::Object(params)) => Ok(params),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(ParamError {
            path: Vec::new(),
            message: format!("its parameters cannot be written down: {error}"),
        }),
    }
}
