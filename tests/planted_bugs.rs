//! A regression run bites: one bug at a time is planted, and the run must end with exit 4 and name
//! the metric that shows it.
//!
//! This program plays two parts, so that a bug can be reached by code alone and never from the
//! command line of `blt-run`: called with `--as-blt-run BUG ARGS...` it plants the bug (or `none`)
//! and is `blt-run ARGS...`; otherwise it is the test, which calls itself so.

#[path = "it/common/mod.rs"]
mod common;

use arrow::array::{ArrayRef, Float16Builder, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::{ArrowPrimitiveType, Float16Type};
use blt::core::planted::{Bug, plant};
use common::{Place, text};
use parquet::arrow::ArrowWriter;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;
use std::time::Instant;

const AS_BLT_RUN: &str = "--as-blt-run";

/// A pipeline as small as can be that shows a bug, and the metric that does.
struct Case {
    bug: Bug,
    pipeline: String,
    metric: &'static str,
}

const DOCS: &str = "
seed: 7
graph:
  docs: {node: ParquetBytes, path: docs.parquet, column: text}
";

/// A byte model alone, and what is done with it.
fn byte_lm(run: &str) -> String {
    format!(
        "{DOCS}  lm: {{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}}\nrun:\n{run}\n"
    )
}

/// A whole model as it begins.
fn untrained_model(more: &str) -> String {
    format!(
        "{DOCS}
  patches: {{node: StridePatch, in: docs, stride: 4}}
  embed:   {{node: ByteEmbed, in: docs, dim: 16, ngrams: [3], table: 64}}
  encoder: {{node: LocalEncoder, in: {{bytes: embed, patches: patches}}, layers: 1, heads: 2, k: 1, window: 16}}
  latent:  {{node: Latent, in: encoder.patches, dim: 16, layers: 1, heads: 2}}
  decoder: {{node: LocalDecoder, in: {{bytes: encoder.bytes, patches: latent}}, layers: 1, heads: 2, window: 16}}
  loss:    {{node: NextByteLoss, in: {{logits: decoder, bytes: docs}}}}
run:
  - evaluate: {{goal: loss, split: all, limit: 40}}
{more}"
    )
}

fn cases() -> Vec<Case> {
    const EVALUATE: &str = "  - evaluate: {goal: lm.loss, split: all, limit: 40}";
    const TRAIN: &str =
        "  - train: {goal: lm.loss, steps: 3, batch_bytes: 512, lr: 4e-3, warmup: 1}";
    let case = |bug, pipeline: String, metric| Case { bug, pipeline, metric };
    vec![
        case(Bug::DecoderShift, untrained_model(""), "bpb"),
        case(Bug::HashWindow, untrained_model("path: reference\n"), "bpb"),
        case(Bug::RopeHalves, byte_lm(&format!("{EVALUATE}\npath: reference")), "bpb"),
        case(Bug::ScheduleStep, byte_lm(TRAIN), "run.0.train.lr"),
        case(
            Bug::EntropyTies,
            format!(
                "{DOCS}
  entropies: {{node: ColumnEntropies, in: docs, column: entropies}}
  patches:   {{node: EntropyPatch, in: {{bytes: docs, entropies: entropies}}, threshold: 1.5}}
run:
  - score: {{goal: patches}}
"
            ),
            "run.0.score.patches",
        ),
        case(Bug::Neighbour, byte_lm(EVALUATE), "bpb"),
        case(Bug::AdamBias, byte_lm(TRAIN), "run.0.train.bpb"),
        case(Bug::SeedIgnored, byte_lm(EVALUATE).replace("seed: 7", "seeds: [1, 2]"), "bpb"),
    ]
}

/// Lines of text, and entropies in float16, of which every fifth is the threshold of the pipeline
/// above.
fn write_docs(path: &Path) {
    let texts: Vec<String> = common::texts().into_iter().take(60).collect();
    let mut entropies = ListBuilder::new(Float16Builder::new());
    for text in &texts {
        // Element 0 belongs to BOS.
        for t in 0..=text.len() {
            let nats = [0.25, 1.0, 1.5, 0.5, 2.25][t * 7 % 5];
            entropies
                .values()
                .append_value(<Float16Type as ArrowPrimitiveType>::Native::from_f32(nats));
        }
        entropies.append(true);
    }
    let columns: [(&str, ArrayRef); 2] =
        [("text", Arc::new(StringArray::from(texts))), ("entropies", Arc::new(entropies.finish()))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// `blt-run regress` with a bug, or without one.
fn regress(place: &Place, bug: Option<Bug>, args: &[&str]) -> Output {
    let bug = bug.map_or("none".to_owned(), |bug| bug.to_string());
    Command::new(std::env::current_exe().unwrap())
        .args([AS_BLT_RUN, &bug, "regress", "pipeline.yaml", "--baseline", "baseline.yaml"])
        .args(args)
        .current_dir(place.dir.path())
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn expect(output: &Output, code: i32, what: &str) -> String {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{what}\n{stdout}\n{stderr}");
    let planted = stderr.contains("PLANTED BUG");
    assert_eq!(planted, code == 4, "a planted bug is announced: {stderr}");
    stdout
}

fn bites(case: &Case) {
    let Case { bug, pipeline, metric } = case;
    let place = Place::new().with(pipeline);
    write_docs(&place.path("docs.parquet"));
    expect(&regress(&place, None, &["--update"]), 0, "making the baseline");
    let quiet = expect(&regress(&place, None, &[]), 0, "without a bug");
    assert!(quiet.contains("the same to the bit") && !quiet.contains("within"), "{quiet}");
    let stdout = expect(&regress(&place, Some(*bug), &[]), 4, &format!("{bug} planted"));
    // A leak lowers bits per byte.
    let moved = |line: &str| line.ends_with("REGRESSED") || line.ends_with("IMPROVED");
    let named =
        stdout.lines().find(|line| moved(line) && line.split_whitespace().nth(1) == Some(metric));
    let Some(named) = named else { panic!("{bug} is to show in {metric}:\n{stdout}") };
    println!("{bug}: {named}");
}

fn as_blt_run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let name = args.next().unwrap_or_default();
    match Bug::ALL.into_iter().find(|bug| bug.to_string().as_str() == name) {
        Some(bug) => plant(bug),
        None => assert_eq!(name, "none", "no such bug"),
    }
    blt::main_from(std::iter::once("blt-run".into()).chain(args))
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == AS_BLT_RUN).is_some() {
        return as_blt_run(args);
    }
    // What the test harness would take: a word chooses, flags are for output.
    let chosen: Vec<String> = args
        .map(|arg| arg.to_string_lossy().into_owned())
        .filter(|a| !a.starts_with('-'))
        .collect();
    let started = Instant::now();
    let cases = cases();
    let bugs: Vec<Bug> = cases.iter().map(|case| case.bug).collect();
    assert_eq!(bugs, Bug::ALL, "each bug has a case");
    let name = |case: &Case| format!("planted_bug_{}", case.bug);
    let run: Vec<&Case> = cases
        .iter()
        .filter(|case| chosen.is_empty() || chosen.iter().any(|c| name(case).contains(c.as_str())))
        .collect();
    run.iter().for_each(|case| bites(case));
    println!("{} planted bugs were noticed in {:.1} s", run.len(), started.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
