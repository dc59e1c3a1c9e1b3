//! The command line of `blt`, as a library: a plugin author's own binary is
//!
//! ```no_run
//! // use my_plugin as _;
//! fn main() -> std::process::ExitCode {
//!     blt::main()
//! }
//! ```
//!
//! This crate parses arguments, calls the others, and prints.

mod bench;
mod cli;
pub mod prelude;
mod regress;

pub use blt_core as core;
pub use blt_data as data;
pub use blt_graph as graph;
pub use blt_graph::{node, step};
pub use blt_plugins as plugins;
pub use blt_report as report;
pub use cli::{main, main_from};

/// README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
