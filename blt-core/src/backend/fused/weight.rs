//! A parameter's numbers: in memory, or where they lie in a mapped file.

use super::buffer::Lasting;
use crate::tensor_file::{MappedTensor, WeightType};
use half::bf16;
use std::ops::Deref;
use std::sync::Arc;

/// f32 numbers, shared: in memory, or in a mapped file until they are first written to.
#[derive(Clone)]
pub(crate) enum Weight {
    Owned(Arc<Lasting>),
    /// f32, aligned.
    Mapped(MappedTensor),
}

impl Deref for Weight {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Weight::Owned(data) => data,
            Weight::Mapped(tensor) => {
                tensor.as_f32().expect("an aligned f32 tensor, checked when it was added")
            }
        }
    }
}

impl<T: Into<Lasting>> From<T> for Weight {
    fn from(data: T) -> Self {
        Weight::Owned(Arc::new(data.into()))
    }
}

/// A copy in memory, widened to f32.
fn read(tensor: &MappedTensor) -> Weight {
    let mut data = Lasting::zeros(tensor.n_elements());
    tensor.read_f32(0, &mut data);
    data.into()
}

/// What a parameter is kept as. A clone shares the numbers.
#[derive(Clone)]
pub(crate) enum Stored {
    F32(Weight),
    /// A table, aligned, that stays half as wide as long as it is only read.
    Bf16(MappedTensor),
}

/// A parameter's numbers `[rows, cols]` on the host, as they were when they were asked for
/// ([`Parameters::host_param`](crate::backend::Parameters::host_param)). A clone shares them.
#[derive(Clone)]
pub struct HostParam {
    stored: Stored,
    /// `[rows, cols]`
    pub shape: [usize; 2],
}

impl HostParam {
    /// Of numbers that fill `shape`, row-major.
    pub fn new(shape: [usize; 2], data: Vec<f32>) -> Self {
        HostParam { stored: Stored::F32(data.into()), shape }
    }

    pub(crate) fn shared(shape: [usize; 2], stored: &Stored) -> Self {
        HostParam { stored: stored.clone(), shape }
    }

    /// All numbers, for a parameter that is multiplied with.
    pub(crate) fn weight(&mut self) -> Weight {
        self.stored.weight().clone()
    }

    pub(crate) fn table(&self) -> Table<'_> {
        self.stored.table()
    }
}

/// A table's numbers, `[rows, dim]`, to read rows of.
#[derive(Clone, Copy)]
pub(crate) enum Table<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Stored {
    /// Keeps a tensor where it lies if it can be read there: f32, or a table of bf16. Copies any
    /// other.
    pub fn mapped(tensor: MappedTensor, by_rows: bool) -> Self {
        match tensor.dtype {
            WeightType::F32 if tensor.as_f32().is_some() => Stored::F32(Weight::Mapped(tensor)),
            WeightType::Bf16 if by_rows && tensor.as_bf16().is_some() => Stored::Bf16(tensor),
            _ => Stored::F32(read(&tensor)),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Stored::F32(weight) => weight.len(),
            Stored::Bf16(tensor) => tensor.n_elements(),
        }
    }

    pub fn table(&self) -> Table<'_> {
        match self {
            Stored::F32(weight) => Table::F32(weight),
            Stored::Bf16(tensor) => Table::Bf16(
                tensor.as_bf16().expect("an aligned bf16 tensor, checked when it was added"),
            ),
        }
    }

    /// All numbers, as f32; a table of bf16 is widened for good.
    pub fn weight(&mut self) -> &Weight {
        if let Stored::Bf16(tensor) = self {
            *self = Stored::F32(read(tensor));
        }
        match self {
            Stored::F32(weight) => weight,
            Stored::Bf16(_) => unreachable!("widened above"),
        }
    }

    /// The numbers to write to, in memory from now on.
    pub fn make_mut(&mut self) -> &mut [f32] {
        if let Weight::Mapped(tensor) = self.weight() {
            *self = Stored::F32(read(tensor));
        }
        match self {
            Stored::F32(Weight::Owned(data)) => Arc::<Lasting>::make_mut(data),
            _ => unreachable!("copied above"),
        }
    }

    /// A copy of all numbers; the parameter stays as it is kept.
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Stored::F32(weight) => weight.to_vec(),
            Stored::Bf16(tensor) => tensor.to_f32(),
        }
    }
}

impl Table<'_> {
    /// `out = row`
    #[inline(always)]
    pub fn copy_row(self, row: u32, out: &mut [f32]) {
        let range = row as usize * out.len()..(row as usize + 1) * out.len();
        match self {
            Table::F32(table) => out.copy_from_slice(&table[range]),
            Table::Bf16(table) => {
                out.iter_mut().zip(&table[range]).for_each(|(o, x)| *o = widen(*x))
            }
        }
    }

    /// `sum += row`
    #[inline(always)]
    pub fn add_row(self, row: u32, sum: &mut [f32]) {
        let range = row as usize * sum.len()..(row as usize + 1) * sum.len();
        match self {
            Table::F32(table) => sum.iter_mut().zip(&table[range]).for_each(|(s, x)| *s += x),
            Table::Bf16(table) => {
                sum.iter_mut().zip(&table[range]).for_each(|(s, x)| *s += widen(*x))
            }
        }
    }
}

/// Exact: bf16 is the upper half of f32. (The numbers are finite; a plain shift vectorises.)
#[inline(always)]
fn widen(x: bf16) -> f32 {
    f32::from_bits((x.to_bits() as u32) << 16)
}
