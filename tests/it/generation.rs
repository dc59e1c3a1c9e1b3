//! Text from a model by the real program: the same whatever writes it, and one error where it
//! cannot be written.

use crate::common::{Done, Place, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn generate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blt-run"));
    command.arg("generate").args(args).env_remove("RUST_LOG").output().unwrap()
}

#[track_caller]
fn written(args: &[&str]) -> (String, String) {
    let output = generate(args);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "exit {:?}\n{stderr}", output.status.code());
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

#[track_caller]
fn refused(args: &[&str], says: &[&str]) {
    let output = generate(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "exit code\n{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
    assert_eq!(text(&output.stdout), "");
    for say in says {
        assert!(stderr.contains(say), "no `{say}` in\n{stderr}");
    }
}

/// The tiny pipeline after a run.
struct Trained {
    place: Place,
    run: Done,
}

impl Trained {
    fn new() -> Self {
        let place = Place::new();
        Trained { run: place.done(&[]), place }
    }

    fn checkpoint(&self, step: &str) -> String {
        self.run.dir.join(format!("checkpoints/{step}/final")).display().to_string()
    }

    fn pipeline(&self) -> String {
        self.place.path("pipeline.yaml").display().to_string()
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity").join(name)
}

#[test]
fn a_pipelines_model_and_its_checkpoint_write_the_same_however_they_are_run() {
    let trained = Trained::new();
    let (yaml, model) = (trained.pipeline(), trained.checkpoint("1-train"));
    let settings = ["--prompt", "let mut ", "--bytes", "60"];
    let (want, stderr) = written(&[&[&model[..]], &settings[..]].concat());
    assert!(want.len() > 1 && want.ends_with('\n'), "{want:?}");
    for say in ["bytes/s", "bytes a latent call", "a prompt of 8 bytes", "stopped by --bytes"] {
        assert!(stderr.contains(say), "no `{say}` in {stderr}");
    }
    let of_pipeline = [&[&yaml[..], "--checkpoint", &model], &settings[..]].concat();
    assert_eq!(written(&of_pipeline).0, want);
    for more in
        [&["--threads", "1"][..], &["--speculate", "8"], &["--speculate", "16", "--draft", "ngram"]]
    {
        let (got, stderr) = written(&[&[&model[..]], &settings[..], more].concat());
        assert_eq!(got, want, "{more:?}");
        assert_eq!(stderr.contains("drafts accepted"), more[0] == "--speculate", "{stderr}");
    }
    // The entropy model writes too.
    let lm = [&yaml[..], "--checkpoint", &trained.checkpoint("0-train"), "--goal", "entropy.loss"];
    assert!(written(&[&lm[..], &settings].concat()).0.len() > 1);
}

#[test]
fn draws_follow_the_seed_and_a_stop_ends_them() {
    let trained = Trained::new();
    let model = trained.checkpoint("1-train");
    let draw = |seed: &str, more: &[&str]| {
        let settings = ["--temperature", "1", "--bytes", "80", "--seed", seed];
        written(&[&[&model[..]], &settings[..], more].concat())
    };
    let (one, _) = draw("1", &[]);
    assert_eq!(draw("1", &[]).0, one);
    assert_ne!(draw("2", &[]).0, one);
    // Broken characters do not reach the reader; what is shown is text.
    let third = one.chars().nth(3).unwrap().to_string();
    if third != "\u{FFFD}" {
        let (stopped, stderr) = draw("1", &["--stop", &third]);
        assert!(one.starts_with(stopped.trim_end_matches('\n')), "{stopped:?} of {one:?}");
        assert!(stderr.contains("stopped by --stop"), "{stderr}");
    }
    let (nothing, stderr) = written(&[&model, "--bytes", "0"]);
    assert_eq!(nothing, "\n");
    assert!(stderr.contains("0 bytes in"), "{stderr}");
}

#[test]
fn ids_are_those_of_the_reference() {
    let dir = fixture("k2_base").display().to_string();
    let prompt = ["--prompt", "The quick brown fox jumps over ", "--ids", "--bytes", "18"];
    let (ids, _) = written(&[&[&dir[..]], &prompt[..]].concat());
    let want = "94 93 221 15 186 6 92 163 256 14 196 167 136 134 57 134 196 14 \n";
    assert_eq!(ids, want);
}

#[test]
fn any_bytes_are_a_prompt() {
    let (trained, dir) = (Trained::new(), tempfile::tempdir().unwrap());
    let model = trained.checkpoint("1-train");
    let file = dir.path().join("prompt");
    fs::write(&file, b"\xFF\xFEa\xED").unwrap();
    let (_, stderr) =
        written(&[&model, "--prompt-file", &file.display().to_string(), "--bytes", "9"]);
    assert!(stderr.contains("a prompt of 4 bytes"), "{stderr}");
    // Without a prompt, a document begins.
    assert!(written(&[&model, "--bytes", "9"]).1.contains("a prompt of 0 bytes"));
}

#[test]
fn what_cannot_be_written_is_one_error() {
    let trained = Trained::new();
    let (yaml, model) = (trained.pipeline(), trained.checkpoint("1-train"));
    for (args, says) in [
        (&["--temperature", "-1"][..], &["a temperature of -1", "from 0"][..]),
        (&["--temperature", "NaN"], &["a temperature of NaN"]),
        (&["--top-p", "0"], &["a top-p of 0", "above 0 and at most 1"]),
        (&["--top-p", "1.5"], &["a top-p of 1.5"]),
        (&["--top-k", "0"], &["a top-k of 0"]),
        (&["--speculate", "65"], &["--speculate 65", "at most 64"]),
        (&["--stop", ""], &["--stop"]),
        (&["--prompt-file", "no/such/file"], &["no/such/file"]),
    ] {
        refused(&[&[&model[..]], args].concat(), says);
    }
    refused(&["no/such/model"], &["no/such/model", "Hugging Face"]);
    refused(&[&yaml], &["no checkpoint is given", "--checkpoint"]);
    refused(&[&yaml, "--checkpoint", "no/such"], &["no/such"]);
    refused(&[&yaml, "--checkpoint", &model, "--goal", "docs"], &["no logits", "--goal decoder"]);
    refused(&[&yaml, "--checkpoint", &model, "--goal", "lost"], &["lost"]);
    refused(&[&yaml, "--checkpoint", &model, "--variant", "other"], &["other"]);
    // A checkpoint without a decoder.
    refused(&[&trained.checkpoint("0-train")], &["no BLT model"]);
    // Patches that need the text's end.
    let looks_ahead = Place::new().edit(
        "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}",
        "{node: BpePatch, in: docs, vocab: 300}",
    );
    let looks_ahead = looks_ahead.edit("  - train: {goal: entropy.loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}\n", "");
    let run = looks_ahead.done(&[]);
    let of_run = run.dir.join("checkpoints/0-train/final").display().to_string();
    let yaml = looks_ahead.path("pipeline.yaml").display().to_string();
    let place = looks_ahead.at("patches: {node: BpePatch");
    let line = place.rsplit_once(':').unwrap().0;
    refused(&[&yaml, "--checkpoint", &of_run], &["written yet", "StridePatch", line]);
}

#[test]
fn numbers_that_are_not_finite_end_it() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("k2_base").join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    for (tensor, says) in [
        ("lm_head.weight", "logits after id 3 are not finite"),
        ("model.patcher.lm_head.weight", "the entropy at position 0"),
    ] {
        let at = 8 + header + tensors[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let model = dir.path().display().to_string();
        refused(&[&model, "--prompt", "ab"], &[says]);
    }
}
