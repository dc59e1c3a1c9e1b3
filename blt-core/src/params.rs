//! Named parameters and their initialisation.
//!
//! A parameter's numbers derive from (seed of its node, its name) alone, so that adding a node or a
//! parameter moves no other. Names are those of the Hugging Face `BltForCausalLM` layout.

use crate::backend::{Backend, BackendError, ParamId};
use crate::sizes;
use crate::tensor_file::MappedTensor;

/// A registered parameter under its canonical name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedParam {
    pub name: String,
    pub id: ParamId,
    pub shape: [usize; 2],
    /// One-dimensional in checkpoints (a norm's weight).
    pub vector: bool,
}

impl NamedParam {
    /// The shape as checkpoints write it.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.vector {
            true => vec![self.shape[1]],
            false => self.shape.to_vec(),
        }
    }

    pub fn n_elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

/// Registers parameters with a backend and remembers their names.
///
/// A part's constructor takes what [`linear`](Self::linear), [`table`](Self::table) and
/// [`norm`](Self::norm) return and checks nothing: the first error is kept, nothing is registered
/// after it, and [`finish`](Self::finish) returns it.
pub struct ParamMaker<'a> {
    numbers: Numbers<'a>,
    made: Vec<NamedParam>,
    failed: Option<BackendError>,
}

/// Where a parameter's first numbers come from.
enum Numbers<'a> {
    /// Nowhere: parameters are counted, and none is made.
    Counted(Count),
    Drawn {
        backend: &'a dyn Backend,
        seed: u64,
    },
    /// Of the tensor with this name and this shape in a file; None once one could not be read.
    Stored {
        backend: &'a dyn Backend,
        view: &'a mut dyn FnMut(&str, &[usize]) -> Option<MappedTensor>,
    },
}

/// How many numbers the parameters of a part have; `u64::MAX` where they are more than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Of all parameters.
    pub numbers: u64,
    /// Of those that are read by rows (embeddings, hash tables), of which an optimiser step reaches
    /// few.
    pub by_rows: u64,
    /// Of the largest parameter.
    pub largest: u64,
}

impl Count {
    /// The count of two parts.
    pub fn plus(self, other: Count) -> Count {
        Count {
            numbers: self.numbers.saturating_add(other.numbers),
            by_rows: self.by_rows.saturating_add(other.by_rows),
            largest: self.largest.max(other.largest),
        }
    }

    /// Counts the parameters of the part that `make` builds. None of them is made.
    pub fn of<T>(make: impl FnOnce(&mut ParamMaker) -> T) -> Count {
        let numbers = Numbers::Counted(Count::default());
        let mut maker = ParamMaker { numbers, made: Vec::new(), failed: None };
        make(&mut maker);
        match maker.numbers {
            Numbers::Counted(count) => count,
            _ => Count::default(),
        }
    }
}

/// A parameter's numbers where none are stored.
enum First {
    /// Truncated normal of this sigma.
    Normal(f64),
    Same(f32),
}

impl<'a> ParamMaker<'a> {
    /// Initialises parameters.
    pub fn new(backend: &'a dyn Backend, seed: u64) -> Self {
        ParamMaker { numbers: Numbers::Drawn { backend, seed }, made: Vec::new(), failed: None }
    }

    /// Lets `make` build a part whose parameters are read by `view`, which gets a canonical name and
    /// the shape in checkpoints ([`NamedParam::stored_shape`]).
    ///
    /// # Errors
    /// The first error of `view` or of the backend.
    pub fn read<T, E: From<BackendError>>(
        backend: &'a dyn Backend,
        mut view: impl FnMut(&str, &[usize]) -> Result<MappedTensor, E>,
        make: impl FnOnce(&mut ParamMaker) -> T,
    ) -> Result<(T, Vec<NamedParam>), E> {
        let mut failed = None;
        let mut stored = |name: &str, shape: &[usize]| match view(name, shape) {
            Ok(tensor) => Some(tensor),
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        };
        let numbers = Numbers::Stored { backend, view: &mut stored };
        let mut maker = ParamMaker { numbers, made: Vec::new(), failed: None };
        let part = make(&mut maker);
        let made = maker.finish();
        match failed {
            Some(error) => Err(error),
            None => Ok((part, made?)),
        }
    }

