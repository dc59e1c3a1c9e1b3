//! The tensors of a directory, memory-mapped: one `model.safetensors`, or shards with an index.

use super::{HfError, INDEX_FILE, TensorSpec, WEIGHTS_FILE};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Storage types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    F32,
    Bf16,
    F16,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

struct Entry {
    shard: Arc<Shard>,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes in the shard's file.
    range: Range<usize>,
}

/// A directory's tensors. The files stay mapped as long as this or any [`MappedTensor`] of it
/// lives.
pub struct Weights {
    /// The file that lists the tensors: the index, or the one file.
    listing: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// One tensor as it lies in the mapped file, row-major little-endian, its numbers checked to be
/// finite. Cloning shares.
#[derive(Clone)]
pub struct MappedTensor {
    shard: Arc<Shard>,
    range: Range<usize>,
    pub dtype: WeightType,
    pub shape: Vec<usize>,
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
        match Shard::open(&whole) {
            Err(HfError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(shard) => {
                let mut weights = Weights { listing: whole, entries: BTreeMap::new() };
                weights.add(shard)?;
                return Ok(weights);
            }
        }
        match std::fs::read(&index) {
            Ok(text) => Self::open_sharded(dir, index, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(HfError::NoWeights { dir: dir.to_owned() })
            }
            Err(source) => Err(HfError::Read { path: index, source }),
        }
    }

