//! Safetensors files, memory-mapped: what checkpoints and Hugging Face directories share.

use crate::strict;
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a file, or one of its tensors, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TensorFileError {
    #[error("cannot read {file}: {source}")]
    Read { file: PathBuf, source: io::Error },
    /// `expected`: the file's length in bytes by its own header.
    #[error("{file} is truncated: its header needs {expected} bytes, found {found}")]
    Truncated { file: PathBuf, expected: u64, found: u64, source: SafeTensorError },
    #[error("{file} is not a safetensors file: {source}")]
    Corrupt { file: PathBuf, source: SafeTensorError },
    #[error("{file} is not a safetensors file: its header: {source}")]
    Header { file: PathBuf, source: serde_json::Error },
    #[error("{file}: tensor `{key}` is missing; expected shape {expected:?}, found no such key")]
    MissingKey { file: PathBuf, key: String, expected: Vec<usize> },
    #[error("{file}: tensor `{key}`: expected shape {expected:?}, found {found:?}")]
    Shape { file: PathBuf, key: String, expected: Vec<usize>, found: Vec<usize>, dtype: Dtype },
    #[error("{file}: tensor `{key}`: expected type {expected}, found {found:?}")]
    Type { file: PathBuf, key: String, shape: Vec<usize>, expected: &'static str, found: Dtype },
    #[error("{file}: tensor `{key}`: expected finite numbers, found {found} at element {element}")]
    NotFinite { file: PathBuf, key: String, element: usize, found: f32 },
}

/// Number types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    F32,
    Bf16,
    F16,
}

/// A mapped file and the tensors that its header lists. Cloning shares; the file stays mapped as
/// long as a clone or any [`MappedTensor`] of it lives.
#[derive(Clone)]
pub struct TensorFile {
    file: Arc<MappedFile>,
    tensors: Arc<BTreeMap<String, Entry>>,
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

/// A tensor as the header lists it.
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes in the file.
    range: Range<usize>,
}

/// One tensor as it lies in the mapped file: row-major, little-endian, all numbers finite. Cloning
/// shares.
#[derive(Clone)]
pub struct MappedTensor {
    file: Arc<MappedFile>,
    range: Range<usize>,
    pub dtype: WeightType,
    pub shape: Vec<usize>,
}

impl TensorFile {
    /// Maps the file and reads its header; numbers are read when a tensor is asked for.
    ///
    /// # Errors
    /// The file cannot be read, or its header or length is not that of a safetensors file.
    pub fn open(path: &Path) -> Result<Self, TensorFileError> {
        let read = |source| TensorFileError::Read { file: path.to_owned(), source };
        let file = strict::open(path).map_err(read)?;
        // SAFETY: a model's files are not written to while they are read: this project renames them
        // into place, and so does the library. A program that truncates a file under a reader is
        // beyond what the reader can defend against.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        let file = MappedFile { path: path.to_owned(), map };
        let (header, metadata) = SafeTensors::read_metadata(&file.map).map_err(|e| file.bad(e))?;
        let start = 8 + header;
        if let Err(source) = strict::json(&file.map[8..start]) {
            return Err(TensorFileError::Header { file: path.to_owned(), source });
        }
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, Entry { dtype: info.dtype, shape: info.shape.clone(), range })
        });
        Ok(TensorFile { tensors: Arc::new(tensors.collect()), file: Arc::new(file) })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Names and shapes, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    /// The shape of the tensor `key`; None if the file has no such tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.tensors.get(key).map(|entry| entry.shape.as_slice())
    }

    /// Compares the header with what is expected of the tensor `key`; reads no numbers.
    ///
    /// # Errors
    /// No such key, another shape, a type that is not read.
    pub fn check(&self, key: &str, shape: &[usize]) -> Result<WeightType, TensorFileError> {
        let file = || self.file.path.clone();
        let Some(entry) = self.tensors.get(key) else {
            let (key, expected) = (key.to_owned(), shape.to_vec());
            return Err(TensorFileError::MissingKey { file: file(), key, expected });
        };
        let (key, dtype) = (|| key.to_owned(), entry.dtype);
        if entry.shape != shape {
            let (expected, found) = (shape.to_vec(), entry.shape.clone());
            return Err(TensorFileError::Shape {
                file: file(),
                key: key(),
                expected,
                found,
                dtype,
            });
        }
        match dtype {
            Dtype::F32 => Ok(WeightType::F32),
            Dtype::BF16 => Ok(WeightType::Bf16),
            Dtype::F16 => Ok(WeightType::F16),
            _ => Err(self.wrong_type(&key(), "F32, BF16 or F16")),
        }
    }

    fn wrong_type(&self, key: &str, expected: &'static str) -> TensorFileError {
        let (file, entry) = (self.file.path.clone(), &self.tensors[key]);
        let (shape, found) = (entry.shape.clone(), entry.dtype);
        TensorFileError::Type { file, key: key.to_owned(), shape, expected, found }
    }

    /// The tensor `key` as it lies in the file.
    ///
    /// # Errors
    /// No such key, another shape, a type that is not read, a number that is not finite.
    pub fn view(&self, key: &str, shape: &[usize]) -> Result<MappedTensor, TensorFileError> {
        let dtype = self.check(key, shape)?;
        let (file, range) = (self.file.clone(), self.tensors[key].range.clone());
        let tensor = MappedTensor { file, range, dtype, shape: shape.to_vec() };
        match tensor.first_not_finite() {
            None => Ok(tensor),
            Some((element, found)) => {
                let (file, key) = (self.file.path.clone(), key.to_owned());
                Err(TensorFileError::NotFinite { file, key, element, found })
            }
        }
    }

    /// The tensor `key`, which must be f32, row-major.
    ///
    /// # Errors
    /// As [`TensorFile::view`]; also the other types that it reads.
    pub fn get_f32(&self, key: &str, shape: &[usize]) -> Result<Vec<f32>, TensorFileError> {
        match self.check(key, shape)? {
            WeightType::F32 => Ok(self.view(key, shape)?.to_f32()),
            _ => Err(self.wrong_type(key, "F32")),
        }
    }
}

