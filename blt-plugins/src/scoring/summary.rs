//! What is in parts, in numbers.

use super::columns::{Columns, RowScores, Scores};
use blt_data::RowError;
use blt_report::results::{
    HistogramGroup, HistogramOf, Likelihood, Patching, ScoreCounts, ScoreHistogram, ScoreSums,
    UnreadableRows,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;

/// Values of the column that histograms are made by which are kept apart; rows of all others count
/// together.
const MOST_GROUPS: usize = 1000;
/// Bytes of such a value, at most: more is cut off.
const GROUP_NAME_BYTES: usize = 256;
/// Under this name.
const OTHERS: &str = "(others)";

/// What histograms of these columns count documents by.
pub fn histogram_of(columns: &Columns) -> Option<HistogramOf> {
    match (columns.nats, columns.patches) {
        (true, _) => Some(HistogramOf::BitsPerByte),
        (false, true) => Some(HistogramOf::BytesPerPatch),
        (false, false) => None,
    }
}

/// The bin of a document; None if the document has no bytes.
fn bin(of: HistogramOf, scores: &Scores) -> Option<u32> {
    let value = match of {
        HistogramOf::BitsPerByte => scores.bits_per_byte()?,
        HistogramOf::BytesPerPatch if scores.n_patches == 0 => return None,
        HistogramOf::BytesPerPatch => scores.n_bytes as f64 / scores.n_patches as f64,
    };
    Some(((value / of.width()) as u32).min(of.bins() - 1))
}

/// Documents of one value of a column, or all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// The empty ones included.
    pub documents: u64,
    pub bytes: u64,
    pub patches: u64,
    pub nats: f64,
    /// Documents by the number of their bin.
    pub bins: BTreeMap<u32, u64>,
}

impl GroupSummary {
    fn add(&mut self, scores: &Scores, histogram: Option<HistogramOf>) {
        self.documents += 1;
        self.bytes += scores.n_bytes;
        self.patches += scores.n_patches;
        self.nats += scores.nats;
        if let Some(bin) = histogram.and_then(|of| bin(of, scores)) {
            *self.bins.entry(bin).or_default() += 1;
        }
    }

    fn merge(&mut self, other: &GroupSummary) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.patches += other.patches;
        self.nats += other.nats;
        for (bin, count) in &other.bins {
            *self.bins.entry(*bin).or_default() += count;
        }
    }

    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / LN_2 / self.bytes as f64)
    }

    /// Sums, as far as these columns have them.
    fn sums(&self, columns: &Columns) -> ScoreSums {
        let bytes_per_patch =
            || (self.patches > 0).then(|| self.bytes as f64 / self.patches as f64);
        ScoreSums {
            likelihood: columns
                .nats
                .then(|| Likelihood { nats: self.nats, bpb: self.bits_per_byte() }),
            patching: columns
                .patches
                .then(|| Patching { patches: self.patches, bytes_per_patch: bytes_per_patch() }),
        }
    }

    fn histogram(&self, columns: &Columns, of: HistogramOf) -> HistogramGroup {
        let start = |bin: u32| format!("{:.1}", f64::from(bin) * of.width());
        HistogramGroup {
            documents: self.documents,
            bytes: self.bytes,
            sums: self.sums(columns),
            counts: self.bins.iter().map(|(&bin, &count)| (start(bin), count)).collect(),
        }
    }
}

/// What is in a part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Rows that were chosen: documents, nulls and those that failed.
    pub rows: u64,
    /// Of them, those that were written.
    pub kept: u64,
    pub nulls: u64,
    pub empty: u64,
    pub failed: BTreeMap<RowError, u64>,
    pub unreadable: Vec<UnreadableRows>,
    /// Row groups left out unread because of their statistics.
    pub groups_skipped: u64,
    pub all: GroupSummary,
    /// By the values of a column.
    pub by: BTreeMap<String, GroupSummary>,
}

impl Summary {
    /// Counts a row; `group`: its value in the column that histograms are made by.
    pub fn add(&mut self, row: &RowScores, group: Option<&str>, histogram: Option<HistogramOf>) {
        self.rows += 1;
        match row {
            RowScores::Null => self.nulls += 1,
            RowScores::Failed(error) => *self.failed.entry(*error).or_default() += 1,
            RowScores::Document(scores) => {
                self.empty += (scores.n_bytes == 0) as u64;
                self.all.add(scores, histogram);
                if let Some(group) = group {
                    self.of_group(group).add(scores, histogram);
                }
            }
        }
    }

    fn of_group(&mut self, name: &str) -> &mut GroupSummary {
        let most = (0..=GROUP_NAME_BYTES.min(name.len()))
            .rev()
            .find(|&at| name.is_char_boundary(at))
            .unwrap_or(0);
        let name = &name[..most];
        let known = self.by.contains_key(name) || self.by.len() < MOST_GROUPS;
        self.by.entry(if known { name } else { OTHERS }.to_owned()).or_default()
    }

