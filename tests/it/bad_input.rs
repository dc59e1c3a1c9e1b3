//! Whatever is wrong with the input, the user reads one error: what, where, what was expected and
//! what to do. The program exits with 1, never panics, and leaves nothing that could be taken for a
//! result.

use crate::common::{Place, run_dirs, status, text, write_parquet};
use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use parquet::arrow::ArrowWriter;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// Asserts that the program refused as it should; its one error.
fn refusal(output: &Output, runs: &Path) -> String {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "exit code\n{stderr}");
    assert!(!stderr.contains("panicked"), "a panic\n{stderr}");
    assert_eq!(
        stderr.lines().filter(|line| line.starts_with("error")).count(),
        1,
        "one error\n{stderr}"
    );
    for run in run_dirs(runs) {
        assert!(!run.join("results.json").exists(), "results of a failed run");
        assert!(!run.join("report.html").exists(), "a report of a failed run");
        assert_eq!(status(&run)["state"], "failed", "status.json");
        assert!(
            status(&run)["error"].as_str().is_some_and(|e| !e.is_empty()),
            "status.json says why"
        );
    }
    stderr
}

/// The pipeline is refused with an error that holds each of `says`.
#[track_caller]
fn refused(place: &Place, args: &[&str], says: &[&str]) -> String {
    let error = refusal(&place.run(args), &place.path("runs"));
    for say in says {
        assert!(error.contains(say), "no `{say}` in\n{error}");
    }
    error
}

/// As [`refused`], and nothing was begun: no run directory, no step.
#[track_caller]
fn refused_at_once(place: &Place, args: &[&str], says: &[&str]) {
    let error = refused(place, args, says);
    assert_eq!(
        place.runs(),
        [""; 0].map(Into::<std::path::PathBuf>::into),
        "a run was begun\n{error}"
    );
}

/// The tiny pipeline without its entropy model: fewer steps to the place in question.
fn plain() -> Place {
    let place = Place::new();
    let yaml =
        place.yaml.lines().filter(|l| !l.contains("entropy: ") && !l.contains("entropy.loss"));
    let yaml: String = yaml.map(|l| format!("{l}\n")).collect();
    let entropy = "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}";
    place.with(&yaml).edit(entropy, "{node: SpacePatch, in: docs}")
}

#[test]
fn settings_of_training_that_make_no_sense() {
    let train = "{goal: loss, steps: 4,";
    for (setting, says) in [
        ("packing: worst_fit", &["`packing`", "best_fit"][..]),
        ("average: {last: 2}", &["`average.last`", "is 2; expected number from 0 to 1"]),
        ("average: {ema: 1}", &["ema is 1", "0.999"]),
        ("lr_by: {latent: -1}", &["`lr_by.latent`", "is -1; expected number from 0"]),
        ("evaluate: {every: 0}", &["`evaluate.every`", "is 0; expected integer from 1 to"]),
        ("evaluate: {evry: 5}", &["`evaluate` of step", "no key `evry`", "did you mean"]),
        ("lr_by: {latnet: 2}", &["`latnet`", "did you mean `latent`?"]),
    ] {
        let place = plain().edit(train, &format!("{{{setting}, goal: loss, steps: 4,"));
        refused_at_once(&place, &[], says);
    }
    // Names of parameters are known when the graph is built.
    let setting = "{lr_by: {model.encoder_hash_tok_embeding: 2}, goal: loss, steps: 4,";
    let says = ["did you mean `model.encoder_hash_tok_embedding`?", "pipeline.yaml:"];
    refused(&plain().edit(train, setting), &[], &says);
}

#[test]
fn a_probe_of_a_goal_without_latents() {
    let place = Place::new().edit("{goal: loss, by", "{goal: entropy.loss, probe: latents, by");
    let at = place.at("latents, by");
    refused_at_once(&place, &[], &["`entropy.loss` has 0 nodes that are the latent part", &at]);
}

// Data

