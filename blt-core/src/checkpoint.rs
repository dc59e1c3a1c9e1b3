//! Parameters and optimiser moments as safetensors files, written whole or not at all.

use crate::backend::{Backend, BackendError};
use crate::params::NamedParam;
use crate::tensor_file::{self, TensorFile, TensorFileError, WriteError};
use safetensors::tensor::Dtype;
use std::io;
use std::path::{Path, PathBuf};

/// Version of the checkpoint format; a reader refuses one that it does not know.
pub const FORMAT: u32 = 1;
/// File names inside a checkpoint directory.
pub const MODEL_FILE: &str = "model.safetensors";
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot read checkpoint {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write checkpoint {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is not a whole safetensors file: {reason}")]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "{path} has no tensor `{name}`; it was written by another model, or `in`, sizes or layers differ"
    )]
    Missing { path: PathBuf, name: String },
    #[error(
        "{path}: tensor `{name}` is {found:?} {found_type:?}, the model wants {expected:?} F32"
    )]
    Shape {
        path: PathBuf,
        name: String,
        found: Vec<usize>,
        found_type: Dtype,
        expected: Vec<usize>,
    },
    #[error(
        "{path}: tensor `{name}` holds a value that is not finite; the training run that wrote it diverged"
    )]
    NotFinite { path: PathBuf, name: String },
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// In the words of checkpoints, whose tensors are all F32.
impl From<TensorFileError> for CheckpointError {
    fn from(error: TensorFileError) -> Self {
        match error {
            TensorFileError::Read { file: path, source } => CheckpointError::Read { path, source },
            TensorFileError::Truncated { file: path, source, .. }
            | TensorFileError::Corrupt { file: path, source } => {
                CheckpointError::Corrupt { path, reason: source.to_string() }
            }
            TensorFileError::Header { file: path, source } => {
                CheckpointError::Corrupt { path, reason: source.to_string() }
            }
            TensorFileError::MissingKey { file: path, key: name, .. } => {
                CheckpointError::Missing { path, name }
            }
            TensorFileError::Shape { file: path, key: name, expected, found, dtype } => {
                CheckpointError::Shape { path, name, found, found_type: dtype, expected }
            }
            TensorFileError::Type { file: path, key: name, shape, found, .. } => {
                let (found, found_type, expected) = (shape.clone(), found, shape);
                CheckpointError::Shape { path, name, found, found_type, expected }
            }
            TensorFileError::NotFinite { file: path, key: name, .. } => {
                CheckpointError::NotFinite { path, name }
            }
        }
    }
}

/// Writes named tensors to `path` through a temporary file in the same directory. Each is fetched
/// when its turn comes.
///
/// # Errors
/// What keeps the file from being written, or the first error of a fetch; `path` is then as before.
pub fn write_tensors<F: Fn() -> Result<Vec<f32>, BackendError>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, F)>,
) -> Result<(), CheckpointError> {
    let partial = path.with_extension("safetensors.partial");
    let written = tensor_file::write(&partial, tensors)
        .and_then(|()| std::fs::rename(&partial, path).map_err(WriteError::File));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        match error {
            WriteError::File(source) => CheckpointError::Write { path: path.to_owned(), source },
            WriteError::Fetch(error) => error.into(),
        }
    })
}

/// Writes `model.safetensors` for `params` into `dir`.
pub fn save_params(
    dir: &Path,
    params: &[NamedParam],
    backend: &dyn Backend,
) -> Result<(), CheckpointError> {
    let tensors =
        params.iter().map(|p| (p.name.clone(), p.stored_shape(), || backend.read_param(p.id)));
    write_tensors(&dir.join(MODEL_FILE), tensors)
}

/// Writes `optimizer.safetensors`: `m.NAME` and `v.NAME` of each parameter.
pub fn save_moments(
    dir: &Path,
    params: &[NamedParam],
    backend: &dyn Backend,
) -> Result<(), CheckpointError> {
    let moments = params.iter().flat_map(|p| [("m", p), ("v", p)]);
    let tensors = moments.map(|(which, p)| {
        let fetch = move || {
            let (m, v) = backend.moments(p.id)?;
            Ok(if which == "m" { m } else { v })
        };
        (format!("{which}.{}", p.name), p.stored_shape(), fetch)
    });
    write_tensors(&dir.join(OPTIMIZER_FILE), tensors)
}

/// Reads the moments of `params` from `dir/optimizer.safetensors`.
pub fn load_moments(
    dir: &Path,
    params: &[NamedParam],
    backend: &dyn Backend,
) -> Result<(), CheckpointError> {
    let file = TensorFile::open(&dir.join(OPTIMIZER_FILE))?;
    for p in params {
        let shape = p.stored_shape();
        let (m, v) = (
            file.get_f32(&format!("m.{}", p.name), &shape)?,
            file.get_f32(&format!("v.{}", p.name), &shape)?,
        );
        backend.write_moments(p.id, &m, &v)?;
    }
    Ok(())
}
