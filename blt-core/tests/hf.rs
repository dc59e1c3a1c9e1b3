//! Reading and writing Hugging Face directories: defaults, both spellings, and what is refused.

use blt_core::backend::fused::Fused;
use blt_core::backend::{AdamWStep, HashConfig, Operations, Optimizer, Parameters, Pooling, Tape};
use blt_core::bytes::Batch;
use blt_core::hf::{
    ByteLmShape, HfConfig, HfError, ModelShape, PatchingShape, Unsupported, Weights,
    write_directory,
};
use blt_core::model::CrossLayers;
use blt_core::params::ParamMaker;
use blt_core::patch::EntropyRule;
use blt_core::tensor_file::{TensorFileError, WeightType};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const FIXTURES: [&str; 3] = ["k1_proj_gqa_win", "k2_base", "k4_all_fullattn"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity").join(name)
}

fn parse(config: &Value) -> Result<HfConfig, HfError> {
    HfConfig::parse(Path::new("config.json"), config.to_string().as_bytes())
}

fn fixture_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name).join("config.json")).unwrap()).unwrap()
}

/// `k2_base` with one field set, by JSON pointer.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = fixture_json("k2_base");
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
    config
}

// Configuration

#[test]
fn an_empty_configuration_is_the_librarys_default_model() {
    let c = parse(&json!({})).unwrap();
    let hash = c.hash.unwrap();
    assert_eq!((hash.sizes, hash.functions, hash.vocab), (vec![3, 4, 5, 6, 7, 8], 1, 500_002));
    let e = &c.encoder;
    assert_eq!((e.layers, e.k, e.cross_layers, e.pooling), (1, 2, CrossLayers::Last, Pooling::Max));
    let shape = |b: &blt_core::backend::BlockConfig| {
        (b.dim, b.heads, b.kv_heads, b.head_dim, b.ffn, b.window)
    };
    assert_eq!(shape(&e.block), (1024, 16, 16, 64, 2730, Some(512)));
    assert_eq!(shape(&c.latent.block), (2048, 16, 16, 128, 5632, None));
    assert_eq!((c.latent.layers, c.latent.input_dim), (25, 2048));
    assert_eq!(shape(&c.decoder.block), (1024, 16, 16, 64, 2816, Some(512)));
    assert_eq!((c.decoder.layers, c.decoder.cross_all, c.decoder.latent_dim), (9, true, 2048));
    let p = c.patching.unwrap();
    assert_eq!((p.threshold, p.max_patch_length, p.patcher.layers), (1.335442066192627, None, 14));
    assert_eq!(shape(&p.patcher.block), (768, 12, 12, 64, 2048, Some(512)));
    let thetas = [&e.block, &c.latent.block, &c.decoder.block, &p.patcher.block]
        .map(|b| (b.rope_theta, b.eps));
    assert_eq!(thetas, [(500_000.0, 1e-5), (500_000.0, 1e-5), (500_000.0, 1e-5), (10_000.0, 1e-5)]);
}

#[test]
fn a_stripped_a_full_and_a_written_configuration_read_alike() {
    for name in FIXTURES {
        let config = HfConfig::read(&fixture(name)).unwrap();
        let full = fs::read(fixture(name).join("config_full.json")).unwrap();
        assert_eq!(
            HfConfig::parse(Path::new("config_full.json"), &full).unwrap(),
            config,
            "{name}"
        );
        assert_eq!(parse(&config.to_json()).unwrap(), config, "{name}");
    }
    // Fields that say what the default says may go.
    let mut stripped = fixture_json("k2_base");
    for part in ["encoder_config", "global_config", "decoder_config", "patcher_config"] {
        for field in [
            "hidden_act",
            "rms_norm_eps",
            "rope_parameters",
            "num_key_value_heads",
            "head_dim",
            "model_type",
        ] {
            stripped[part].as_object_mut().unwrap().remove(field);
        }
    }
    for field in [
        "local_attention_window_len",
        "encoder_hash_byte_group_size",
        "patch_size",
        "max_patch_length",
    ] {
        stripped.as_object_mut().unwrap().remove(field);
    }
    stripped["encoder_config"].as_object_mut().unwrap().remove("cross_attn_all_layers");
    assert_eq!(parse(&stripped).unwrap(), HfConfig::read(&fixture("k2_base")).unwrap());
}