    /// A `[out, in]` matrix, truncated normal with sigma `in^-0.5`.
    pub fn linear(&mut self, name: impl Into<String>, out: usize, input: usize) -> ParamId {
        self.register(
            name.into(),
            [out, input],
            First::Normal((input as f64).powf(-0.5)),
            false,
            false,
        )
    }

    /// A table read by rows, `[rows, dim]`, truncated normal with sigma `dim^-0.5`.
    pub fn table(&mut self, name: impl Into<String>, rows: usize, dim: usize) -> ParamId {
        self.register(name.into(), [rows, dim], First::Normal((dim as f64).powf(-0.5)), true, false)
    }

    /// As [`table`](Self::table), zeros.
    pub fn zero_table(&mut self, name: impl Into<String>, rows: usize, dim: usize) -> ParamId {
        self.register(name.into(), [rows, dim], First::Same(0.0), true, false)
    }

    /// A norm's weight, ones.
    pub fn norm(&mut self, name: impl Into<String>, dim: usize) -> ParamId {
        self.register(name.into(), [1, dim], First::Same(1.0), false, true)
    }

    fn register(
        &mut self,
        name: String,
        shape: [usize; 2],
        first: First,
        by_rows: bool,
        vector: bool,
    ) -> ParamId {
        let mut param = NamedParam { name, id: ParamId(0), shape, vector };
        if self.failed.is_some() {
            return param.id;
        }
        let id = match &mut self.numbers {
            Numbers::Counted(count) => {
                let numbers = sizes::product(&shape).unwrap_or(u64::MAX);
                let by_rows = if by_rows { numbers } else { 0 };
                *count = count.plus(Count { numbers, by_rows, largest: numbers });
                return param.id;
            }
            Numbers::Drawn { backend, seed } => {
                let len = param.n_elements();
                let data = match first {
                    First::Normal(sigma) => truncated_normal(*seed, &param.name, len, sigma),
                    First::Same(number) => vec![number; len],
                };
                backend.add_param(shape, data, by_rows)
            }
            Numbers::Stored { backend, view } => match view(&param.name, &param.stored_shape()) {
                Some(tensor) => backend.add_mapped_param(shape, tensor, by_rows),
                // The error is kept; nothing is made of what a file only claims.
                None => return param.id,
            },
        };
        match id {
            Ok(id) => param.id = id,
            Err(error) => self.failed = Some(error),
        }
        let id = param.id;
        self.made.push(param);
        id
    }

    /// All that was made, in order.
    ///
    /// # Errors
    /// The first error of the backend.
    pub fn finish(self) -> Result<Vec<NamedParam>, BackendError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.made),
        }
    }
}

/// `len` draws from a normal of deviation `sigma`, redrawn beyond three deviations; a function of
/// its arguments alone.
pub fn truncated_normal(seed: u64, name: &str, len: usize, sigma: f64) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    let mut block = [0u8; 4096];
    let mut at = block.len();
    let mut uniform = || {
        if at == block.len() {
            stream.fill(&mut block);
            at = 0;
        }
        let mut word = [0u8; 8];
        word.copy_from_slice(&block[at..at + 8]);
        at += 8;
        // 53 bits in (0, 1]: the logarithm below is finite.
        ((u64::from_le_bytes(word) >> 11) + 1) as f64 / (1u64 << 53) as f64
    };
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        for z in [radius * angle.cos(), radius * angle.sin()] {
            if z.abs() <= 3.0 && out.len() < len {
                out.push((z * sigma) as f32);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initialisation_is_a_truncated_normal_of_its_name() {
        let x = truncated_normal(1, "a", 20_000, 0.5);
        assert_eq!(x, truncated_normal(1, "a", 20_000, 0.5));
        assert_ne!(x, truncated_normal(1, "b", 20_000, 0.5));
        assert_ne!(x, truncated_normal(2, "a", 20_000, 0.5));
        let mean = x.iter().map(|&x| x as f64).sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.015, "{mean}");
        // A normal cut at three deviations keeps 0.9733 of its variance.
        assert!((var / 0.25 - 0.9733).abs() < 0.04, "{var}");
        assert!(x.iter().all(|x| x.abs() <= 1.5));
    }
}
