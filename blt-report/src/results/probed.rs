//! What latents are worth, of documents that were read with other latents.

use super::latents::{LatentsProbe, LatentsWorth};
use super::paired::{DocumentLine, paired};
use std::collections::BTreeMap;

/// A document's nats with its own latents and with others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbedNats {
    pub trained: f64,
    pub mean: f64,
    pub other: f64,
    pub zero: f64,
}

/// Documents as they were probed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbedDocument {
    pub row: u64,
    pub group: Option<String>,
    /// The value of the column `report.cluster`.
    pub cluster: Option<String>,
    pub bytes: u64,
    pub nats: ProbedNats,
}

/// What latents are worth over all documents, and over those of each group.
pub fn probed(documents: &[ProbedDocument]) -> LatentsProbe {
    let mut groups: BTreeMap<&String, Vec<&ProbedDocument>> = BTreeMap::new();
    for document in documents {
        if let Some(group) = &document.group {
            groups.entry(group).or_default().push(document);
        }
    }
    let by = groups.into_iter().map(|(group, of)| (group.clone(), worth(&of))).collect();
    LatentsProbe { all: worth(&documents.iter().collect::<Vec<_>>()), by, ..Default::default() }
}

fn worth(documents: &[&ProbedDocument]) -> LatentsWorth {
    let bytes: u64 = documents.iter().map(|d| d.bytes).sum();
    let bpb = |nats: fn(&ProbedNats) -> f64| {
        let nats: f64 = documents.iter().map(|d| nats(&d.nats)).sum();
        (bytes > 0).then(|| nats / std::f64::consts::LN_2 / bytes as f64)
    };
    let lines = |nats: fn(&ProbedNats) -> f64| {
        let line = |d: &&ProbedDocument| DocumentLine {
            row: d.row,
            group: None,
            cluster: d.cluster.clone(),
            bytes: d.bytes,
            nats: nats(&d.nats),
            patches: 0,
        };
        [documents.iter().map(line).collect::<Vec<_>>()]
    };
    let (mean_bpb, other_bpb) = (bpb(|n| n.mean), bpb(|n| n.other));
    let (replaced_by, replaced): (_, fn(&ProbedNats) -> f64) = match other_bpb < mean_bpb {
        true => ("other", |n| n.other),
        false => ("mean", |n| n.mean),
    };
    let difference = paired(&lines(replaced), &lines(|n| n.trained)).filter(|_| bytes > 0);
    let difference = difference.map(|paired| paired.difference);
    LatentsWorth {
        worth: difference.as_ref().map(|d| d.bpb),
        half_width: difference.as_ref().and_then(|d| d.interval.half_width),
        clusters: difference.and_then(|d| d.interval.clusters),
        replaced_by: replaced_by.to_owned(),
        bpb: bpb(|n| n.trained),
        mean_bpb,
        other_bpb,
        zero_bpb: bpb(|n| n.zero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    #[test]
    fn the_smaller_loss_counts_and_each_group_has_its_own() {
        let document = |row, group: &str, trained, mean, other| ProbedDocument {
            row,
            group: Some(group.to_owned()),
            cluster: None,
            bytes: 100,
            nats: ProbedNats { trained, mean, other, zero: 1000.0 },
        };
        let documents = [
            document(0, "a", 100.0, 110.0, 130.0),
            document(1, "a", 200.0, 212.0, 203.0),
            document(2, "b", 100.0, 140.0, 105.0),
        ];
        let probe = probed(&documents);
        let near = |found: Option<f64>, nats: f64| (found.unwrap() - nats / LN_2).abs() < 1e-12;
        // Sums: 400 as trained, 462 and 438.
        assert_eq!(probe.all.replaced_by, "other");
        assert!(near(probe.all.worth, 0.38 / 3.0) && near(probe.all.zero_bpb, 10.0));
        let (a, b) = (&probe.by["a"], &probe.by["b"]);
        assert_eq!((a.replaced_by.as_str(), b.replaced_by.as_str()), ("mean", "other"));
        assert!(near(a.worth, 0.11) && near(b.worth, 0.05));
        assert_eq!((a.clusters, a.half_width), (Some(2), None));
        let many: Vec<ProbedDocument> =
            (0..8).map(|row| document(row, "a", 100.0, 110.0 + row as f64, 130.0)).collect();
        let all = probed(&many).all;
        assert!(all.half_width.is_some_and(|half| half > 0.0 && half < all.worth.unwrap()));
        assert_eq!(probed(&[]).all.worth, None);
    }
}
