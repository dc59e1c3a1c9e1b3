//! `config.json` of a `BltForCausalLM` directory, resolved.
//!
//! Defaults and their order of precedence are those of transformers 5.23. Both of its spellings of
//! rotary embedding are read: `rope_parameters` (5.x) and `rope_theta` with `rope_scaling` (4.x).
//! `HfConfig::write` writes the 5.x one.

use super::fields::Fields;
use super::inert::{
    INERT, INERT_CARRIED, INERT_DECODER, INERT_ENCODER, INERT_GENERATION, INERT_LATENT,
    INERT_PATCHER, INERT_TOP, refuse_active,
};
use super::{CONFIG_FILE, HfError};
use crate::backend::{BlockConfig, CrossConfig, HASH_PRIMES, HashConfig, Pooling};
use crate::bytes::VOCAB;
use crate::model::{CrossLayers, LatentConfig, LocalDecoderConfig, LocalEncoderConfig};
use crate::sizes::{MAX_DIM, MAX_FFN, MAX_LAYERS, MAX_NGRAM, MAX_ROWS, MAX_TABLE, product};
use crate::strict;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What a directory's `config.json` describes, every field resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// None where there are no hash functions: the layout's table is there and has no rows.
    pub hash: Option<HashConfig>,
    /// Pools by maximum; the cross-attention of all layers pools anew in each
    /// (`CrossLayers::AllRepool`).
    pub encoder: LocalEncoderConfig,
    pub latent: LatentConfig,
    pub decoder: LocalDecoderConfig,
    /// None (`patch_in_forward: false`): the directory has no entropy model, patches come from
    /// outside.
    pub patching: Option<HfPatching>,
}

/// The entropy patcher: its model and its rule, `entropy > threshold`.
#[derive(Clone, Debug, PartialEq)]
pub struct HfPatching {
    pub patcher: HfPatcher,
    /// Nats. The reference compares in f32: `entropy > threshold as f32`.
    pub threshold: f64,
    pub max_patch_length: Option<usize>,
}

/// The entropy model, a plain byte language model.
#[derive(Clone, Debug, PartialEq)]
pub struct HfPatcher {
    pub layers: usize,
    pub block: BlockConfig,
}

const DEFAULT_THRESHOLD: f64 = 1.335442066192627;
const DEFAULT_HASH_SIZES: [usize; 6] = [3, 4, 5, 6, 7, 8];
/// Rotary base where a part's configuration has none; the patcher's is another.
const DEFAULT_THETA: f64 = 500_000.0;
const DEFAULT_PATCHER_THETA: f64 = 10_000.0;

struct Defaults {
    model_type: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    /// None: 8/3 of the width, rounded down.
    intermediate: Option<usize>,
    theta: f64,
}

const PATCHER: Defaults = Defaults {
    model_type: "blt_patcher",
    layers: 14,
    hidden: 768,
    heads: 12,
    intermediate: Some(2048),
    theta: DEFAULT_PATCHER_THETA,
};
const ENCODER: Defaults = Defaults {
    model_type: "blt_local_encoder",
    layers: 1,
    hidden: 1024,
    heads: 16,
    intermediate: None,
    theta: DEFAULT_THETA,
};
const DECODER: Defaults = Defaults {
    model_type: "blt_local_decoder",
    layers: 9,
    hidden: 1024,
    heads: 16,
    intermediate: Some(2816),
    theta: DEFAULT_THETA,
};
const LATENT: Defaults = Defaults {
    model_type: "blt_global_transformer",
    layers: 25,
    hidden: 2048,
    heads: 16,
    intermediate: Some(5632),
    theta: DEFAULT_THETA,
};