#[test]
fn no_such_file() {
    let place = plain().edit("path: docs.parquet", "path: dosc.parquet");
    refused_at_once(
        &place,
        &[],
        &[
            "no such file or folder",
            "dosc.parquet",
            "`docs`",
            &place.at("dosc.parquet"),
            "check `path`",
        ],
    );
    let place = plain().edit("path: docs.parquet", "path: 'nothing/*.parquet'");
    refused_at_once(
        &place,
        &[],
        &["matches no file", "nothing/*.parquet", &place.at("'nothing/*.parquet'")],
    );
}

#[cfg(not(feature = "cloud"))]
#[test]
fn a_url_in_a_build_without_object_stores() {
    let place = plain().edit("path: docs.parquet", "path: 's3://bucket/docs.parquet'");
    refused_at_once(
        &place,
        &[],
        &[
            "feature `cloud`",
            "--features cloud",
            "s3://bucket/docs.parquet",
            &place.at("'s3://bucket/docs.parquet'"),
        ],
    );
}

#[test]
fn no_such_column() {
    let place = plain().edit("column: text", "column: txet");
    refused_at_once(
        &place,
        &[],
        &["no column `txet`", "docs.parquet", "did you mean `text`", "domain", &place.at("txet")],
    );
    let place = plain().edit("by: id", "by: idd");
    refused_at_once(&place, &[], &["no column `idd`", "did you mean `id`", &place.at("idd")]);
    let place = plain().edit("by: domain", "by: doman");
    refused_at_once(
        &place,
        &[],
        &["no column `doman`", "did you mean `domain`", &place.at("doman")],
    );
    let place = plain()
        .edit("{node: SpacePatch, in: docs}", "{node: ColumnPatch, in: docs, column: lengths}");
    refused(&place, &[], &["no column `lengths`", "`patches`", &place.at("lengths")]);
}

#[test]
fn a_column_of_numbers() {
    let place = plain().edit("column: text", "column: number");
    refused_at_once(
        &place,
        &[],
        &["column `number`", "docs.parquet", "Int64", "Utf8", &place.at("number")],
    );
    let place = plain()
        .edit("{node: SpacePatch, in: docs}", "{node: ColumnPatch, in: docs, column: domain}");
    refused(
        &place,
        &[],
        &["column `domain`", "list", &place.at("domain}\n  embed").replace("domain}", "")],
    );
}

#[test]
fn patch_lengths_that_do_not_fit_the_text() {
    let place = plain()
        .edit("{node: SpacePatch, in: docs}", "{node: ColumnPatch, in: docs, column: lengths}")
        .edit(", by: domain", "");
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(["four", "four"].repeat(20)));
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..40).map(|i| i.to_string())));
    let lists = (0..40).map(|_| Some([1, 2, 3].map(Some)));
    let lengths: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
    let batch =
        RecordBatch::try_from_iter([("id", ids), ("text", texts), ("lengths", lengths)]).unwrap();
    let file = File::create(place.path("docs.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    // BOS, four bytes and the unseen next one sum to 6 at most.
    place.done(&[]);
    fs::remove_dir_all(place.path("runs")).unwrap();
    let place = place.edit("column: text", "column: id").edit("by: id", "by: content");
    refused(
        &place,
        &[],
        &["`patches`", "sum to 6 in row", "expected a sum of", &place.at("lengths")],
    );
}

#[test]
fn a_file_that_is_not_parquet() {
    let place = plain();
    fs::write(place.path("docs.parquet"), "id,text\n1,hello\n").unwrap();
    refused_at_once(
        &place,
        &[],
        &["docs.parquet", "is not a Parquet file", &place.at("docs.parquet")],
    );
    fs::write(place.path("docs.parquet"), "").unwrap();
    refused_at_once(&place, &[], &["docs.parquet", "Parquet"]);
    let place = place.edit("node: ParquetBytes", "node: ArrowBytes");
    fs::write(place.path("docs.parquet"), "id,text\n1,hello\n").unwrap();
    refused_at_once(&place, &[], &["docs.parquet", "Arrow"]);
}

#[test]
fn a_truncated_parquet_file() {
    let place = plain();
    let whole = fs::read(place.path("docs.parquet")).unwrap();
    fs::write(place.path("docs.parquet"), &whole[..whole.len() * 2 / 3]).unwrap();
    refused_at_once(&place, &[], &["docs.parquet", "Parquet", &place.at("docs.parquet")]);
}

#[test]
fn a_corrupt_row_group() {
    let place = plain();
    let path = place.path("docs.parquet");
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    assert_eq!(reader.num_row_groups(), 4);
    let at = reader.metadata().row_group(2).column(2).data_page_offset() as u64;
    // The page's header, and some of its text.
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xff; 64], at).unwrap();
    refused(
        &place,
        &[],
        &[
            "docs.parquet",
            "damaged",
            "row group 2",
            "fetch the file again",
            &place.at("docs.parquet"),
        ],
    );
}

