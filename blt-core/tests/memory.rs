//! Training holds no more memory after many steps than after a few, whatever the sizes of its
//! batches.

use blt_core::backend::device::Device;
use blt_core::backend::{Backend, BlockConfig};
use blt_core::bytes::Batch;
use blt_core::model::{ByteLm, Session, next_byte_targets};
use blt_core::optim::{AdamWConfig, Decay};
use blt_core::params::ParamMaker;
use std::rc::Rc;

/// Bytes in use after a step, for steps on documents of ever other lengths.
fn used_by_steps(backend: Rc<dyn Backend>, steps: u64, used: &dyn Fn() -> u64) -> Vec<u64> {
    let block = BlockConfig {
        dim: 64,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        ffn: 192,
        window: Some(32),
        rope_theta: 500000.0,
        eps: 1e-5,
    };
    let mut maker = ParamMaker::new(&*backend, 1);
    let model = ByteLm::new(&mut maker, 2, &block);
    let ids: Vec<_> = maker.finish().unwrap().iter().map(|p| p.id).collect();
    let cx = Session::new(backend.clone());
    let optimiser = AdamWConfig {
        lr: 1e-3,
        betas: (0.9, 0.95),
        eps: 1e-8,
        weight_decay: 0.1,
        clip: Some(1.0),
        warmup: 0,
        decay: Decay::Constant,
        min_lr: 1.0,
        steps,
    };
    (1..=steps)
        .map(|t| {
            let lengths = (1..6).map(|i| 40 + (t as usize * 37 + i * 101) % 160);
            let texts: Vec<Vec<u8>> =
                lengths.map(|n| (0..n).map(|i| (i * 7 + t as usize) as u8).collect()).collect();
            let batch = Batch::from_documents(texts.iter().map(Vec::as_slice));
            backend.record(true);
            let loss = model
                .forward(&cx, &batch)
                .unwrap()
                .loss(&cx, &next_byte_targets(&batch, false))
                .unwrap();
            backend.backward(&loss.loss).unwrap();
            backend.record(false);
            optimiser.step(&*backend, &ids, t, t).unwrap();
            backend.synchronize().unwrap();
            used()
        })
        .collect()
}

/// The last steps hold at most `allowed` bytes more than the first ones, which the largest batches
/// have passed through.
fn stays_flat(used: &[u64], allowed: u64) {
    let (first, last) = used.split_at(used.len() / 2);
    let (first, last) = (first.iter().max().unwrap(), last.iter().max().unwrap());
    assert!(
        last <= &(first + allowed),
        "{first} bytes in the first half, {last} in the second: {used:?}"
    );
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

// One test, so that nothing else of this process allocates meanwhile.
#[test]
#[cfg(target_os = "linux")]
fn memory_of_training_stays_flat_on_the_processor() {
    use blt_core::backend::dfdx::Dfdx;
    use dfdx::tensor::Cpu;
    let backends: [Rc<dyn Backend>; 3] = [
        Rc::new(blt_core::backend::fused::Fused::new()),
        Rc::new(Dfdx::<f32, _>::cpu()),
        Rc::new(Dfdx::<f32, _>::resident(Cpu::default(), Device::Cpu)),
    ];
    for backend in backends {
        stays_flat(&used_by_steps(backend, 24, &resident), 16 << 20);
    }
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn memory_of_training_stays_flat() {
        let backend =
            blt_core::backend::gpu::open(0).unwrap_or_else(|e| panic!("{e}: {}", e.help()));
        let used = || {
            let (free, total) = blt_core::backend::cuda::memory(0).unwrap();
            (total - free) as u64
        };
        let used = used_by_steps(backend, 60, &used);
        println!("bytes of the GPU in use after each step: {used:?}");
        stays_flat(&used, 64 << 20);
    }
}
