//! Drawings in the languages of Mermaid and Graphviz.

use std::fmt::Write as _;

use crate::draw::drawing::{Drawing, Node};

impl Drawing {
    /// A Mermaid flowchart, which GitHub and mdBook's plugin draw.
    pub fn mermaid(&self) -> String {
        let mut text = format!("---\ntitle: {}\n---\nflowchart TD\n", self.title);
        let escape = |line: &str| {
            line.replace('&', "&amp;")
                .replace('"', "&quot;")
                .replace('<', "&lt;")
                .replace('#', "&num;")
        };
        for (index, node) in self.boxes.iter().enumerate() {
            let lines: Vec<String> = lines(node).iter().map(|line| escape(line)).collect();
            let _ = writeln!(text, "  n{index}[\"{}\"]", lines.join("<br/>"));
        }
        for wire in &self.wires {
            let label = escape(&self.label(wire.from));
            let _ = writeln!(text, "  n{} -->|\"{label}\"| n{}", wire.from.0, wire.to.0);
        }
        let varying: Vec<String> = self.with(|node| node.varies);
        if !varying.is_empty() {
            let _ = writeln!(text, "  classDef varies stroke-dasharray:4,stroke-width:2px");
            let _ = writeln!(text, "  class {} varies", varying.join(","));
        }
        self.variants.iter().for_each(|line| text.push_str(&format!("  %% {line}\n")));
        text
    }

    /// A Graphviz digraph.
    pub fn dot(&self) -> String {
        let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut text = format!(
            "digraph \"{}\" {{\n  node [shape=box, fontname=\"monospace\", fontsize=10]\n  edge [fontname=\"monospace\", fontsize=9]\n",
            quote(&self.title)
        );
        for (index, node) in self.boxes.iter().enumerate() {
            let lines: Vec<String> = lines(node).iter().map(|line| quote(line)).collect();
            let style = match (node.varies, node.used) {
                (true, _) => ", style=dashed",
                (_, false) => ", style=dotted",
                _ => "",
            };
            let _ = writeln!(text, "  n{index} [label=\"{}\"{style}]", lines.join("\\n"));
        }
        for wire in &self.wires {
            let label = quote(&self.label(wire.from));
            let _ = writeln!(text, "  n{} -> n{} [label=\"{label}\"]", wire.from.0, wire.to.0);
        }
        self.variants.iter().for_each(|line| text.push_str(&format!("  // {line}\n")));
        text.push_str("}\n");
        text
    }

    /// What flows on the wires of an output.
    fn label(&self, (node, output): (usize, usize)) -> String {
        self.boxes[node].outputs[output].1.clone()
    }

    fn with(&self, has: impl Fn(&Node) -> bool) -> Vec<String> {
        let boxes = self.boxes.iter().enumerate().filter(|(_, node)| has(node));
        boxes.map(|(index, _)| format!("n{index}")).collect()
    }
}

/// The lines of a box: name and kind, then the parameters.
fn lines(node: &Node) -> Vec<String> {
    let mut lines = vec![format!("{} ({})", node.name, node.kind)];
    lines.extend(node.params.iter().cloned());
    lines
}
