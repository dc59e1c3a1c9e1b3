//! Vector code on whatever the machine has: AVX-512, AVX2 with FMA, or plain code.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for each instruction set by
//! [`kernel!`]; [`Level::best`] is chosen at run time. A [`Simd`] value is a token: it exists only
//! where its instructions do, so its methods are safe. All levels compute the same formulas in the
//! same order; AVX-512 and AVX2 agree to the bit on finite numbers, plain code rounds products
//! before it adds them. [`multiversion!`] is for plain loops, which yield the same bits everywhere.

mod dispatch;
mod lanes;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use dispatch::{Level, kernel, multiversion};
pub(crate) use lanes::{LANES, Scalar, Simd};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};
