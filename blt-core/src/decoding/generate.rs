//! Generation: ids drawn one after the other, with or without drafts.

use super::network::{Decoder, Decoding, DecodingFailed};
use super::sampling::{Draws, Sampling, accept};
use super::stream::MAX_REWIND;
use crate::bytes::{BOS, EOS, OFFSET, VOCAB};

/// Where drafts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drafter {
    /// The decoder, on the last latent: no patch ends in a draft (BLT-S, arXiv 2605.08044).
    Decoder,
    /// The text so far: what followed the longest of its last bytes when they came before.
    Ngram,
}

/// How ids are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    pub sampling: Sampling,
    pub seed: u64,
    /// Ids to verify at once, and how they are guessed: the first is known, the others are drafts.
    /// At most [`MAX_REWIND`].
    pub speculate: Option<(usize, Drafter)>,
}

/// What generation did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerationStats {
    /// Ids drawn, EOS included.
    pub ids: usize,
    /// Drafts that were verified, and those that stood.
    pub drafted: usize,
    pub accepted: usize,
    /// Verifying passes: without drafts, one an id.
    pub passes: usize,
    /// Sum, over the passes' first ids, of the probability of ids that are neither a byte nor EOS.
    pub lost_mass: f64,
}

/// Why generation stopped.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error(transparent)]
    Decoding(#[from] DecodingFailed),
    #[error("the logits after id {0} are not finite")]
    NotFinite(usize),
}

/// A document that a model goes on writing.
///
/// The ids are those of plain decoding: greedy to the last one, sampled in distribution. An id is
/// given as soon as it is certain.
pub struct Generation<'a> {
    decoder: &'a Decoder,
    options: Generate,
    document: Decoding,
    draws: Draws,
    /// The next id, which the document does not have yet. None after the end.
    next: Option<u16>,
    pub stats: GenerationStats,
}

impl<'a> Generation<'a> {
    /// Reads a prompt: bytes after BOS. `document` is its number among those of one seed.
    ///
    /// # Errors
    /// A number that is not finite where it must be.
    pub fn start(
        decoder: &'a Decoder,
        options: Generate,
        prompt: &[u8],
        document: u64,
    ) -> Result<Self, GenerateError> {
        let draws = Draws::new(options.seed, document);
        let mut document = decoder.empty();
        let ids: Vec<u16> =
            std::iter::once(BOS).chain(prompt.iter().map(|&b| b as u16 + OFFSET)).collect();
        let logits = decoder.extend_last(&mut [&mut document], &[&ids])?;
        let stats = GenerationStats::default();
        let mut generation = Generation { decoder, options, document, draws, next: None, stats };
        generation.draw(logits.row(0))?;
        Ok(generation)
    }

    /// The document as far as the model has read it: all ids but the last that was drawn.
    pub fn document(&self) -> &Decoding {
        &self.document
    }

    fn distribution(&self, logits: &[f32], ids: usize) -> Result<Vec<f64>, GenerateError> {
        let p = self.options.sampling.distribution(logits);
        p.ok_or(GenerateError::NotFinite(ids))
    }

    fn draw(&mut self, logits: &[f32]) -> Result<(), GenerateError> {
        let p = self.distribution(logits, self.document.ids().len())?;
        self.stats.lost_mass += Sampling::lost_mass(logits);
        self.next = Some(self.draws.choose(&p));
        Ok(())
    }

    /// The ids that are certain now, at least one; the last is EOS if the document ends. None after
    /// that.
    ///
    /// # Errors
    /// A number that is not finite where it must be. Generation has then ended.
    pub fn advance(&mut self) -> Result<Option<Vec<u16>>, GenerateError> {
        let Some(first) = self.next.take() else { return Ok(None) };
        self.stats.ids += 1;
        if first == EOS {
            return Ok(Some(vec![EOS]));
        }
        let known = self.document.ids().len();
        let (drafts, guesses) = self.guess(first)?;
        let mut given = vec![first];
        // A drafted EOS is verified like any id, and never read.
        let mut read = vec![first];
        read.extend(drafts.iter().copied().filter(|&id| id != EOS));
        let logits = self.decoder.extend(&mut [&mut self.document], &[&read])?;
        self.stats.passes += 1;
        for (i, (&draft, q)) in drafts.iter().zip(&guesses).enumerate() {
            let p = self.distribution(logits.row(i), known + 1 + i)?;
            self.stats.drafted += 1;
            match accept(&p, q, draft, &mut self.draws) {
                Ok(()) => {
                    self.stats.accepted += 1;
                    self.stats.ids += 1;
                    given.push(draft);
                    if draft == EOS {
                        return Ok(Some(given));
                    }
                }
                // Ids after the replaced one were never written, and what the model remembers of
                // them goes, its patch's latent too.
                Err(other) => {
                    self.document.rewind(known + 1 + i);
                    self.stats.lost_mass += Sampling::lost_mass(logits.row(i));
                    self.next = Some(other);
                    return Ok(Some(given));
                }
            }
        }
        self.draw(logits.row(read.len() - 1))?;
        Ok(Some(given))
    }

