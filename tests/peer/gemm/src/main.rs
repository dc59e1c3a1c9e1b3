//! f32 matrix products `[m, k] @ [k, n]` of several libraries on all cores, GFLOP/s, the best of some repetitions in turn.

use blt_core::backend::Backend;
use blt_core::backend::fused::Fused;
use dfdx::prelude::*;
use faer::linalg::matmul::matmul as faer_matmul;
use rayon::prelude::*;
use std::time::Instant;

/// Rows of one task where a library is given one thread a task.
const ROWS: usize = 128;

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7).sin()).collect()
}

/// `c = a @ b` by the gemm crate on the calling thread.
fn gemm_rows(a: &[f32], b: &[f32], c: &mut [f32], k: usize, n: usize) {
    let m = c.len() / n;
    // SAFETY: a is [m, k], b [k, n] and c [m, n], row-major, and c overlaps neither.
    unsafe {
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        let one = gemm::Parallelism::None;
        gemm::gemm(m, n, k, c, 1, n as isize, false, a, 1, k as isize, b, 1, n as isize, 0.0, 1.0, false, false, false, one);
    }
}

fn main() {
    let threads = rayon::current_num_threads();
    println!("{threads} threads; GFLOP/s, best of 12\n");
    println!("| m x k x n | dfdx | matrixmultiply | faer | gemm, a task each {ROWS} rows | own tiles, packing included |");
    println!("|---|---:|---:|---:|---:|---:|");
    let shapes = [
        (1024, 1024, 1024),
        (4096, 128, 384),
        (4096, 128, 704),
        (4096, 384, 128),
        (900, 256, 768),
        (900, 256, 1408),
        (900, 704, 256),
        (4096, 256, 768),
        (900, 512, 2816),
        (384, 4096, 128),
    ];
    let dev: Cpu = Default::default();
    for (m, k, n) in shapes {
        let (a, b) = (noise(m * k), noise(k * n));
        let transposed: Vec<f32> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
        let mut c = vec![0.0f32; m * n];
        let mut best = [0.0f64; 5];
        let (da, db) = (dev.tensor_from_vec(a.clone(), (m, k)), dev.tensor_from_vec(b.clone(), (k, n)));
        let fused = Fused::new();
        let weight = fused.add_param([n, k], transposed, false);
        let x = fused.constant(m, k, a.clone());
        for _ in 0..12 {
            let mut time = |slot: usize, run: &mut dyn FnMut()| {
                let started = Instant::now();
                run();
                best[slot] = best[slot].max(2e-9 * (m * k * n) as f64 / started.elapsed().as_secs_f64());
            };
            time(0, &mut || drop(std::hint::black_box(da.clone().matmul(db.clone()))));
            time(1, &mut || {
                // SAFETY: the shapes are those of the slices, row-major.
                unsafe {
                    let (k_, n_) = (k as isize, n as isize);
                    matrixmultiply::sgemm(m, k, n, 1.0, a.as_ptr(), k_, 1, b.as_ptr(), n_, 1, 0.0, c.as_mut_ptr(), n_, 1);
                }
            });
            time(2, &mut || {
                let a = faer::MatRef::from_row_major_slice(&a, m, k);
                let b = faer::MatRef::from_row_major_slice(&b, k, n);
                let c = faer::MatMut::from_row_major_slice_mut(&mut c, m, n);
                faer_matmul(c, faer::Accum::Replace, a, b, 1.0, faer::Par::rayon(threads));
            });
            time(3, &mut || {
                let tasks = c.par_chunks_mut(ROWS * n).zip(a.par_chunks(ROWS * k));
                tasks.for_each(|(c, a)| gemm_rows(a, &b, c, k, n));
            });
            time(4, &mut || drop(std::hint::black_box(fused.linear(&x, weight))));
        }
        let cells: Vec<String> = best.iter().map(|rate| format!("{rate:.0}")).collect();
        println!("| {m} x {k} x {n} | {} |", cells.join(" | "));
    }
}
