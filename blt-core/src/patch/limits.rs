//! What a patcher's borders are held to after its rule: lengths, and whole characters.

use super::patches::{PatchError, Patches};
use super::rules::{EntropyRule, check_entropies, rule_patches};
use super::stream::{EntropyStream, PatchStream, stream_patches};
use crate::bytes::Batch;
use serde::{Deserialize, Serialize};

/// Limits on the patches that a rule makes. A border of the rule, or one that `max_patch_length`
/// asks for, is first moved to the end of its character, and then left out if the patch before it
/// is too short. All of this looks at bytes before the border alone, so a rule that is incremental
/// stays so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest patch in bytes; with `characters` up to three bytes longer, to the end of a
    /// character.
    pub max_patch_length: Option<usize>,
    /// Shortest patch in bytes: a border that comes earlier is left out. The end of a span may
    /// still make a shorter one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_patch_length: Option<usize>,
    /// Whether patches start at characters of UTF-8 alone. A border inside a character is moved to
    /// its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub characters: bool,
}

impl From<Option<usize>> for Limits {
    fn from(max_patch_length: Option<usize>) -> Self {
        Limits { max_patch_length, ..Limits::default() }
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.max_patch_length {
            Some(max) => write!(f, "max_patch_length {max}")?,
            None => f.write_str("no max_patch_length")?,
        }
        if let Some(min) = self.min_patch_length {
            write!(f, ", min_patch_length {min}")?;
        }
        f.write_str(if self.characters { ", whole characters" } else { "" })
    }
}

impl Limits {
    /// # Errors
    /// A length of 0, or a shortest patch that is longer than the longest.
    pub fn check(self) -> Result<(), PatchError> {
        match (self.min_patch_length, self.max_patch_length) {
            (_, Some(0)) => Err(PatchError::ZeroMaxPatchLength),
            (Some(0), _) => Err(PatchError::ZeroMinPatchLength),
            (Some(min), Some(max)) if min > max => Err(PatchError::MinAboveMax { min, max }),
            _ => Ok(()),
        }
    }

    /// Whether they split patches at most: what [`Patches::split_if`]
    /// does.
    pub fn only_split(self) -> bool {
        self.min_patch_length.is_none_or(|min| min <= 1) && !self.characters
    }
}

/// Patches by entropy. `entropies` is `[n]`, one for each id of the batch, BOS included; stored
/// float16 is widened to f32 first.
///
/// `entropy[t] > threshold` is the rule of the released model; its Hugging Face form ignores BOS's
/// entropy, as here. The relative rule does use BOS's entropy at t = 1 and forces no start at
/// position 2.
///
/// Errors: another number of entropies, an entropy or a threshold that is NaN or infinite, limits
/// that [`Limits::check`] refuses.
pub fn entropy_patches(
    batch: &Batch,
    entropies: &[f32],
    rule: EntropyRule,
    limits: impl Into<Limits>,
) -> Result<Patches, PatchError> {
    let limits = limits.into();
    rule.check()?;
    limits.check()?;
    check_entropies(batch, entropies)?;
    match limits.only_split() {
        true => rule_patches(batch, entropies, rule).split_if(limits.max_patch_length),
        false => Ok(stream_patches(batch, Some(entropies), |bos| {
            LimitStream::new(EntropyStream::new(rule, bos.unwrap_or_default()), limits)
        })),
    }
}

/// A patcher whose patches are held to [`Limits`].
#[derive(Clone, Copy, Debug)]
pub struct LimitStream<S> {
    stream: S,
    limits: Limits,
    /// Bytes of the patch in hand.
    length: usize,
    /// A border was asked for inside the character in hand.
    due: bool,
    /// Bytes that the character in hand still lacks.
    left: u8,
}

impl<S: PatchStream> LimitStream<S> {
    /// `limits` are such that [`Limits::check`] allows.
    pub fn new(stream: S, limits: impl Into<Limits>) -> Self {
        LimitStream { stream, limits: limits.into(), length: 0, due: false, left: 0 }
    }
}