#[test]
fn an_empty_corpus() {
    let cases: [(&str, &[Option<&str>]); 3] =
        [("zero rows", &[]), ("all null", &[None; 50]), ("all empty", &[Some(""); 50])];
    for (name, texts) in cases {
        let place = plain();
        write_parquet(&place.path("docs.parquet"), texts);
        let says = if name == "all empty" { "no bytes" } else { "no documents" };
        let error = refused(&place, &[], &["docs.parquet", says, &place.at("docs.parquet")]);
        assert!(error.contains("check `path`"), "{name}: {error}");
    }
    let place = plain()
        .edit(
            "node: ParquetBytes, path: docs.parquet, column: text",
            "node: TextFiles, path: texts",
        )
        .edit("by: id", "by: path");
    fs::create_dir(place.path("texts")).unwrap();
    refused_at_once(
        &place,
        &[],
        &["texts", ".txt", &place.at("texts,").replace("texts,", "texts")],
    );
}

#[test]
fn a_split_that_leaves_nothing() {
    let place = plain().edit("valid: 0.2", "valid: 0.0");
    refused_at_once(&place, &[], &["validation part", "split.valid", "valid: 0.1"]);
    let place = plain().edit("valid: 0.2", "valid: 1.5");
    refused_at_once(&place, &[], &["valid", "1.5", "below 1", &place.at("1.5")]);
}

// The document

#[test]
fn no_such_pipeline() {
    let place = plain();
    let output = place.command(&["pipelien.yaml"]).output().unwrap();
    let error = refusal(&output, &place.path("runs"));
    assert!(error.contains("pipelien.yaml") && error.contains("No such file"), "{error}");
}

#[test]
fn text_that_is_not_yaml() {
    let place = plain().edit("{node: SpacePatch, in: docs}", "{node: SpacePatch, in: docs");
    refused_at_once(&place, &[], &["pipeline.yaml:"]);
    let place = plain().with("");
    refused_at_once(&place, &[], &["pipeline.yaml"]);
    let place = plain();
    fs::write(place.path("pipeline.yaml"), [b'n', 0xff, 0xfe]).unwrap();
    refused_at_once(&place, &[], &["pipeline.yaml", "UTF-8"]);
}

#[test]
fn a_width_that_heads_do_not_divide() {
    for (old, new) in [
        ("dim: 32, layers: 1, heads: 2}", "dim: 32, layers: 1, heads: 3}"),
        ("layers: 1, heads: 2, k: 2, window: 16", "layers: 1, heads: 3, k: 2, window: 16"),
        ("patches: latent}, layers: 1, heads: 2", "patches: latent}, layers: 1, heads: 3"),
    ] {
        let place = plain().edit(old, new);
        let at = place.at("heads: 3");
        let (line, column) = at.rsplit_once(':').unwrap();
        let value = format!("{line}:{}", column.parse::<usize>().unwrap() + "heads: ".len());
        refused_at_once(
            &place,
            &[],
            &["not divisible by 3 heads", "heads that work here: 1, 2, 4", &value],
        );
    }
}

