//! What reads files and texts, given damaged ones: errors, and no panic. The functions are the fuzz
//! targets' own; here seeds are changed by a generator with a seed, for a second each, or for
//! BLT_FUZZ_SECONDS.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }
}

/// A file with a few bytes flipped, numbers set to their ends, pieces cut, doubled or moved.
fn damaged(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.next(4) {
        let (at, length) = (random.next(bytes.len()), random.next(16));
        let end = (at + length).min(bytes.len());
        match random.next(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.next(8),
            1 => bytes[at..end].fill([0, 0xff, 0x7f, 0x80][random.next(4)]),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = random.next(bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => {
                let from = random.next(other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
            _ => {
                let numbers = ["-1", "0", "1e308", "18446744073709551616", "null", "[]", "\"x\""];
                bytes.splice(at..end, numbers[random.next(7)].bytes());
            }
        }
    }
    bytes
}

/// Valid inputs of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |names: &[&str]| -> Vec<Vec<u8>> {
        let read = |name: &&str| std::fs::read(root.join(name));
        names.iter().map(|n| read(n).unwrap_or_else(|e| panic!("{n}: {e}"))).collect()
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    const TYPES: &str = "blt-plugins/tests/score/types";
    let typed = |names: &[&str]| -> Vec<Vec<u8>> {
        names.iter().flat_map(|name| files(&[&format!("{TYPES}/{name}")])).collect()
    };
    match target {
        "pipeline" => files(&["pipelines/ci_regression.yaml", "pipelines/score_parquet.yaml"]),
        "set" => texts(&["graph.p.stride=3", "seeds=[1, 2]", "run.0.score.where=a = 1", "name=x"]),
        "predicate" => texts(&[
            "a >= 1 and (b in ('x', 'y') or not c < 0.5)",
            "b like 'a%_\\%' and a not between -1 and 1e3",
            "a is not null or `b` <> 'it''s'",
        ]),
        "parquet" => {
            let mut seeds = typed(&["duckdb.parquet", "nanos.parquet", "older.parquet"]);
            seeds.extend(files(&[
                "blt-data/src/tests/fixtures/page_checksum.parquet",
                // What was found: more rows than announced, without an end.
                "fuzz/found/more-rows.parquet",
            ]));
            seeds
        }
        "ipc" => typed(&["hours.arrow", "runs.arrow", "unkept.arrow"]),
        "safetensors" => {
            let header = br#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}}"#;
            let length = (header.len() as u64).to_le_bytes();
            vec![[&length[..], header, &[0; 10]].concat()]
        }
        "hf_config" => vec![
            serde_json::to_vec(&serde_json::json!({
                "model_type": "blt", "vocab_size": 260, "patch_size": 4, "patching_mode": "entropy",
                "patching_threshold": 1.3, "encoder_hash_byte_group_size": [3, 4],
                "encoder_hash_byte_group_vocab": 500, "cross_attn_k": 2, "rope_theta": 10000.0,
                "patcher_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
                "encoder_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
                "decoder_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
                "global_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            }))
            .unwrap(),
        ],
        "tokenizer" => {
            let own = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let mut vocab = serde_json::Map::new();
            let mut next = 256;
            for byte in 0..=255u8 {
                let c = if own(byte) { u32::from(byte) } else { next += 1; next - 1 };
                vocab.insert(char::from_u32(c).unwrap().to_string(), byte.into());
            }
            vocab.insert("he".into(), 256.into());
            let file = serde_json::json!({
                "version": "1.0", "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
                "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"]]}
            });
            vec![file.to_string().into_bytes()]
        }
        "manifest" => texts(&[
            r#"{"format":1,"version":"v","model":"m","settings":{"columns":{}},"units":[{"part":"a.parquet","input":"a","file":0,"groups":{"start":0,"end":1},"limit":null,"rows":1,"key":"k"}]}"#,
        ]),
        "footer" => typed(&["nanos.parquet"]),
        "results" => texts(&[r#"{"schema": 2, "name": "x", "variants": []}"#, r#"{"schema": 1}"#]),
        other => panic!("no seeds of {other}"),
    }
}

#[test]
fn damaged_input_is_an_error_and_no_panic() {
    let seconds = std::env::var("BLT_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(1));
    for (target, run) in targets::ALL {
        let seeds = seeds(target);
        seeds.iter().for_each(|seed| run(seed));
        let mut random = Random(19);
        let begun = Instant::now();
        let mut n = 0;
        while begun.elapsed() < time || n < 20 {
            let (seed, other) = (random.next(seeds.len()), random.next(seeds.len()));
            let input = damaged(&seeds[seed], &seeds[other], &mut random);
            let caught = std::panic::catch_unwind(|| run(&input));
            if caught.is_err() {
                let path = std::env::temp_dir().join(format!("blt-fuzz-{target}"));
                std::fs::write(&path, &input).unwrap();
                panic!("{target}: try {n} panics; the input is {}", path.display());
            }
            n += 1;
        }
        println!("{target}: {n} tries");
    }
}
