//! Differences of two variants, paired by document.

use super::file::{Difference, Interval};
use crate::stats::{TwoWay, mean, standard_error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;

/// A document's line in documents.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentLine {
    pub row: u64,
    pub group: Option<String>,
    /// The value of the column `report.cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    pub bytes: u64,
    pub nats: f64,
    pub patches: u64,
}

/// A paired difference before it is compared with others: what [`Difference`] says of it, and the
/// estimate that its intervals come from. In bits per byte.
#[derive(Clone, Debug)]
pub struct Paired {
    pub difference: Difference,
    pub estimate: TwoWay,
    /// By the groups of the documents.
    pub by: BTreeMap<String, Paired>,
}

/// The paired difference of two variants, each a list of documents for each seed (the same seeds,
/// in the same order).
///
/// Bits per byte is a ratio of sums, so the error over documents is that of a ratio: the deviation
/// of `d_i - delta * bytes_i` over documents. For the interval, documents of one cluster are one
/// observation; see [`TwoWay`]. None if the two did not read the same documents.
pub fn paired(variant: &[Vec<DocumentLine>], baseline: &[Vec<DocumentLine>]) -> Option<Paired> {
    if variant.is_empty() || variant.len() != baseline.len() {
        return None;
    }
    let lines = &variant[0];
    let mut nats: Vec<Vec<f64>> = Vec::new();
    for (ours, theirs) in variant.iter().zip(baseline) {
        if ours.len() != lines.len() || theirs.len() != lines.len() {
            return None;
        }
        let pair = |((a, b), first): ((&DocumentLine, &DocumentLine), &DocumentLine)| {
            let same = (a.row, a.bytes) == (b.row, b.bytes) && a.row == first.row;
            same.then_some(a.nats - b.nats)
        };
        nats.push(ours.iter().zip(theirs).zip(lines).map(pair).collect::<Option<_>>()?);
    }
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, line) in lines.iter().enumerate() {
        if let Some(group) = &line.group {
            groups.entry(group).or_default().push(i);
        }
    }
    let all: Vec<usize> = (0..lines.len()).collect();
    let by = groups.into_iter().map(|(group, of)| (group.to_owned(), over(lines, &nats, &of)));
    Some(Paired { by: by.collect(), ..over(lines, &nats, &all) })
}

