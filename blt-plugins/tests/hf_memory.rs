//! What a loaded checkpoint takes: its weights are read where they lie in the mapped files, which
//! processes share. In a process of its own, because it asks the kernel how much of that is not a
//! file's.
#![cfg(target_os = "linux")]

use blt_core::backend::fused::Fused;
use blt_core::hf::{HfConfig, WEIGHTS_FILE, write_directory};
use blt_core::model::Session;
use blt_graph::{Live, PipelineSpec, World, check_all};
use blt_plugins as _;
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

/// Two thirds of its parameters are hash tables.
fn config() -> HfConfig {
    let part = |dim: usize, layers: usize| json!({"hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": 8, "intermediate_size": 2 * dim});
    let mut config = json!({
        "model_type": "blt",
        "encoder_hash_byte_group_size": [3, 4],
        "encoder_hash_byte_group_vocab": 50_000,
        "encoder_config": part(128, 1),
        "global_config": part(512, 2),
        "decoder_config": part(128, 2),
        "patcher_config": part(128, 2),
    });
    config["decoder_config"]["hidden_size_global"] = json!(512);
    HfConfig::parse(Path::new("config.json"), config.to_string().as_bytes()).unwrap()
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) as i32) as f32 * 1e-11).collect()
}

/// Bytes of this process that no file stands behind.
fn anonymous() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|l| l.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

/// Anonymous bytes that loading the checkpoint adds.
fn loading(dir: &Path) -> f64 {
    let yaml = format!(
        "name: memory\ngraph:\n  docs: {{node: TextFiles, path: none.txt}}\n  blt: {{node: Blt, in: docs, checkpoint: {dir:?}}}\n\
         run:\n  - evaluate: {{goal: blt}}\n"
    );
    let spec = PipelineSpec::parse(&yaml, "memory.yaml").unwrap();
    let plan = check_all(&spec, dir).unwrap().remove(0);
    let before = anonymous();
    let mut world = World::new();
    world.insert(Session::new(Rc::new(Fused::new())));
    let live =
        Live::build(&plan, &["blt"], world).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let added = anonymous() - before;
    drop(live);
    added
}

/// Names the checkpoint to the process that loads it: one that has freed nothing that it could use
/// again.
const LOAD: &str = "BLT_TEST_LOAD";

#[test]
fn loading_takes_little_memory_of_its_own() {
    if let Some(dir) = std::env::var_os(LOAD) {
        println!("added {}", loading(Path::new(&dir)));
        return;
    }
    let config = config();
    let parameters: usize =
        config.parameters().iter().map(|p| p.shape.iter().product::<usize>()).sum();
    let dir = tempfile::tempdir().unwrap();
    let (f32s, bf16s) = (dir.path().join("f32"), dir.path().join("bf16"));
    let len = |name: &str| {
        config.parameters().iter().find(|p| p.name == name).unwrap().shape.iter().product()
    };
    write_directory(&f32s, &config, |name| Ok(numbers(len(name)))).unwrap();
    std::fs::create_dir(&bf16s).unwrap();
    config.write(&bf16s).unwrap();
    {
        let round =
            |len| numbers(len).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        let specs = config.parameters();
        let data: Vec<Vec<u8>> = specs.iter().map(|p| round(p.shape.iter().product())).collect();
        let views = specs.iter().zip(&data);
        let views = views.map(|(p, data)| {
            (&p.name, TensorView::new(Dtype::BF16, p.shape.clone(), data).unwrap())
        });
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &bf16s.join(WEIGHTS_FILE)).unwrap();
    }
    for (dir, allowed) in [(f32s, 0.3), (bf16s, 1.3)] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["loading_takes_little_memory_of_its_own", "--exact", "--nocapture"])
            .env(LOAD, &dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let added =
            said.lines().find_map(|l| l.split("added ").nth(1)).unwrap_or_else(|| panic!("{said}"));
        let share = added.parse::<f64>().unwrap() / (parameters * 4) as f64;
        println!("{}: {share:.3} of {parameters} f32 parameters", dir.display());
        assert!(
            share <= allowed,
            "{}: {share} of the f32 parameters, allowed {allowed}",
            dir.display()
        );
    }
}
