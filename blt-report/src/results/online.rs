//! The loss of training batches that were new to the model: a second measurement of what evaluation
//! measures, where two variants read the same batches.

use super::file::Difference;
use super::paired::{DocumentLine, paired};
use super::step::{parse, read_text};
use blt_graph::StepError;
use std::path::Path;

/// Where `train` keeps the counted bytes and nats of each optimiser step in the first pass over its
/// documents: a line `[BYTES,NATS]` for each.
pub const ONLINE_FILE: &str = "online.jsonl";
/// Neighbouring steps are paired in so many blocks: their differences are not independent.
const BLOCKS: usize = 20;

/// Reads the file in the directory of a step; None if the step wrote none.
pub(super) fn read(dir: &Path) -> Result<Option<Vec<(u64, f64)>>, StepError> {
    let path = dir.join(ONLINE_FILE);
    let Some(text) = read_text(&path)? else { return Ok(None) };
    text.lines().map(|line| parse(line, &path)).collect::<Result<_, _>>().map(Some)
}

/// The paired difference over the later half of the steps, where models differ less by how they
/// begin; each variant is a list of steps for each seed. None if the two did not read the same
/// bytes.
pub(super) fn difference(
    variant: &[Vec<(u64, f64)>],
    baseline: &[Vec<(u64, f64)>],
) -> Option<Difference> {
    let bytes = |seeds: &[Vec<(u64, f64)>]| -> Vec<u64> {
        seeds.iter().flatten().map(|(bytes, _)| *bytes).collect()
    };
    let shortest = variant.iter().map(Vec::len).min()?;
    if shortest < 2 * BLOCKS || bytes(variant) != bytes(baseline) {
        return None;
    }
    let blocks = |steps: &Vec<(u64, f64)>| -> Vec<DocumentLine> {
        let later = &steps[steps.len() / 2..];
        let block = |i: usize| {
            let of = &later[i * later.len() / BLOCKS..(i + 1) * later.len() / BLOCKS];
            DocumentLine {
                row: i as u64,
                group: None,
                bytes: of.iter().map(|(bytes, _)| bytes).sum(),
                nats: of.iter().map(|(_, nats)| nats).sum(),
                patches: 0,
                cluster: None,
            }
        };
        (0..BLOCKS).map(block).collect()
    };
    let of = |seeds: &[Vec<(u64, f64)>]| seeds.iter().map(blocks).collect::<Vec<_>>();
    paired(&of(variant), &of(baseline)).map(|paired| paired.difference)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    #[test]
    fn the_later_half_counts_where_the_bytes_are_the_same() {
        let steps = |early: f64, late: f64| -> Vec<(u64, f64)> {
            (0..100).map(|i| (10, if i < 50 { early } else { late })).collect()
        };
        let d = difference(&[steps(90.0, 21.0)], &[steps(50.0, 20.0)]).unwrap();
        assert!((d.bpb - 0.1 / LN_2).abs() < 1e-12 && d.se_documents < 1e-12);
        let mut other = steps(50.0, 20.0);
        other[3].0 = 11;
        assert!(difference(&[steps(90.0, 21.0)], &[other]).is_none());
        assert!(difference(&[steps(1.0, 1.0)[..39].to_vec()], &[steps(1.0, 1.0)]).is_none());
    }
}