    /// Drafts of the ids after `first`, each with the distribution that it was drawn from. They end
    /// at an EOS.
    fn guess(&mut self, first: u16) -> Result<(Vec<u16>, Vec<Vec<f64>>), GenerateError> {
        let Some((k, drafter)) = self.options.speculate else { return Ok(Default::default()) };
        let most = k.clamp(1, MAX_REWIND) - 1;
        let (mut drafts, mut guesses) = (Vec::new(), Vec::new());
        match drafter {
            Drafter::Ngram => {
                let mut ids = self.document.ids().to_vec();
                ids.push(first);
                for &draft in continuation(&ids, most) {
                    let mut q = vec![0.0; VOCAB];
                    q[draft as usize] = 1.0;
                    drafts.push(draft);
                    guesses.push(q);
                }
            }
            Drafter::Decoder => {
                let known = self.document.ids().len();
                let mut last = first;
                while drafts.len() < most {
                    let logits = self.decoder.draft(&mut self.document, last)?;
                    let q = self.distribution(&logits, self.document.ids().len())?;
                    last = self.draws.choose(&q);
                    drafts.push(last);
                    guesses.push(q);
                    if last == EOS {
                        break;
                    }
                }
                self.document.rewind(known);
            }
        }
        Ok((drafts, guesses))
    }
}

/// Up to `most` bytes that followed the last bytes of `ids` where the longest run of them, 3 to 16,
/// came before; the latest such place. Nothing if there is none.
fn continuation(ids: &[u16], most: usize) -> &[u16] {
    /// Runs of equal bytes that are looked for, from the longest on.
    const RUNS: std::ops::RangeInclusive<usize> = 3..=16;
    for run in RUNS.rev().filter(|&run| run < ids.len()) {
        let last = &ids[ids.len() - run..];
        let before = &ids[..ids.len() - 1];
        if let Some(at) = before.windows(run).rposition(|window| window == last) {
            let after = &ids[at + run..];
            return &after[..most.min(after.len())];
        }
    }
    &[]
}

/// Bytes so far and the characters in them that are whole: what can be shown of a text that grows.
#[derive(Default)]
pub struct Characters {
    pending: Vec<u8>,
}

impl Characters {
    /// Takes bytes; returns the text that is certain. A character whose bytes have not all come is
    /// held back; bytes that cannot be a part of any become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = self.pending.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        self.pending = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending = rest[broken..].to_vec();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_held_back_until_they_are_whole() {
        let mut characters = Characters::default();
        let text = "a한🙂";
        let shown: String = text.bytes().map(|byte| characters.push(&[byte])).collect();
        assert_eq!(shown, text);
        assert_eq!(characters.push(&"한".as_bytes()[..2]), "");
        assert_eq!(characters.push(b"x\xFFy"), "\u{FFFD}x\u{FFFD}y");
    }

    #[test]
    fn a_continuation_follows_the_longest_run_that_came_before() {
        let ids = |text: &str| text.bytes().map(u16::from).collect::<Vec<_>>();
        let of = |text: &str, most| continuation(&ids(text), most).to_vec();
        assert_eq!(of("abcd abcx abc", 2), ids("x "));
        assert_eq!(of("zabcd abcx zabc", 4), ids("d ab"));
        assert_eq!(of("abab", 9), ids(""));
        assert_eq!(of("aaaa", 9), ids("a"));
        assert_eq!(of("", 9), ids(""));
    }
}
