//! A disk that fails at the n-th write, flush or rename of a small job, for n after n: the job ends
//! well or with an error in words, and the same command then ends in the same files. Every 17th n
//! by default, all of them with `BLT_FAULTS=all`.

use crate::common::{Place, text, tree};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Two optimiser steps with a checkpoint between, and parts in a folder of the user's.
fn job() -> Place {
    let place = Place::new();
    let yaml: String = place
        .yaml
        .lines()
        .filter(|line| !line.contains("entropy.loss"))
        .map(|line| match line {
            l if l.contains("entropy: ") => String::new(),
            l if l.contains("EntropyPatch") => "  patches: {node: StridePatch, in: docs, stride: 3}\n".into(),
            l if l.contains("- train") => "  - train: {goal: loss, steps: 2, batch_bytes: 512, lr: 4e-3, checkpoint_every: 1, log_every: 1}\n".into(),
            l if l.contains("- evaluate") => "  - score: {goal: loss, output: out}\n".into(),
            l => format!("{l}\n"),
        })
        .collect();
    place.with(&yaml)
}

/// tests/faults/disk.rs, compiled.
fn failing_disk(dir: &Path) -> PathBuf {
    let library = dir.join("libdisk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/disk.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let args = ["--edition", "2024", "--crate-type", "cdylib", "-O", source, "-o"];
    let output = Command::new(rustc).args(args).arg(&library).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    library
}

fn left(place: &Place, run: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = tree(&place.path("out"));
    all.extend(tree(&place.path(run.trim_end().lines().last().unwrap()).join("checkpoints")));
    all
}

#[test]
fn a_disk_that_fails_once_loses_nothing() {
    let tools = tempfile::tempdir().unwrap();
    let library = failing_disk(tools.path());
    let mark = tools.path().join("mark");
    let whole = job();
    let output = whole.run(&["--threads", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = left(&whole, &text(&output.stdout));
    let every = if std::env::var_os("BLT_FAULTS").is_some() { 1 } else { 17 };
    let (mut faults, mut errors) = (0, 0);
    for n in (1..).step_by(every) {
        let place = job();
        let _ = std::fs::remove_file(&mark);
        let mut command = place.command(&["pipeline.yaml", "--threads", "1"]);
        command.env("LD_PRELOAD", &library).env("BLT_FAULT_AT", n.to_string());
        let failed = command.env("BLT_FAULT_MARK", &mark).output().unwrap();
        if !mark.exists() {
            break;
        }
        faults += 1;
        let (code, said) = (failed.status.code(), text(&failed.stderr));
        assert!(matches!(code, Some(0 | 1)) && !said.contains("panicked"), "{n}: {code:?} {said}");
        if code == Some(1) {
            errors += 1;
            assert!(said.contains("error: "), "{n}: {said}");
        }
        let again = place.run(&["--threads", "1"]);
        let said_again = text(&again.stderr);
        assert!(again.status.success(), "{n}: {said}\nand then {said_again}");
        assert!(left(&place, &text(&again.stdout)) == expected, "{n}: {said}\n{said_again}");
    }
    assert!(faults > 3, "{faults}");
    println!(
        "{faults} faults of the disk: {errors} ended in an error, and all in the same files then"
    );
}