/// The difference over the documents `of`.
fn over(lines: &[DocumentLine], nats: &[Vec<f64>], of: &[usize]) -> Paired {
    let bytes: Vec<f64> = of.iter().map(|i| lines[*i].bytes as f64).collect();
    let total: f64 = bytes.iter().sum();
    let n = of.len() as f64;
    let delta = |seed: &Vec<f64>| of.iter().map(|i| seed[*i]).sum::<f64>() / total / LN_2;
    let deltas: Vec<f64> = nats.iter().map(delta).collect();
    let over_seeds = |i: &usize| nats.iter().map(|seed| seed[*i] / nats.len() as f64).sum::<f64>();
    let means: Vec<f64> = of.iter().map(over_seeds).collect();
    let mean_delta: f64 = means.iter().sum::<f64>() / total;
    let squares: f64 = means.iter().zip(&bytes).map(|(d, b)| (d - mean_delta * b).powi(2)).sum();
    let se_documents = match of.len() {
        0 | 1 => f64::NAN,
        _ => (squares / (n - 1.0) * n).sqrt() / total / LN_2,
    };
    let se_seeds = standard_error(&deltas);
    let se = (se_documents.powi(2) + se_seeds.unwrap_or(0.0).powi(2)).sqrt();
    let mut clusters: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    let cluster_of: Vec<usize> = of
        .iter()
        .map(|i| {
            let line = &lines[*i];
            let name = line.cluster.as_deref().map_or(("", line.row), |cluster| (cluster, 0));
            let next = clusters.len();
            *clusters.entry(name).or_insert(next)
        })
        .collect();
    let sums = |values: &mut dyn Iterator<Item = f64>| {
        let mut sums = vec![0.0; clusters.len()];
        for (cluster, value) in cluster_of.iter().zip(values) {
            sums[*cluster] += value;
        }
        sums
    };
    let bits = |seed: &Vec<f64>| sums(&mut of.iter().map(|i| seed[*i] / LN_2));
    let estimate =
        TwoWay::of(&sums(&mut bytes.iter().copied()), &nats.iter().map(bits).collect::<Vec<_>>());
    let interval = Interval {
        clusters: Some(estimate.clusters as u64),
        se_clusters: Some(estimate.se_clusters()).filter(|se| se.is_finite()),
        df: estimate.df(),
        half_width: estimate.half_width(0.95),
        p: estimate.p(),
        ..Interval::default()
    };
    let (bpb, by) = (mean(&deltas), BTreeMap::new());
    let difference = Difference { bpb, se_documents, se_seeds, se, interval, by };
    Paired { difference, estimate, by: BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(nats: &[f64]) -> Vec<DocumentLine> {
        let line = |(row, &nats): (usize, &f64)| DocumentLine {
            row: row as u64,
            group: None,
            cluster: None,
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
        let d = paired(&a, &b).unwrap().difference;
        assert!((d.bpb - 0.01 / LN_2).abs() < 1e-12);
        assert!(d.se_documents.abs() < 1e-9 && d.se_seeds.is_none());
    }

    #[test]
    fn errors_are_those_of_the_textbook() {
        // Equal lengths: the ratio's error is that of the mean of the differences 1, 2, 3
        // (deviation 1, n = 3).
        let d = paired(&[lines(&[11.0, 12.0, 13.0])], &[lines(&[10.0, 10.0, 10.0])]).unwrap();
        let d = d.difference;
        assert!((d.se_documents - (1.0 / 3f64).sqrt() / 100.0 / LN_2).abs() < 1e-12, "{d:?}");
        let two = paired(
            &[lines(&[11.0, 11.0]), lines(&[13.0, 13.0])],
            &[lines(&[10.0, 10.0]), lines(&[10.0, 10.0])],
        )
        .unwrap()
        .difference;
        assert!((two.bpb - 0.02 / LN_2).abs() < 1e-12);
        assert!((two.se_seeds.unwrap() - 0.01 / LN_2).abs() < 1e-12);
    }

    /// Documents of one cluster are one observation, in all and within a group.
    #[test]
    fn intervals_are_over_clusters() {
        let of = |nats: [f64; 8], cluster: fn(usize) -> usize| {
            let mut lines = lines(&nats);
            for (i, line) in lines.iter_mut().enumerate() {
                line.cluster = Some(cluster(i).to_string());
                line.group = Some(if i < 6 { "a" } else { "b" }.to_owned());
            }
            vec![lines]
        };
        let (ours, theirs) = ([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0], [0.0; 8]);
        let own = paired(&of(ours, |i| i), &of(theirs, |i| i)).unwrap();
        assert_eq!(own.difference.interval.clusters, Some(8));
        // Equal clusters: CR2 is the textbook's error over documents, with n - 1 degrees.
        let interval = &own.difference.interval;
        assert!((interval.se_clusters.unwrap() - own.difference.se_documents).abs() < 1e-12);
        assert!((interval.df.unwrap() - 7.0).abs() < 1e-9);
        let halves = paired(&of(ours, |i| i / 2), &of(theirs, |i| i / 2)).unwrap();
        assert_eq!(halves.difference.se_documents, own.difference.se_documents);
        let interval = &halves.difference.interval;
        assert_eq!((interval.clusters, interval.df, interval.half_width), (Some(4), None, None));
        // Pairs sum to 4, 5, 14 and 8.
        let squares: f64 = [4.0, 5.0, 14.0, 8.0].iter().map(|sum| (sum - 7.75f64).powi(2)).sum();
        let by_hand = (squares / 3.0 / 4.0).sqrt() / 200.0 / LN_2;
        assert!((interval.se_clusters.unwrap() - by_hand).abs() < 1e-12);
        assert_eq!(own.by["a"].difference.interval.clusters, Some(6));
        assert!(own.by["a"].difference.interval.half_width.is_some());
        assert!(own.by["b"].difference.interval.half_width.is_none());
        assert!((own.by["b"].difference.bpb - 0.04 / LN_2).abs() < 1e-12);
    }

    #[test]
    fn other_documents_are_not_paired() {
        let mut other = lines(&[1.0, 2.0]);
        other[1].row = 7;
        assert!(paired(&[lines(&[1.0, 2.0])], &[other]).is_none());
        assert!(paired(&[lines(&[1.0, 2.0])], &[lines(&[1.0])]).is_none());
    }
}
