#![allow(dead_code)]

#[path = "../nodes/mod.rs"]
mod nodes;

use blt_graph::Graph;
use nodes::{Columns, Constant};

fn main() {
    let mut g = Graph::new();
    let two = g.add("two", Constant { value: 2.0 }, ());
    // Columns reads a Text, and this is a Number.
    g.add("columns", Columns { heads: 4 }, &two);
}