#[test]
fn a_graph_with_a_cycle() {
    let place = plain()
        .edit("{node: Latent, in: encoder.patches, dim: 32", "{node: Latent, in: latent, dim: 32");
    refused_at_once(&place, &[], &["cycle", "latent", "pipeline.yaml:"]);
    let place = plain().edit(
        "in: encoder.patches, dim: 32, layers: 1, heads: 2}",
        "in: again, dim: 32, layers: 1, heads: 2}\n  again: {node: Latent, in: latent, dim: 32, layers: 1, heads: 2}",
    );
    refused_at_once(&place, &[], &["cycle", "latent", "again", "pipeline.yaml:"]);
}

#[test]
fn unknown_names_come_with_the_nearest_one() {
    let cases: [(&str, &str, &str, &[&str]); 9] = [
        (
            "node: SpacePatch",
            "node: SpacePach",
            "SpacePach",
            &["no node is called `SpacePach`", "did you mean", "linked"],
        ),
        ("table: 64", "tabel: 64", "tabel", &["no parameter `tabel`", "did you mean", "`embed`"]),
        (
            "in: encoder.patches",
            "in: encodr.patches",
            "encodr.patches",
            &["no node `encodr`", "did you mean"],
        ),
        (
            "in: encoder.patches",
            "in: encoder.pathces",
            "encoder.pathces",
            &["no output `pathces`", "did you mean"],
        ),
        (
            "{logits: decoder, bytes: docs}",
            "{logit: decoder, bytes: docs}",
            "logit:",
            &["`logit`", "did you mean", "`loss`"],
        ),
        ("train: {goal", "trian: {goal", "trian", &["`trian`", "did you mean"]),
        ("log_every", "log_evry", "log_evry", &["no parameter `log_evry`", "did you mean"]),
        ("goal: loss, by", "goal: lost, by", "lost", &["no node `lost`", "did you mean"]),
        ("split: {valid", "split: {vaild", "vaild", &["`vaild`"]),
    ];
    for (old, new, marker, says) in cases {
        let place = plain().edit(old, new);
        refused_at_once(&place, &[], &[says, &[place.at(marker).as_str()]].concat());
    }
    let place = plain().edit("seed: 7", "sede: 7");
    refused_at_once(&place, &[], &["`sede`", "did you mean", &place.at("sede")]);
}

#[test]
fn values_of_the_wrong_kind() {
    let place = plain().edit("table: 64", "table: many");
    refused_at_once(&place, &[], &["`table`", "integer", &place.at("many")]);
    let place = plain().edit("k: 2", "k: -2");
    refused_at_once(&place, &[], &["`k`", "integer", &place.at("-2")]);
    let place = plain().edit("steps: 4", "steps: 0");
    refused_at_once(&place, &[], &["`steps`", "at least 1"]);
    let place = plain().edit("lr: 4e-3", "lr: -1");
    refused_at_once(&place, &[], &["`lr`", "-1", &place.at("-1")]);
    let place = plain().edit("k: 2", "k: 2, pooling: median");
    refused_at_once(&place, &[], &["median", "mean", &place.at("median")]);
}

#[test]
fn a_missing_parameter() {
    let place = plain().edit("dim: 32, layers: 1, heads: 2}", "layers: 1, heads: 2}");
    refused_at_once(
        &place,
        &[],
        &[
            "`latent`",
            "needs the parameter `dim`",
            &place.at("latent:  ").replace("latent:  ", "latent"),
        ],
    );
}

#[test]
fn a_mistyped_wire() {
    let place = plain().edit("{logits: decoder, bytes: docs}", "{logits: latent, bytes: docs}");
    refused_at_once(
        &place,
        &[],
        &["expected Logits, found PatchStates", "`decoder`", &place.at("latent, bytes")],
    );
}

#[test]
fn a_missing_input() {
    let place = plain().edit("{logits: decoder, bytes: docs}", "{logits: decoder}");
    refused_at_once(&place, &[], &["`loss`", "nothing on its input `bytes`", "pipeline.yaml:"]);
}

