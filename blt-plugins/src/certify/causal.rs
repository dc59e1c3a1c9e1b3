//! `causal`: nothing that is said before a byte depends on it, or on what follows.

use super::draws::Draws;
use super::subject::{Said, Subject};
use super::verdict::Verdict;
use blt_graph::StepError;

const NAME: &str = "causal";

/// The ways in which the rest of a text, from a place on, is made another.
#[derive(Clone, Copy)]
enum Change {
    /// Another byte at the place.
    Byte,
    /// Random bytes from the place on.
    Rest,
    /// The text ends before the place.
    End,
}

/// Changes texts at random places.
///
/// # Errors
/// If the graph does not run.
pub fn try_out(
    subject: &Subject,
    texts: &[Vec<u8>],
    changes: usize,
    mut draws: Draws,
) -> Result<Verdict, StepError> {
    let whole = texts.iter().map(|text| subject.of_text(text)).collect::<Result<Vec<_>, _>>()?;
    let (mut moved, mut tried) = (0, 0);
    for _ in 0..changes {
        let of = draws.below(texts.len());
        let (text, said) = (&texts[of], &whole[of]);
        let place = draws.below(text.len());
        for change in [Change::Byte, Change::Rest, Change::End] {
            let mut other = text.clone();
            match change {
                Change::Byte => other[place] = another(text[place], &mut draws),
                Change::Rest => {
                    other[place..].iter_mut().for_each(|byte| *byte = another(*byte, &mut draws));
                }
                Change::End => other.truncate(place),
            }
            let changed = subject.of_text(&other)?;
            tried += 1;
            if changed.before(place) != said.before(place) {
                let did = match change {
                    Change::Byte => "another byte",
                    Change::Rest => "other bytes from there on",
                    Change::End => "the text's end",
                };
                let row = first_difference(&changed, said, place);
                let found = format!(
                    "{did} at byte {place} of a text of {} moved what is said after {row} bytes",
                    text.len()
                );
                return Ok(Verdict::failed(NAME, done(tried, texts.len()), found));
            }
            moved += usize::from(!matches!(change, Change::End) && changed.starts != said.starts);
        }
    }
    let found = match (reads_content(&whole), moved) {
        (true, 0) => {
            let found = "patches depend on the bytes, and no change moved a border: nothing that could leak was tried";
            return Ok(Verdict::failed(NAME, done(tried, texts.len()), found));
        }
        (true, moved) => format!("no bit before a change moved; {moved} changes moved borders"),
        (false, _) => "no bit before a change moved; borders do not depend on bytes".to_owned(),
    };
    Ok(Verdict::passed(NAME, done(tried, texts.len()), found))
}

fn done(tried: usize, texts: usize) -> String {
    format!("{tried} changes at random places of {texts} held-out texts: a byte, the rest, the end")
}

/// Another byte than `byte`; often one that patchers look at.
fn another(byte: u8, draws: &mut Draws) -> u8 {
    let drawn = match draws.below(8) {
        0 => b' ',
        1 => b'\n',
        2 => b'x',
        _ => draws.byte(),
    };
    if drawn == byte { byte ^ 0x81 } else { drawn }
}

/// The first byte count after which something else is said.
fn first_difference(a: &Said, b: &Said, place: usize) -> usize {
    (0..=place).find(|&row| a.before(row) != b.before(row)).unwrap_or(place)
}

/// Whether texts differ in where patches start, as far as both are long.
fn reads_content(said: &[Said]) -> bool {
    said.windows(2).any(|w| {
        let shared = w[0].nats.len().min(w[1].nats.len());
        let starts = |said: &Said| -> Vec<usize> {
            said.starts.iter().copied().filter(|&start| start <= shared).collect()
        };
        starts(&w[0]) != starts(&w[1])
    })
}
