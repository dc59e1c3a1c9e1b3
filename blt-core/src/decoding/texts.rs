//! Texts that are written: what ends them, and many at a time.

use super::generate::{Generate, GenerateError};
use super::network::{Decoder, Decoding};
use super::sampling::Draws;
use crate::bytes::{BOS, EOS, OFFSET};

/// What ends a text, beside EOS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Most bytes.
    pub bytes: usize,
    /// Texts after which it ends; they are part of it.
    pub stop: Vec<Vec<u8>>,
}

/// What ended a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The model ended the document.
    Eos,
    /// A text of [`Limits::stop`].
    Stop,
    /// [`Limits::bytes`].
    Bytes,
    /// An id that is neither a byte nor EOS.
    NoByte,
}

impl Stopped {
    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Stopped::Eos => "eos",
            Stopped::Stop => "stop",
            Stopped::Bytes => "bytes",
            Stopped::NoByte => "no_byte",
        }
    }
}

/// A text so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    pub bytes: Vec<u8>,
    /// None while it goes on.
    pub stopped: Option<Stopped>,
}

impl Text {
    /// An empty text, which `limits` may end at once.
    pub fn new(limits: &Limits) -> Self {
        let stopped = (limits.bytes == 0).then_some(Stopped::Bytes);
        Text { bytes: Vec::new(), stopped }
    }

    /// Takes the next id.
    pub fn push(&mut self, id: u16, limits: &Limits) {
        if id < OFFSET {
            self.stopped = Some(if id == EOS { Stopped::Eos } else { Stopped::NoByte });
            return;
        }
        self.bytes.push((id - OFFSET) as u8);
        if limits.stop.iter().any(|stop| self.bytes.ends_with(stop)) {
            self.stopped = Some(Stopped::Stop);
        } else if self.bytes.len() >= limits.bytes {
            self.stopped = Some(Stopped::Bytes);
        }
    }
}

/// Goes on from prompts, each with its number, by which it draws. The documents advance together,
/// without drafts; each text is the one that its prompt gives alone.
///
/// # Errors
/// A number that is not finite where it must be.
pub fn write_texts(
    decoder: &Decoder,
    options: &Generate,
    limits: &Limits,
    prompts: &[(u64, Vec<u8>)],
) -> Result<Vec<Text>, GenerateError> {
    struct Open {
        at: usize,
        document: Decoding,
        draws: Draws,
        next: Vec<u16>,
    }
    let mut texts: Vec<Text> = prompts.iter().map(|_| Text::new(limits)).collect();
    let open = prompts.iter().enumerate().filter(|(at, _)| texts[*at].stopped.is_none());
    let mut open: Vec<Open> = open
        .map(|(at, (number, prompt))| Open {
            at,
            document: decoder.empty(),
            draws: Draws::new(options.seed, *number),
            next: std::iter::once(BOS).chain(prompt.iter().map(|&b| b as u16 + OFFSET)).collect(),
        })
        .collect();
    while !open.is_empty() {
        let ids: Vec<Vec<u16>> =
            open.iter_mut().map(|open| std::mem::take(&mut open.next)).collect();
        let ids: Vec<&[u16]> = ids.iter().map(Vec::as_slice).collect();
        let mut documents: Vec<&mut Decoding> =
            open.iter_mut().map(|open| &mut open.document).collect();
        let logits = decoder.extend_last(&mut documents, &ids)?;
        for (row, open) in open.iter_mut().enumerate() {
            let p = options.sampling.distribution(logits.row(row));
            let p = p.ok_or(GenerateError::NotFinite(open.document.ids().len()))?;
            let id = open.draws.choose(&p);
            texts[open.at].push(id, limits);
            open.next.push(id);
        }
        open.retain(|open| texts[open.at].stopped.is_none());
    }
    Ok(texts)
}
