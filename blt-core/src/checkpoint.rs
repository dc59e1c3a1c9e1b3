//! Parameters and optimiser moments as safetensors files, written whole or not at all.

use crate::backend::Backend;
use crate::params::NamedParam;
use crate::tensor_file::{TensorFile, TensorFileError};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
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

/// A tensor's numbers, fetched when they are written: a file may be larger than the memory that is
/// left.
struct Pending<F> {
    shape: Vec<usize>,
    fetch: F,
}

impl<F: Fn() -> Vec<f32>> View for Pending<F> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(bytemuck::cast_slice(&(self.fetch)()).to_vec())
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// Writes named tensors to `path` through a temporary file in the same directory.
pub fn write_tensors<F: Fn() -> Vec<f32>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, F)>,
) -> Result<(), CheckpointError> {
    let pending = tensors.into_iter().map(|(name, shape, fetch)| (name, Pending { shape, fetch }));
    // `format: pt` is what the Python side asks for; a single entry, since the map's order is not
    // defined.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let partial = path.with_extension("safetensors.partial");
    let written = safetensors::serialize_to_file(pending, Some(metadata), &partial)
        .map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => e,
            other => io::Error::other(other),
        })
        .and_then(|()| readable_as_its_directory(&partial)?.sync_all())
        .and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&partial);
        CheckpointError::Write { path: path.to_owned(), source }
    })
}

/// Opens a file that the safetensors library wrote. It makes files that their owner alone can read;
/// a model is for whoever may read its directory.
pub(crate) fn readable_as_its_directory(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
        let mode = 0o600 | directory.permissions().mode() & 0o044;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
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
            let (m, v) = backend.moments(p.id);
            if which == "m" { m } else { v }
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
        backend.write_moments(p.id, &m, &v);
    }
    Ok(())
}
