//! Patches by byte-pair encoding: one for each token of a tokenizer.
//!
//! The tokenizer is Hugging Face's, read from a tokenizer.json or trained here. Only one whose
//! tokens lay out the very bytes of the text will do: BPE, without normaliser, with pre-tokenizers
//! that split and drop nothing and one, ByteLevel, that has a character for each byte.
//!
//! Where a token ends depends on the text after it, so this patcher looks ahead.

#[cfg(test)]
mod tests;

use blt_core::bytes::{Batch, OFFSET};
use blt_core::patch::{PatchError, Patches};
use blt_core::strict;
use blt_data::caught;
use rayon::prelude::*;
use serde::Serialize;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, Tokenizer, TokenizerImpl,
};

/// A pair of tokens is merged only if training saw it at least this often.
const MIN_FREQUENCY: u64 = 2;

#[derive(Debug, thiserror::Error)]
pub enum BpeError {
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}", path = .path.display())]
    InFile { path: PathBuf, source: Box<BpeError> },
    #[error("not a tokenizer.json: {0}")]
    Parse(String),
    #[error("the tokenizer's model is {found}; expected BPE")]
    NotBpe { found: &'static str },
    #[error(
        "the tokenizer normalises ({normalizer}), so its tokens are not the text's own bytes; expected no normalizer"
    )]
    Normalizes { normalizer: String },
    #[error(
        "the tokenizer's pre-tokenizer {pre_tokenizer} {effect}; expected one that only splits, such as ByteLevel without add_prefix_space"
    )]
    PreTokenizer { pre_tokenizer: String, effect: &'static str },
    #[error(
        "the tokenizer's pre-tokenizer is {found}, so its vocabulary is of characters and some text has none; expected ByteLevel"
    )]
    NotByteLevel { found: String },
    #[error("the tokenizer drops merges at random (dropout {0}); expected none")]
    Dropout(f32),
    #[error(
        "the tokenizer has {option}, so its tokens are not the text's own bytes; expected a BPE model without it"
    )]
    ModelOption { option: &'static str },
    #[error(
        "the tokenizer's vocabulary lacks {missing} of the single bytes that UTF-8 has; expected all, since each may occur"
    )]
    MissingBytes { missing: usize },
    #[error("a vocabulary of {0} tokens; expected at least 256, one for each byte")]
    Vocab(usize),
    #[error("training the tokenizer failed: {0}")]
    Train(String),
    #[error("row {row}: id {id} at position {position} is not a byte")]
    NotAByte { row: u64, position: usize, id: u16 },
    #[error("row {row}: the tokenizer failed: {reason}")]
    Tokenize { row: u64, reason: String },
    #[error("row {row}: the tokenizer's tokens do not cover the text at byte {byte}")]
    NotCovered { row: u64, byte: usize },
    #[error(transparent)]
    Patch(#[from] PatchError),
}

/// Starts a patch at each token's first byte.
///
/// Where tokens lie is summed up from their lengths, not read from the crate's offsets: a token
/// that holds a part of a multi-byte character has the whole character's, and where the model drops
/// an unknown character, those after it move.
pub struct BpePatcher {
    tokenizer: Tokenizer,
    /// Bytes of each token, `[ids]`; 0 for added tokens, which lie where the crate says.
    lengths: Vec<u32>,
}

impl BpePatcher {
    /// Trains a byte-level BPE of at most `vocab` tokens (fewer where the text has no more repeated
    /// pairs) on the valid UTF-8 of `documents`: GPT-2's split into words, no prefix space. The
    /// order of the documents does not matter; the same ones give the same tokenizer.
    ///
    /// Errors: fewer than 256 tokens.
    pub fn train<D>(
        documents: impl IntoIterator<Item = D, IntoIter: Send>,
        vocab: usize,
    ) -> Result<Self, BpeError>
    where
        D: AsRef<[u8]>,
    {
        if vocab < 256 {
            return Err(BpeError::Vocab(vocab));
        }
        type Trained = TokenizerImpl<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        >;
        let mut tokenizer = Trained::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(MIN_FREQUENCY)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let valid = |document: D| -> Vec<String> {
            document
                .as_ref()
                .utf8_chunks()
                .map(|chunk| chunk.valid().to_owned())
                .filter(|run| !run.is_empty())
                .collect()
        };
        tokenizer
            .train(&mut trainer, documents.into_iter().flat_map(valid))
            .map_err(|e| BpeError::Train(e.to_string()))?;
        Self::new(tokenizer.into())
    }

