//! From a model here to the layout: what can be said, and what is refused by name.

use super::{CONFIG_FILE, HfConfig, HfError, HfPatcher, HfPatching, INDEX_FILE, WEIGHTS_FILE};
use crate::backend::{BackendError, BlockConfig, CrossConfig, HASH_PRIMES, HashConfig, Pooling};
use crate::counts::CountsConfig;
use crate::model::{CrossLayers, LatentConfig, LocalDecoderConfig, LocalEncoderConfig};
use crate::patch::EntropyRule;
use crate::tensor_file::{self, WriteError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// All that a model is but its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    pub hash: Option<HashConfig>,
    pub encoder: LocalEncoderConfig,
    pub latent: LatentConfig,
    pub decoder: LocalDecoderConfig,
    pub patching: PatchingShape,
}

/// Where the model's patches come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchingShape {
    /// An entropy model and a rule on its entropies.
    Entropy { model: ByteLmShape, rule: EntropyRule, max_patch_length: Option<usize> },
    /// Counts and a rule on their entropies.
    Counts { model: CountsShape, rule: EntropyRule, max_patch_length: Option<usize> },
    /// Anything else (stride, space, BPE, a column): exported with `patch_in_forward: false`.
    Outside,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ByteLmShape {
    pub layers: usize,
    pub block: BlockConfig,
    /// Its context begins anew after each newline.
    pub reset_at_newline: bool,
}

/// Counts as an entropy model. They are no parameters, and stand in a file of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CountsShape {
    pub config: CountsConfig,
    /// The file in the checkpoint directory.
    pub file: String,
}

fn window(window: Option<usize>) -> String {
    window.map_or("the whole span".into(), |bytes| format!("{bytes} bytes"))
}

/// One thing that the layout cannot say.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unsupported {
    #[error("`pooling: {0}`: the layout pools by maximum")]
    Pooling(Pooling),
    #[error(
        "`cross: all` over {layers} encoder layers refines patch states from layer to layer; the layout has `last` and `all_repool`"
    )]
    RefiningCross { layers: usize },
    #[error("local windows of {} (encoder) and {} (decoder): the layout has one for both", window(*encoder), window(*decoder))]
    LocalWindows { encoder: Option<usize>, decoder: Option<usize> },
    #[error("a latent window of {0} patches: the layout's latent attends to all earlier patches")]
    LatentWindow(usize),
    #[error("{0}: the layout has the global entropy rule alone")]
    RelativeRule(EntropyRule),
    #[error(
        "an entropy model of counts (NgramLm): the layout's is a transformer; train one (ByteLm) to patch with, or score with the run's own checkpoint (node Blt)"
    )]
    Counts,
    #[error("an entropy model whose context resets at newlines: the layout's does not")]
    NewlineReset,
    #[error("k = {encoder} (encoder) and {decoder} (decoder): the layout has one for both")]
    K { encoder: usize, decoder: usize },
    #[error("widths {encoder} (encoder) and {decoder} (decoder): the layout has one for both")]
    LocalWidths { encoder: usize, decoder: usize },
    #[error(
        "{part}: heads of width {head_dim}: the layout divides the width {dim} by {heads} heads"
    )]
    HeadDim { part: &'static str, head_dim: usize, dim: usize, heads: usize },
    #[error(
        "{part}: cross-attention of {} heads ({} for keys and values), eps {} differs from the self-attention's: the layout has one set for both",
        cross.heads, cross.kv_heads, cross.eps
    )]
    Cross { part: &'static str, cross: Box<CrossConfig> },
    #[error("{functions} hash functions: the layout has {} multipliers", HASH_PRIMES.len())]
    HashFunctions { functions: usize },
    #[error(
        "{part}: the layout computes `{field}` from what it has, {expected} here, found {found}"
    )]
    Width { part: &'static str, field: &'static str, expected: usize, found: usize },
}

impl HfConfig {
    /// The model that this configuration says: what [`HfConfig::from_model`] takes.
    pub fn to_model(&self) -> ModelShape {
        let patching = match &self.patching {
            None => PatchingShape::Outside,
            Some(p) => PatchingShape::Entropy {
                model: ByteLmShape {
                    layers: p.patcher.layers,
                    block: p.patcher.block.clone(),
                    reset_at_newline: false,
                },
                rule: EntropyRule::Global { threshold: p.threshold },
                max_patch_length: p.max_patch_length,
            },
        };
        ModelShape {
            hash: self.hash.clone(),
            encoder: self.encoder.clone(),
            latent: self.latent.clone(),
            decoder: self.decoder.clone(),
            patching,
        }
    }

