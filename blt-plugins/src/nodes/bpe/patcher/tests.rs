use super::*;
use serde_json::{Value, json};

const ENGLISH: &str = "the cat sat on the mat, the cat ate the rat; that is what the cat did.\n";
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
        false => char::from_u32(256 + (0..byte).filter(|&b| !prints(b)).count() as u32).unwrap(),
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
fn a_vocabulary_of_characters_is_refused() {
    let split = json!({"type": "Split", "pattern": {"String": "나"}, "behavior": "Isolated", "invert": false});
    for (pre_tokenizer, said) in [(Value::Null, "is none"), (split, "is Split")] {
        let error = refusal(|t| t["pre_tokenizer"] = pre_tokenizer);
        assert!(error.contains(said) && error.contains("expected ByteLevel"), "{error}");
    }
}

/// As vocabularies are that were trained on text: they lack 0xC0, 0xC1 and 0xF5 to 0xFF.
#[test]
fn a_vocabulary_may_lack_the_bytes_that_utf8_never_has() {
    let patcher = BpePatcher::from_json(&file(|t| {
        let vocab = t["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|token, _| {
            token.chars().all(|c| !matches!(c as u32, 0xC0 | 0xC1 | 0xF5..=0xFF))
        });
    }))
    .unwrap();
    let any: Vec<u8> = (0..=255).collect();
    assert_eq!(starts(&patcher, &any), (0..256).collect::<Vec<_>>());
    assert_eq!(starts(&patcher, b"the\xC0the\xFF"), [0, 3, 4, 7]);
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
        refusal(|t| t["pre_tokenizer"] = prefix).contains("pre-tokenizer ByteLevel adds a space")
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
    // Tokens without the prefix make the crate panic.
    let prefix = refusal(|t| t["model"]["continuing_subword_prefix"] = json!("##"));
    assert!(prefix.contains("continuing_subword_prefix"), "{prefix}");
    assert!(refusal(|t| t["model"]["byte_fallback"] = json!(true)).contains("byte_fallback"));
    let lacks = refusal(|t| {
        t["model"]["vocab"].as_object_mut().unwrap().remove("Z");
    });
    assert!(lacks.contains("lacks 1 of the single bytes"), "{lacks}");
    let unigram =
        json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]], "byte_fallback": false});
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