    /// Reads a tokenizer.json. Errors: it can't be read, or its tokens are not the text's own bytes
    /// (see the module).
    pub fn load(path: &Path) -> Result<Self, BpeError> {
        let text = strict::read_to_string(path)
            .map_err(|source| BpeError::Io { path: path.to_owned(), source })?;
        Self::from_json(&text)
            .map_err(|source| BpeError::InFile { path: path.to_owned(), source: Box::new(source) })
    }

    /// As [`BpePatcher::load`], from the file's text.
    pub fn from_json(json: &str) -> Result<Self, BpeError> {
        // The crate panics at a vocabulary whose tokens lack the prefix.
        let parse = |e: serde_json::Error| BpeError::Parse(e.to_string());
        let value: serde_json::Value = serde_json::from_str(json).map_err(parse)?;
        for option in ["continuing_subword_prefix", "end_of_word_suffix"] {
            // An empty string is what older files write for none.
            if value["model"][option].as_str().is_some_and(|affix| !affix.is_empty()) {
                return Err(BpeError::ModelOption { option });
            }
        }
        let parse = || json.parse().map_err(|e: tokenizers::Error| e.to_string());
        Self::new(caught(parse).map_err(BpeError::Parse)?)
    }

    /// The tokenizer.json of the tokenizer in use.
    pub fn to_json(&self) -> Result<String, BpeError> {
        self.tokenizer.to_string(false).map_err(|e| BpeError::Parse(e.to_string()))
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    fn new(mut tokenizer: Tokenizer) -> Result<Self, BpeError> {
        if let Some(normalizer) = tokenizer.get_normalizer() {
            return Err(BpeError::Normalizes { normalizer: names(normalizer, "normalizers") });
        }
        let model = match tokenizer.get_model() {
            ModelWrapper::BPE(model) => model,
            ModelWrapper::WordPiece(_) => return Err(BpeError::NotBpe { found: "WordPiece" }),
            ModelWrapper::WordLevel(_) => return Err(BpeError::NotBpe { found: "WordLevel" }),
            ModelWrapper::Unigram(_) => return Err(BpeError::NotBpe { found: "Unigram" }),
        };
        if let Some(dropout) = model.dropout.filter(|&dropout| dropout > 0.0) {
            return Err(BpeError::Dropout(dropout));
        }
        if model.byte_fallback {
            return Err(BpeError::ModelOption { option: "byte_fallback" });
        }
        let mut byte_level = false;
        let pre_tokenizer = tokenizer.get_pre_tokenizer();
        if let Some(pre_tokenizer) = pre_tokenizer {
            check_pre_tokenizer(pre_tokenizer, &mut byte_level)?;
        }
        if !byte_level {
            let found = pre_tokenizer.map_or("none".into(), |p| names(p, "pretokenizers"));
            return Err(BpeError::NotByteLevel { found });
        }
        let lacks =
            |c: &char| tokenizer.get_model().token_to_id(c.encode_utf8(&mut [0; 4])).is_none();
        // Bytes that UTF-8 never has are patches without the tokenizer. Their characters are those
        // of their numbers.
        let occurs = |c: &char| !matches!(c, '\u{c0}' | '\u{c1}' | '\u{f5}'..='\u{ff}');
        let missing = ByteLevel::alphabet().iter().filter(|c| occurs(c) && lacks(c)).count();
        if missing > 0 {
            return Err(BpeError::MissingBytes { missing });
        }
        let lengths = token_lengths(&tokenizer);
        // These cut, add or move tokens after the encoding; patches want them as they were found.
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| BpeError::Parse(e.to_string()))?;
        Ok(BpePatcher { tokenizer, lengths })
    }