    /// The configuration that says `model`, or everything about it that the layout cannot say.
    pub fn from_model(model: &ModelShape) -> Result<HfConfig, Vec<Unsupported>> {
        let mut refused = Vec::new();
        let (e, g, d) = (&model.encoder, &model.latent, &model.decoder);
        if e.pooling != Pooling::Max {
            refused.push(Unsupported::Pooling(e.pooling));
        }
        // With one layer there is nothing to refine: all three spellings are one model.
        if e.cross_layers == CrossLayers::All && e.layers > 1 {
            refused.push(Unsupported::RefiningCross { layers: e.layers });
        }
        if let Some(hash) = model.hash.as_ref().filter(|h| h.functions > HASH_PRIMES.len()) {
            refused.push(Unsupported::HashFunctions { functions: hash.functions });
        }
        if e.block.window != d.block.window {
            refused.push(Unsupported::LocalWindows {
                encoder: e.block.window,
                decoder: d.block.window,
            });
        }
        if let Some(window) = g.block.window {
            refused.push(Unsupported::LatentWindow(window));
        }
        if e.k != d.k {
            refused.push(Unsupported::K { encoder: e.k, decoder: d.k });
        }
        if e.block.dim != d.block.dim {
            refused.push(Unsupported::LocalWidths { encoder: e.block.dim, decoder: d.block.dim });
        }
        for (part, found, expected, field) in [
            ("latent", g.input_dim, e.k * e.block.dim, "encoder_cross_output_size"),
            ("decoder", d.latent_dim, g.block.dim, "hidden_size_global"),
        ] {
            if found != expected {
                refused.push(Unsupported::Width { part, field, expected, found });
            }
        }
        let mut blocks = vec![("encoder", &e.block), ("latent", &g.block), ("decoder", &d.block)];
        if let PatchingShape::Entropy { model, rule, .. } = &model.patching {
            blocks.push(("entropy model", &model.block));
            if !matches!(rule, EntropyRule::Global { .. }) {
                refused.push(Unsupported::RelativeRule(*rule));
            }
            if model.reset_at_newline {
                refused.push(Unsupported::NewlineReset);
            }
        }
        if let PatchingShape::Counts { .. } = model.patching {
            refused.push(Unsupported::Counts);
        }
        for (part, b) in blocks {
            if b.head_dim != b.dim / b.heads {
                refused.push(Unsupported::HeadDim {
                    part,
                    head_dim: b.head_dim,
                    dim: b.dim,
                    heads: b.heads,
                });
            }
        }
        for (part, b, c) in [("encoder", &e.block, &e.cross), ("decoder", &d.block, &d.cross)] {
            let same = CrossConfig {
                dim: b.dim,
                heads: b.heads,
                kv_heads: b.kv_heads,
                head_dim: b.head_dim,
                eps: b.eps,
            };
            if *c != same {
                refused.push(Unsupported::Cross { part, cross: Box::new(c.clone()) });
            }
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        let patching = match &model.patching {
            PatchingShape::Entropy {
                model,
                rule: EntropyRule::Global { threshold },
                max_patch_length,
            } => {
                let patcher = HfPatcher { layers: model.layers, block: model.block.clone() };
                Some(HfPatching {
                    patcher,
                    threshold: *threshold,
                    max_patch_length: *max_patch_length,
                })
            }
            _ => None,
        };
        let mut encoder = e.clone();
        if encoder.cross_layers == CrossLayers::All {
            encoder.cross_layers = CrossLayers::Last;
        }
        let hash = model.hash.clone().filter(|h| h.functions > 0 && !h.sizes.is_empty());
        Ok(HfConfig { hash, encoder, latent: g.clone(), decoder: d.clone(), patching })
    }
}

/// Writes `dir` whole or not at all: `config.json`, and `model.safetensors` with
/// `config.parameters()`, each of whose numbers `fetch` returns by name (row-major, of the shape
/// that `config.parameters()` states; not asked of an empty table).
///
/// A directory that stands there is replaced if it holds nothing but such files.
///
/// # Errors
/// `Write` where the disk refuses; `Occupied` where the directory holds anything else.
pub fn write_directory(
    dir: &Path,
    config: &HfConfig,
    fetch: impl Fn(&str) -> Result<Vec<f32>, BackendError>,
) -> Result<(), HfError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| HfError::Write { path, source }
    };
    let replaces = check_replaceable(dir)?;
    let parent = match dir.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(failed(&parent))?;
    let name = dir.file_name().ok_or_else(|| failed(dir)(io::ErrorKind::InvalidFilename.into()))?;
    let hidden = |suffix: &str| parent.join(format!(".{}.{suffix}", name.to_string_lossy()));
    let (partial, old) = (hidden("partial"), hidden("old"));
    // Left by a writer that was killed.
    for leftover in [&partial, &old] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).map_err(failed(leftover))?;
        }
    }
    let written = (|| {
        fs::create_dir(&partial).map_err(failed(&partial))?;
        write_weights(&partial.join(WEIGHTS_FILE), config, &fetch)?;
        config.write(&partial)?;
        if replaces {
            fs::rename(dir, &old).map_err(failed(dir))?;
        }
        fs::rename(&partial, dir).map_err(failed(dir))
    })();
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    if old.exists() {
        let _ = fs::remove_dir_all(&old);
    }
    written
}

/// Whether `dir` stands there, holding nothing but a model.
fn check_replaceable(dir: &Path) -> Result<bool, HfError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(HfError::Write { path: dir.to_owned(), source }),
    };
    for entry in entries {
        let entry = entry.map_err(|source| HfError::Write { path: dir.to_owned(), source })?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let shard = name.starts_with("model-") && name.ends_with(".safetensors");
        if !shard && ![CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE].contains(&name.as_str()) {
            return Err(HfError::Occupied { dir: dir.to_owned(), found: name });
        }
    }
    Ok(true)
}

fn write_weights(
    path: &Path,
    config: &HfConfig,
    fetch: &impl Fn(&str) -> Result<Vec<f32>, BackendError>,
) -> Result<(), HfError> {
    let tensors = config.parameters().into_iter().map(|spec| {
        let name = spec.name.clone();
        (spec.name, spec.shape, move || fetch(&name))
    });
    tensor_file::write(path, tensors).map_err(|error| match error {
        WriteError::File(source) => HfError::Write { path: path.to_owned(), source },
        WriteError::Fetch(error) => error.into(),
    })
}
