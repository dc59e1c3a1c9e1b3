//! The tensors of a directory, memory-mapped: one `model.safetensors`, or shards with an index.

use super::{HfError, INDEX_FILE, TensorSpec, WEIGHTS_FILE};
use crate::strict;
use crate::tensor_file::{MappedTensor, TensorFile, TensorFileError};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// A directory's tensors. The files stay mapped as long as this or any [`MappedTensor`] of it
/// lives.
pub struct Weights {
    /// The file that lists the tensors: the index, or the one file.
    listing: PathBuf,
    /// The file that holds each tensor.
    files: BTreeMap<String, TensorFile>,
}

impl Weights {
    /// Opens `dir/model.safetensors` or, where there is none, the shards of
    /// `dir/model.safetensors.index.json`.
    ///
    /// # Errors
    /// No such files, a shard that is missing, truncated or corrupt, an index that disagrees with
    /// its shards.
    pub fn open(dir: &Path) -> Result<Self, HfError> {
        let (whole, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
        match TensorFile::open(&whole) {
            Err(e) if is_missing(&e) => {}
            Err(e) => return Err(e.into()),
            Ok(file) => {
                let mut weights = Weights { listing: whole, files: BTreeMap::new() };
                weights.add(&file)?;
                return Ok(weights);
            }
        }
        match strict::read(&index) {
            Ok(text) => Self::open_sharded(dir, index, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(HfError::NoWeights { dir: dir.to_owned() })
            }
            Err(source) => Err(HfError::Read { path: index, source }),
        }
    }

    fn open_sharded(dir: &Path, index: PathBuf, text: &[u8]) -> Result<Self, HfError> {
        let value =
            strict::json(text).map_err(|source| HfError::Json { path: index.clone(), source })?;
        let wrong = |key: &str, found: &Value| HfError::Index {
            index: index.clone(),
            key: key.into(),
            found: found.to_string(),
        };
        let map = value["weight_map"]
            .as_object()
            .ok_or_else(|| wrong("weight_map", &value["weight_map"]))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, file) in map {
            // A name that leads elsewhere would read files that the directory does not hold.
            let name =
                file.as_str().filter(|f| !f.is_empty() && !f.contains(['/', '\\']) && *f != "..");
            shards.entry(name.ok_or_else(|| wrong(key, file))?).or_default().push(key);
        }
        let mut weights = Weights { listing: index.clone(), files: BTreeMap::new() };
        for (shard, keys) in shards {
            let path = dir.join(shard);
            let file = TensorFile::open(&path).map_err(|e| match e {
                TensorFileError::Read { file, source }
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    HfError::MissingShard { index: index.clone(), file, source }
                }
                e => e.into(),
            })?;
            weights.add(&file)?;
            for key in keys {
                if weights.files.get(key).is_none_or(|f| f.path() != path) {
                    let (key, expected) = (key.into(), Vec::new());
                    return Err(TensorFileError::MissingKey { file: path, key, expected }.into());
                }
            }
        }
        match weights.files.iter().find(|(key, _)| !map.contains_key(*key)) {
            Some((key, file)) => Err(extra_key(key, file)),
            None => Ok(weights),
        }
    }

    fn add(&mut self, file: &TensorFile) -> Result<(), HfError> {
        for (key, _) in file.tensors() {
            if let Some(other) = self.files.insert(key.to_owned(), file.clone()) {
                let (file, other) = (file.path().to_owned(), other.path().to_owned());
                return Err(HfError::DuplicateKey { file, key: key.to_owned(), other });
            }
        }
        Ok(())
    }

    /// Names and shapes, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.files.iter().filter_map(|(key, file)| Some((key.as_str(), file.shape(key)?)))
    }

    /// The files that hold the tensors, by name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.values().map(TensorFile::path).collect::<BTreeSet<&Path>>().into_iter()
    }

    /// Compares the directory with what a configuration describes: every tensor is there, of its
    /// shape and of a type that is read, and no other. Reads headers alone; the numbers are checked
    /// when they are fetched.
    pub fn check(&self, expected: &[TensorSpec]) -> Result<(), HfError> {
        for spec in expected {
            self.file(&spec.name, &spec.shape)?.check(&spec.name, &spec.shape)?;
        }
        match self.files.iter().find(|(key, _)| !expected.iter().any(|s| s.name == **key)) {
            Some((key, file)) => Err(extra_key(key, file)),
            None => Ok(()),
        }
    }

    fn file(&self, key: &str, shape: &[usize]) -> Result<&TensorFile, TensorFileError> {
        self.files.get(key).ok_or_else(|| TensorFileError::MissingKey {
            file: self.listing.clone(),
            key: key.into(),
            expected: shape.to_vec(),
        })
    }

    /// The tensor `key` as it lies in the file. `shape` as checkpoints write it (a norm's weight is
    /// `[dim]`).
    ///
    /// # Errors
    /// No such key, another shape, a type that is not read, a number that is not finite.
    pub fn view(&self, key: &str, shape: &[usize]) -> Result<MappedTensor, HfError> {
        Ok(self.file(key, shape)?.view(key, shape)?)
    }

    /// The tensor `key` as f32, row-major; errors as `view`.
    pub fn get(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>, HfError> {
        Ok(self.view(key, shape)?.to_f32())
    }
}

fn is_missing(error: &TensorFileError) -> bool {
    matches!(error, TensorFileError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn extra_key(key: &str, file: &TensorFile) -> HfError {
    HfError::ExtraKey {
        file: file.path().to_owned(),
        key: key.to_owned(),
        found: file.shape(key).unwrap_or_default().to_vec(),
    }
}
