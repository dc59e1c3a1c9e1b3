//! Patches: the value, the rules that make it from a batch or byte by byte, and the calibration of
//! a rule's threshold.

pub mod calibrate;
mod limits;
mod patches;
mod rules;
mod shuffle;
pub mod stream;

pub use limits::{LimitStream, Limits, entropy_patches};
pub use patches::{PatchError, PatchStats, Patches};
pub use rules::{EntropyRule, byte_patches, newline_reset, space_patches, stride_patches};
pub use shuffle::shuffled_patches;
