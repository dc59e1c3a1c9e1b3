//! Products and copies of tiles against plain loops.

use super::*;

fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}

#[test]
fn bands_match_a_plain_loop() {
    for (rows, cols, k) in
        [(1, 16, 1), (7, 32, 5), (12, 48, 64), (23, 64, 130), (96, 112, 200), (5, 16, 0)]
    {
        for (row_stride, k_stride) in [(k + 3, 1), (1, rows + 2)] {
            let (a, b) = (wave(rows * row_stride + k * k_stride, 0.7), wave(k * (cols + 4), 0.3));
            let start = wave(rows * (cols + 1), 0.9);
            for level in Level::available() {
                for into in [Into::Set, Into::Chain, Into::Add] {
                    let mut c = start.clone();
                    band(
                        level,
                        (rows, cols, k),
                        Left::strided(&a, row_stride, k_stride),
                        Right::new(&b, cols + 4).fetching(&start),
                        &mut c,
                        cols + 1,
                        into,
                    );
                    for (i, (c, start)) in c.iter().zip(&start).enumerate() {
                        let (r, j) = (i / (cols + 1), i % (cols + 1));
                        if j == cols {
                            assert_eq!(c, start, "between the rows");
                            continue;
                        }
                        let sum: f64 = (0..k)
                            .map(|k| {
                                a[r * row_stride + k * k_stride] as f64
                                    * b[k * (cols + 4) + j] as f64
                            })
                            .sum();
                        let want = sum + if into == Into::Set { 0.0 } else { *start as f64 };
                        assert!(
                            (*c as f64 - want).abs() < 1e-5 * (1.0 + want.abs()),
                            "{level:?} {rows} {cols} {k} {into:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Weights whose rows and columns do not fill panels: what is passed over changes nothing, and
/// comes out as zero.
#[test]
fn panels_match_plain_loops() {
    for (out, k) in [(96, 32), (40, 100), (17, 64), (128, 130)] {
        let (w, v, x) = (wave(out * k, 0.3), wave(out * k, 0.8), wave(5 * k, 0.7));
        let (y, z) = (wave(5 * out, 0.2), wave(5 * out, 0.6));
        for level in Level::available() {
            let mut tile = vec![f32::NAN; panels(k) * BLOCK];
            to_tile(&x, k, &mut tile);
            let weights = Panels::transposed(level, &[(&w, out), (&v, out)], k);
            let mut product = vec![f32::NAN; 2 * panels(out) * BLOCK];
            weights.apply_tile(level, 5, &tile, &mut product, Into::Set);
            for (w, product) in [&w, &v].into_iter().zip(product.chunks_exact(panels(out) * BLOCK))
            {
                for (r, x) in x.chunks_exact(k).enumerate() {
                    for o in 0..panels(out) * PANEL {
                        let row = w.chunks_exact(k).nth(o);
                        let want = row.map_or(0.0, |w| {
                            w.iter().zip(x).map(|(w, x)| *w as f64 * *x as f64).sum()
                        });
                        let got = product[o / PANEL * BLOCK + r * PANEL + o % PANEL] as f64;
                        assert!(
                            (got - want).abs() < 1e-4 && (o < out || got == 0.0),
                            "{level:?} {out} {k} {o}"
                        );
                    }
                }
            }
            // Two weights below each other, of the same columns.
            let mut tiles = vec![f32::NAN; 2 * panels(out) * BLOCK];
            let (upper, lower) = tiles.split_at_mut(panels(out) * BLOCK);
            to_tile(&y, out, upper);
            to_tile(&z, out, lower);
            let mut sums = vec![f32::NAN; panels(k) * BLOCK];
            let weights = Panels::stacked(&[(&w, out), (&v, out)], k);
            weights.apply_tile(level, 5, &tiles, &mut sums, Into::Set);
            for (i, got) in sums.iter().enumerate().filter(|(i, _)| i % BLOCK < 5 * PANEL) {
                let (r, c) = (i % BLOCK / PANEL, i / BLOCK * PANEL + i % PANEL);
                let of = |w: &[f32], y: &[f32]| -> f64 {
                    (0..if c < k { out } else { 0 })
                        .map(|o| w[o * k + c] as f64 * y[r * out + o] as f64)
                        .sum()
                };
                let want = of(&w, &y) + of(&v, &z);
                assert!(
                    (*got as f64 - want).abs() < 1e-4,
                    "{level:?} {out} {k} {r} {c}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "a holds 4 rows of 9 columns")]
fn operands_are_checked() {
    band(
        Level::best(),
        (4, 16, 9),
        Left::strided(&[0.0; 35], 9, 1),
        Right::new(&[0.0; 144], 16),
        &mut [0.0; 64],
        16,
        Into::Set,
    );
}

#[test]
fn columns_are_packed_with_zeros_after_the_last() {
    for (rows, cols) in [(1, 1), (64, 32), (70, 20), (130, 48)] {
        let from = wave(rows * (cols + 2), 0.1);
        for level in Level::available() {
            let mut to = vec![f32::NAN; rows.div_ceil(PANEL) * PANEL * cols];
            pack_columns(level, &from, cols + 2, rows, cols, &mut to);
            for (i, x) in to.iter().enumerate() {
                let (row, col) = (i / (PANEL * cols) * PANEL + i % PANEL, i / PANEL % cols);
                assert_eq!(
                    *x,
                    if row < rows { from[row * (cols + 2) + col] } else { 0.0 },
                    "{level:?}"
                );
            }
        }
    }
}

#[test]
fn tiles_are_copied_both_ways() {
    let rows = wave(5 * 70, 0.4);
    let mut tile = vec![f32::NAN; 2 * BLOCK];
    to_tile(&rows, 70, &mut tile);
    assert_eq!(tile[BLOCK + 4 * PANEL..][..7], [&rows[4 * 70 + 64..5 * 70], &[0.0]].concat());
    let mut back = vec![0.0; rows.len()];
    from_tile(&tile, 70, &mut back);
    assert_eq!(back, rows);
}
