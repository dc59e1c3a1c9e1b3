//! Pictures of a graph: Mermaid, Graphviz, SVG.

mod drawing;
mod layout;
mod svg;
mod text;

pub use drawing::Drawing;