    /// Cuts each span into its tokens; spans are tokenised alone. A byte that is not part of valid
    /// UTF-8 is a patch of its own, and the text between such bytes is tokenised. The end of a
    /// span ends its last token. Text that reads as an added token (such as `<|endoftext|>`) is
    /// that token.
    pub fn patches(&self, batch: &Batch) -> Result<Patches, BpeError> {
        let starts: Vec<Result<Vec<usize>, BpeError>> =
            (0..batch.n_spans()).into_par_iter().map(|s| self.span_starts(batch, s)).collect();
        // Collected in order first, so that of several errors it is always the first span's that is
        // told.
        let starts = starts.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Patches::from_byte_starts(batch, &starts, true)?)
    }

    fn span_starts(&self, batch: &Batch, s: usize) -> Result<Vec<usize>, BpeError> {
        let (ids, row) = (batch.span_ids(s), batch.spans[s].row);
        let mut bytes = Vec::with_capacity(ids.len() - 1);
        for (position, &id) in ids.iter().enumerate().skip(1) {
            let byte = id.checked_sub(OFFSET).and_then(|byte| u8::try_from(byte).ok());
            bytes.push(byte.ok_or(BpeError::NotAByte { row, position, id })?);
        }
        let mut starts = Vec::with_capacity(bytes.len() / 3);
        let mut at = 0;
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                self.token_starts(chunk.valid(), at, row, &mut starts)?;
                at += chunk.valid().len();
            }
            starts.extend(at..at + chunk.invalid().len());
            at += chunk.invalid().len();
        }
        Ok(starts)
    }

    /// Appends the first byte of each token of `text`, which lies at byte `base` of its span.
    fn token_starts(
        &self,
        text: &str,
        base: usize,
        row: u64,
        starts: &mut Vec<usize>,
    ) -> Result<(), BpeError> {
        let failed = |e: tokenizers::Error| BpeError::Tokenize { row, reason: e.to_string() };
        // The fast form has ids alone; only added tokens need offsets.
        let encoding = match self.tokenizer.get_added_vocabulary().is_empty() {
            true => self.tokenizer.encode_fast(text, false),
            false => self.tokenizer.encode(text, false),
        }
        .map_err(failed)?;
        let mut at = 0;
        for (i, &id) in encoding.get_ids().iter().enumerate() {
            let (start, end) = match self.lengths.get(id as usize) {
                Some(&length) if length > 0 => (at, at + length as usize),
                _ => encoding.get_offsets().get(i).copied().unwrap_or_default(),
            };
            if start != at || end <= start {
                return Err(BpeError::NotCovered { row, byte: base + at });
            }
            starts.push(base + start);
            at = end;
        }
        match at == text.len() {
            true => Ok(()),
            false => Err(BpeError::NotCovered { row, byte: base + at.min(text.len()) }),
        }
    }
}

/// `type` of a part of a tokenizer.json; of a sequence, those of its `parts`.
fn names(part: &impl Serialize, parts: &str) -> String {
    let value = serde_json::to_value(part).unwrap_or_default();
    let name = |v: &serde_json::Value| v["type"].as_str().unwrap_or("unknown").to_owned();
    match value[parts].as_array() {
        Some(list) => list.iter().map(name).collect::<Vec<_>>().join(", "),
        None => name(&value),
    }
}

/// Refuses what adds, drops or replaces characters. `byte_level`: a ByteLevel was met.
fn check_pre_tokenizer(
    pre_tokenizer: &PreTokenizerWrapper,
    byte_level: &mut bool,
) -> Result<(), BpeError> {
    use PreTokenizerWrapper as P;
    let refuse = |effect| {
        Err(BpeError::PreTokenizer { pre_tokenizer: names(pre_tokenizer, "pretokenizers"), effect })
    };
    match pre_tokenizer {
        P::ByteLevel(b) if b.add_prefix_space => refuse("adds a space (add_prefix_space)"),
        P::ByteLevel(_) if *byte_level => refuse("stands there twice and encodes its own output"),
        P::ByteLevel(_) => {
            *byte_level = true;
            Ok(())
        }
        P::Sequence(sequence) => {
            sequence.as_ref().iter().try_for_each(|part| check_pre_tokenizer(part, byte_level))
        }
        P::Split(split) if split.behavior == SplitDelimiterBehavior::Removed => {
            refuse("drops what it matches (Removed)")
        }
        P::Punctuation(p) if p.behavior == SplitDelimiterBehavior::Removed => {
            refuse("drops punctuation (Removed)")
        }
        P::Split(_)
        | P::Punctuation(_)
        | P::Digits(_)
        | P::UnicodeScripts(_)
        | P::FixedLength(_) => Ok(()),
        P::Metaspace(_) => refuse("replaces spaces"),
        P::BertPreTokenizer(_) | P::Whitespace(_) | P::WhitespaceSplit(_) => refuse("drops spaces"),
        P::Delimiter(_) => refuse("drops its delimiter"),
    }
}

/// Bytes of each token, by id; 0 for added tokens.
fn token_lengths(tokenizer: &Tokenizer) -> Vec<u32> {
    let vocab = tokenizer.get_vocab(false);
    let mut lengths = vec![0; vocab.values().max().map_or(0, |&id| id as usize + 1)];
    for (token, id) in vocab {
        lengths[id as usize] = token.chars().count() as u32;
    }
    for &id in tokenizer.get_added_tokens_decoder().keys() {
        if let Some(length) = lengths.get_mut(id as usize) {
            *length = 0;
        }
    }
    lengths
}