    pub fn merge(&mut self, other: &Summary) {
        self.rows += other.rows;
        self.kept += other.kept;
        self.nulls += other.nulls;
        self.empty += other.empty;
        for (error, count) in &other.failed {
            *self.failed.entry(*error).or_default() += count;
        }
        self.unreadable.extend(other.unreadable.iter().cloned());
        self.groups_skipped += other.groups_skipped;
        self.all.merge(&other.all);
        for (name, group) in &other.by {
            self.of_group(name).merge(group);
        }
    }

    /// Counts and sums, as far as these columns have them.
    ///
    /// # Errors
    /// Never: the names of causes are text.
    pub fn counts(&self, columns: &Columns) -> serde_json::Result<ScoreCounts> {
        Ok(ScoreCounts {
            rows: self.rows,
            kept: self.kept,
            documents: self.all.documents,
            bytes: self.all.bytes,
            nulls: self.nulls,
            empty: self.empty,
            failed: serde_json::from_value(serde_json::to_value(&self.failed)?)?,
            sums: self.all.sums(columns),
        })
    }

    /// How the scores of these columns are distributed, in all and by the values of column `by`.
    pub fn histogram(&self, columns: &Columns, by: Option<&str>) -> Option<ScoreHistogram> {
        let of = histogram_of(columns)?;
        let groups = self.by.iter();
        let groups = groups.map(|(name, group)| (name.clone(), group.histogram(columns, of)));
        Some(ScoreHistogram {
            of,
            width: of.width(),
            last: f64::from(of.bins() - 1) * of.width(),
            all: self.all.histogram(columns, of),
            by: by.map(str::to_owned),
            groups: by.map(|_| groups.collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n_bytes: u64, nats: f64) -> RowScores {
        RowScores::Document(Scores {
            n_bytes,
            nats,
            n_patches: n_bytes.div_ceil(4),
            ..Scores::default()
        })
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let rows = [
            (row(10, 7.0), "a"),
            (row(0, 0.0), "b"),
            (RowScores::Null, "a"),
            (row(3, 1000.0), "b"),
            (RowScores::Failed(RowError::NotFinite), "c"),
            (row(1, 0.1), "c"),
        ];
        let of = |rows: &[(RowScores, &str)]| {
            let mut summary = Summary::default();
            rows.iter().for_each(|(row, group)| {
                summary.add(row, Some(group), Some(HistogramOf::BitsPerByte))
            });
            summary
        };
        let whole = of(&rows);
        let mut merged = of(&rows[..2]);
        merged.merge(&of(&rows[2..]));
        assert_eq!(merged, whole);
        assert_eq!((whole.rows, whole.nulls, whole.empty, whole.all.documents), (6, 1, 1, 4));
        assert_eq!(whole.failed[&RowError::NotFinite], 1);
        // 7 nats over 10 bytes are 1.01 bits a byte; 1000 nats over 3 bytes are beyond the last
        // bin.
        assert_eq!(whole.all.bins, BTreeMap::from([(1, 1), (10, 1), (159, 1)]));
        assert_eq!(
            (whole.by["b"].documents, &whole.by["b"].bins),
            (2, &BTreeMap::from([(159, 1)]))
        );
    }

    #[test]
    fn values_beyond_the_most_count_together() {
        let mut summary = Summary::default();
        for i in 0..MOST_GROUPS + 50 {
            summary.add(&row(1, 1.0), Some(&format!("{i:05}")), None);
        }
        assert_eq!((summary.by.len(), summary.by[OTHERS].documents), (MOST_GROUPS + 1, 50));
        let mut twice = summary.clone();
        twice.merge(&summary);
        assert_eq!(
            (twice.by.len(), twice.by[OTHERS].documents, twice.by["00000"].documents),
            (MOST_GROUPS + 1, 100, 2)
        );
    }

    #[test]
    fn a_summary_comes_back_to_the_bit() {
        for nats in [0.1 + 0.2, 1e300 / 3.0, f64::MIN_POSITIVE] {
            let mut summary = Summary::default();
            summary.add(&row(7, nats), Some("x"), Some(HistogramOf::BytesPerPatch));
            summary.add(&RowScores::Failed(RowError::Unreadable), None, None);
            summary.unreadable.push(UnreadableRows {
                input: "a".into(),
                group: 1,
                rows: 3..9,
                columns: vec!["text".into()],
                cause: "x".into(),
            });
            let back: Summary =
                serde_json::from_str(&serde_json::to_string(&summary).unwrap()).unwrap();
            assert_eq!(back, summary);
            assert_eq!(back.all.nats.to_bits(), nats.to_bits());
        }
    }
}
