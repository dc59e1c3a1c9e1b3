//! `not trained on`: no held-out document is among the training documents, or mostly made of them.

use super::covers::{HeldOut, each_document};
use super::subject::Subject;
use super::verdict::Verdict;
use crate::sources::sources;
use blt_data::{Portion, Request};
use blt_graph::{StepCx, StepError};
use std::collections::{HashMap, HashSet};

const NAME: &str = "not trained on";
const WINDOW: usize = 64;
/// An odd number, whose powers weigh the bytes of a window.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Looks for held-out documents in training.
///
/// # Errors
/// If documents cannot be read.
pub fn try_out(cx: &StepCx, subject: &Subject, held_out: &HeldOut) -> Result<Verdict, StepError> {
    let mut documents: HashMap<blake3::Hash, u64> = HashMap::new();
    let mut of_row: Vec<(u64, Vec<u64>)> = Vec::new();
    each_document(subject.graph.source()?, held_out.request(), |document| {
        let text = folded(&document.bytes);
        if !text.is_empty() {
            documents.insert(blake3::hash(&text), document.row);
            of_row.push((document.row, windows(&text).collect()));
        }
    })?;
    let mut learns = subject.graph.facilities().any(|(_, f)| f.prepare().is_some());
    let mut goals = vec![subject.goal()];
    for earlier in cx.earlier() {
        learns = true;
        goals.extend(earlier.goals.iter().map(String::as_str));
    }
    if !learns {
        let found = "no step trains and no node learns: what the model was trained on is not known";
        return Ok(Verdict::failed(NAME, "nothing", found));
    }
    let wanted: HashSet<u64> = of_row.iter().flat_map(|(_, windows)| windows).copied().collect();
    let (mut seen, mut copy) = (HashSet::new(), None);
    let (mut trained, mut bytes) = (0u64, 0u64);
    for source in sources(cx.plan(), &goals)? {
        each_document(&source, &Request::portion(Portion::Train), |document| {
            trained += 1;
            bytes += document.bytes.len() as u64;
            let text = folded(&document.bytes);
            if let Some(row) = documents.get(&blake3::hash(&text)) {
                copy.get_or_insert((*row, document.row));
            }
            seen.extend(windows(&text).filter(|window| wanted.contains(window)));
        })?;
    }
    let tried = format!(
        "{} held-out documents, white space folded, whole and in windows of {WINDOW} bytes, in {trained} training documents of {bytes} bytes",
        held_out.n_documents()
    );
    let shares = of_row.iter().filter(|(_, windows)| !windows.is_empty()).map(|(row, windows)| {
        let known = windows.iter().filter(|window| seen.contains(window)).count();
        (*row, known, windows.len())
    });
    let shares: Vec<(u64, usize, usize)> = shares.collect();
    let worst = shares.iter().max_by(|a, b| (a.1 * b.2).cmp(&(b.1 * a.2)));
    let all = shares.iter().fold((0, 0), |sum, share| (sum.0 + share.1, sum.1 + share.2));
    let share = |known: usize, of: usize| 100.0 * known as f64 / of.max(1) as f64;
    let wrong = match (copy, worst) {
        (Some((row, training)), _) => Some(format!(
            "the held-out document of row {row} is the training one of row {training}"
        )),
        (None, Some(&(row, known, of))) if 2 * known > of => Some(format!(
            "{:.1} % of the windows of the held-out document of row {row} are in training",
            share(known, of)
        )),
        _ => None,
    };
    let found = format!(
        "no document is; {:.2} % of all windows are, {:.1} % of the worst document's",
        share(all.0, all.1),
        worst.map_or(0.0, |&(_, known, of)| share(known, of))
    );
    Ok(Verdict::of(NAME, tried, wrong, found))
}

/// The text with each run of white space as one space, and none at its ends.
fn folded(text: &[u8]) -> Vec<u8> {
    let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.collect::<Vec<&[u8]>>().join(&b' ')
}

/// A hash of each window, in order: `sum of (byte + 1) * FACTOR^i`, rolled along.
fn windows(text: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let last = (0..WINDOW).fold(1u64, |power, _| power.wrapping_mul(FACTOR));
    let mut hash = 0u64;
    text.iter().enumerate().filter_map(move |(at, byte)| {
        hash = hash.wrapping_mul(FACTOR).wrapping_add(u64::from(*byte) + 1);
        if let Some(leaves) = at.checked_sub(WINDOW) {
            let leaves = (u64::from(text[leaves]) + 1).wrapping_mul(last);
            hash = hash.wrapping_sub(leaves);
        }
        (at + 1 >= WINDOW).then_some(hash)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_same_wherever_they_stand() {
        let text: Vec<u8> = (0..200u32).map(|i| (i * i % 251) as u8).collect();
        let all: Vec<u64> = windows(&text).collect();
        assert_eq!(all.len(), 200 - WINDOW + 1);
        for (at, hash) in all.iter().enumerate() {
            assert_eq!(windows(&text[at..at + WINDOW]).collect::<Vec<_>>(), [*hash], "{at}");
        }
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert_eq!(windows(&text[..WINDOW - 1]).count(), 0);
    }

    #[test]
    fn white_space_is_folded() {
        assert_eq!(folded(b"  a\n\n b\tc "), b"a b c");
        assert_eq!(folded(b" \n"), b"");
    }
}
