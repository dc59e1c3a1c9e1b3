//! The Byte Latent Transformer (arXiv 2412.09871): bytes, patches, tensors, operations, the model,
//! training, checkpoints.
//!
//! This crate knows no YAML, no Parquet and no graph. Everything is *packed*: a [`bytes::Batch`] is
//! spans laid end to end on one byte axis, [`patch::Patches`] are starts into that axis, and
//! operations take offsets instead of masks.

/// This crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod backend;
pub mod blt;
pub mod bytes;
pub mod checkpoint;
pub mod counts;
pub mod decoding;
pub mod flops;
pub mod hash;
pub mod hf;
pub mod model;
pub mod optim;
pub mod params;
pub mod patch;
#[doc(hidden)]
pub mod planted;
pub mod rope;
pub mod session;
mod simd;
pub mod sizes;
pub mod strict;
pub mod tensor_file;
