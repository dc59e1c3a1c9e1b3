//! Drawings as SVG, made here: no Graphviz, no script, no font of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::draw::drawing::{Drawing, Node, Wire};
use crate::draw::layout::{Item, layers};

/// The width of a character of a monospaced font, in its size.
const CHAR: f64 = 0.6;
const SIZE: f64 = 11.0;
const LINE: f64 = 15.0;
/// The longest line of parameters, in characters.
const WRAP: usize = 44;
const PAD: f64 = 10.0;
const GAP_X: f64 = 28.0;
const GAP_Y: f64 = 44.0;
const MARGIN: f64 = 16.0;

const STYLE: &str = "\
.g-graph{fill:#1f2328}.g-graph text{font:11px ui-monospace,Menlo,Consolas,monospace}\
.g-graph text.g-end{font-size:10px}\
.g-box{fill:#fff;stroke:#8c959f}.g-varies{stroke:#0969da;stroke-width:2;stroke-dasharray:5 3}\
.g-unused{opacity:.5}.g-graph .g-name{font-weight:600;font-size:12px}.g-kind{fill:#0969da}\
.g-small{fill:#59636e}.g-wire{fill:none;stroke:#59636e;stroke-width:1.2}\
.g-tip{fill:#59636e}.g-port{fill:#f6f8fa;stroke:#d1d9e0}\
@media (prefers-color-scheme:dark){.g-graph{fill:#e6edf3}.g-box{fill:#161b22;stroke:#6e7681}\
.g-kind{fill:#58a6ff}.g-varies{stroke:#58a6ff}.g-small,.g-tip{fill:#9198a1}.g-wire{stroke:#9198a1}\
.g-port{fill:#0d1117;stroke:#3d444d}}";

/// Where the wire of an index passes layers: in and out of each.
type Passes = BTreeMap<usize, Vec<(f64, f64)>>;

/// Where a box is, and where its wires begin and end.
struct Placed {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    lines: Vec<String>,
}

impl Drawing {
    /// The drawing as a whole SVG document, which may stand in an HTML page too.
    pub fn svg(&self) -> String {
        let (placed, passes, width, height) = self.place();
        let mut body = String::new();
        for (index, wire) in self.wires.iter().enumerate() {
            let way = self.way(wire, index, &placed, &passes);
            let _ =
                writeln!(body, "<path class=\"g-wire\" d=\"{way}\" marker-end=\"url(#g-tip)\"/>");
        }
        for (node, placed) in self.boxes.iter().zip(&placed) {
            draw_box(&mut body, node, placed);
        }
        let (mut notes, mut y) = (String::new(), height + LINE);
        let mut widest = width;
        for line in self.notes() {
            let _ = writeln!(
                notes,
                "<text class=\"g-small\" x=\"{MARGIN}\" y=\"{y}\">{}</text>",
                escape(&line)
            );
            widest = widest.max(MARGIN * 2.0 + line.chars().count() as f64 * SIZE * CHAR);
            y += LINE;
        }
        let title = escape(&self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"g-graph\" viewBox=\"0 0 {widest:.0} {y:.0}\" \
             width=\"{widest:.0}\" height=\"{y:.0}\" role=\"img\" aria-label=\"The graph of {title}\">\n\
             <style>{STYLE}</style>\n<defs><marker id=\"g-tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" \
             markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"g-tip\" d=\"M0 0L8 4L0 8z\"/>\
             </marker></defs>\n{body}{notes}</svg>\n"
        )
    }

