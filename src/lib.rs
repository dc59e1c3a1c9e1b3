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
mod certify;
mod check;
mod cli;
mod compress;
mod engine;
mod findings;
mod generate;
mod model;
mod output;
pub mod prelude;
mod regress;

pub use blt_core as core;
pub use blt_data as data;
pub use blt_derive::{node, params, step};
pub use blt_graph as graph;
pub use blt_plugins as plugins;
#[doc(hidden)]
pub use blt_plugins::__macro;
pub use blt_plugins::testing;
pub use blt_report as report;
pub use cli::{main, main_from};
pub use {schemars, serde};

/// The Rust of README and of the book compiles.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/pipelines.md")]
    struct Pipelines;
    #[doc = include_str!("../docs/plugins.md")]
    struct Plugins;
}