#[test]
fn rope_is_read_in_both_spellings() {
    let theta = |encoder: Value| -> f64 {
        let mut config = fixture_json("k2_base");
        let part = config["encoder_config"].as_object_mut().unwrap();
        part.remove("rope_parameters");
        part.extend(encoder.as_object().unwrap().clone());
        parse(&config).unwrap().encoder.block.rope_theta
    };
    assert_eq!(theta(json!({})), 500_000.0);
    assert_eq!(theta(json!({"rope_theta": 7.0})), 7.0);
    assert_eq!(theta(json!({"rope_theta": 7.0, "rope_scaling": null})), 7.0);
    assert_eq!(theta(json!({"rope_theta": 7.0, "rope_scaling": {"rope_type": "default"}})), 7.0);
    assert_eq!(theta(json!({"rope_theta": 7.0, "rope_scaling": {"type": "default"}})), 7.0);
    assert_eq!(theta(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}})), 9.0);
    assert_eq!(theta(json!({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 9.0}})), 9.0);
    assert_eq!(theta(json!({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default"}})), 7.0);
    // The top's own rope says nothing of the parts.
    assert_eq!(
        parse(&with("/rope_theta", json!(3.0))).unwrap(),
        HfConfig::read(&fixture("k2_base")).unwrap()
    );
}

#[test]
fn null_and_zero_mean_what_they_mean_in_the_library() {
    let e = parse(&with("/encoder_config/intermediate_size", json!(null))).unwrap().encoder.block;
    assert_eq!(e.ffn, 85, "8/3 of 32, rounded down");
    let g = parse(&with("/global_config/num_key_value_heads", json!(null))).unwrap().latent.block;
    assert_eq!(g.kv_heads, 4);
    assert_eq!(
        parse(&with("/local_attention_window_len", json!(null))).unwrap().decoder.block.window,
        None
    );
    assert_eq!(parse(&with("/encoder_hash_byte_group_nb_functions", json!(0))).unwrap().hash, None);
    assert!(parse(&with("/patch_in_forward", json!(false))).unwrap().patching.is_none());
}

/// A field that would change the numbers is named; so is one that is unknown, or wrong.
#[test]
fn fields_that_cannot_be_honoured_are_named() {
    let unsupported = [
        ("/tie_word_embeddings", json!(true)),
        ("/vocab_size", json!(300)),
        ("/patching_mode", json!("space")),
        ("/patch_size", json!(null)),
        ("/quantization_config", json!({"bits": 4})),
        ("/encoder_hash_byte_group_nb_functions", json!(12)),
        ("/encoder_config/hidden_act", json!("gelu")),
        ("/encoder_config/head_dim", json!(16)),
        ("/global_config/attention_bias", json!(true)),
        ("/decoder_config/rope_parameters/rope_type", json!("yarn")),
        ("/decoder_config/rope_scaling", json!({"type": "linear"})),
        ("/patcher_config/partial_rotary_factor", json!(0.5)),
        ("/patcher_config/vocab_size", json!(261)),
    ];
    for (pointer, value) in unsupported {
        let error = parse(&with(pointer, value.clone())).unwrap_err();
        let HfError::UnsupportedField { field, found, .. } = &error else {
            panic!("{pointer}: {error}")
        };
        assert!(field.starts_with(&pointer[1..].replace('/', ".")), "{pointer}: {error}");
        assert!(value.to_string().contains(found.as_str()), "{pointer}: {error}");
    }
    let wrong = [
        ("/model_type", json!("llama")),
        ("/architectures", json!(["BltModel"])),
        ("/cross_attn_k", json!(3)), // the parts' own say 2
        ("/cross_attn_k", json!("2")),
        ("/max_patch_length", json!(0)),
        ("/patching_threshold", json!(null)),
        ("/local_attention_window_len", json!(-1)),
        ("/encoder_hash_byte_group_size", json!([3, 0])),
        ("/encoder_hash_byte_group_vocab", json!(4_000_000_000u32)),
        ("/encoder_config", json!([])),
        ("/encoder_config/num_attention_heads", json!(32)), // heads of width 1
        ("/encoder_config/num_key_value_heads", json!(3)),
        ("/encoder_config/num_hidden_layers", json!(0)),
        ("/decoder_config/hidden_size", json!(34)), // heads of the same width
        ("/decoder_config/hidden_size_global", json!(96)),
        ("/global_config/model_type", json!("blt_patcher")),
        ("/global_config/rms_norm_eps", json!(-1.0)),
        ("/patcher_config/rope_parameters/rope_theta", json!("high")),
    ];
    for (pointer, value) in wrong {
        let error = parse(&with(pointer, value)).unwrap_err();
        let HfError::Field { field, .. } = &error else { panic!("{pointer}: {error}") };
        let name = pointer.rsplit('/').next().unwrap();
        assert!(field.ends_with(name), "{pointer}: {error}");
    }
    for pointer in
        ["/logit_scale", "/encoder_config/qk_norm", "/global_config/rope_parameters/factor"]
    {
        let error = parse(&with(pointer, json!(2.5))).unwrap_err();
        assert!(matches!(&error, HfError::UnknownField { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "config.json: unknown field `{}` = 2.5: it may change the numbers, so it is not skipped",
                pointer[1..].replace('/', ".")
            )
        );
    }
    assert!(matches!(
        HfConfig::parse(Path::new("c"), b"{\"a\": ").unwrap_err(),
        HfError::Json { .. }
    ));
    assert!(matches!(HfConfig::parse(Path::new("c"), b"[]").unwrap_err(), HfError::Field { .. }));
    assert!(matches!(HfConfig::read(Path::new("/nowhere")).unwrap_err(), HfError::Read { .. }));
}

#[test]
fn what_the_original_codes_conversion_carries_along_is_inert() {
    let mut config = fixture_json("k2_base");
    let carried = json!({"realtime_patching": true, "patching_threshold_add": 0.0, "patching_device": "cuda", "monotonicity": false, "pm_size": 0});
    config.as_object_mut().unwrap().extend(carried.as_object().unwrap().clone());
    let carried = json!({"norm_eps": 0.5, "attn_impl": "sdpa", "attn_bias_type": "causal", "_attn_implementation": "sdpa", "torch_dtype": "float32", "top_k": 50});
    config["patcher_config"].as_object_mut().unwrap().extend(carried.as_object().unwrap().clone());
    assert_eq!(parse(&config).unwrap(), HfConfig::read(&fixture("k2_base")).unwrap());
}

// Weights

struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn f32s(name: &'static str, shape: &[usize], data: &[f32]) -> Tensor {
    let bytes = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor { name, dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

fn save(path: &Path, tensors: &[Tensor]) {
    let views = tensors
        .iter()
        .map(|t| (t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

fn one_file(tensors: &[Tensor]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("model.safetensors"), tensors);
    dir
}

#[test]
fn three_storage_types_widen_to_f32() {
    let values = [1.0f32, -0.5, 3.140625, 1e-3];
    let half = f16::from_f32(1e-3).to_f32();
    let brain = bf16::from_f32(1e-3).to_f32();
    let dir = one_file(&[
        f32s("a", &[2, 2], &values),
        Tensor {
            name: "b",
            dtype: Dtype::BF16,
            shape: vec![4],
            bytes: values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        },
        Tensor {
            name: "c",
            dtype: Dtype::F16,
            shape: vec![4],
            bytes: values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        },
        f32s("empty", &[0, 4], &[]),
    ]);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.get("a", &[2, 2]).unwrap(), values);
    assert_eq!(weights.get("b", &[4]).unwrap(), [1.0, -0.5, 3.140625, brain]);
    assert_eq!(weights.get("c", &[4]).unwrap(), [1.0, -0.5, 3.140625, half]);
    assert!(weights.get("empty", &[0, 4]).unwrap().is_empty());
    let a = weights.view("a", &[2, 2]).unwrap();
    assert_eq!((a.dtype, a.as_f32().unwrap(), a.as_bf16()), (WeightType::F32, &values[..], None));
    let b = weights.view("b", &[4]).unwrap();
    assert_eq!(
        b.as_bf16().unwrap().iter().map(|x| x.to_f32()).collect::<Vec<_>>(),
        [1.0, -0.5, 3.140625, brain]
    );
    let mut row = [0.0; 2];
    b.read_f32(1, &mut row);
    assert_eq!(row, [-0.5, 3.140625]);
}

#[test]
fn a_large_tensor_is_read_whole_and_checked_to_its_end() {
    // Past one task's share, with a remainder.
    let mut values: Vec<f32> = (0..100_003).map(|i| i as f32 * 0.25).collect();
    let dir = one_file(&[f32s("a", &[values.len()], &values)]);
    assert_eq!(Weights::open(dir.path()).unwrap().get("a", &[values.len()]).unwrap(), values);
    values[100_002] = f32::NEG_INFINITY;
    let dir = one_file(&[f32s("a", &[values.len()], &values)]);
    let error = Weights::open(dir.path()).unwrap().get("a", &[values.len()]).unwrap_err();
    let HfError::Tensor(TensorFileError::NotFinite { key, element, found, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!((key.as_str(), element, found), ("a", 100_002, f32::NEG_INFINITY));
}

/// Read where they lie, written to in memory: the same bits as parameters that were copied, and the
/// file stays.
#[test]
fn mapped_parameters_are_copied_by_their_first_update() {
    let values = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let (dim, hash) = (6, HashConfig { sizes: vec![2, 3], functions: 1, vocab: 7 });
    let shapes =
        [("tokens", [260, dim], true), ("table", [14, dim], true), ("weight", [5, dim], false)];
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let tensor = |(name, shape): (&'static str, [usize; 2])| {
            let bytes = values(shape[0] * shape[1]).into_iter().flat_map(|x| match dtype {
                Dtype::F32 => x.to_le_bytes().to_vec(),
                Dtype::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
                _ => f16::from_f32(x).to_le_bytes().to_vec(),
            });
            Tensor { name, dtype, shape: shape.to_vec(), bytes: bytes.collect() }
        };
        let dir = one_file(&shapes.map(|(name, shape, _)| tensor((name, shape))));
        let before = fs::read(dir.path().join("model.safetensors")).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        let run = |mapped: bool| {
            let fused = Fused::new();
            let ids = shapes.map(|(name, shape, by_rows)| {
                let view = weights.view(name, &shape).unwrap();
                match mapped {
                    true => fused.add_mapped_param(shape, view, by_rows).unwrap(),
                    false => fused.add_param(shape, view.to_f32(), by_rows).unwrap(),
                }
            });
            let batch = Batch::from_documents([&b"mapped or not"[..]]);
            let mut seen = Vec::new();
            for t in 1..=3 {
                fused.record(true);
                let x =
                    fused.embed(&batch.ids, &batch.offsets, ids[0], Some((ids[1], &hash))).unwrap();
                let y = fused.linear(&x, ids[2]).unwrap();
                seen.extend(fused.to_host(&y).unwrap());
                let count = y.rows * y.cols;
                let ones = fused.add_param([1, count], vec![1.0; count], false).unwrap();
                let loss = fused.linear(&fused.reshape(&y, 1, count).unwrap(), ones).unwrap();
                fused.backward(&loss).unwrap();
                let step = AdamWStep {
                    lr: 0.1,
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: 0.1,
                    grad_scale: 1.0,
                    t,
                };
                // The first time only the layer, so that a table is read once more as it is kept.
                fused.adamw(if t == 1 { &ids[2..] } else { &ids }, &step).unwrap();
                fused.zero_grads();
            }
            seen.extend(ids.iter().flat_map(|&id| fused.read_param(id).unwrap()));
            seen.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        };
        assert_eq!(run(true), run(false), "{dtype:?}");
        assert!(fs::read(dir.path().join("model.safetensors")).unwrap() == before, "{dtype:?}");
    }
}

fn sharded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("model-00001-of-00002.safetensors"), &[f32s("a", &[1], &[1.0])]);
    save(&dir.path().join("model-00002-of-00002.safetensors"), &[f32s("b", &[1], &[2.0])]);
    write_index(
        &dir,
        json!({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}),
    );
    dir
}

fn write_index(dir: &tempfile::TempDir, map: Value) {
    let index = json!({"metadata": {"total_size": 8}, "weight_map": map}).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn shards_are_read_through_their_index() {
    let dir = sharded();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(
        (weights.get("a", &[1]).unwrap(), weights.get("b", &[1]).unwrap()),
        (vec![1.0], vec![2.0])
    );
    assert_eq!(weights.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);

    let open = |dir: &tempfile::TempDir| Weights::open(dir.path()).err().expect("an error");
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = open(&dir);
    assert!(
        matches!(&error, HfError::MissingShard { file, .. } if file.ends_with("model-00002-of-00002.safetensors"))
    );

    let dir = sharded();
    write_index(
        &dir,
        json!({"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}),
    );
    assert!(
        matches!(open(&dir), HfError::Tensor(TensorFileError::MissingKey { key, .. }) if key == "b")
    );
    write_index(&dir, json!({"a": "model-00001-of-00002.safetensors"}));
    assert!(Weights::open(dir.path()).is_ok(), "a file that the index does not name is not read");
    write_index(&dir, json!({"a": "../elsewhere.safetensors"}));
    assert!(matches!(open(&dir), HfError::Index { key, .. } if key == "a"));
    fs::write(dir.path().join("model.safetensors.index.json"), "{").unwrap();
    assert!(matches!(open(&dir), HfError::Json { .. }));

    let dir = sharded();
    save(
        &dir.path().join("model-00002-of-00002.safetensors"),
        &[f32s("a", &[1], &[1.0]), f32s("b", &[1], &[2.0])],
    );
    assert!(matches!(open(&dir), HfError::DuplicateKey { key, .. } if key == "a"));
    save(
        &dir.path().join("model-00002-of-00002.safetensors"),
        &[f32s("b", &[1], &[2.0]), f32s("c", &[1], &[2.0])],
    );
    assert!(matches!(open(&dir), HfError::ExtraKey { key, .. } if key == "c"));
    assert!(matches!(
        Weights::open(tempfile::tempdir().unwrap().path()),
        Err(HfError::NoWeights { .. })
    ));
}

#[test]
fn a_wrong_tensor_is_named_with_what_was_expected() {
    let config = HfConfig::read(&fixture("k2_base")).unwrap();
    let specs = config.parameters();
    Weights::open(&fixture("k2_base")).unwrap().check(&specs).unwrap();

    let norm = "model.local_decoder.norm.weight";
    let dir = one_file(&[f32s("x", &[2, 3], &[0.0; 6]), f32s("nan", &[2], &[0.0, f32::NAN])]);
    let weights = Weights::open(dir.path()).unwrap();
    let error = weights.get(norm, &[32]).unwrap_err();
    assert!(
        matches!(&error, HfError::Tensor(TensorFileError::MissingKey { key, expected, .. }) if key == norm && expected == &[32]),
        "{error}"
    );
    let error = weights.get("x", &[3, 2]).unwrap_err();
    let HfError::Tensor(TensorFileError::Shape { file, key, expected, found, .. }) = &error else {
        panic!("{error}")
    };
    assert!(file.ends_with("model.safetensors"));
    assert_eq!(
        (key.as_str(), expected.as_slice(), found.as_slice()),
        ("x", &[3, 2][..], &[2, 3][..])
    );
    assert!(matches!(
        weights.get("nan", &[2]).unwrap_err(),
        HfError::Tensor(TensorFileError::NotFinite { element: 1, .. })
    ));

    let integers = Tensor { name: "i", dtype: Dtype::I32, shape: vec![1], bytes: vec![0; 4] };
    let error = Weights::open(one_file(&[integers]).path()).unwrap().get("i", &[1]).unwrap_err();
    assert!(
        matches!(&error, HfError::Tensor(TensorFileError::Type { key, found, .. }) if key == "i" && *found == Dtype::I32),
        "{error}"
    );

    // A key too many, and one too few, against what the configuration describes.
    let whole = Weights::open(&fixture("k2_base")).unwrap();
    let error = whole.check(&specs[1..]).unwrap_err();
    assert!(matches!(&error, HfError::ExtraKey { key, .. } if *key == specs[0].name), "{error}");
    let k4 = HfConfig::read(&fixture("k4_all_fullattn")).unwrap();
    let error = whole.check(&k4.parameters()).unwrap_err();
    assert!(
        matches!(&error, HfError::Tensor(TensorFileError::Shape { expected, found, .. }) if expected == &[260, 24] && found == &[260, 32])
    );
}

#[test]
fn a_file_cut_anywhere_is_told_so() {
    let whole = fs::read(fixture("k2_base").join("model.safetensors")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for length in [0, 5, 8, 100, 9_000, whole.len() - 1] {
        fs::write(dir.path().join("model.safetensors"), &whole[..length]).unwrap();
        let error = Weights::open(dir.path()).err().expect("an error");
        let HfError::Tensor(TensorFileError::Truncated { file, expected, found, .. }) = &error
        else {
            panic!("{length}: {error}")
        };
        assert!(
            file.ends_with("model.safetensors") && *found == length as u64 && expected > found,
            "{error}"
        );
    }
    assert_eq!(whole.len() as u64, {
        fs::write(dir.path().join("model.safetensors"), &whole[..whole.len() - 1]).unwrap();
        match Weights::open(dir.path()) {
            Err(HfError::Tensor(TensorFileError::Truncated { expected, .. })) => expected,
            _ => panic!("cut by one byte"),
        }
    });
    fs::write(dir.path().join("model.safetensors"), [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(matches!(
        Weights::open(dir.path()),
        Err(HfError::Tensor(TensorFileError::Corrupt { .. }))
    ));
    fs::write(dir.path().join("model.safetensors"), b"PK\x03\x04 not a safetensors file at all")
        .unwrap();
    assert!(Weights::open(dir.path()).is_err());
}

// Export

fn shape_of(config: &HfConfig) -> ModelShape {
    let patching = match &config.patching {
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
        hash: config.hash.clone(),
        encoder: config.encoder.clone(),
        latent: config.latent.clone(),
        decoder: config.decoder.clone(),
        patching,
    }
}

#[test]
fn a_directory_written_reads_back_to_the_same_bits() {
    for name in FIXTURES {
        let (config, weights) =
            (HfConfig::read(&fixture(name)).unwrap(), Weights::open(&fixture(name)).unwrap());
        assert_eq!(HfConfig::from_model(&shape_of(&config)).unwrap(), config);
        let shapes: HashMap<_, _> =
            config.parameters().into_iter().map(|p| (p.name, p.shape)).collect();
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("model");
        // Twice: the second replaces the first.
        for _ in 0..2 {
            write_directory(&dir, &config, |key| Ok(weights.get(key, &shapes[key]).unwrap()))
                .unwrap();
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing temporary is left");
        assert_eq!(HfConfig::read(&dir).unwrap(), config);
        let written = Weights::open(&dir).unwrap();
        written.check(&config.parameters()).unwrap();
        for (key, shape) in &shapes {
            assert_eq!(written.get(key, shape).unwrap(), weights.get(key, shape).unwrap(), "{key}");
        }
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        let error = write_directory(&dir, &config, |_| panic!("nothing is asked for")).unwrap_err();
        assert!(
            matches!(&error, HfError::Occupied { found, .. } if found == "notes.txt"),
            "{error}"
        );
        assert!(dir.join("notes.txt").exists() && dir.join("config.json").exists());
    }
}

#[test]
fn a_model_without_hash_tables_has_a_table_of_no_rows() {
    let mut config = HfConfig::read(&fixture("k2_base")).unwrap();
    config.hash = Some(HashConfig { sizes: Vec::new(), functions: 1, vocab: 10 });
    let config = HfConfig::from_model(&shape_of(&config)).unwrap();
    assert_eq!(config.hash, None);
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("model");
    let shapes: HashMap<_, _> =
        config.parameters().into_iter().map(|p| (p.name, p.shape)).collect();
    assert_eq!(shapes["model.encoder_hash_tok_embedding.weight"], [0, 32]);
    write_directory(&dir, &config, |key| Ok(vec![0.5; shapes[key].iter().product()])).unwrap();
    assert_eq!(HfConfig::read(&dir).unwrap(), config);
    Weights::open(&dir).unwrap().check(&config.parameters()).unwrap();
}

#[test]
fn what_the_layout_cannot_say_is_refused_by_name_and_all_at_once() {
    let config = HfConfig::read(&fixture("k2_base")).unwrap();
    let refused = |change: &dyn Fn(&mut ModelShape)| {
        let mut model = shape_of(&config);
        change(&mut model);
        HfConfig::from_model(&model).unwrap_err()
    };
    let byte_lm = |model: &mut ModelShape, change: &dyn Fn(&mut ByteLmShape, &mut EntropyRule)| {
        let PatchingShape::Entropy { model, rule, .. } = &mut model.patching else {
            panic!("an entropy patcher")
        };
        change(model, rule);
    };
    assert_eq!(
        refused(&|m| m.encoder.pooling = Pooling::Mean),
        [Unsupported::Pooling(Pooling::Mean)]
    );
    assert_eq!(
        refused(&|m| m.encoder.pooling = Pooling::Min),
        [Unsupported::Pooling(Pooling::Min)]
    );
    assert_eq!(
        refused(&|m| m.encoder.cross_layers = CrossLayers::All),
        [Unsupported::RefiningCross { layers: 2 }]
    );
    assert_eq!(
        refused(&|m| m.decoder.block.window = Some(9)),
        [Unsupported::LocalWindows { encoder: Some(512), decoder: Some(9) }]
    );
    let relative = EntropyRule::Relative { threshold: 0.5 };
    assert_eq!(
        refused(&|m| byte_lm(m, &|_, rule| *rule = relative)),
        [Unsupported::RelativeRule(relative)]
    );
    assert_eq!(
        refused(&|m| byte_lm(m, &|lm, _| lm.reset_at_newline = true)),
        [Unsupported::NewlineReset]
    );
    assert_eq!(refused(&|m| m.latent.block.window = Some(4)), [Unsupported::LatentWindow(4)]);
    assert!(matches!(
        refused(&|m| m.decoder.cross.heads = 2)[..],
        [Unsupported::Cross { part: "decoder", .. }]
    ));
    let many = refused(&|m| {
        m.encoder.pooling = Pooling::Min;
        m.decoder.block.window = None;
    });
    assert_eq!(many.len(), 2);

    // One layer has nothing to refine.
    let mut one_layer = shape_of(&config);
    one_layer.encoder.layers = 1;
    one_layer.encoder.cross_layers = CrossLayers::All;
    assert_eq!(HfConfig::from_model(&one_layer).unwrap().encoder.cross_layers, CrossLayers::Last);
    let mut outside = shape_of(&config);
    outside.patching = PatchingShape::Outside;
    assert_eq!(HfConfig::from_model(&outside).unwrap().to_json()["patch_in_forward"], json!(false));
}

/// No file can make a reader take memory for what the file only claims.
#[test]
fn a_config_of_absurd_sizes_is_refused_before_memory_is_taken() {
    for (pointer, value) in [
        ("/encoder_config/num_hidden_layers", json!(1_000_000_000)),
        ("/global_config/num_hidden_layers", json!(1_000_000_000)),
        ("/decoder_config/num_hidden_layers", json!(10_001)),
        ("/global_config/hidden_size", json!(1u64 << 31)),
        ("/decoder_config/intermediate_size", json!(4_000_000_000u64)),
        ("/cross_attn_k", json!(5000)),
        ("/encoder_hash_byte_group_size", json!([3, 4_000_000_000u64])),
    ] {
        let error = parse(&with(pointer, value)).unwrap_err().to_string();
        let field = pointer.rsplit('/').next().unwrap();
        assert!(error.contains(field) && error.contains("at most"), "{pointer}: {error}");
    }
    // Sizes in range that the weights do not have: the first that differs, and no memory for it.
    let config = with("/global_config/num_hidden_layers", json!(10_000));
    let shape = parse(&config).unwrap().to_model();
    let weights = Weights::open(&fixture("k2_base")).unwrap();
    let missing = ParamMaker::read(
        &Fused::new(),
        |name, shape| weights.view(name, shape),
        |maker| blt_core::blt::Blt::new(maker, &shape, None),
    );
    assert!(missing.err().unwrap().to_string().contains("is missing"));
}

#[test]
fn a_key_twice_is_an_error_in_a_config_and_in_a_header() {
    let text = fixture_json("k2_base").to_string();
    let twice = text.replacen('{', "{\"vocab_size\": 260, ", 1);
    let error = HfConfig::parse(Path::new("config.json"), twice.as_bytes()).unwrap_err();
    assert!(chain(&error).contains("`vocab_size` is there twice"), "{}", chain(&error));
    let dir = tempfile::tempdir().unwrap();
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let header = format!("{{\"a\":{tensor},\"a\":{tensor}}}");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&1f32.to_le_bytes());
    let path = dir.path().join("model.safetensors");
    fs::write(&path, file).unwrap();
    let error = chain(&Weights::open(dir.path()).err().unwrap());
    assert!(error.contains("`a` is there twice") && error.contains("model.safetensors"), "{error}");
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_weights_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "config.json"] {
        let made = std::process::Command::new("mkfifo").arg(dir.path().join(name)).status();
        assert!(made.unwrap().success());
    }
    let weights = Weights::open(dir.path()).err().unwrap();
    for error in [chain(&weights), chain(&HfConfig::read(dir.path()).unwrap_err())] {
        assert!(error.contains("a named pipe"), "{error}");
    }
}
