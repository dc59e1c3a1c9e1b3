//! Reading and writing the Hugging Face `BltForCausalLM` directory: `config.json` and
//! `model.safetensors`.
//!
//! [`HfConfig`] is a configuration as resolved, with that library's defaults filled in; [`Weights`]
//! are the tensors, memory-mapped. Parameter names are the model's own, so that nothing is renamed
//! either way. What a model here can be and the layout cannot say is refused, by name:
//! [`HfConfig::from_model`].

mod config;
mod export;
mod fields;
mod inert;
mod tensors;
mod weights;

pub use config::{HfConfig, HfPatcher, HfPatching};
pub use export::{
    ByteLmShape, CountsShape, ModelShape, PatchingShape, Unsupported, write_directory,
};
pub use tensors::TensorSpec;
pub use weights::Weights;

use crate::backend::BackendError;
use crate::tensor_file::TensorFileError;
use std::path::PathBuf;

/// File names inside a directory.
pub const CONFIG_FILE: &str = "config.json";
pub const WEIGHTS_FILE: &str = "model.safetensors";
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Why a directory cannot be read or written. Fields are dotted paths: `encoder_config.hidden_act`.
#[derive(Debug, thiserror::Error)]
pub enum HfError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },

    #[error("{file}: `{field}`: expected {expected}, found {found}")]
    Field { file: PathBuf, field: String, expected: String, found: String },
    #[error(
        "{file}: `{field}` = {found} is not supported and would change the numbers; supported: {expected}"
    )]
    UnsupportedField { file: PathBuf, field: String, expected: String, found: String },
    #[error(
        "{file}: unknown field `{field}` = {found}: it may change the numbers, so it is not skipped"
    )]
    UnknownField { file: PathBuf, field: String, found: String },

    #[error("{dir} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}")]
    NoWeights { dir: PathBuf },
    #[error("{index} names the shard {file}, which is not there: {source}")]
    MissingShard { index: PathBuf, file: PathBuf, source: std::io::Error },
    #[error("{index}: `{key}`: expected the name of a file in the same directory, found {found}")]
    Index { index: PathBuf, key: String, found: String },
    #[error(
        "{file}: unexpected tensor `{key}` of shape {found:?}; the model that config.json describes has no such parameter"
    )]
    ExtraKey { file: PathBuf, key: String, found: Vec<usize> },
    #[error("{file}: tensor `{key}` stands in {other} too; expected it once")]
    DuplicateKey { file: PathBuf, key: String, other: PathBuf },
    #[error("{dir} holds {found}, which is no part of a model directory: it is not overwritten")]
    Occupied { dir: PathBuf, found: String },
    #[error(transparent)]
    Tensor(#[from] TensorFileError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}