impl<S: PatchStream> PatchStream for LimitStream<S> {
    fn push(&mut self, byte: u8, entropy: Option<f32>) -> bool {
        self.length += 1;
        self.due |= self.stream.push(byte, entropy)
            || self.limits.max_patch_length.is_some_and(|max| self.length >= max);
        if self.limits.characters {
            self.left = bytes_left(self.left, byte);
            if self.left > 0 {
                return false;
            }
        }
        let starts = std::mem::take(&mut self.due)
            && self.limits.min_patch_length.is_none_or(|min| self.length >= min);
        if starts {
            self.length = 0;
        }
        starts
    }
}

/// How many continuation bytes are to come after `byte`, where `left` were to come before it. What
/// comes may be none: of text that is not UTF-8, a border may lie anywhere.
fn bytes_left(left: u8, byte: u8) -> u8 {
    match byte {
        0x80..=0xBF => left.saturating_sub(1),
        0xC0..=0xDF => 1,
        0xE0..=0xEF => 2,
        0xF0..=0xF7 => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::stream::{ByteStream, StrideStream};

    /// The pieces that a stream cuts `text` into, and whether the byte after it would start one.
    fn cut<S: PatchStream>(text: &[u8], stream: impl Fn() -> S) -> (Vec<Vec<u8>>, bool) {
        let batch = Batch::from_documents([text]);
        let patches = stream_patches(&batch, None, |_| stream());
        let offsets = patches.offsets();
        let piece = |w: &[usize]| text[w[0] - 1..w[1] - 1].to_vec();
        (offsets[1..].windows(2).map(piece).collect(), patches.next_starts[0])
    }

    fn texts(pieces: &[&str]) -> Vec<Vec<u8>> {
        pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_border_before_the_shortest_length_is_left_out() {
        let limits = |min, max| Limits {
            min_patch_length: Some(min),
            max_patch_length: max,
            characters: false,
        };
        let two = cut(b"abcdefg", || LimitStream::new(ByteStream, limits(2, None)));
        assert_eq!(two, (texts(&["ab", "cd", "ef", "g"]), false));
        // Left out, and not moved: of the borders 2, 4, 6 and 8, the second and the last.
        let three = cut(b"abcdefghi", || LimitStream::new(StrideStream::new(2.0), limits(3, None)));
        assert_eq!(three, (texts(&["abcd", "efgh", "i"]), false));
        let split =
            cut(b"abcdefg", || LimitStream::new(StrideStream::new(99.0), limits(3, Some(3))));
        assert_eq!(split, (texts(&["abc", "def", "g"]), false));
        for (min, max) in [(0, None), (1, Some(0)), (4, Some(3))] {
            assert!(limits(min, max).check().is_err());
        }
        assert!(limits(3, Some(3)).check().is_ok());
    }

    #[test]
    fn a_border_inside_a_character_moves_to_its_end() {
        let characters = Limits { characters: true, ..Limits::default() };
        let bytes = |text: &[u8]| cut(text, || LimitStream::new(ByteStream, characters));
        assert_eq!(bytes("a한é🙂b".as_bytes()), (texts(&["a", "한", "é", "🙂", "b"]), true));
        // The end of a span may cut a character; what comes next is a part of it.
        assert!(!bytes(&"한".as_bytes()[..2]).1);
        let max = Limits { max_patch_length: Some(4), ..characters };
        let split =
            cut("한글abcde".as_bytes(), || LimitStream::new(StrideStream::new(99.0), max));
        assert_eq!(split, (texts(&["한글", "abcd", "e"]), false));
        // Bytes that are no UTF-8 make patches of any kind, and no error.
        let (pieces, _) = bytes(b"\xE0a\x80\x80\xFFb");
        assert_eq!(pieces.concat(), b"\xE0a\x80\x80\xFFb");
    }
}
