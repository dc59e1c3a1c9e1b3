//! Means, standard errors, and intervals of differences over clusters and seeds.

mod multiple;
mod two_way;

pub use multiple::{confidence, holm};
pub use two_way::{FEWEST_CLUSTERS, TwoWay};

/// The arithmetic mean; not a number where there is no value.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard error of the mean; None with fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    standard_error_about(values, mean(values))
}

/// As [`standard_error`], for a mean that the caller knows.
pub fn standard_error_about(values: &[f64], mean: f64) -> Option<f64> {
    let n = values.len() as f64;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}
