//! Text from a model by the real program: the same whatever writes it, and one error where it
//! cannot be written.

use crate::common::{Done, Place, text, tree};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
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
    refused(
        &[&yaml, "--checkpoint", &model, "--goal", "docs"],
        &["neither gives nor reads logits"],
    );
    refused(&[&yaml, "--checkpoint", &model, "--goal", "lost"], &["lost"]);
    refused(&[&yaml, "--checkpoint", &model, "--variant", "other"], &["other"]);
    // A checkpoint without a decoder.
    refused(&[&trained.checkpoint("0-train")], &["no BLT model"]);
    // Patches that need the text's end.
    let looks_ahead = Place::new().edit(
        "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}",
        "{node: BpePatch, in: docs, vocab: 300}",
    );
    let looks_ahead = looks_ahead.edit(
        "  entropy: {node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}\n",
        "",
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
        let about = &tensors[tensor];
        let at = 8 + header + about["data_offsets"][0].as_u64().unwrap() as usize;
        let dim = about["shape"][1].as_u64().unwrap() as usize;
        // Finite weights, as a file must have, so large that some logit is not.
        let mut bytes = whole.clone();
        for i in 0..dim {
            bytes[at + 4 * (i * dim + i)..][..4].copy_from_slice(&3e38f32.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        let model = dir.path().display().to_string();
        refused(&[&model, "--prompt", "ab"], &[says]);
    }
    // A number that is not finite is refused with the file.
    let at = 8 + header + tensors["lm_head.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut bytes = whole;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    refused(&[&dir.path().display().to_string()], &["lm_head.weight", "found NaN"]);
}

/// The tiny pipeline with prompts of five rows a group, each group a part.
fn with_step(step: &str) -> Place {
    let place =
        Place::new().edit("  - evaluate: {goal: loss, by: domain}\n", &format!("  - {step}\n"));
    let texts = crate::common::texts();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(5)).build();
    let batch = crate::common::parquet_batch(&texts);
    let file = fs::File::create(place.path("docs.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    place
}

/// Row, generated bytes and what stopped them, of all parts.
fn generated(run: &Path) -> Vec<(String, Vec<u8>, String)> {
    let mut rows = Vec::new();
    for (_, part) in tree(&run.join("outputs")).iter().filter(|(name, _)| name.ends_with("parquet"))
    {
        let part = bytes::Bytes::copy_from_slice(part);
        for batch in ParquetRecordBatchReaderBuilder::try_new(part).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let (ids, stopped) =
                (batch["id"].as_string::<i32>(), batch["stopped_by"].as_string::<i32>());
            let texts = batch["generated"].as_binary::<i32>();
            let lengths = batch["n_bytes"].as_primitive::<Int64Type>();
            for i in 0..batch.num_rows() {
                assert_eq!(lengths.value(i), texts.value(i).len() as i64);
                rows.push((
                    ids.value(i).to_owned(),
                    texts.value(i).to_vec(),
                    stopped.value(i).to_owned(),
                ));
            }
        }
    }
    rows
}

#[test]
fn a_step_goes_on_from_each_row_in_the_same_words_in_any_batch() {
    let step = |more: &str| {
        format!(
            "generate: {{goal: loss, bytes: 12, temperature: 1, limit: 20, part_bytes: 1{more}}}"
        )
    };
    let place = with_step(&step(""));
    let run = place.done(&[]);
    let rows = generated(&run.dir);
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|(_, text, by)| text.len() == 12 && by == "bytes" || by == "eos"));
    let distinct: std::collections::BTreeSet<&Vec<u8>> = rows.iter().map(|row| &row.1).collect();
    assert!(distinct.len() > 15, "each row draws for itself");
    let one = with_step(&step(", batch_bytes: 1")).done(&[]);
    assert_eq!(generated(&one.dir), rows);
    // Again, it is not computed; with a part gone, that one alone is.
    let again = place.done(&[]);
    assert!(again.stderr.contains("reused"), "{}", again.stderr);
    // Another seed draws other text.
    assert_ne!(generated(&place.done(&["--set", "run.2.generate.temperature=0.9"]).dir), rows);
}

#[test]
fn a_step_that_cannot_write_is_refused_before_it_runs() {
    for (step, says) in [
        ("generate: {goal: loss, temperature: -1}", "is -1; expected number from 0"),
        ("generate: {goal: loss, top_p: 2.0}", "is 2.0; expected number from"),
        ("generate: {goal: loss, top_k: 0}", "is 0; expected integer from 1"),
        ("generate: {goal: loss, stop: ['']}", "an empty text"),
        ("generate: {goal: patches}", "neither gives nor reads logits"),
    ] {
        let place = with_step(step);
        let output = place.run(&[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says) && stderr.contains("pipeline.yaml:"), "{says}: {stderr}");
        assert!(place.runs().is_empty(), "a run was begun: {stderr}");
    }
}
