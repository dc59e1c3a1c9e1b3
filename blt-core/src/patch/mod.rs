//! Patches: the value, the rules that make it from a batch or byte by byte, and the calibration of
//! a rule's threshold.

pub mod calibrate;
mod patches;
mod rules;
pub mod stream;

pub use patches::{PatchError, PatchStats, Patches};
pub use rules::{
    EntropyRule, byte_patches, entropy_patches, newline_reset, space_patches, stride_patches,
};
