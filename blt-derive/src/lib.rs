//! The attributes that write what every node has in common, so that an author writes only what is
//! particular to one.
//!
//! - [`params`] stands on the struct of a node's or a step's parameters: it derives serialisation
//!   and the JSON Schema, and gives each parameter its default.
//! - [`node`] stands on the `impl` that makes the struct a node: `impl Node`, or one of the short
//!   forms (`impl Patcher`, `impl Metric`, ...). It names the node and registers it.
//! - [`step`] stands on an `impl Step`, and does the same for a step.
//!
//! Use them through the prelude of `blt`. Generated code refers to `::blt::__macro`, so that a
//! crate that uses the attributes needs no other dependency than `blt`.

mod node;
mod params;
mod shared;

use proc_macro::TokenStream;

/// Declares the parameters of a node or a step: a struct with named fields.
///
/// The doc comments of the struct and of its fields become the help text and the JSON Schema.
///
/// - A field with `#[default(EXPRESSION)]` may be left out of a pipeline, and then has this value.
/// - A field of type `Option<...>` without `#[default]` may be left out as well, and is then
///   `None`.
/// - Every other field must be given.
/// - `#[range(LEAST..=MOST)]` bounds a number, or the numbers in a list, a tuple or a map. Others are
///   refused before the struct is made. The schema has both ends.
/// - `#[shared]` gives a field the description, default and range that all nodes have in common for a
///   parameter of this name: `max_patch_length`; `layers`, `heads`, `kv_heads`, `ffn`, `window`,
///   `rope_theta` and `eps` of attention; `column`, `split`, `span_bytes` and `shuffle_buffer` of a
///   source. What the field itself says takes precedence.
///
/// The struct derives `Clone`, `Debug`, `PartialEq`, `Serialize`, `Deserialize` and `JsonSchema`. It
/// gets a function `new`, which takes the parameters that must be given and leaves the rest at
/// their defaults; if there are none, it implements `Default` instead. So in Rust a graph sets
/// parameters by `ByteLm { window: None, ..ByteLm::new(64, 2, 4) }`.
///
/// `#[params(no_new)]` leaves `new` to the author.
///
/// On an enum, it declares the values of a parameter, which pipelines write in snake case.
#[proc_macro_attribute]
pub fn params(args: TokenStream, item: TokenStream) -> TokenStream {
    expand(params::expand(args.into(), item.into()))
}

/// Makes a node of an `impl` of `Node`, or of one of the short forms `Patcher`, `StreamPatcher`,
/// `SpanPatcher` and `Metric`, and registers it.
///
/// - The node is called as its struct is, unless `name = "..."` gives another name.
/// - `example = "..."` gives the parameters of the example in the node's help, as YAML: `k: 5`. The
///   short forms add the wires (`in: docs`); for an `impl Node`, or to wire it otherwise, begin
///   with `in: ...`.
///
/// In an `impl Node` these items may be left out: `NAME`, `EXAMPLE`, `State` and `build` (of a node
/// without a state), and `check` (of a node all of whose outputs have `()` for what is known of
/// them, and whose parameters are right whatever they are).
#[proc_macro_attribute]
pub fn node(args: TokenStream, item: TokenStream) -> TokenStream {
    expand(node::expand(args.into(), item.into()))
}

/// Registers an `impl Step`.
///
/// - The key of the step in `run:` is the struct's name in snake case, unless `name = "..."` gives
///   another.
/// - `example = "..."` gives the parameters of the example in the step's help, as YAML: `goal:
///   loss`.
#[proc_macro_attribute]
pub fn step(args: TokenStream, item: TokenStream) -> TokenStream {
    expand(node::expand_step(args.into(), item.into()))
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.into_compile_error()).into()
}
