//! Parameters to and from the struct of a node or step.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

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
