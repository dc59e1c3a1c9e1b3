//! Where boxes go: in layers by the longest way from a source, each layer in an order that crosses
//! few wires.

use crate::draw::drawing::Drawing;

/// A box, or the place where a wire that spans several layers passes one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Item {
    Box(usize),
    Pass(usize),
}

/// The items of each layer, from left to right.
pub(super) fn layers(drawing: &Drawing) -> Vec<Vec<Item>> {
    let mut layer = vec![0; drawing.boxes.len()];
    // A plan's nodes stand each after those that it reads from.
    for index in 0..drawing.boxes.len() {
        let from = drawing.wires.iter().filter(|wire| wire.to.0 == index);
        layer[index] = from.map(|wire| layer[wire.from.0] + 1).max().unwrap_or(0);
    }
    // A source stands near what reads it.
    for index in (0..drawing.boxes.len()).rev() {
        let fed = drawing.wires.iter().any(|wire| wire.to.0 == index);
        let to = drawing.wires.iter().filter(|wire| wire.from.0 == index);
        let nearest = to.map(|wire| layer[wire.to.0]).min();
        if let (false, Some(nearest)) = (fed, nearest) {
            layer[index] = nearest - 1;
        }
    }
    let count = layer.iter().max().map_or(0, |last| last + 1);
    let mut layers: Vec<Vec<Item>> = vec![Vec::new(); count];
    for (index, layer) in layer.iter().enumerate() {
        layers[*layer].push(Item::Box(index));
    }
    for (index, wire) in drawing.wires.iter().enumerate() {
        for between in &mut layers[layer[wire.from.0] + 1..layer[wire.to.0]] {
            between.push(Item::Pass(index));
        }
    }
    for _ in 0..8 {
        for at in 1..count {
            let above = layers[at - 1].clone();
            order(&mut layers[at], &above, |item| up(drawing, item));
        }
        for at in (0..count.saturating_sub(1)).rev() {
            let below = layers[at + 1].clone();
            order(&mut layers[at], &below, |item| down(drawing, item));
        }
    }
    layers
}

/// Sorts a layer by the mean place of what each item is wired to in the layer beside it.
fn order(layer: &mut [Item], beside: &[Item], wired: impl Fn(Item) -> Vec<Item>) {
    let mean = |(at, item): (usize, &Item)| {
        let places: Vec<usize> = wired(*item)
            .iter()
            .filter_map(|other| beside.iter().position(|item| item == other))
            .collect();
        match places.len() {
            0 => at as f64 / layer.len() as f64 * beside.len() as f64,
            n => places.iter().sum::<usize>() as f64 / n as f64,
        }
    };
    let mut keyed: Vec<(f64, Item)> =
        layer.iter().enumerate().map(|(at, item)| (mean((at, item)), *item)).collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (place, (_, item)) in layer.iter_mut().zip(keyed) {
        *place = item;
    }
}

/// What an item is wired to in the layer above: boxes, or the same wire's pass.
fn up(drawing: &Drawing, item: Item) -> Vec<Item> {
    match item {
        Item::Pass(wire) => vec![Item::Pass(wire), Item::Box(drawing.wires[wire].from.0)],
        Item::Box(index) => {
            let wires = drawing.wires.iter().enumerate().filter(|(_, wire)| wire.to.0 == index);
            wires.flat_map(|(at, wire)| [Item::Pass(at), Item::Box(wire.from.0)]).collect()
        }
    }
}

fn down(drawing: &Drawing, item: Item) -> Vec<Item> {
    match item {
        Item::Pass(wire) => vec![Item::Pass(wire), Item::Box(drawing.wires[wire].to.0)],
        Item::Box(index) => {
            let wires = drawing.wires.iter().enumerate().filter(|(_, wire)| wire.from.0 == index);
            wires.flat_map(|(at, wire)| [Item::Pass(at), Item::Box(wire.to.0)]).collect()
        }
    }
}
