#[path = "../../../../blt-graph/tests/nodes/mod.rs"]
mod nodes;
