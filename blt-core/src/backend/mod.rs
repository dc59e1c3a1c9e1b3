//! What computes: a trait for each role, and two implementations.
//!
//! A [`Backend`] owns the parameters ([`Parameters`]), records what is computed ([`Tape`]), computes
//! every operation of the model at the size of a block ([`Operations`]), updates the parameters
//! ([`Optimizer`]) and answers those who measure ([`Probe`]). [`fused::Fused`] computes on packed
//! host slices with rayon, SIMD and a gemm library. [`dfdx::Dfdx`] composes the same operations of
//! dfdx's, on the processor or on a GPU, and defines what they mean.
//!
//! A [`Tensor`] is opaque: it belongs to the backend that made it. Code that computes with tensors,
//! plugins included, takes a `dyn Backend` and does not match on where tensors live; another device
//! is another implementation.
//!
//! All weights are stored `[out, in]`, as `torch.nn.Linear` does, and applied as `x @ W^T`. There
//! are no biases.

use std::any::Any;
use std::rc::Rc;

mod check;
mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dfdx;
mod error;
pub mod fused;
pub mod gpu;
mod roles;

pub use config::{
    AdamWStep, BlockConfig, BlockParams, CrossConfig, CrossParams, HASH_PRIMES, HashConfig, Pooling,
};
pub use error::BackendError;
pub use roles::{Backend, HeadLoss, Operations, Optimizer, Parameters, Probe, Tape};

/// A differentiable matrix `[rows, cols]` on the backend that made it. A clone shares the numbers.
#[derive(Clone)]
pub struct Tensor {
    pub rows: usize,
    pub cols: usize,
    /// The backend's own representation.
    pub inner: Rc<dyn Any>,
}

impl Tensor {
    /// `[rows, cols]`
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }
}

/// A parameter of one backend. Another backend that is given it panics, or takes a parameter of its
/// own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);
