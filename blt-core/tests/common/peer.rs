//! A model in the Hugging Face layout, and the stored numbers of the reference implementation.
#![allow(dead_code)] // each test file uses its part

use blt_core::backend::Backend;
use blt_core::bytes::Batch;
use blt_core::hf::{HfConfig, TensorSpec, Weights};
use blt_core::model::{ByteEmbed, ByteLm, Head, Latent, LocalDecoder, LocalEncoder, Session};
use blt_core::params::{NamedParam, ParamMaker};
use blt_core::patch::{EntropyRule, Patches, entropy_patches};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

pub struct Model {
    pub cx: Session,
    pub config: HfConfig,
    pub embed: ByteEmbed,
    pub encoder: LocalEncoder,
    pub latent: Latent,
    pub decoder: LocalDecoder,
    pub byte_lm: Option<ByteLm>,
    pub params: Vec<NamedParam>,
}

impl Model {
    pub fn load(dir: &Path, backend: Rc<dyn Backend>) -> Model {
        let config = HfConfig::read(dir).unwrap();
        let weights = Weights::open(dir).unwrap();
        weights.check(&config.parameters()).unwrap();
        let model = Model::new(config, backend);
        for p in &model.params {
            model
                .cx
                .backend
                .write_param(p.id, &weights.get(&p.name, &p.stored_shape()).unwrap())
                .unwrap();
        }
        model
    }

    /// With parameters as initialised.
    pub fn new(config: HfConfig, backend: Rc<dyn Backend>) -> Model {
        let mut maker = ParamMaker::new(&*backend, 0);
        let embed = ByteEmbed::new(&mut maker, config.encoder.block.dim, config.hash.clone());
        let encoder = LocalEncoder::new(&mut maker, &config.encoder);
        let latent = Latent::new(&mut maker, &config.latent);
        let decoder = LocalDecoder::new(&mut maker, &config.decoder);
        let byte_lm = config
            .patching
            .as_ref()
            .map(|p| ByteLm::new(&mut maker, p.patcher.layers, &p.patcher.block));
        let params = maker.finish().unwrap();
        let described = config.parameters().into_iter().filter(|p| !p.shape.contains(&0));
        let registered =
            params.iter().map(|p| TensorSpec { name: p.name.clone(), shape: p.stored_shape() });
        assert!(registered.eq(described), "the model and the configuration differ in parameters");
        Model {
            cx: Session::new(backend),
            config,
            embed,
            encoder,
            latent,
            decoder,
            byte_lm,
            params,
        }
    }

    /// Entropies, where the directory has an entropy model.
    pub fn entropies(&self, batch: &Batch) -> Option<Vec<f32>> {
        self.byte_lm
            .as_ref()
            .map(|lm| lm.forward(&self.cx, batch).unwrap().entropies(&self.cx).unwrap())
    }

    pub fn patches(&self, batch: &Batch, entropies: Option<&[f32]>, given: &[Vec<f32>]) -> Patches {
        match (&self.config.patching, entropies) {
            (Some(p), Some(entropies)) => {
                let rule = EntropyRule::Global { threshold: p.threshold };
                entropy_patches(batch, entropies, rule, p.max_patch_length).unwrap()
            }
            _ => Patches::from_lengths(batch, given).unwrap(),
        }
    }

    pub fn head(&self, batch: &Batch, patches: &Patches) -> Head {
        let x = self.embed.forward(&self.cx, batch).unwrap();
        let (bytes, queries) = self.encoder.forward(&self.cx, x, batch, patches).unwrap();
        let latents = self.latent.forward(&self.cx, queries, patches).unwrap();
        self.decoder.forward(&self.cx, bytes, latents, batch, patches).unwrap()
    }
}

/// A safetensors file in memory, its numbers as f64.
pub struct Numbers(pub BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Numbers {
    pub fn read(path: &Path) -> Numbers {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let convert = |dtype: Dtype, data: &[u8]| -> Vec<f64> {
            match dtype {
                Dtype::F32 => {
                    data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) as f64).collect()
                }
                Dtype::U8 => data.iter().map(|&b| b as f64).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                Dtype::I64 => {
                    data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
                }
                other => panic!("{}: a tensor of {other:?}", path.display()),
            }
        };
        let tensor = |(name, t): (&str, safetensors::tensor::TensorView)| {
            (name.to_owned(), (t.shape().to_vec(), convert(t.dtype(), t.data())))
        };
        Numbers(file.iter().map(tensor).collect())
    }

    pub fn get(&self, key: &str) -> Option<&[f64]> {
        self.0.get(key).map(|(_, data)| data.as_slice())
    }

    pub fn of_text(&self, text: usize, key: &str) -> &[f64] {
        self.get(&format!("text{text}.{key}")).unwrap_or_else(|| panic!("no text{text}.{key}"))
    }
}

pub fn largest_difference(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "as many numbers on both sides");
    let differences = ours.iter().zip(theirs).map(|(&a, &b)| (a as f64 - b).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { d.max(worst) })
}

pub fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}
