//! Short functions over slices that the kernels inline: `exp`, greatest element, inner product.

/// `e^x`, at most 2 units in the last place off; exactly 1 at 0, 0 below -87.3 (where results would
/// be subnormal), infinity above 88.4 (a hair early). Inlines into loops and vectorises.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer, in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -88.0 { -88.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in products with small integers.
    let r = clamped - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let scale = f32::from_bits((exponent.wrapping_add(127).clamp(1, 254) as u32) << 23);
    let y = e * scale;
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.37 { f32::INFINITY } else { y }
}

/// Largest element; negative infinity of nothing. A NaN may be passed over: it reaches the result
/// by other ways.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// Inner product, in an order that depends on the length alone.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let (a, rest_a) = a.as_chunks::<LANES>();
    let (b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane += a * b;
    }
    sum_lanes(lanes)
}

/// The sum of 16 lanes, as a tree.
#[inline(always)]
pub(super) fn sum_lanes(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// `y += a * x`
#[inline(always)]
pub(super) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -880_000..883_000i32 {
            let x = i as f32 * 1e-4;
            let (got, want) = (exp(x), (x as f64).exp());
            let unit = 2f64.powi(want.log2().floor() as i32 - 23);
            assert!(
                x < -87.3 && got == 0.0 || (got as f64 - want).abs() <= 2.0 * unit,
                "exp({x}) = {got}, not {want}"
            );
        }
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert_eq!(
            (exp(f32::NEG_INFINITY), exp(-1e30), exp(f32::INFINITY), exp(90.0)),
            (0.0, 0.0, f32::INFINITY, f32::INFINITY)
        );
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_take_every_element() {
        for len in 0..70 {
            let x: Vec<f32> = (0..len).map(|i| (i * 7 % 13) as f32 - 20.0).collect();
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(dot(&x, &x), x.iter().map(|x| x * x).sum::<f32>());
        }
    }
}
