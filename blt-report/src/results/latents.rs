//! What latents are worth: the loss of a trained model that reads other latents in their place.

use super::paired::{DocumentLine, paired};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `evaluate: {probe: latents}` measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LatentsProbe {
    /// Over all documents.
    pub all: LatentsWorth,
    /// By the column's values.
    pub by: BTreeMap<String, LatentsWorth>,
    /// Directions that latents of training documents vary in: the participation ratio of their
    /// covariance, `trace(C)^2 / trace(C^2)`, from 1 to the width.
    pub rank: Option<f64>,
    /// The norm of what the decoder's cross-attention gives, as a share of the states that it is
    /// added to, over all layers and bytes.
    pub cross_attention: Option<f64>,
}

/// What the latents of some documents are worth, in bits per byte: the smaller loss with latents
/// that say nothing of the text, minus the loss as trained. A decoder that reads something it was
/// not trained on loses by that alone, which is why the smaller counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LatentsWorth {
    pub worth: Option<f64>,
    /// Standard error over documents.
    pub se: Option<f64>,
    /// The 95 % interval over documents, if there are two or more.
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Which had the smaller loss: `mean` or `other`.
    pub replaced_by: String,
    /// Bits per byte as trained.
    pub bpb: Option<f64>,
    /// With each latent replaced by the mean over training documents.
    pub mean_bpb: Option<f64>,
    /// With the latents of another document of the group, at the same patch indices.
    pub other_bpb: Option<f64>,
    /// With zeros. Shown only; the worth does not use it.
    pub zero_bpb: Option<f64>,
}

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
    pub bytes: u64,
    pub nats: ProbedNats,
}

impl LatentsProbe {
    /// Of all documents, and of each group.
    pub fn of(documents: &[ProbedDocument]) -> Self {
        let mut groups: BTreeMap<&String, Vec<&ProbedDocument>> = BTreeMap::new();
        for document in documents {
            if let Some(group) = &document.group {
                groups.entry(group).or_default().push(document);
            }
        }
        let by = groups.into_iter().map(|(group, of)| (group.clone(), LatentsWorth::of(&of)));
        LatentsProbe {
            all: LatentsWorth::of(&documents.iter().collect::<Vec<_>>()),
            by: by.collect(),
            rank: None,
            cross_attention: None,
        }
    }
}

impl LatentsWorth {
    fn of(documents: &[&ProbedDocument]) -> Self {
        let bytes: u64 = documents.iter().map(|d| d.bytes).sum();
        let bpb = |nats: fn(&ProbedNats) -> f64| {
            let nats: f64 = documents.iter().map(|d| nats(&d.nats)).sum();
            (bytes > 0).then(|| nats / std::f64::consts::LN_2 / bytes as f64)
        };
        let lines = |nats: fn(&ProbedNats) -> f64| {
            let line = |d: &&ProbedDocument| DocumentLine {
                row: d.row,
                group: None,
                bytes: d.bytes,
                nats: nats(&d.nats),
                patches: 0,
                cluster: None,
            };
            vec![documents.iter().map(line).collect::<Vec<_>>()]
        };
        let (mean_bpb, other_bpb) = (bpb(|n| n.mean), bpb(|n| n.other));
        let (replaced_by, replaced): (_, fn(&ProbedNats) -> f64) = match other_bpb < mean_bpb {
            true => ("other", |n| n.other),
            false => ("mean", |n| n.mean),
        };
        let difference = paired(&lines(replaced), &lines(|n| n.trained)).filter(|_| bytes > 0);
        let difference = difference.map(|paired| paired.difference);
        let se = difference.as_ref().map(|d| d.se_documents).filter(|se| se.is_finite());
        let worth = difference.as_ref().map(|d| d.bpb);
        let half = difference.as_ref().and_then(|d| d.interval.half_width);
        let end = |sign: f64| Some(worth? + sign * half?);
        LatentsWorth {
            worth,
            se,
            low: end(-1.0),
            high: end(1.0),
            replaced_by: replaced_by.to_owned(),
            bpb: bpb(|n| n.trained),
            mean_bpb,
            other_bpb,
            zero_bpb: bpb(|n| n.zero),
        }
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
            bytes: 100,
            nats: ProbedNats { trained, mean, other, zero: 1000.0 },
        };
        let documents = [
            document(0, "a", 100.0, 110.0, 130.0),
            document(1, "a", 200.0, 212.0, 203.0),
            document(2, "b", 100.0, 140.0, 105.0),
        ];
        let probe = LatentsProbe::of(&documents);
        let near = |found: Option<f64>, nats: f64| (found.unwrap() - nats / LN_2).abs() < 1e-12;
        // Sums: 400 as trained, 462 and 438.
        assert_eq!(probe.all.replaced_by, "other");
        assert!(near(probe.all.worth, 0.38 / 3.0) && near(probe.all.zero_bpb, 10.0));
        let (a, b) = (&probe.by["a"], &probe.by["b"]);
        assert_eq!((a.replaced_by.as_str(), b.replaced_by.as_str()), ("mean", "other"));
        // Differences of 10 and 12 nats: a mean of 11, of standard error 1.
        assert!(near(a.worth, 0.11) && near(a.se, 0.01) && near(a.low, 0.11 - 0.0196));
        assert!(near(b.worth, 0.05) && b.se.is_none() && b.high.is_none());
        assert_eq!(LatentsProbe::of(&[]).all.worth, None);
    }
}
