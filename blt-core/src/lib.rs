//! The Byte Latent Transformer (arXiv 2412.09871): bytes, patches, tensors, operations, the model,
//! training, checkpoints.
//!
//! This crate knows no YAML, no Parquet and no graph. Everything is *packed*: a [`bytes::Batch`] is
//! spans laid end to end on one byte axis, [`patches::Patches`] are starts into that axis, and
//! operations take offsets instead of masks.

/// This crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod backend;
pub mod blt;
pub mod bytes;
pub mod calibrate;
pub mod checkpoint;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod flops;
pub mod fused;
pub mod hash;
pub mod hf;
pub mod model;
pub mod optim;
pub mod params;
pub mod patch_stream;
pub mod patches;
pub mod patching;
#[doc(hidden)]
pub mod planted;
pub mod reference;
pub mod rope;