    fn open_sharded(dir: &Path, index: PathBuf, text: &[u8]) -> Result<Self, HfError> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|source| HfError::Json { path: index.clone(), source })?;
        let wrong = |key: &str, found: &Value| HfError::Index {
            index: index.clone(),
            key: key.into(),
            found: found.to_string(),
        };
        let map = value["weight_map"]
            .as_object()
            .ok_or_else(|| wrong("weight_map", &value["weight_map"]))?;
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, file) in map {
            // A name that leads elsewhere would read files that the directory does not hold.
            let name =
                file.as_str().filter(|f| !f.is_empty() && !f.contains(['/', '\\']) && *f != "..");
            files.entry(name.ok_or_else(|| wrong(key, file))?).or_default().push(key);
        }
        let mut weights = Weights { listing: index.clone(), entries: BTreeMap::new() };
        for (file, keys) in files {
            let path = dir.join(file);
            let shard = Shard::open(&path).map_err(|e| match e {
                HfError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    HfError::MissingShard { index: index.clone(), file: path.clone(), source }
                }
                e => e,
            })?;
            weights.add(shard)?;
            for key in keys {
                if weights.entries.get(key).is_none_or(|e| e.shard.path != path) {
                    return Err(HfError::MissingKey {
                        file: path,
                        key: key.into(),
                        expected: Vec::new(),
                    });
                }
            }
        }
        if let Some((key, entry)) = weights.entries.iter().find(|(key, _)| !map.contains_key(*key))
        {
            let (file, found) = (entry.shard.path.clone(), entry.shape.clone());
            return Err(HfError::ExtraKey { file, key: key.clone(), found });
        }
        Ok(weights)
    }

    fn add(&mut self, shard: Shard) -> Result<(), HfError> {
        let shard = Arc::new(shard);
        let (header, metadata) = shard.header()?;
        for (key, info) in metadata.tensors() {
            let start = 8 + header;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let entry =
                Entry { shard: shard.clone(), dtype: info.dtype, shape: info.shape.clone(), range };
            if let Some(other) = self.entries.insert(key.clone(), entry) {
                let (file, other) = (shard.path.clone(), other.shard.path.clone());
                return Err(HfError::DuplicateKey { file, key, other });
            }
        }
        Ok(())
    }

    /// Names and shapes, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, e)| (name.as_str(), e.shape.as_slice()))
    }

    /// The files that hold the tensors, by name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files: std::collections::BTreeSet<&Path> =
            self.entries.values().map(|e| e.shard.path.as_path()).collect();
        files.into_iter()
    }

    /// Holds the directory against what a configuration describes: every tensor there, of its shape
    /// and of a type that is read, and no other. Looks at headers alone; the numbers are
    /// checked when they are fetched.
    pub fn check(&self, expected: &[TensorSpec]) -> Result<(), HfError> {
        for spec in expected {
            self.entry(&spec.name, &spec.shape)?;
        }
        for (key, entry) in &self.entries {
            if !expected.iter().any(|s| s.name == *key) {
                let (file, found) = (entry.shard.path.clone(), entry.shape.clone());
                return Err(HfError::ExtraKey { file, key: key.clone(), found });
            }
        }
        Ok(())
    }

    fn entry(&self, key: &str, shape: &[usize]) -> Result<(&Entry, WeightType), HfError> {
        let Some(entry) = self.entries.get(key) else {
            let (file, key) = (self.listing.clone(), key.into());
            return Err(HfError::MissingKey { file, key, expected: shape.to_vec() });
        };
        let file = || entry.shard.path.clone();
        if entry.shape != shape {
            let (expected, found) = (shape.to_vec(), entry.shape.clone());
            return Err(HfError::Shape { file: file(), key: key.into(), expected, found });
        }
        let dtype = match entry.dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::BF16 => WeightType::Bf16,
            Dtype::F16 => WeightType::F16,
            other => {
                return Err(HfError::Type {
                    file: file(),
                    key: key.into(),
                    found: format!("{other:?}"),
                });
            }
        };
        Ok((entry, dtype))
    }

    /// The tensor `key` as it lies in the file. `shape` as checkpoints write it (a norm's weight is
    /// `[dim]`).
    ///
    /// # Errors
    /// No such key, another shape, a type that is not read, a number that is not finite.
    pub fn view(&self, key: &str, shape: &[usize]) -> Result<MappedTensor, HfError> {
        let (entry, dtype) = self.entry(key, shape)?;
        let tensor = MappedTensor {
            shard: entry.shard.clone(),
            range: entry.range.clone(),
            dtype,
            shape: shape.to_vec(),
        };
        match tensor.first_not_finite() {
            None => Ok(tensor),
            Some((element, found)) => Err(HfError::NotFinite {
                file: entry.shard.path.clone(),
                key: key.into(),
                element,
                found,
            }),
        }
    }

    /// The tensor `key` as f32, row-major; errors as `view`.
    pub fn get(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>, HfError> {
        Ok(self.view(key, shape)?.to_f32())
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, HfError> {
        let read = |source| HfError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        if file.metadata().map_err(read)?.len() == 0 {
            return Err(HfError::Truncated { file: path.to_owned(), expected: 8, found: 0 });
        }
        // SAFETY: a model's files are not written to while they are read: this project renames them
        // into place, and so does the library. A program that truncates a file under a
        // reader is beyond what the reader can defend against.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        Ok(Shard { path: path.to_owned(), map })
    }

    /// Length of the header, and what it says; the file's length is checked against it.
    fn header(&self) -> Result<(usize, safetensors::tensor::Metadata), HfError> {
        let found = self.map.len() as u64;
        let truncated = |expected| HfError::Truncated { file: self.path.clone(), expected, found };
        SafeTensors::read_metadata(&self.map).map_err(|e| match e {
            SafeTensorError::HeaderTooSmall => truncated(8),
            SafeTensorError::InvalidHeaderLength | SafeTensorError::MetadataIncompleteBuffer => {
                match self.promised_length() {
                    Some(expected) if expected > found => truncated(expected),
                    _ => HfError::Corrupt { file: self.path.clone(), reason: e.to_string() },
                }
            }
            e => HfError::Corrupt { file: self.path.clone(), reason: e.to_string() },
        })
    }

    /// The file's length by its header: the end of the last tensor, or of the header where that is
    /// cut too.
    fn promised_length(&self) -> Option<u64> {
        let n = u64::from_le_bytes(self.map.get(..8)?.try_into().ok()?);
        let end = n.checked_add(8)?;
        let Some(header) = self.map.get(8..usize::try_from(end).ok()?) else { return Some(end) };
        let header: Value = serde_json::from_slice(header).ok()?;
        let ends = header.as_object()?.values().filter_map(|t| t["data_offsets"][1].as_u64());
        end.checked_add(ends.max().unwrap_or(0))
    }
}

impl MappedTensor {
    /// The bytes in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.shard.map[self.range.clone()]
    }

    /// The numbers without a copy, where they are f32 and lie aligned (as every file written by the
    /// usual writers does).
    pub fn as_f32(&self) -> Option<&[f32]> {
        if self.dtype != WeightType::F32 || cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes()).ok()
    }

    /// The numbers without a copy, where they are bf16 and lie aligned.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        if self.dtype != WeightType::Bf16 || cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes()).ok()
    }

    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Widened to f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n_elements()];
        self.read_f32(0, &mut out);
        out
    }

    /// Widens the elements from `start` on into `out`: a row of a table that stays mapped, say.
    ///
    /// # Panics
    /// If `start + out.len()` exceeds the number of elements.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let width = if self.dtype == WeightType::F32 { 4 } else { 2 };
        let bytes = &self.bytes()[start * width..(start + out.len()) * width];
        let convert = |(out, bytes): (&mut [f32], &[u8])| match self.dtype {
            WeightType::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            WeightType::Bf16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *o = bf16::from_le_bytes(*b).to_f32();
                }
            }
            WeightType::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *o = f16::from_le_bytes(*b).to_f32();
                }
            }
        };
        match out.len() {
            0 => {}
            n if n <= CHUNK => convert((out, bytes)),
            _ => out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * width)).for_each(convert),
        }
    }

    fn first_not_finite(&self) -> Option<(usize, f32)> {
        (0..self.n_elements().div_ceil(CHUNK)).into_par_iter().find_map_first(|chunk| {
            let start = chunk * CHUNK;
            let mut buffer = [0.0; CHUNK];
            let values = &mut buffer[..CHUNK.min(self.n_elements() - start)];
            self.read_f32(start, values);
            values.iter().position(|x| !x.is_finite()).map(|i| (start + i, values[i]))
        })
    }
}

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;
