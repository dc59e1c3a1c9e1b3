//! `x @ W^T` and its gradients, by tiles of rows.

use super::buffer::{Buffer, Scratch};
use super::tile::{BLOCK, Into, Left, PANEL, Panels, ROWS, from_tile, panels, to_tile};
use super::weight_grads::{WeightGrad, tiles_at_once, weight_grads};
use super::{Fused, ParamId, Tensor, on_pool};
use crate::backend::{BackendError, Parameters, Tape, check};
use crate::simd::Level;
use rayon::prelude::*;

/// `x @ W^T`, `[n, in] -> [n, out]`.
pub(crate) fn linear(fused: &Fused, x: &Tensor, weight: ParamId) -> Result<Tensor, BackendError> {
    linear_at(Level::best(), fused, x, weight)
}

fn linear_at(level: Level, fused: &Fused, x: &Tensor, id: ParamId) -> Result<Tensor, BackendError> {
    let [out, cols] = fused.param_shape(id);
    check::linear(x, [out, cols])?;
    let x = fused.value(x)?;
    let weight = fused.weight(id);
    let (rows, input, input_id) = (x.rows, x.data.clone(), x.id);
    let y = on_pool(|| {
        product(level, &input, cols, &Panels::transposed(level, &[(&weight, out)], cols), out)
    });
    let (y, y_id) = fused.output(rows, out, y);
    if fused.recording() {
        fused.push(move |grads| {
            let Some(dy) = grads.take(y_id) else { return };
            let mut dw = grads.take_dense(id);
            let tile_len = panels(cols) * BLOCK;
            // Tiles of the input in panels, as many at a time as keep every thread busy.
            let at_once = tiles_at_once();
            let mut inputs = Buffer::new(at_once.min(rows.div_ceil(ROWS)) * tile_len);
            for (dy, x) in dy.chunks(at_once * ROWS * out).zip(input.chunks(at_once * ROWS * cols))
            {
                inputs
                    .par_chunks_mut(tile_len)
                    .zip(x.par_chunks(ROWS * cols))
                    .for_each(|(tile, x)| to_tile(x, cols, tile));
                let dys = dy.chunks(ROWS * out).map(|dy| Left::strided(dy, out, 1));
                weight_grads(
                    level,
                    vec![WeightGrad::new(&mut dw, cols, dy.len() / out, dys, &inputs)],
                );
            }
            grads.put_dense(id, dw);
            grads.add(
                input_id,
                product(level, &dy, out, &Panels::stacked(&[(&weight, out)], cols), cols),
            );
        });
    }
    Ok(y)
}

/// `x @ weight` for rows `x` `[n, cols]`, `[n, out]`.
fn product(level: Level, x: &[f32], cols: usize, weight: &Panels, out: usize) -> Buffer {
    let mut y = Buffer::new(x.len() / cols * out);
    let direct = out.is_multiple_of(PANEL) && cols.is_multiple_of(PANEL);
    y.par_chunks_mut(ROWS * out).zip(x.par_chunks(ROWS * cols)).for_each(|(y, x)| {
        let rows = y.len() / out;
        if direct {
            return weight.apply(
                level,
                rows,
                Left::strided(x, cols, 1),
                y,
                (out, PANEL),
                Into::Set,
            );
        }
        let mut from = Scratch::new(panels(cols) * BLOCK);
        let mut to = Scratch::new(panels(out) * BLOCK);
        to_tile(x, cols, &mut from);
        weight.apply_tile(level, rows, &from, &mut to, Into::Set);
        from_tile(&to, out, y);
    });
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Operations;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    fn close(got: &[f32], want: impl Iterator<Item = f64>) {
        let mut count = 0;
        for (got, want) in got.iter().zip(want) {
            assert!((*got as f64 - want).abs() < 2e-6 * (1.0 + want.abs()) * 10.0, "{got} {want}");
            count += 1;
        }
        assert_eq!(count, got.len());
    }

    /// Runs forward and backward; the loss is the sum of squares over two, so the output's gradient
    /// is the output.
    fn run(
        level: Level,
        x: &[f32],
        w: &[f32],
        rows: usize,
        out: usize,
        cols: usize,
    ) -> [Vec<f32>; 3] {
        let fused = Fused::new();
        let id = fused.add_param([out, cols], w.to_vec(), false).unwrap();
        fused.record(true);
        let x = fused.constant(rows, cols, x.to_vec()).unwrap();
        let y = linear_at(level, &fused, &x, id).unwrap();
        let host = fused.to_host(&y).unwrap();
        let mut params = fused.params.borrow_mut();
        let mut grads =
            crate::backend::fused::Grads { values: Default::default(), params: &mut params };
        grads.add(fused.value(&y).unwrap().id, host.clone().into());
        for op in fused.tape.borrow_mut().take().unwrap().into_iter().rev() {
            op(&mut grads);
        }
        let dx = grads.take(fused.value(&x).unwrap().id).unwrap().to_vec();
        let dw = grads.dense(id).to_vec();
        [host, dx, dw]
    }

    #[test]
    fn values_and_gradients_match_plain_loops() {
        for (rows, out, cols) in [(0, 8, 8), (1, 1, 1), (7, 20, 33), (97, 64, 128), (1000, 40, 64)]
        {
            let (x, w) = (wave(rows * cols, 0.7), wave(out * cols, 0.3));
            for level in Level::available() {
                let [y, dx, dw] = run(level, &x, &w, rows, out, cols);
                close(
                    &y,
                    (0..rows * out).map(|i| {
                        (0..cols)
                            .map(|c| x[i / out * cols + c] as f64 * w[i % out * cols + c] as f64)
                            .sum()
                    }),
                );
                close(
                    &dx,
                    (0..rows * cols).map(|i| {
                        (0..out)
                            .map(|o| y[i / cols * out + o] as f64 * w[o * cols + i % cols] as f64)
                            .sum()
                    }),
                );
                close(
                    &dw,
                    (0..out * cols).map(|i| {
                        (0..rows)
                            .map(|r| y[r * out + i / cols] as f64 * x[r * cols + i % cols] as f64)
                            .sum()
                    }),
                );
            }
        }
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_other_rows() {
        let (rows, out, cols) = (500, 96, 130);
        let (x, w) = (wave(rows * cols, 0.7), wave(out * cols, 0.3));
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = pool(1).install(|| run(Level::best(), &x, &w, rows, out, cols));
        assert_eq!(one, pool(3).install(|| run(Level::best(), &x, &w, rows, out, cols)));
        for (first, count) in [(0, 1), (100, 7), (95, 200)] {
            let part = run(Level::best(), &x[first * cols..][..count * cols], &w, count, out, cols);
            assert_eq!(part[0], one[0][first * out..][..count * out]);
            assert_eq!(part[1], one[1][first * cols..][..count * cols]);
        }
    }
}