#[test]
fn an_unused_node() {
    let place =
        plain().edit("  loss:  ", "  spare: {node: StridePatch, in: docs, stride: 4}\n  loss:  ");
    refused_at_once(
        &place,
        &[],
        &["nothing uses the node `spare`", &place.at("spare"), "remove it"],
    );
}

#[test]
fn a_merge_key() {
    let place = plain().edit(
        "  latent:  {node: Latent, in: encoder.patches, dim: 32, layers: 1, heads: 2}",
        "  latent:\n    <<: {heads: 2}\n    node: Latent\n    in: encoder.patches\n    dim: 32\n    layers: 1",
    );
    refused_at_once(&place, &[], &["<<", "merge", &place.at("<<")]);
}

#[test]
fn overrides_that_name_nothing() {
    let place = plain();
    let cases: [(&str, &[&str]); 6] = [
        ("graph.latent.dmi=8", &["`dmi`", "did you mean", "graph.latent.dim=8"]),
        ("graph.laten.dim=8", &["`laten`", "did you mean"]),
        ("run.0.steps=3", &["run.0.train.steps"]),
        ("run.7.train.steps=3", &["`7`"]),
        ("graph.latent.dim", &["path=value"]),
        ("ablate.x={}", &["`ablate` cannot be overridden"]),
    ];
    for (set, says) in cases {
        refused_at_once(&place, &["--set", set], &[says, &["--set:1:"]].concat());
    }
    refused_at_once(&place, &["--variant", "bsae"], &["`bsae`", "`base`"]);
}

#[test]
fn the_last_variant_is_checked_before_the_first_starts() {
    let ablate = "\nablate:\n  good: {}\n  bad:  {graph.latent.heads: 5}\n";
    let place = plain();
    let yaml = format!("{}{ablate}", place.yaml);
    let place = place.with(&yaml);
    refused_at_once(
        &place,
        &[],
        &["5 heads", "in the variant `bad`", &place.at("5}\n").replace('}', "")],
    );
    let yaml = place.yaml.replace("graph.latent.heads: 5", "graph.docs.column: txt");
    let place = place.with(&yaml);
    refused_at_once(&place, &[], &["no column `txt`", "`bad`", &place.at("txt")]);
}

