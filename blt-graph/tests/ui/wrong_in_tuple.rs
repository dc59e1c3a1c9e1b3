#![allow(dead_code)]

#[path = "../nodes/mod.rs"]
mod nodes;

use blt_graph::Graph;
use nodes::{Add, Constant, Show};

fn main() {
    let mut g = Graph::new();
    let two = g.add("two", Constant { value: 2.0 }, ());
    let (text, _length) = g.add("text", Show { digits: 4, measure: true }, &two);
    // The second input is a Number too.
    g.add("sum", Add {}, (&two, text));
}