    /// The lines below the graph.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!("{}; run: {}", self.title, self.steps.join(", "))];
        if !self.variants.is_empty() {
            notes.push("variants (dashed boxes are what they change):".to_string());
            notes.extend(self.variants.iter().map(|line| format!("  {}", clipped(line, 120))));
        }
        notes
    }

    /// Boxes, the places where wires pass layers, and the size of all.
    fn place(&self) -> (Vec<Placed>, Passes, f64, f64) {
        let mut boxes: Vec<Placed> = self.boxes.iter().map(measured).collect();
        let layers = layers(self);
        let width_of = |item: &Item, boxes: &[Placed]| match item {
            Item::Box(index) => boxes[*index].width,
            Item::Pass(_) => 6.0,
        };
        let widths: Vec<f64> = layers
            .iter()
            .map(|layer| {
                let items: f64 = layer.iter().map(|item| width_of(item, &boxes)).sum();
                items + GAP_X * layer.len().saturating_sub(1) as f64
            })
            .collect();
        let widest = widths.iter().copied().fold(0.0, f64::max);
        let mut passes: Passes = BTreeMap::new();
        let mut y = MARGIN;
        for (layer, width) in layers.iter().zip(&widths) {
            let mut x = MARGIN + (widest - width) / 2.0;
            let heights = layer.iter().map(|item| match item {
                Item::Box(index) => boxes[*index].height,
                Item::Pass(_) => 0.0,
            });
            let height = heights.fold(0.0, f64::max);
            for item in layer {
                let own = width_of(item, &boxes);
                match item {
                    Item::Box(index) => {
                        boxes[*index].x = x;
                        boxes[*index].y = y;
                    }
                    Item::Pass(wire) => {
                        passes
                            .entry(*wire)
                            .or_default()
                            .extend([(x + own / 2.0, y), (x + own / 2.0, y + height)]);
                    }
                }
                x += own + GAP_X;
            }
            y += height + GAP_Y;
        }
        (boxes, passes, widest + 2.0 * MARGIN, y - GAP_Y + MARGIN)
    }

    /// The path of a wire: down from its output, past layers, down into its input.
    fn way(&self, wire: &Wire, index: usize, placed: &[Placed], passes: &Passes) -> String {
        let (from, to) = (&placed[wire.from.0], &placed[wire.to.0]);
        let (outputs, inputs) = (&self.boxes[wire.from.0].outputs, &self.boxes[wire.to.0].inputs);
        let start = (from.x + share(from.width, wire.from.1, outputs.len()), from.y + from.height);
        let end = (to.x + share(to.width, wire.to.1, inputs.len()), to.y - 1.0);
        let mut points = vec![start];
        points.extend(passes.get(&index).into_iter().flatten());
        points.push(end);
        let mut way = format!("M{:.1} {:.1}", start.0, start.1);
        for (at, pair) in points.windows(2).enumerate() {
            let [(x0, y0), (x1, y1)] = pair else { continue };
            if at % 2 == 1 {
                // Past the boxes of a layer.
                let _ = write!(way, "L{x1:.1} {y1:.1}");
            } else {
                let half = (y0 + y1) / 2.0;
                let _ = write!(way, "C{x0:.1} {half:.1} {x1:.1} {half:.1} {x1:.1} {y1:.1}");
            }
        }
        way
    }
}

/// The middle of part `index` of `count` equal parts of `width`.
fn share(width: f64, index: usize, count: usize) -> f64 {
    width * (index as f64 + 0.5) / count.max(1) as f64
}

/// A box of the right size at no place yet.
fn measured(node: &Node) -> Placed {
    let mut lines: Vec<String> = Vec::new();
    for param in &node.params {
        match lines.last_mut() {
            Some(last) if last.chars().count() + param.chars().count() + 2 <= WRAP => {
                last.push_str(", ");
                last.push_str(param);
            }
            _ => lines.push(clipped(param, WRAP)),
        }
    }
    let text = |characters: usize, size: f64| characters as f64 * size * CHAR;
    let title = text(node.name.chars().count(), 12.0) + text(node.kind.chars().count() + 1, SIZE);
    let params = lines.iter().map(|line| text(line.chars().count(), SIZE)).fold(0.0, f64::max);
    // Ports share the width in equal parts.
    let parts = |longest: usize, count: usize| (text(longest, 10.0) + PAD) * count as f64;
    let inputs = node.inputs.iter().map(|port| port.len()).max().unwrap_or(0);
    let outputs = node.outputs.iter().map(|(port, info)| port.len() + info.chars().count() + 2);
    let outputs = parts(outputs.max().unwrap_or(0), node.outputs.len());
    let inputs = parts(inputs, node.inputs.len());
    let rows = lines.len() as f64 + 1.0;
    let ports = f64::from(u8::from(!node.inputs.is_empty()))
        + f64::from(u8::from(!node.outputs.is_empty()));
    Placed {
        x: 0.0,
        y: 0.0,
        width: title.max(params).max(inputs).max(outputs) + 2.0 * PAD,
        height: rows * LINE + ports * LINE + PAD,
        lines,
    }
}

fn draw_box(body: &mut String, node: &Node, placed: &Placed) {
    let Placed { x, y, width, height, lines } = placed;
    let classes = format!(
        "g-box{}{}",
        if node.varies { " g-varies" } else { "" },
        if node.used { "" } else { " g-unused" }
    );
    let _ = writeln!(
        body,
        "<rect class=\"{classes}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"6\"/>"
    );
    let mut at = *y;
    let ports = |body: &mut String, at: f64, labels: Vec<String>| {
        for (index, label) in labels.iter().enumerate() {
            let x = x + share(*width, index, labels.len());
            let _ = writeln!(
                body,
                "<text class=\"g-small g-end\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                at + LINE - 4.0,
                escape(label)
            );
        }
    };
    if node.inputs.is_empty() {
        at += PAD / 2.0;
    } else {
        ports(body, at, node.inputs.iter().map(ToString::to_string).collect());
        at += LINE;
    }
    let left = x + PAD;
    let _ = writeln!(
        body,
        "<text x=\"{left:.1}\" y=\"{:.1}\"><tspan class=\"g-name\">{}</tspan> <tspan class=\"g-kind\">{}</tspan></text>",
        at + LINE - 2.0,
        escape(&node.name),
        escape(node.kind)
    );
    for line in lines {
        at += LINE;
        let _ = writeln!(
            body,
            "<text x=\"{left:.1}\" y=\"{:.1}\">{}</text>",
            at + LINE - 2.0,
            escape(line)
        );
    }
    let outputs = node.outputs.iter().map(|(port, info)| format!("{port}: {info}")).collect();
    ports(body, y + height - LINE, outputs);
}

fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
