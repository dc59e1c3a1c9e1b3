//! The angles of rotary position embedding.
//!
//! Pair i of a head turns by `position * theta^(-2i / head_dim)`. The reference implementation
//! computes this in f32, where position 10000 times a frequency is off by up to 5e-4, and its
//! logits by about as much. Released models were trained with those angles, so they are the
//! definition here, on every path; exact ones miss its logits by 1e-4 from some hundred
//! positions on.

/// Turns of each pair per position, `theta^(-2i / head_dim)` for pair i, rounded where the
/// reference rounds; `[head_dim / 2]`.
pub fn frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
    (0..head_dim / 2).map(|i| 1.0 / (theta.powf(exponent(i) as f64) as f32)).collect()
}

/// The angle in radians of a pair at `position`: a number of f32, whose sine and cosine are to be
/// taken exactly.
pub fn angle(position: usize, frequency: f32) -> f64 {
    (position as f32 * frequency) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_f32_products_of_f32_frequencies() {
        let f = frequencies(10000.0, 8);
        assert_eq!(f, [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(angle(7, f[1]), 0.7f32 as f64);
        // 10001 * 0.1 is not the nearest f32 to 1000.1 in f64's eyes: the rounding is kept.
        assert_ne!(angle(10001, f[1]), 10001.0 * 0.1);
        assert!((angle(10001, f[1]) - 1000.1).abs() < 1e-4);
    }
}
