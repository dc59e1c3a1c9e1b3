//! A plugin crate as a user would write one: a patcher, a metric and a decoder. Linking the crate is
//! all it takes.

mod newline_patch;
mod thin_decoder;
mod top_k_accuracy;