/// Layers and block of one part; the window is the caller's.
fn stack(f: &Fields, d: &Defaults, window: Option<usize>) -> Result<(usize, BlockConfig), HfError> {
    if let Some(found) = f.some("model_type").filter(|v| **v != json!(d.model_type)) {
        return Err(f.wrong("model_type", format!("\"{}\"", d.model_type), found));
    }
    refuse_active(f)?;
    f.only("hidden_act", &[json!("silu"), json!("swish")])?;
    let dim = f.size("hidden_size", d.hidden, MAX_DIM)?;
    let heads = f.positive("num_attention_heads", d.heads)?;
    // The library takes null and 0 alike for "as many as heads" and, below, for 8/3 of the width.
    let kv_heads = match f.count("num_key_value_heads", 0)? {
        0 => heads,
        n => n,
    };
    if heads % kv_heads != 0 {
        return Err(f.wrong_number(
            "num_key_value_heads",
            format!("a divisor of the {heads} heads"),
            kv_heads,
        ));
    }
    let head_dim = dim / heads;
    if head_dim == 0 || head_dim % 2 != 0 {
        let expected = format!(
            "heads of an even width (rotary pairs); hidden_size / heads is {dim} / {heads}"
        );
        return Err(f.wrong_number("num_attention_heads", expected, heads));
    }
    if let Some(found) = f.some("head_dim").filter(|v| v.as_u64() != Some(head_dim as u64)) {
        return Err(f.unsupported(
            "head_dim",
            format!("{head_dim} (hidden_size / num_attention_heads)"),
            found,
        ));
    }
    let ffn = match f.get("intermediate_size") {
        None => d.intermediate.unwrap_or(8 * dim / 3),
        Some(_) => match f.count("intermediate_size", 0)? {
            0 => 8 * dim / 3,
            n => n,
        },
    };
    f.at_most("intermediate_size", ffn, MAX_FFN)?;
    let block = BlockConfig {
        dim,
        heads,
        kv_heads,
        head_dim,
        ffn,
        window,
        rope_theta: rope_theta(f, d.theta)?,
        eps: f.positive_float("rms_norm_eps", 1e-5)?,
    };
    Ok((f.size("num_hidden_layers", d.layers, MAX_LAYERS)?, block))
}

/// `rope_scaling`, where it says anything, takes the place of `rope_parameters`; a theta inside
/// goes before one outside.
fn rope_theta(f: &Fields, default: f64) -> Result<f64, HfError> {
    let (scaling, parameters) = (f.object("rope_scaling")?, f.object("rope_parameters")?);
    let outside = f.positive_float("rope_theta", default)?;
    f.only("partial_rotary_factor", &[json!(1.0)])?;
    let inside = if scaling.is_empty() { parameters } else { scaling };
    for name in ["rope_type", "type"] {
        inside.only(name, &[json!("default")])?;
    }
    inside.only("partial_rotary_factor", &[json!(1.0)])?;
    let theta = inside.positive_float("rope_theta", outside)?;
    inside.finish(&[])?;
    Ok(theta)
}

fn cross(block: &BlockConfig) -> CrossConfig {
    CrossConfig {
        dim: block.dim,
        heads: block.heads,
        kv_heads: block.kv_heads,
        head_dim: block.head_dim,
        eps: block.eps,
    }
}

impl HfConfig {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON; a field of the wrong type or value; a field that
    /// would change the numbers and is not supported; an unknown field. Each names the file,
    /// the field, and what was found.
    pub fn read(dir: &Path) -> Result<Self, HfError> {
        let path = dir.join(CONFIG_FILE);
        let text =
            strict::read(&path).map_err(|source| HfError::Read { path: path.clone(), source })?;
        Self::parse(&path, &text)
    }

