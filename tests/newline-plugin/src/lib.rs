//! A plugin crate as a user would write one: a patcher, a metric, a decoder and a source. Linking
//! the crate is all it takes.

mod code_files;
mod newline_patch;
mod thin_decoder;
mod top_k_accuracy;