impl MappedFile {
    /// The error for a header that the library refuses: a file that is shorter than its header
    /// promises is truncated, any other is corrupt.
    fn bad(&self, source: SafeTensorError) -> TensorFileError {
        let (file, found) = (self.path.clone(), self.map.len() as u64);
        let expected = match source {
            SafeTensorError::HeaderTooSmall => Some(8),
            SafeTensorError::InvalidHeaderLength | SafeTensorError::MetadataIncompleteBuffer => {
                self.promised_length()
            }
            _ => None,
        };
        match expected.filter(|&expected| expected > found) {
            Some(expected) => TensorFileError::Truncated { file, expected, found, source },
            None => TensorFileError::Corrupt { file, source },
        }
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
        &self.file.map[self.range.clone()]
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

/// Why a file of tensors could not be written.
#[derive(Debug)]
pub enum WriteError<E> {
    /// The file could not be written.
    File(io::Error),
    /// A tensor's numbers could not be fetched.
    Fetch(E),
}

/// A tensor to be written. Its numbers are fetched when its turn comes: a file may be larger than
/// the memory that is left.
struct Pending<'a, F, E> {
    shape: Vec<usize>,
    fetch: F,
    /// The first error of a fetch in this file.
    failed: &'a RefCell<Option<E>>,
}

impl<F: Fn() -> Result<Vec<f32>, E>, E> View for Pending<'_, F, E> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.data_len() == 0 {
            return Cow::Borrowed(&[]);
        }
        match (self.fetch)() {
            Ok(data) => {
                assert_eq!(
                    data.len() * size_of::<f32>(),
                    self.data_len(),
                    "the data fills the shape"
                );
                Cow::Owned(bytemuck::cast_slice(&data).to_vec())
            }
            // The library asks for bytes and takes no error; the file is thrown away.
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                Cow::Owned(vec![0; self.data_len()])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// Writes named f32 tensors to a new file at `path`, and waits until they are on the disk.
///
/// # Errors
/// What keeps the file from being written, or the first error of a fetch. What is at `path` then is
/// no whole file.
pub fn write<F: Fn() -> Result<Vec<f32>, E>, E>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, F)>,
) -> Result<(), WriteError<E>> {
    let failed = RefCell::new(None);
    let pending = tensors
        .into_iter()
        .map(|(name, shape, fetch)| (name, Pending { shape, fetch, failed: &failed }));
    // `format: pt` is what the Python side asks for; a single entry, since the map's order is not
    // defined.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize_to_file(pending, Some(metadata), path);
    if let Some(error) = failed.into_inner() {
        return Err(WriteError::Fetch(error));
    }
    written
        .map_err(|e| match e {
            SafeTensorError::IoError(e) => e,
            other => io::Error::other(other),
        })
        .and_then(|()| readable_as_its_directory(path)?.sync_all())
        .map_err(WriteError::File)
}

/// Opens a file that the safetensors library wrote. It makes files that their owner alone can read;
/// a model is for whoever may read its directory.
fn readable_as_its_directory(path: &Path) -> io::Result<File> {
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
