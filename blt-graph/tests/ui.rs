//! In a graph written in Rust, a mistyped wire does not compile.

#[test]
fn mistyped_wires() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