    /// Parses the bytes of a `config.json`; `file` is named in errors.
    pub fn parse(file: &Path, json: &[u8]) -> Result<Self, HfError> {
        let value =
            strict::json(json).map_err(|source| HfError::Json { path: file.to_owned(), source })?;
        let Some(map) = value.as_object() else {
            return Err(HfError::Field {
                file: file.to_owned(),
                field: ".".into(),
                expected: "an object".into(),
                found: value.to_string(),
            });
        };
        let f = Fields::new(file, String::new(), map);
        if let Some(found) = f.some("model_type").filter(|v| **v != json!("blt")) {
            return Err(f.wrong("model_type", "\"blt\"", found));
        }
        if let Some(found) = f.some("architectures") {
            let named = found.as_array().is_some_and(|a| a.contains(&json!("BltForCausalLM")));
            if !named {
                return Err(f.wrong("architectures", "[\"BltForCausalLM\"]", found));
            }
        }
        refuse_active(&f)?;
        f.only("tie_word_embeddings", &[json!(false)])?;
        f.only("vocab_size", &[json!(VOCAB)])?;

        let k = f.size("cross_attn_k", 2, MAX_ROWS)?;
        let local_window = f.optional("local_attention_window_len", Some(512))?;
        let hash = HashConfig {
            sizes: f.counts("encoder_hash_byte_group_size", &DEFAULT_HASH_SIZES)?,
            functions: f.count("encoder_hash_byte_group_nb_functions", 1)?,
            vocab: f.positive("encoder_hash_byte_group_vocab", 500_002)?,
        };
        if hash.functions > HASH_PRIMES.len() {
            // The library begins again with the first multiplier: the same hashes into tables of
            // their own.
            let expected = format!("at most {}, the number of multipliers", HASH_PRIMES.len());
            return Err(f.unsupported(
                "encoder_hash_byte_group_nb_functions",
                expected,
                hash.functions,
            ));
        }
        for &n in &hash.sizes {
            f.at_most("encoder_hash_byte_group_size", n, MAX_NGRAM)?;
        }
        let rows = product(&[hash.functions, hash.sizes.len(), hash.vocab]);
        if rows.is_none_or(|rows| rows > MAX_TABLE as u64) {
            let expected = format!("tables of at most {MAX_TABLE} rows in all");
            return Err(f.wrong_number("encoder_hash_byte_group_vocab", expected, hash.vocab));
        }
        let encoder = Self::encoder(&f, k, local_window)?;
        let latent = Self::latent(&f, k * encoder.block.dim)?;
        let decoder = Self::decoder(&f, k, local_window)?;
        let hash = (hash.functions > 0).then_some(hash);
        let config = HfConfig { hash, encoder, latent, decoder, patching: Self::patching(&f)? };
        f.finish(&[INERT, INERT_GENERATION, INERT_CARRIED, INERT_TOP])?;
        // The parts meet in these widths.
        let (encoder, decoder) = (config.encoder.block.dim, config.decoder.block.dim);
        if encoder != decoder {
            let expected = format!("the encoder's hidden_size {encoder}");
            return Err(f.wrong_number("decoder_config.hidden_size", expected, decoder));
        }
        let (latent, wanted) = (config.latent.block.dim, config.decoder.latent_dim);
        if latent != wanted {
            let expected = format!("the global transformer's hidden_size {latent}");
            return Err(f.wrong_number("decoder_config.hidden_size_global", expected, wanted));
        }
        Ok(config)
    }

    /// A part's own copy of `cross_attn_k` shapes its parameters, the top's shapes what flows
    /// between them.
    fn agree_on_k(part: &Fields, k: usize) -> Result<(), HfError> {
        match part.positive("cross_attn_k", 2)? {
            own if own == k => Ok(()),
            own => Err(part.wrong_number("cross_attn_k", format!("{k}, as at the top"), own)),
        }
    }

    fn encoder(
        top: &Fields,
        k: usize,
        window: Option<usize>,
    ) -> Result<LocalEncoderConfig, HfError> {
        let f = top.object("encoder_config")?;
        let (layers, block) = stack(&f, &ENCODER, window)?;
        Self::agree_on_k(&f, k)?;
        f.only("vocab_size", &[json!(VOCAB)])?;
        let cross_layers = match f.flag("cross_attn_all_layers", false)? {
            true => CrossLayers::AllRepool,
            false => CrossLayers::Last,
        };
        f.finish(&[INERT, INERT_GENERATION, INERT_CARRIED, INERT_ENCODER])?;
        Ok(LocalEncoderConfig {
            layers,
            cross: cross(&block),
            block,
            cross_layers,
            pooling: Pooling::Max,
            k,
        })
    }

    fn latent(top: &Fields, input_dim: usize) -> Result<LatentConfig, HfError> {
        let f = top.object("global_config")?;
        let (layers, block) = stack(&f, &LATENT, None)?;
        f.finish(&[INERT, INERT_GENERATION, INERT_CARRIED, INERT_LATENT])?;
        Ok(LatentConfig { layers, block, input_dim })
    }

    fn decoder(
        top: &Fields,
        k: usize,
        window: Option<usize>,
    ) -> Result<LocalDecoderConfig, HfError> {
        let f = top.object("decoder_config")?;
        let (layers, block) = stack(&f, &DECODER, window)?;
        Self::agree_on_k(&f, k)?;
        let latent_dim = f.size("hidden_size_global", 2048, MAX_DIM)?;
        let cross_all = f.flag("cross_attn_all_layers", true)?;
        f.finish(&[INERT, INERT_GENERATION, INERT_CARRIED, INERT_DECODER])?;
        Ok(LocalDecoderConfig { layers, cross: cross(&block), block, cross_all, k, latent_dim })
    }

