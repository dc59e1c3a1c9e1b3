//! What a build with GPU support says on a machine without a GPU, without a driver, with too old a
//! one, with too little memory: one error each, and the processor is there as ever. Libraries that
//! stand in for NVIDIA's fail on demand.
#![cfg(feature = "cuda")]

#[path = "it/common/mod.rs"]
mod common;

use common::{Place, status, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Places the libraries that stand in for NVIDIA's.
fn libraries(dir: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu_errors/libraries.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let driver = dir.join("libcuda.so.1");
    let compiled = Command::new(compiler)
        .args(["-shared", "-fPIC", "-w", "-o"])
        .arg(&driver)
        .arg(source)
        .status()
        .unwrap();
    assert!(compiled.success());
    for name in ["libcublas.so.13", "libnvrtc.so.13"] {
        fs::copy(&driver, dir.join(name)).unwrap();
    }
}

fn run(place: &Place, fails: &str, args: &[&str]) -> Output {
    let mut command = place.command(&[&["pipeline.yaml"], args].concat());
    ["CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"].into_iter().for_each(|name| {
        command.env_remove(name);
    });
    command.env("LD_LIBRARY_PATH", place.path("lib")).env("FAILS", fails).output().unwrap()
}

fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("lib")).unwrap();
    place
}

/// One error with each of `says`, and no panic; was a run begun?
#[track_caller]
fn refused(place: &Place, fails: &str, args: &[&str], says: &[&str]) -> bool {
    let output = run(place, fails, args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{fails}: exit code\n{stderr}");
    assert!(!stderr.contains("panicked"), "{fails}: a panic\n{stderr}");
    assert_eq!(
        stderr.lines().filter(|line| line.starts_with("error")).count(),
        1,
        "{fails}: one error\n{stderr}"
    );
    for say in says {
        assert!(stderr.contains(say), "{fails}: no `{say}` in\n{stderr}");
    }
    let runs = place.runs();
    runs.iter().for_each(|run| assert_eq!(status(run)["state"], "failed"));
    !runs.is_empty()
}

#[test]
fn a_machine_without_a_driver_computes_on_the_processor_and_says_what_a_gpu_needs() {
    let place = place();
    // In the way of a driver that this machine may have.
    fs::write(place.path("lib/libcuda.so.1"), "").unwrap();
    let begun = refused(
        &place,
        "",
        &["--device", "cuda"],
        &["NVIDIA driver", "libcuda.so.1", "install", "leave `device` out"],
    );
    assert!(!begun);
    let output = run(&place, "", &["--path", "reference"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_driver_without_the_toolkits_libraries() {
    if option_env!("CUDA_PATH").is_some() || Path::new("/usr/local/cuda").exists() {
        println!(
            "not tried: this program knows a toolkit, and finds its libraries; `--features cuda-check` without one tries it"
        );
        return;
    }
    let place = place();
    libraries(&place.path("lib"));
    for library in ["libcublas.so", "libnvrtc.so"] {
        let (newest, hidden) = (place.path(&format!("lib/{library}.13")), place.path("hidden"));
        fs::rename(&newest, &hidden).unwrap();
        assert!(!refused(
            &place,
            "",
            &["--device", "cuda"],
            &[library, "CUDA_PATH", "LD_LIBRARY_PATH"]
        ));
        fs::rename(hidden, newest).unwrap();
    }
}

#[test]
fn each_failure_of_a_gpu_is_one_error_that_says_what_to_do() {
    let place = place();
    libraries(&place.path("lib"));
    let cases: [(&str, &str, &[&str]); 5] = [
        ("no-gpu", "cuda", &["finds no GPU", "`cuda:0`", "nvidia-smi"]),
        ("", "cuda:3", &["no `cuda:3`", "1 GPU(s)", "CUDA_VISIBLE_DEVICES"]),
        ("old-driver", "cuda", &["too old", "CUDA 11.4", "CUDA 13.0", "update the driver"]),
        (
            "other-gpu",
            "cuda:0",
            &["do not run on `cuda:0`", "NO_BINARY_FOR_GPU", "CUDA_COMPUTE_CAP"],
        ),
        ("memory", "cuda", &["too little memory", "`cuda:0`", "batch_bytes"]),
    ];
    for (fails, device, says) in cases {
        assert!(!refused(&place, fails, &["--device", device], says), "{fails}: a run was begun");
    }
}

/// Memory that runs out while a step computes ends the step, not the program: its error, and a run
/// that failed.
#[test]
fn memory_that_runs_out_in_a_step() {
    let place = place();
    libraries(&place.path("lib"));
    let begun = refused(
        &place,
        "1500000",
        &["--device", "cuda"],
        &["too little memory", "CUDA_ERROR_OUT_OF_MEMORY", "`accumulate`"],
    );
    assert!(begun, "the step began");
}
