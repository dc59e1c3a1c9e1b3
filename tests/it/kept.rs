//! What is kept is verified, and what is shared is locked.

use crate::common::{Done, Place, text, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

/// Documents, a model that is trained, and parts that are kept in the store.
fn place() -> Place {
    Place::new().edit(
        "  - evaluate: {goal: loss, by: domain}\n",
        "  - evaluate: {goal: loss, by: domain}\n  - score: {goal: loss}\n",
    )
}

/// The results without what differs between any two runs.
fn results(done: &Done) -> Value {
    let mut results: Value =
        serde_json::from_slice(&fs::read(done.dir.join("results.json")).unwrap()).unwrap();
    results.as_object_mut().unwrap().remove("id");
    fn drop_times(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| !key.contains("seconds") && !key.contains("per_second"));
                map.values_mut().for_each(drop_times);
            }
            Value::Array(items) => items.iter_mut().for_each(drop_times),
            _ => {}
        }
    }
    drop_times(&mut results);
    results
}

/// The one file of the store whose path ends so.
fn kept(store: &Path, ending: &str) -> PathBuf {
    let found: Vec<_> =
        tree(store).into_iter().filter(|(name, _)| name.ends_with(ending)).collect();
    assert!(!found.is_empty(), "no {ending}");
    store.join(&found[0].0)
}

fn overwrite(path: &Path, bytes: &[u8]) {
    // As an editor does that writes a new file: what is kept may not be written to.
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_kept_file_that_was_changed_is_named_and_its_step_runs_again() {
    let place = place();
    let first = place.done(&[]);
    let (expected, store) = (results(&first), place.path("runs/.store"));
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, &str, Edit); 6] = [
        ("a bit of a parameter", "checkpoints/final/model.safetensors", |b| {
            let at = b.len() - 3;
            b[at] ^= 1;
        }),
        ("a cut file", "checkpoints/final/optimizer.safetensors", |b| b.truncate(b.len() / 2)),
        ("a better result", "result.json", |b| {
            *b = text(b).replacen("1", "0", 1).into_bytes();
        }),
        ("a document's loss", "documents.jsonl", |b| {
            *b = text(b).replacen("nats\":", "nats\":1", 1).into_bytes()
        }),
        ("a part", "outputs/docs.parquet", |b| b[100] ^= 64),
        ("the list of files itself", "step.json", |b| {
            *b = text(b).replacen("blake3", "blake2", 1).into_bytes()
        }),
    ];
    for (what, ending, edit) in edits {
        let path = kept(&store, ending);
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        overwrite(&path, &bytes);
        let again = place.done(&[]);
        let name = Path::new(ending).file_name().unwrap().to_str().unwrap();
        let warned = again.stderr.lines().any(|l| l.contains("damaged") && l.contains(name));
        assert!(warned, "{what}: {}", again.stderr);
        assert_eq!(results(&again), expected, "{what}");
    }
    // A part that is gone.
    fs::remove_file(kept(&store, "outputs/docs.parquet")).unwrap();
    let again = place.done(&[]);
    assert!(again.stderr.contains("`outputs/docs.parquet` is missing"), "{}", again.stderr);
    assert_eq!(results(&again), expected);
    assert!(!place.done(&[]).stderr.contains("damaged"));
}

