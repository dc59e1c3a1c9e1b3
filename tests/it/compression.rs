//! A compressed file gives back every byte, or says in one error why not.

use crate::common::{Place, text};
use std::fs;
use std::process::Output;

/// The tiny pipeline after a run, and the checkpoint that it left.
fn trained() -> (Place, String) {
    let place = Place::new().edit("column: text, split", "column: text, span_bytes: 300, split");
    let run = place.done(&[]);
    (place, run.dir.join("checkpoints/1-train/final").display().to_string())
}

fn program(place: &Place, what: &str, checkpoint: &str, files: [&str; 2], more: &[&str]) -> Output {
    let [from, to] = files;
    let args = [what, "pipeline.yaml", from, "-o", to, "--checkpoint", checkpoint];
    place.command(&[&args[..], more].concat()).output().unwrap()
}

#[track_caller]
fn done(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[track_caller]
fn refused(place: &Place, output: &Output, to: &str, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
    assert!(stderr.contains(says), "no `{says}` in\n{stderr}");
    assert!(!place.path(to).exists(), "{to} was written");
}

#[test]
fn any_bytes_come_back_on_another_number_of_threads() {
    let (place, checkpoint) = trained();
    let words = "Once more, and again: the same words. ".repeat(30);
    let every: Vec<u8> = (0..700u32).map(|i| (i * 151 + i * i / 7) as u8).collect();
    for (name, bytes) in [("words", words.as_bytes()), ("every", &every), ("empty", b"")] {
        fs::write(place.path(name), bytes).unwrap();
        done(&program(&place, "compress", &checkpoint, [name, "coded"], &["--threads", "1"]));
        let back = &["--threads", "2"];
        done(&program(&place, "decompress", &checkpoint, ["coded", "back"], back));
        assert_eq!(fs::read(place.path("back")).unwrap(), bytes, "{name}");
    }
}

#[test]
fn a_damaged_file_and_another_model_or_arithmetic_are_one_clear_error() {
    let (place, checkpoint) = trained();
    fs::write(place.path("text"), "some words, and then some more of them").unwrap();
    done(&program(&place, "compress", &checkpoint, ["text", "coded"], &[]));
    let coded = fs::read(place.path("coded")).unwrap();
    let decompress = |checkpoint: &str, bytes: &[u8]| {
        fs::write(place.path("other"), bytes).unwrap();
        program(&place, "decompress", checkpoint, ["other", "back"], &[])
    };
    for at in [0, 9, 40, coded.len() / 2, coded.len() - 20, coded.len() - 1] {
        let mut flipped = coded.clone();
        flipped[at] ^= 4;
        refused(&place, &decompress(&checkpoint, &flipped), "back", "the file is damaged");
        refused(&place, &decompress(&checkpoint, &coded[..at]), "back", "the file is damaged");
    }
    let other = place.done(&["--set", "seed=8"]).dir.join("checkpoints/1-train/final");
    let output = decompress(&other.display().to_string(), &coded);
    refused(&place, &output, "back", "was made with the model");
    let mut command = place.command(&[
        "decompress",
        "pipeline.yaml",
        "coded",
        "-o",
        "back",
        "--checkpoint",
        &checkpoint,
    ]);
    let output = command.env("BLT_SIMD", "scalar").output().unwrap();
    refused(&place, &output, "back", "was made with the arithmetic");
    done(&program(&place, "decompress", &checkpoint, ["coded", "back"], &[]));
}