#[test]
fn a_device_or_path_that_is_not_there() {
    refused_at_once(&plain(), &["--device", "abacus"], &["`abacus`", "`cpu`", "`cuda:N`"]);
    refused_at_once(&plain(), &["--device", "cuda:first"], &["`cuda:first`", "`cuda:N`"]);
    refused_at_once(&plain(), &["--path", "shortest"], &["shortest", "`fused`", "`reference`"]);
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_in_a_build_without_them() {
    let says = ["no GPU support", "`cuda:0`", "--features cuda", "leave `device` out"];
    refused_at_once(&plain(), &["--device", "cuda"], &says);
    let place = plain();
    let yaml = format!("{}device: cuda:0\n", place.yaml);
    refused_at_once(&place.with(&yaml), &[], &says);
}

#[test]
fn fused_operations_on_a_gpu() {
    let says = ["fused operations", "`cuda:1`", "leave `path` out"];
    refused_at_once(&plain(), &["--device", "cuda:1", "--path", "fused"], &says);
}

#[test]
fn arguments_that_make_no_sense() {
    let place = plain();
    for args in [
        &["--threads", "0"][..],
        &["--threads", "9999"],
        &["--threads", "two"],
        &["--nope"],
        &["--resume", "--fresh"],
    ] {
        let output = place.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}\n{stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
        assert!(place.runs().is_empty());
    }
}

// Training

#[test]
fn a_threshold_that_yields_one_byte_patches() {
    for (threshold, parameter) in [
        ("threshold: -1.0", "threshold"),
        ("rule: relative, relative_threshold: -99.0", "relative_threshold"),
    ] {
        let place = Place::new().edit("bytes_per_patch: 3", threshold);
        let value = threshold.rsplit(' ').next().unwrap();
        refused(
            &place,
            &[],
            &[
                "every patch is one byte long",
                parameter,
                "`patches`",
                "bytes_per_patch",
                &place.at(value),
            ],
        );
    }
    // Asked for by name, they are fine.
    let place = plain().edit("node: SpacePatch", "node: BytePatch");
    place.done(&[]);
}

#[test]
fn a_mean_patch_size_that_no_threshold_gives() {
    let place = Place::new().edit("bytes_per_patch: 3", "bytes_per_patch: 3000");
    refused(
        &place,
        &[],
        &["`patches`", "no threshold gives 3000 bytes per patch", "nearest", "split.calibration"],
    );
    let place = Place::new().edit("bytes_per_patch: 3", "bytes_per_patch: 8, max_patch_length: 4");
    refused_at_once(&place, &[], &["`bytes_per_patch`", "at most 4 bytes", &place.at("8, max")]);
    let place = Place::new().edit("calibration: 0.3", "calibration: 0.0");
    refused(&place, &[], &["calibration", "split"]);
}

#[test]
fn training_that_diverges() {
    let place = plain().edit("steps: 4", "steps: 40").edit("lr: 4e-3", "lr: 1e9");
    refused(&place, &[], &["not finite at step", "lower `lr`"]);
}

#[test]
fn checkpoints_that_do_not_fit() {
    let place = plain();
    let done = place.done(&[]);
    fs::rename(done.dir.join("checkpoints/0-train/final"), place.path("old")).unwrap();
    fs::remove_dir_all(place.path("runs")).unwrap();

    let from = place.yaml.replace("train: {goal: loss", "train: {from: old, goal: loss");
    let place = place.with(&from);
    place.done(&[]);
    fs::remove_dir_all(place.path("runs")).unwrap();

    let wider = place.yaml.replace("table: 64", "table: 128");
    let place = place.with(&wider);
    refused(
        &place,
        &[],
        &["`from`", "old/model.safetensors", "[64, 16]", "[128, 16]", &place.at("old")],
    );
    let deeper = from.replace("dim: 32, layers: 1", "dim: 32, layers: 2");
    let place = place.with(&deeper);
    refused(&place, &[], &["`from`", "no tensor", &place.at("old")]);

    let place = place.with(&from);
    let state = place.path("old/state.json");
    let written = fs::read_to_string(&state).unwrap();
    fs::write(&state, written.replace("\"format\": 1", "\"format\": 99")).unwrap();
    refused(&place, &[], &["format 99", "reads format 1", "train again", &place.at("old")]);
    fs::write(&state, "{").unwrap();
    refused(&place, &[], &["state.json", &place.at("old")]);
    fs::write(&state, written).unwrap();

    let model = place.path("old/model.safetensors");
    let whole = fs::read(&model).unwrap();
    fs::write(&model, &whole[..whole.len() / 2]).unwrap();
    refused(&place, &[], &["is damaged", "`model.safetensors` has", &place.at("old")]);
    // A checkpoint of an earlier version has no hashes.
    fs::remove_file(place.path("old/files.json")).unwrap();
    refused(&place, &[], &["model.safetensors", "not a whole safetensors file", &place.at("old")]);
    fs::remove_file(&model).unwrap();
    refused(&place, &[], &["model.safetensors", "No such file", &place.at("old")]);
}

// The disk

#[test]
fn a_full_disk() {
    // A limit on the size of files stands for a disk without room for the checkpoint; anyone can
    // set it.
    let place = plain();
    let limited = "trap '' XFSZ; ulimit -f 8; exec \"$0\" pipeline.yaml";
    let run = |script: &str| {
        let program = env!("CARGO_BIN_EXE_blt-run");
        Command::new("bash")
            .args(["-c", script, program])
            .current_dir(place.dir.path())
            .output()
            .unwrap()
    };
    let error = refusal(&run(limited), &place.path("runs"));
    assert!(error.contains("cannot write") && error.contains("File too large"), "{error}");

    // A real one, where a file system may be mounted.
    let mounted = "mkdir full && mount -t tmpfs -o size=96k tmpfs full 2>/dev/null || exit 77; \"$0\" pipeline.yaml --runs full/runs; code=$?; \
                   cp -r full/runs kept; umount full; exit $code";
    let output = run(mounted);
    if output.status.code() != Some(77) {
        let error = refusal(&output, &place.path("kept"));
        assert!(
            error.contains("No space left on device")
                && error.contains("full/runs")
                && error.contains("make room"),
            "{error}"
        );
    }

    // With room again, the same command ends well.
    place.done(&[]);
}

#[test]
fn a_command_with_a_slip_in_it() {
    let place = plain();
    for (args, near) in [
        (&["chek", "pipeline.yaml"][..], "check"),
        (&["stroe", "list"], "store"),
        (&["node"], "nodes"),
    ] {
        let output = place.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains(&format!("did you mean `{near}`?")), "{error}");
    }
}

