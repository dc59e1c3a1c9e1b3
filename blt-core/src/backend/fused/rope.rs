//! Rotary position embedding over interleaved pairs (2i, 2i + 1), by the angles that
//! [`crate::rope`] defines.

use crate::rope;
use crate::simd::{LANES, Simd, kernel};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Cosines and sines of positions `0 .. positions`, `[positions][2][width]`: for each position the
/// factor of every element, then that of its partner in the pair. Width is `head_dim` up to whole
/// vectors; the added elements are zero.
pub(crate) struct Table {
    data: Vec<f32>,
    width: usize,
}

/// Tables by (bits of theta, head_dim).
static TABLES: Mutex<BTreeMap<(u64, usize), Arc<Table>>> = Mutex::new(BTreeMap::new());

impl Table {
    /// A table of at least `positions` positions, computed once and kept.
    pub fn get(theta: f64, head_dim: usize, positions: usize) -> Arc<Self> {
        // A poisoned lock guards a map that is whole after every step.
        let mut tables = TABLES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (theta.to_bits(), head_dim);
        if let Some(table) =
            tables.get(&key).filter(|table| table.data.len() >= positions * 2 * table.width)
        {
            return table.clone();
        }
        let table = Arc::new(Self::new(theta, head_dim, positions.next_power_of_two()));
        tables.insert(key, table.clone());
        table
    }

    fn new(theta: f64, head_dim: usize, positions: usize) -> Self {
        let width = head_dim.next_multiple_of(LANES);
        let mut data = vec![0.0; positions * 2 * width];
        let frequencies = rope::frequencies(theta, head_dim);
        for (p, row) in data.chunks_exact_mut(2 * width).enumerate() {
            let (own, partner) = row.split_at_mut(width);
            for (i, &frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = rope::angle(p, frequency).sin_cos();
                own[2 * i..2 * i + 2].fill(cos as f32);
                partner[2 * i] = -sin as f32;
                partner[2 * i + 1] = sin as f32;
            }
        }
        Self { data, width }
    }

    /// The factors at one position: of each element, and of its partner.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        self.data[position * 2 * self.width..][..2 * self.width].split_at(self.width)
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn rotate_body<S: Simd>(
    s: S,
    table: &Table,
    positions: &[usize],
    (from, stride): (&[f32], usize),
    to: &mut [f32],
    scale: f32,
    turn: f32,
) {
    let head_dim = to.len() / positions.len().max(1);
    let (scale, turn) = (s.splat(scale), s.splat(scale * turn));
    for (r, &position) in positions.iter().enumerate() {
        let (own, partner) = table.at(position);
        let factors = own.as_chunks().0.iter().zip(partner.as_chunks().0);
        let rows = from[r * stride..][..head_dim]
            .chunks(LANES)
            .zip(to[r * head_dim..][..head_dim].chunks_mut(LANES));
        for ((from, to), (own, partner)) in rows.zip(factors) {
            let v = s.load_part(from);
            let kept = s.mul(s.mul(v, scale), s.load(own));
            let turned = s.mul_add(s.mul(s.swap_pairs(v), turn), s.load(partner), kept);
            s.store_part(to, turned);
        }
    }
}

kernel!(
    /// Rotates one head's rows by their positions' factors and scales them: `from` has a row each so many elements, `to` is
    /// `[positions, head_dim]`. `turn` 1.0, or -1.0 for the inverse rotation (the gradient's).
    pub(crate) fn rotate(
        table: &Table,
        positions: &[usize],
        from: (&[f32], usize),
        to: &mut [f32],
        scale: f32,
        turn: f32,
    ) = rotate_body
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn rotation_matches_its_formula_and_its_inverse_undoes_it() {
        for head_dim in [2, 6, 16, 32, 48] {
            let table = Table::get(10000.0, head_dim, 70);
            for level in Level::available() {
                let positions = [0, 69, 1];
                let stride = head_dim + 3;
                let x: Vec<f32> = (0..positions.len() * stride).map(|i| (i as f32).cos()).collect();
                let mut y = vec![f32::NAN; positions.len() * head_dim];
                rotate(level, &table, &positions, (&x, stride), &mut y, 0.5, 1.0);
                let mut back = vec![f32::NAN; y.len()];
                rotate(level, &table, &positions, (&y, head_dim), &mut back, 2.0, -1.0);
                for (r, p) in positions.into_iter().enumerate() {
                    let (x, y) = (&x[r * stride..][..head_dim], &y[r * head_dim..][..head_dim]);
                    for (i, (x, y)) in x.chunks_exact(2).zip(y.chunks_exact(2)).enumerate() {
                        let angle = rope::angle(p, rope::frequencies(10000.0, head_dim)[i]);
                        let (a, b) = (x[0] as f64, x[1] as f64);
                        let want = [
                            0.5 * (a * angle.cos() - b * angle.sin()),
                            0.5 * (a * angle.sin() + b * angle.cos()),
                        ];
                        assert!(
                            (y[0] as f64 - want[0]).abs() < 1e-6
                                && (y[1] as f64 - want[1]).abs() < 1e-6,
                            "{head_dim} {p}"
                        );
                    }
                    let back = &back[r * head_dim..][..head_dim];
                    assert!(x.iter().zip(back).all(|(x, back)| (x - back).abs() < 1e-6));
                }
            }
        }
    }
}
