//! Scoring by the real program: killed at any moment and run again, it leaves the same files and
//! scores no finished part twice.

use crate::common::{Place, status, text, tree};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

/// A part for each row group, and small batches, so that there is time to kill.
const SCORE: &str = "  - score: {goal: loss, emit: [log_probs, entropies, patch_lengths], part_bytes: 1, batch_bytes: 64, by: domain}\n";

/// The tiny pipeline, which ends with scoring 40 row groups.
fn place() -> Place {
    let place = Place::new().edit("  - evaluate: {goal: loss, by: domain}\n", SCORE);
    let texts = crate::common::texts();
    let batch =
        crate::common::parquet_batch(&texts.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
    let file = fs::File::create(place.path("docs.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    place
}

/// What the step's directory holds but for times: parts, manifest, result.
fn left(run: &Path, store: &Path) -> Vec<(String, Vec<u8>)> {
    let step = steps(store).into_iter().find(|dir| dir.join("outputs").is_dir()).unwrap();
    let of_step = ["result.json", "manifest.json"]
        .map(|name| (name.to_string(), fs::read(step.join(name)).unwrap()));
    tree(&run.join("outputs")).into_iter().chain(of_step).collect()
}

fn steps(store: &Path) -> Vec<PathBuf> {
    fs::read_dir(store).into_iter().flatten().filter_map(|item| Some(item.ok()?.path())).collect()
}

/// The finished parts of a step that runs or was stopped, and when each was written.
fn parts(store: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let outputs =
        steps(store).into_iter().map(|dir| dir.join("outputs")).filter(|dir| dir.is_dir());
    let files = outputs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten());
    // One may be renamed while it is looked at.
    files
        .filter_map(|item| {
            Some((item.as_ref().ok()?.path(), item.ok()?.metadata().ok()?.modified().ok()?))
        })
        .collect()
}

#[test]
fn killed_again_and_again_it_ends_in_the_same_files() {
    let whole = place();
    let run = whole.done(&[]);
    let expected = left(&run.dir, &whole.path("runs/.store"));
    let n_parts = expected.iter().filter(|(name, _)| name.ends_with(".parquet")).count();
    assert_eq!(n_parts, 40);

    let place = place();
    // The input is the same to the last digit of its time, which the parts' keys hold.
    let modified = fs::metadata(whole.path("docs.parquet")).unwrap().modified().unwrap();
    fs::File::options()
        .write(true)
        .open(place.path("docs.parquet"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let store = place.path("runs/.store");
    let (mut kills, mut wait_for) = (0, 1);
    let mut before: BTreeMap<PathBuf, SystemTime> = BTreeMap::new();
    let begun = Instant::now();
    let done = loop {
        let mut command = place.command(&["pipeline.yaml"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = loop {
            if parts(&store).len() >= wait_for {
                break false;
            }
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(300),
                "{wait_for} parts were not written in five minutes"
            );
        };
        if !ended {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        // What an earlier process finished is as it left it.
        let after = parts(&store);
        for (part, at) in &before {
            let name = part.file_name().unwrap();
            let now = after.iter().find(|(other, _)| other.file_name() == Some(name));
            assert_eq!(now.map(|(_, at)| at), Some(at), "{part:?} was written again");
        }
        if output.status.success() {
            break after.len();
        }
        assert_eq!(output.status.code(), None, "killed, and not: {}", text(&output.stderr));
        kills += 1;
        before = after;
        wait_for = before.len() + 3;
    };
    assert_eq!(done, n_parts);
    assert!(kills >= 3, "killed {kills} times");
    let last = place.runs().into_iter().find(|run| status(run)["state"] == "done").unwrap();
    assert!(left(&last, &store) == expected);
    assert!(!steps(&store).iter().any(|dir| dir.join("partial").exists()));
}

/// A disk that is full, as far as a program sees it: no file may grow beyond so many blocks (of 512
/// or 1024 bytes), and it is told so.
#[test]
fn a_full_disk_is_an_error_and_what_was_finished_stays() {
    let place = two_sizes();
    let mut command = std::process::Command::new("sh");
    let script = r#"trap "" XFSZ; ulimit -f 400; exec "$0" "$@""#;
    command.current_dir(place.dir.path()).args([
        "-c",
        script,
        env!("CARGO_BIN_EXE_blt-run"),
        "pipeline.yaml",
    ]);
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: cannot write ")
            && said.contains("b.parquet (the scores of data/b.parquet): "),
        "{said}"
    );
    assert!(
        said.contains("File too large") && said.contains("parts that are finished stay"),
        "{said}"
    );
    let before = tree(&place.path("to"));
    assert_eq!(
        before.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["_manifest.json", "data/a.parquet"]
    );
    let written = || fs::metadata(place.path("to/data/a.parquet")).unwrap().modified().unwrap();
    let at = written();
    place.done(&[]);
    assert_eq!(written(), at);
    let after = tree(&place.path("to")).into_iter().map(|(name, _)| name);
    assert_eq!(after.collect::<Vec<_>>(), ["_manifest.json", "data/a.parquet", "data/b.parquet"]);
}

/// A part of a few KB, and then one of more than a megabyte.
fn two_sizes() -> Place {
    let place = Place::new().with(
        "\
name: full
graph:
  docs: {node: ParquetBytes, path: data}
  patches: {node: SpacePatch, in: docs}
run:
  - score: {goal: patches, output: to}
",
    );
    fs::create_dir(place.path("data")).unwrap();
    let mut state = 1u64;
    let mut random = |n: usize| -> String {
        let word = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            format!("{:x}", state >> 16)
        };
        (0..n).map(word).collect()
    };
    crate::common::write_parquet(&place.path("data/a.parquet"), &[Some(&random(100))]);
    crate::common::write_parquet(&place.path("data/b.parquet"), &[Some(&random(300_000))]);
    place
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_may_not_be_written_to_is_named() {
    let place = two_sizes().edit("output: to", "output: /sys/kernel/blt");
    let said = text(&place.run(&[]).stderr);
    assert!(said.contains("error: cannot ") && said.contains("/sys/kernel/blt"), "{said}");
}
