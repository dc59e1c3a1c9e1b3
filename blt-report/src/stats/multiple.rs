//! Several comparisons at once.

/// The confidence of each of `n` intervals that hold together with 95 %, by Bonferroni.
///
/// Dunnett's intervals would be up to a tenth shorter, but they want one variance and one number of
/// degrees of freedom for all comparisons. Here each has its own: variants differ in how much they
/// vary from seed to seed.
pub fn confidence(n: usize) -> f64 {
    1.0 - 0.05 / n.max(1) as f64
}

/// Holm's adjusted p-values, in the order given: with a limit of 0.05, the probability of one false
/// claim or more among them is at most 0.05, whatever their dependence (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 0.0f64;
    for (rank, i) in order.into_iter().enumerate() {
        least = least.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 4 x 0.01, 3 x 0.02, then 2 x 0.03 and 1 x 0.04, which may not be smaller.
    #[test]
    fn holm_adjusts_from_the_smallest_on() {
        assert_eq!(holm(&[0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06]);
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
        assert!((confidence(5) - 0.99).abs() < 1e-12 && confidence(0) == 0.95);
    }
}