#[test]
fn a_baseline_that_is_no_variant() {
    let place = plain();
    let yaml = format!("{}ablate: {{space: {{}}}}\nreport: {{baseline: spcae}}\n", place.yaml);
    let place = place.with(&yaml);
    let says = &["`report.baseline`", "`space`", "+ report: {baseline: space}", &place.at("spcae")];
    refused_at_once(&place, &[], says);
    let checked = place.command(&["check", "pipeline.yaml"]).output().unwrap();
    assert!(text(&checked.stderr).contains(&place.at("spcae")), "{}", text(&checked.stderr));
    let place = place.edit("baseline: spcae", "basline: space");
    refused_at_once(&place, &[], &["`report` has no `basline`", &place.at("basline")]);
}

#[test]
fn a_checkpoint_that_the_export_layout_cannot_say() {
    let place = Place::new().edit("bytes_per_patch: 3}", "bytes_per_patch: 3, rule: relative}");
    let run = place.done(&[]).dir;
    let checkpoint = run.join("checkpoints/1-train/final");
    std::fs::remove_dir_all(place.path("runs/.store")).unwrap();
    let yaml = format!(
        "name: out\ngraph:\n  docs: {{node: ParquetBytes, path: docs.parquet, column: text}}\n  blt: {{node: Blt, in: docs, \
         checkpoint: {}}}\nrun:\n  - score: {{goal: blt}}\n  - export: {{goal: blt}}\n",
        checkpoint.display()
    );
    let place = place.with(&yaml);
    let output = place.run(&[]);
    let error = text(&output.stderr);
    assert!(!output.status.success());
    for says in
        ["`run.1.export`", "`rule: relative, relative_threshold: ", "the global entropy rule alone"]
    {
        assert!(error.contains(says), "{says}\n{error}");
    }
    assert!(!place.path("runs/out").exists(), "a run was begun\n{error}");
}

#[test]
fn output_that_cannot_be_written() {
    let place = plain();
    for args in [
        &["nodes"][..],
        &["nodes", "Latent"],
        &["graph", "pipeline.yaml"],
        &["check", "pipeline.yaml"],
        &["pipeline.yaml"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = place.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let error = refusal(&output, &place.path("none"));
        assert!(
            error.contains("standard output") && error.contains("No space left"),
            "{args:?}\n{error}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = plain();
    let script = "\"$0\" nodes | head -n 1; test ${PIPESTATUS[0]} = 0 && \"$0\" pipeline.yaml 2>&1 | true; exit ${PIPESTATUS[0]}";
    let program = env!("CARGO_BIN_EXE_blt-run");
    let output = Command::new("bash")
        .args(["-c", script, program])
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let [run] = &place.runs()[..] else { panic!("one run") };
    assert_eq!(status(run)["state"], "done");
}

#[test]
fn a_run_folder_that_cannot_be_written() {
    let place = plain();
    fs::write(place.path("file"), "in the way").unwrap();
    let output = place.run(&["--runs", "file/runs"]);
    let error = refusal(&output, &place.path("none"));
    assert!(error.contains("cannot create") && error.contains("file/runs"), "{error}");
    let output = place.run(&["--store", "file"]);
    let error = refusal(&output, &place.path("runs"));
    assert!(error.contains("cannot create") && error.contains("file"), "{error}");
}
