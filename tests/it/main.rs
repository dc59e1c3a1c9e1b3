//! The end-to-end suites in one program: each module holds one promise. One program links once;
//! twelve would link the same code twelve times.
//!
//! Suites that need a program of their own lie beside this folder: `planted_bugs` (it runs itself
//! as `blt-run` with a bug in it), `cloud` and `gpu_errors` (each needs a feature).

#[cfg(unix)]
mod anomaly;
mod architecture;
#[cfg(unix)]
mod attacked;
mod bad_input;
mod bench;
mod causality;
mod certify;
mod check;
mod common;
mod compression;
mod corpus;
mod counts;
mod doubts;
mod dsl;
mod explain;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod faults;
mod fuzz;
mod generation;
mod gpu;
#[cfg(unix)]
mod kept;
mod mutations;
mod numbers;
mod own_step;
mod readme;
mod recipe;
mod registry;
mod regress;
mod reliability;
#[cfg(unix)]
mod resume;
#[cfg(target_os = "linux")]
mod score_memory;
#[cfg(unix)]
mod scoring;
mod statistics;
mod sweeps;
