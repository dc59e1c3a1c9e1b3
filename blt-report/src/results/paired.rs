//! Differences of two variants, paired by document.

use super::file::Difference;
use crate::stats::{mean, standard_error};
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;

/// A document's line in documents.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentLine {
    pub row: u64,
    pub group: Option<String>,
    pub bytes: u64,
    pub nats: f64,
    pub patches: u64,
}

/// The paired difference of two variants, each a list of documents for each seed (the same seeds,
/// in the same order).
///
/// Bits per byte is a ratio of sums, so the error over documents is that of a ratio: the deviation
/// of `d_i - delta * bytes_i` over documents. None if the two did not read the same documents.
pub fn paired(variant: &[Vec<DocumentLine>], baseline: &[Vec<DocumentLine>]) -> Option<Difference> {
    if variant.is_empty() || variant.len() != baseline.len() {
        return None;
    }
    let documents = variant[0].len();
    let mut nats = vec![0.0; documents];
    let mut deltas = Vec::new();
    let bytes: Vec<f64> = variant[0].iter().map(|d| d.bytes as f64).collect();
    let total: f64 = bytes.iter().sum();
    for (ours, theirs) in variant.iter().zip(baseline) {
        if ours.len() != documents || theirs.len() != documents {
            return None;
        }
        let mut delta = 0.0;
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            if (a.row, a.bytes) != (b.row, b.bytes) || a.row != variant[0][i].row {
                return None;
            }
            delta += a.nats - b.nats;
            nats[i] += (a.nats - b.nats) / variant.len() as f64;
        }
        deltas.push(delta / total / LN_2);
    }
    let mean_delta: f64 = nats.iter().sum::<f64>() / total;
    let n = documents as f64;
    let squares: f64 = nats.iter().zip(&bytes).map(|(d, b)| (d - mean_delta * b).powi(2)).sum();
    let se_documents = match documents {
        0 | 1 => f64::NAN,
        _ => (squares / (n - 1.0) * n).sqrt() / total / LN_2,
    };
    let se_seeds = standard_error(&deltas);
    let se = (se_documents.powi(2) + se_seeds.unwrap_or(0.0).powi(2)).sqrt();
    Some(Difference { bpb: mean(&deltas), se_documents, se_seeds, se })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(nats: &[f64]) -> Vec<DocumentLine> {
        let line = |(row, &nats): (usize, &f64)| DocumentLine {
            row: row as u64,
            group: None,
            bytes: 100,
            nats,
            patches: 1,
        };
        nats.iter().enumerate().map(line).collect()
    }

    #[test]
    fn a_constant_difference_has_no_error_over_documents() {
        let a = vec![lines(&[10.0, 50.0, 90.0])];
        let b = vec![lines(&[9.0, 49.0, 89.0])];
        let d = paired(&a, &b).unwrap();
        assert!((d.bpb - 0.01 / LN_2).abs() < 1e-12);
        assert!(d.se_documents.abs() < 1e-9 && d.se_seeds.is_none());
    }

    #[test]
    fn errors_are_those_of_the_textbook() {
        // Equal lengths: the ratio's error is that of the mean of the differences 1, 2, 3
        // (deviation 1, n = 3).
        let d = paired(&[lines(&[11.0, 12.0, 13.0])], &[lines(&[10.0, 10.0, 10.0])]).unwrap();
        assert!((d.se_documents - (1.0 / 3f64).sqrt() / 100.0 / LN_2).abs() < 1e-12, "{d:?}");
        let two = paired(
            &[lines(&[11.0, 11.0]), lines(&[13.0, 13.0])],
            &[lines(&[10.0, 10.0]), lines(&[10.0, 10.0])],
        )
        .unwrap();
        assert!((two.bpb - 0.02 / LN_2).abs() < 1e-12);
        assert!((two.se_seeds.unwrap() - 0.01 / LN_2).abs() < 1e-12);
    }

    #[test]
    fn other_documents_are_not_paired() {
        let mut other = lines(&[1.0, 2.0]);
        other[1].row = 7;
        assert!(paired(&[lines(&[1.0, 2.0])], &[other]).is_none());
        assert!(paired(&[lines(&[1.0, 2.0])], &[lines(&[1.0])]).is_none());
    }
}