    fn patching(top: &Fields) -> Result<Option<HfPatching>, HfError> {
        // Every field is read whether or not it counts, so that a wrong one is told and none is
        // unknown.
        let in_forward = top.flag("patch_in_forward", true)?;
        top.only("patching_mode", &[json!("entropy")])?;
        let max_patch_length = top.optional("max_patch_length", None)?;
        let threshold = match top.get("patching_threshold") {
            Some(Value::Null) if !in_forward => DEFAULT_THRESHOLD,
            _ => top.float("patching_threshold", DEFAULT_THRESHOLD)?,
        };
        // An on/off switch in the library: null means patches of one byte, any number means the
        // entropy rule.
        let switched_off = top.get("patch_size").is_some_and(Value::is_null);
        if in_forward && switched_off {
            return Err(top.unsupported("patch_size", "a number (patches by entropy)", "null"));
        }
        let f = top.object("patcher_config")?;
        let window = f.optional("sliding_window", Some(512))?;
        let (layers, block) = stack(&f, &PATCHER, window)?;
        f.only("vocab_size", &[json!(VOCAB)])?;
        f.finish(&[INERT, INERT_GENERATION, INERT_CARRIED, INERT_PATCHER])?;
        Ok(in_forward.then_some(HfPatching {
            patcher: HfPatcher { layers, block },
            threshold,
            max_patch_length,
        }))
    }

    /// The JSON that `write` writes: the 5.x spelling, nothing left to a default that a version
    /// could change.
    pub fn to_json(&self) -> Value {
        let (e, g, d) = (&self.encoder, &self.latent, &self.decoder);
        let mut encoder = part(ENCODER.model_type, e.layers, &e.block);
        encoder.insert("cross_attn_all_layers".into(), json!(e.cross_layers != CrossLayers::Last));
        encoder.insert("cross_attn_k".into(), json!(e.k));
        encoder.insert("hidden_size_global".into(), json!(g.block.dim));
        encoder.insert("sliding_window".into(), json!(e.block.window));
        encoder.insert("vocab_size".into(), json!(VOCAB));
        let mut decoder = part(DECODER.model_type, d.layers, &d.block);
        decoder.insert("cross_attn_all_layers".into(), json!(d.cross_all));
        decoder.insert("cross_attn_k".into(), json!(d.k));
        decoder.insert("hidden_size_global".into(), json!(d.latent_dim));
        decoder.insert("vocab_size".into(), json!(VOCAB));
        let latent = part(LATENT.model_type, g.layers, &g.block);
        let none = HashConfig { sizes: vec![3], functions: 0, vocab: 1 };
        let hash = self.hash.as_ref().unwrap_or(&none);
        let mut top = json!({
            "architectures": ["BltForCausalLM"],
            "model_type": "blt",
            "dtype": "float32",
            "vocab_size": VOCAB,
            "tie_word_embeddings": false,
            "use_cache": false,
            "cross_attn_k": e.k,
            "local_attention_window_len": e.block.window,
            "encoder_hash_byte_group_nb_functions": hash.functions,
            "encoder_hash_byte_group_size": hash.sizes,
            "encoder_hash_byte_group_vocab": hash.vocab,
            "patch_in_forward": self.patching.is_some(),
            "patch_size": 4,
            "patching_mode": "entropy",
            "encoder_config": encoder,
            "global_config": latent,
            "decoder_config": decoder,
        });
        if let (Some(p), Some(top)) = (&self.patching, top.as_object_mut()) {
            let mut patcher = part(PATCHER.model_type, p.patcher.layers, &p.patcher.block);
            patcher.insert("sliding_window".into(), json!(p.patcher.block.window));
            patcher.insert("vocab_size".into(), json!(VOCAB));
            top.insert("patching_threshold".into(), json!(p.threshold));
            top.insert("max_patch_length".into(), json!(p.max_patch_length));
            top.insert("patcher_config".into(), Value::Object(patcher));
        }
        top
    }

    /// Writes `dir/config.json` through a temporary file.
    pub fn write(&self, dir: &Path) -> Result<(), HfError> {
        let path = dir.join(CONFIG_FILE);
        let partial = dir.join(format!("{CONFIG_FILE}.partial"));
        let text = format!("{:#}\n", self.to_json());
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, &path))
            .map_err(|source| HfError::Write { path, source })
    }
}

fn part(model_type: &str, layers: usize, b: &BlockConfig) -> Map<String, Value> {
    let fields = [
        ("model_type", json!(model_type)),
        ("hidden_act", json!("silu")),
        ("hidden_size", json!(b.dim)),
        ("intermediate_size", json!(b.ffn)),
        ("num_attention_heads", json!(b.heads)),
        ("num_hidden_layers", json!(layers)),
        ("num_key_value_heads", json!(b.kv_heads)),
        ("rms_norm_eps", json!(b.eps)),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": b.rope_theta})),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