#[test]
fn what_a_run_shows_of_the_store_cannot_be_written_to() {
    let place = place();
    let done = place.done(&[]);
    for folder in ["checkpoints", "outputs"] {
        let files = tree(&done.dir.join(folder));
        assert!(!files.is_empty());
        for (name, _) in files {
            let meta = fs::metadata(done.dir.join(folder).join(&name)).unwrap();
            assert!(meta.permissions().readonly(), "{folder}/{name}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_not_continued_from() {
    let place = Place::new();
    let done = place.done(&[]);
    let copy = place.path("copy");
    fs::create_dir(&copy).unwrap();
    for (name, bytes) in tree(&done.dir.join("checkpoints/1-train/final")) {
        fs::write(copy.join(name), bytes).unwrap();
    }
    let place = place.edit(
        "{goal: loss, steps: 4, batch_bytes: 512,",
        "{goal: loss, from: copy, steps: 4, batch_bytes: 512,",
    );
    place.done(&[]);
    let model = fs::read(copy.join("model.safetensors")).unwrap();
    fs::write(copy.join("model.safetensors"), &model[..model.len() - 4]).unwrap();
    let output = place.run(&[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is damaged: `model.safetensors` has "), "{said}");
    assert!(said.contains("copy it again from where it came"), "{said}");
}

#[test]
fn a_part_whose_bytes_changed_is_named() {
    let place = place().edit("score: {goal: loss}", "score: {goal: loss, output: out}");
    place.done(&[]);
    let part = kept(&place.path("out"), ".parquet");
    let mut bytes = fs::read(&part).unwrap();
    bytes[100] ^= 1;
    fs::write(&part, bytes).unwrap();
    let output = place.run(&[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("its bytes are not those that were written"), "{said}");
    assert!(said.contains(".parquet") && said.contains("remove it, and run again"), "{said}");
    fs::remove_file(&part).unwrap();
    place.done(&[]);
}

/// Starts `pipeline` with a runs folder of its own.
fn start(place: &Place, pipeline: &str, args: &[&str]) -> Child {
    let args = [&[pipeline, "--threads", "1"], args].concat();
    place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A pipeline that counts patches of `stride` bytes in 12 files, and writes them to `both`.
fn count(place: &Place, stride: usize) -> String {
    let name = format!("stride-{stride}.yaml");
    let yaml = format!(
        "name: counts\ngraph:\n  docs: {{node: ParquetBytes, path: in, column: text}}\n  p: {{node: StridePatch, in: docs, stride: {stride}}}\nrun:\n  - score: {{goal: p, output: both}}\n"
    );
    fs::write(place.path(&name), yaml).unwrap();
    name
}

fn shards(place: &Place) {
    fs::create_dir(place.path("in")).unwrap();
    for i in 0..12 {
        fs::copy(place.path("docs.parquet"), place.path(&format!("in/{i}.parquet"))).unwrap();
    }
}

/// The keys of the jobs whose parts lie in `both`.
fn versions(place: &Place) -> BTreeSet<u64> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let parts =
        tree(&place.path("both")).into_iter().filter(|(name, _)| name.ends_with(".parquet"));
    let patches = parts.map(|(name, _)| {
        let file = fs::File::open(place.path("both").join(name)).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let meta = reader.metadata().file_metadata().key_value_metadata().unwrap();
        let footer = meta.iter().find(|pair| pair.key == "blt.score").unwrap();
        let footer: Value = serde_json::from_str(footer.value.as_deref().unwrap()).unwrap();
        footer["summary"]["all"]["patches"].as_u64().unwrap()
    });
    patches.collect()
}

fn ended(children: [Child; 2]) -> [Output; 2] {
    children.map(|child| child.wait_with_output().unwrap())
}

#[test]
fn of_two_jobs_that_begin_at_once_in_one_folder_one_is_refused() {
    let place = Place::new();
    shards(&place);
    let (five, seven) = (count(&place, 5), count(&place, 7));
    for _ in 0..4 {
        let _ = fs::remove_dir_all(place.path("both"));
        let both = [
            start(&place, &five, &["--runs", "a", "--fresh"]),
            start(&place, &seven, &["--runs", "b", "--fresh"]),
        ];
        let outputs = ended(both);
        let good = outputs.iter().filter(|output| output.status.success()).count();
        let said: Vec<_> = outputs.iter().map(|output| text(&output.stderr)).collect();
        assert_eq!(good, 1, "{said:?}");
        assert!(said.iter().any(|said| said.contains("holds other work")), "{said:?}");
        assert_eq!(versions(&place).len(), 1);
        for runs in ["a", "b"] {
            let _ = fs::remove_dir_all(place.path(runs));
        }
    }
}

#[test]
fn two_processes_with_one_job_both_end_well() {
    let place = Place::new();
    shards(&place);
    let five = count(&place, 5);
    for _ in 0..3 {
        for dir in ["both", "a", "b"] {
            let _ = fs::remove_dir_all(place.path(dir));
        }
        let both = [start(&place, &five, &["--runs", "a"]), start(&place, &five, &["--runs", "b"])];
        for output in ended(both) {
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        assert_eq!(versions(&place).len(), 1);
    }
}

#[test]
fn two_processes_that_resume_one_run_both_end_well() {
    for _ in 0..3 {
        let place = place();
        // A run that did not finish: its last step cannot read its input.
        let yaml = place.yaml.clone();
        let place =
            place.with(&yaml.replace("score: {goal: loss}", "score: {goal: loss, output: x}"));
        fs::write(place.path("x"), "no folder").unwrap();
        assert!(!place.run(&[]).status.success());
        fs::remove_file(place.path("x")).unwrap();
        let both = [
            start(&place, "pipeline.yaml", &["--resume"]),
            start(&place, "pipeline.yaml", &["--resume"]),
        ];
        for output in ended(both) {
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn parts_of_other_arithmetic_are_not_used_again() {
    let place = place().edit("score: {goal: loss}", "score: {goal: loss, output: out}");
    place.done(&[]);
    let other = place.command(&["pipeline.yaml"]).env("BLT_SIMD", "scalar").output().unwrap();
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains("holds other work"), "{said}");
}

#[test]
fn parts_of_another_tokenizer_are_not_used_again() {
    let place = Place::new().with(
        "\
name: bpe
graph:
  docs: {node: ParquetBytes, path: docs.parquet, column: text}
  p: {node: BpePatch, in: docs, tokenizer: tokenizer.json}
run:
  - score: {goal: p, output: out}
",
    );
    write_tokenizer(&place.path("tokenizer.json"), ["t", "h"]);
    place.done(&[]);
    write_tokenizer(&place.path("tokenizer.json"), ["e", "r"]);
    let other = place.run(&[]);
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains("holds other work"), "{said}");
}

/// A tokenizer of all bytes and one merge.
fn write_tokenizer(path: &Path, merge: [&str; 2]) {
    // The alphabet of byte-level BPE: bytes that print are themselves, others come after 255.
    let printed = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|b| !printed(*b));
    let letters = (0..256).filter(|b| printed(*b)).chain((256..).take(others.count()));
    let mut vocab: serde_json::Map<String, Value> = letters
        .enumerate()
        .map(|(id, letter)| (char::from_u32(letter).unwrap().to_string(), id.into()))
        .collect();
    vocab.insert(merge.concat(), 256.into());
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [merge.join(" ")]},
    });
    fs::write(path, tokenizer.to_string()).unwrap();
}
