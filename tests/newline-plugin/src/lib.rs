//! A plugin crate as a user would write one: a patcher and a metric of their own. Linking the crate
//! is all it takes.

mod newline_patch;
mod top_k_accuracy;
