//! Patches by byte-pair encoding: one for each token of a tokenizer.
//!
//! The tokenizer is Hugging Face's, read from a tokenizer.json or trained here. Only one whose
//! tokens lay out the very bytes of the text will do: BPE, without normaliser, with pre-tokenizers
//! that split and drop nothing.
//!
//! Where a token ends depends on the text after it, so this patcher looks ahead.

use blt_core::bytes::{Batch, OFFSET};
use blt_core::patch::{PatchError, Patches};
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
    #[error("the tokenizer drops merges at random (dropout {0}); expected none")]
    Dropout(f32),
    #[error(
        "the tokenizer has {option}, so its tokens are not the text's own bytes; expected a BPE model without it"
    )]
    ModelOption { option: &'static str },
    #[error(
        "the tokenizer's vocabulary lacks {missing} of the 256 single bytes; expected all, since any byte may occur"
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
    /// The vocabulary is byte-level: one character for each byte, and every byte has one.
    byte_level: bool,
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
        let text = std::fs::read_to_string(path)
            .map_err(|source| BpeError::Io { path: path.to_owned(), source })?;
        Self::from_json(&text)
            .map_err(|source| BpeError::InFile { path: path.to_owned(), source: Box::new(source) })
    }

    /// As [`BpePatcher::load`], from the file's text.
    pub fn from_json(json: &str) -> Result<Self, BpeError> {
        Self::new(json.parse().map_err(|e: tokenizers::Error| BpeError::Parse(e.to_string()))?)
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
        // An empty string is what older files write for none.
        let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|a| !a.is_empty());
        for (present, option) in [
            (affix(&model.continuing_subword_prefix), "continuing_subword_prefix"),
            (affix(&model.end_of_word_suffix), "end_of_word_suffix"),
            (model.byte_fallback, "byte_fallback"),
        ] {
            if present {
                return Err(BpeError::ModelOption { option });
            }
        }
        let mut byte_level = false;
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            check_pre_tokenizer(pre_tokenizer, &mut byte_level)?;
        }
        if byte_level {
            let lacks =
                |c: &char| tokenizer.get_model().token_to_id(c.encode_utf8(&mut [0; 4])).is_none();
            let missing = ByteLevel::alphabet().iter().filter(|c| lacks(c)).count();
            if missing > 0 {
                return Err(BpeError::MissingBytes { missing });
            }
        }
        let lengths = token_lengths(&tokenizer, byte_level);
        // These cut, add or move tokens after the encoding; patches want them as they were found.
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| BpeError::Parse(e.to_string()))?;
        Ok(BpePatcher { tokenizer, byte_level, lengths })
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
        // The fast form has ids alone; only added tokens need offsets, and a vocabulary of
        // characters its tokens.
        let encoding = match self.byte_level && self.tokenizer.get_added_vocabulary().is_empty() {
            true => self.tokenizer.encode_fast(text, false),
            false => self.tokenizer.encode(text, false),
        }
        .map_err(failed)?;
        let mut at = 0;
        for (i, &id) in encoding.get_ids().iter().enumerate() {
            let (start, end, spells) = match self.lengths.get(id as usize) {
                Some(&length) if length > 0 => {
                    let end = at + length as usize;
                    // A vocabulary of characters may lack some; what then stands for one, if
                    // anything, does not spell the text.
                    (
                        at,
                        end,
                        self.byte_level
                            || text.get(at..end)
                                == encoding.get_tokens().get(i).map(String::as_str),
                    )
                }
                _ => {
                    let (start, end) = encoding.get_offsets().get(i).copied().unwrap_or_default();
                    (start, end, true)
                }
            };
            if start != at || end <= start || !spells {
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
fn token_lengths(tokenizer: &Tokenizer, byte_level: bool) -> Vec<u32> {
    let vocab = tokenizer.get_vocab(false);
    let mut lengths = vec![0; vocab.values().max().map_or(0, |&id| id as usize + 1)];
    for (token, id) in vocab {
        lengths[id as usize] = if byte_level { token.chars().count() } else { token.len() } as u32;
    }
    for &id in tokenizer.get_added_tokens_decoder().keys() {
        if let Some(length) = lengths.get_mut(id as usize) {
            *length = 0;
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ENGLISH: &str =
        "the cat sat on the mat, the cat ate the rat; that is what the cat did.\n";
    const KOREAN: &str =
        "나는 밥을 먹는다. 나는 물을 마신다. 너는 밥을 먹는다. 🙂🙂 👩‍👩‍👧 고양이가 밥을 먹는다.\n";

    /// Byte starts of the patches after BOS's.
    fn starts(patcher: &BpePatcher, document: &[u8]) -> Vec<usize> {
        let batch = Batch::from_documents([document]);
        let patches = patcher.patches(&batch).unwrap();
        assert_eq!(patches.starts[0], 0);
        assert_eq!(patches.next_starts, [true]);
        patches.starts[1..].iter().map(|start| start - 1).collect()
    }

    fn pieces(patcher: &BpePatcher, text: &str) -> Vec<String> {
        let mut ends = starts(patcher, text.as_bytes());
        ends.push(text.len());
        ends.windows(2)
            .map(|w| String::from_utf8_lossy(&text.as_bytes()[w[0]..w[1]]).into_owned())
            .collect()
    }

    /// GPT-2's character for a byte: itself where it prints, else the next from U+0100.
    fn byte_char(byte: u8) -> char {
        let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        match prints(byte) {
            true => byte as char,
            false => {
                char::from_u32(256 + (0..byte).filter(|&b| !prints(b)).count() as u32).unwrap()
            }
        }
    }

    /// The starts by the tokens' own bytes, read back from the vocabulary, for text without added
    /// tokens.
    fn starts_by_decoding(patcher: &BpePatcher, text: &str) -> Vec<usize> {
        let encoding = patcher.tokenizer.encode(text, false).unwrap();
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for token in encoding.get_tokens() {
            starts.push(bytes.len());
            bytes.extend(token.chars().map(|c| (0..=255).find(|&b| byte_char(b) == c).unwrap()));
        }
        assert_eq!(bytes, text.as_bytes());
        starts
    }

    fn trained(vocab: usize) -> BpePatcher {
        let documents: Vec<Vec<u8>> = [ENGLISH, KOREAN].map(|t| t.as_bytes().to_vec()).to_vec();
        BpePatcher::train(&documents, vocab).unwrap()
    }

    /// A tokenizer.json: every byte, "th" and "the", with `change` made to it.
    fn file(change: impl FnOnce(&mut Value)) -> String {
        let mut vocab: serde_json::Map<String, Value> =
            (0..=255u8).map(|b| (byte_char(b).to_string(), json!(b))).collect();
        vocab.insert("th".into(), json!(256));
        vocab.insert("the".into(), json!(257));
        let mut tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": vocab, "merges": ["t h", "th e"]},
        });
        change(&mut tokenizer);
        tokenizer.to_string()
    }

    fn refusal(change: impl FnOnce(&mut Value)) -> String {
        match BpePatcher::from_json(&file(change)) {
            Ok(_) => panic!("was not refused"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn patches_start_at_tokens() {
        let patcher = BpePatcher::from_json(&file(|_| ())).unwrap();
        assert_eq!(pieces(&patcher, "the thorn"), ["the", " ", "th", "o", "r", "n"]);
        assert_eq!(starts(&patcher, b""), [] as [usize; 0]);
        assert_eq!(starts(&patcher, b"t"), [0]);
        assert_eq!(patcher.vocab_size(), 258);
    }

    #[test]
    fn spans_are_tokenised_alone() {
        let patcher = BpePatcher::from_json(&file(|_| ())).unwrap();
        let batch = Batch::from_documents([&b"th"[..], b"e", b"", b"the"]);
        let patches = patcher.patches(&batch).unwrap();
        assert_eq!(patches.starts, [0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(patches.next_starts, [true; 4]);
    }

    #[test]
    fn starts_are_bytes_inside_multi_byte_characters_too() {
        for vocab in [256, 260, 280, 320, 400, 1000] {
            let patcher = trained(vocab);
            assert!(patcher.vocab_size() <= vocab);
            for text in [ENGLISH, KOREAN, "한글 🙂 the 👩‍👩‍👧\u{1F469}", "é\u{301}ñ 日本 \t  \n x"]
            {
                assert_eq!(
                    starts(&patcher, text.as_bytes()),
                    starts_by_decoding(&patcher, text),
                    "{vocab}: {text}"
                );
            }
        }
        let (bytes, more) = (trained(256), trained(320));
        assert_eq!(starts(&bytes, KOREAN.as_bytes()), (0..KOREAN.len()).collect::<Vec<_>>());
        // The larger vocabulary joins bytes of a syllable without its rest: some starts are no
        // character boundaries.
        let inside = starts(&more, KOREAN.as_bytes())
            .into_iter()
            .filter(|&i| !KOREAN.is_char_boundary(i))
            .count();
        assert!(inside > 0);
        assert!(starts(&more, KOREAN.as_bytes()).len() < KOREAN.len());
    }

    #[test]
    fn bytes_that_are_not_utf8_are_patches_of_their_own() {
        let patcher = BpePatcher::from_json(&file(|_| ())).unwrap();
        // A lone continuation byte, a character that is cut off (2 of 3 bytes), and one at the end.
        assert_eq!(starts(&patcher, b"the\x80the\xEA\xB0the\xFF"), [0, 3, 4, 7, 8, 9, 12]);
        assert_eq!(starts(&patcher, b"\xFF\xFE"), [0, 1]);
        // Not joined across the bad byte, though the letters would.
        assert_eq!(starts(&patcher, b"t\xFFh"), [0, 1, 2]);
    }

    #[test]
    fn any_bytes_are_covered() {
        let patcher = trained(400);
        let mut x = 1u64;
        for length in 0..200 {
            let document: Vec<u8> = (0..length)
                .map(|_| {
                    x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (x >> 56) as u8
                })
                .collect();
            let starts = starts(&patcher, &document);
            assert!(starts.windows(2).all(|w| w[0] < w[1]));
            let mut at = 0;
            for chunk in document.utf8_chunks() {
                at += chunk.valid().len();
                assert!((at..at + chunk.invalid().len()).all(|i| starts.contains(&i)));
                at += chunk.invalid().len();
            }
        }
    }

    #[test]
    fn training_is_deterministic_and_survives_json() {
        let documents = [ENGLISH.as_bytes(), KOREAN.as_bytes(), b"\xFFthe mat\xC0 the mat"];
        let first = BpePatcher::train(documents, 350).unwrap();
        let json = first.to_json().unwrap();
        for _ in 0..3 {
            assert_eq!(BpePatcher::train(documents, 350).unwrap().to_json().unwrap(), json);
        }
        let reversed = BpePatcher::train(documents.into_iter().rev(), 350).unwrap();
        assert_eq!(reversed.to_json().unwrap(), json, "counts do not depend on the order");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, first.to_json().unwrap()).unwrap();
        let read = BpePatcher::load(&path).unwrap();
        assert_eq!(read.to_json().unwrap(), json);
        assert_eq!(starts(&read, KOREAN.as_bytes()), starts(&first, KOREAN.as_bytes()));
        assert_eq!(pieces(&first, "the cat"), ["the", " cat"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn long_documents_and_long_runs() {
        let patcher = trained(350);
        for document in [KOREAN.repeat(3000), " ".repeat(1 << 20) + "x", "a".repeat(1 << 19)] {
            let starts = starts(&patcher, document.as_bytes());
            assert!(starts[0] == 0 && starts.len() > 1 && *starts.last().unwrap() < document.len());
        }
    }

    #[test]
    fn added_tokens_are_patches() {
        let patcher = BpePatcher::from_json(&file(|t| {
            t["added_tokens"] = json!([{"id": 258, "content": "<끝>", "single_word": false, "lstrip": true, "rstrip": false,
                                        "normalized": false, "special": true}]);
        }))
        .unwrap();
        assert_eq!(
            pieces(&patcher, "the <끝>가the"),
            ["the", " <끝>", "\u{FFFD}", "\u{FFFD}", "\u{FFFD}", "the"]
        );
    }

    #[test]
    fn truncation_padding_and_templates_are_taken_off() {
        let patcher = BpePatcher::from_json(&file(|t| {
            t["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
            t["padding"] = json!({"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                                  "pad_type_id": 0, "pad_token": "!"});
            t["post_processor"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        }))
        .unwrap();
        assert_eq!(pieces(&patcher, "the the"), ["the", " ", "the"]);
    }

    #[test]
    fn a_vocabulary_of_characters_must_spell_the_text() {
        let characters = |pre_tokenizer: Value| {
            file(|t| {
                t["pre_tokenizer"] = pre_tokenizer;
                t["model"]["vocab"] = json!({"가": 0, "나": 1, "가나": 2, " ": 3, "x": 4});
                t["model"]["merges"] = json!(["가 나"]);
            })
        };
        let patcher = BpePatcher::from_json(&characters(Value::Null)).unwrap();
        assert_eq!(pieces(&patcher, "가나 x가"), ["가나", " ", "x", "가"]);
        // A character it does not know is dropped by the model: told, not skipped.
        let batch = Batch::from_documents(["x".as_bytes(), "가나y가".as_bytes()]);
        let error = patcher.patches(&batch).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 1: the tokenizer's tokens do not cover the text at byte 6"
        );
        let unknown = characters(Value::Null).replace(r#""unk_token":null"#, r#""unk_token":"x""#);
        let error = BpePatcher::from_json(&unknown).unwrap().patches(&batch).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 1: the tokenizer's tokens do not cover the text at byte 6"
        );
        let split = json!({"type": "Split", "pattern": {"String": "나"}, "behavior": "Isolated", "invert": false});
        let patcher = BpePatcher::from_json(&characters(split)).unwrap();
        assert_eq!(pieces(&patcher, "가나 x가"), ["가", "나", " ", "x", "가"]);
    }

    #[test]
    fn tokenizers_that_change_the_text_are_refused_by_name() {
        let normalizes = refusal(|t| t["normalizer"] = json!({"type": "NFC"}));
        assert!(normalizes.starts_with("the tokenizer normalises (NFC)"), "{normalizes}");
        let both =
            json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
        assert!(refusal(|t| t["normalizer"] = both).contains("(NFKC, Lowercase)"));
        let prefix = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        assert!(
            refusal(|t| t["pre_tokenizer"] = prefix)
                .contains("pre-tokenizer ByteLevel adds a space")
        );
        for (pre_tokenizer, expected) in [
            (json!({"type": "Whitespace"}), "Whitespace drops spaces"),
            (
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true}),
                "Metaspace replaces",
            ),
            (
                json!({"type": "CharDelimiterSplit", "delimiter": ","}),
                "CharDelimiterSplit drops its delimiter",
            ),
            (
                json!({"type": "Split", "pattern": {"Regex": "\\s"}, "behavior": "Removed", "invert": false}),
                "Split drops",
            ),
            (json!({"type": "Punctuation", "behavior": "Removed"}), "Punctuation drops"),
        ] {
            let nested = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, pre_tokenizer]});
            for pre_tokenizer in [pre_tokenizer, nested] {
                let error = refusal(|t| t["pre_tokenizer"] = pre_tokenizer);
                assert!(error.contains(expected), "{error}");
            }
        }
        assert!(refusal(|t| t["model"]["dropout"] = json!(0.1)).contains("dropout 0.1"));
        assert!(
            refusal(|t| t["model"]["end_of_word_suffix"] = json!("</w>"))
                .contains("end_of_word_suffix")
        );
        assert!(refusal(|t| t["model"]["byte_fallback"] = json!(true)).contains("byte_fallback"));
        let lacks = refusal(|t| {
            t["model"]["vocab"].as_object_mut().unwrap().remove("Z");
        });
        assert!(lacks.contains("lacks 1 of the 256"), "{lacks}");
        let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]], "byte_fallback": false});
        assert!(refusal(|t| t["model"] = unigram).contains("model is Unigram; expected BPE"));
    }

    #[test]
    fn files_that_are_no_tokenizers_are_named() {
        assert!(matches!(BpePatcher::from_json("{}"), Err(BpeError::Parse(_))));
        assert!(matches!(BpePatcher::train([b"abc"], 255), Err(BpeError::Vocab(255))));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.json");
        let message = |path| BpePatcher::load(path).err().unwrap().to_string();
        assert!(message(&path).contains("none.json"));
        std::fs::write(&path, "not json").unwrap();
        assert!(message(&path).contains("none.json: not a tokenizer.json"), "{}", message(&path));
        let mut batch = Batch::from_documents([&b"ab"[..]]);
        batch.ids[2] = 2;
        let error = trained(256).patches(&batch).unwrap_err();
        assert_eq!(error.to_string(), "row 0: id 2 at position 2 is not a byte");
    }
}
