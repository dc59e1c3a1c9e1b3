#![allow(dead_code)]

#[path = "../nodes/mod.rs"]
mod nodes;

use blt_graph::Graph;
use nodes::{Add, Constant};

fn main() {
    let mut g = Graph::new();
    let two = g.add("two", Constant { value: 2.0 }, ());
    // Add has two inputs.
    g.add("sum", Add {}, &two);
}
