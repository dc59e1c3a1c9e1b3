//! Sources and outputs on object stores: against moto's S3 server, and a web server, both on
//! loopback.
//!
//! moto is a Python package: `pip install 'moto[server]'`, with `moto_server` in PATH or its path
//! in MOTO_SERVER.

#![cfg(unix)]

#[path = "cloud/servers.rs"]
mod servers;

#[path = "it/common/mod.rs"]
mod common;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
use common::{Done, Place, text, tree};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use servers::{Moto, Proxy, Web};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows `id` and `text` of so many random bytes, which nothing compresses, in row groups of
/// `group`.
fn write(path: &Path, seed: u64, rows: usize, bytes: usize, group: usize) {
    let mut state = seed * 2 + 1;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    let texts: Vec<Vec<u8>> = (0..rows).map(|_| (0..bytes).map(|_| random()).collect()).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let texts: ArrayRef = Arc::new(BinaryArray::from_iter_values(&texts));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties))
            .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn pipeline(path: &str, score: &str) -> String {
    format!(
        "name: cloud
graph:
  docs: {{node: ParquetBytes, path: {path}}}
  patches: {{node: StridePatch, in: docs, stride: 4}}
run:
  - score: {{goal: patches{score}}}
"
    )
}

fn place() -> Place {
    Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() }
}

/// The program, with the store at `endpoint`, which is asked again for a second at most.
fn command(place: &Place, endpoint: &str) -> Command {
    let mut command = place.command(&["pipeline.yaml"]);
    for variable in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"] {
        command.env_remove(variable);
    }
    let variables = [
        ("AWS_ACCESS_KEY_ID", "anyone"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-anyone"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("BLT_CLOUD_RETRY_SECONDS", "1"),
    ];
    command.envs(variables);
    command
}

fn done(place: &Place, endpoint: &str) -> Done {
    let output = command(place, endpoint).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "exit {:?}\n{stderr}", output.status.code());
    Done {
        dir: place.path(text(&output.stdout).trim_end().lines().last().unwrap()),
        stderr,
        place: place.dir.clone(),
    }
}

/// What a run says that fails: one error, and nothing secret in it.
fn fails(place: &Place, endpoint: &str) -> String {
    let output = command(place, endpoint).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
    assert!(!stderr.contains("secret-of-anyone") && !stderr.contains("panicked"), "{stderr}");
    stderr
}

/// The rows of a part. Two parts of other inputs have other footers.
fn rows(bytes: &[u8]) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes.to_vec()))
        .unwrap()
        .build()
        .unwrap();
    reader.map(Result::unwrap).collect()
}

fn assert_same_rows(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)]) {
    assert_eq!(found.len(), expected.len());
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert_eq!(rows(found), rows(expected), "{name}");
    }
}

fn upload(moto: &Moto, bucket: &str, folder: &Path) {
    moto.create_bucket(bucket);
    for (name, bytes) in tree(folder) {
        moto.put(bucket, &name, &bytes);
    }
}

#[test]
fn a_prefix_with_partitions_a_glob_and_a_file() {
    let moto = Moto::start(&[]);
    let place = place();
    for (i, name) in
        ["lang=en/a.parquet", "lang=en/b.parquet", "lang=de/a.parquet"].into_iter().enumerate()
    {
        write(&place.path("data").join(name), i as u64, 30, 2000, 10);
    }
    fs::write(place.path("data/notes.txt"), "no rows").unwrap();
    fs::create_dir(place.path("data/.hidden")).unwrap();
    fs::write(place.path("data/.hidden/a.parquet"), "no Parquet").unwrap();
    upload(&moto, "corpus", &place.dir.path().join("data"));
    let score = ", where: \"lang is not null and id != 3\", part_bytes: 1, by: lang";
    let run_with = |path: &str, score: &str| {
        let place = Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() }
            .with(&pipeline(path, score));
        let run = done(&place, &moto.endpoint());
        (tree(&run.dir.join("outputs")), fs::read_to_string(run.dir.join("results.json")).unwrap())
    };
    let run = |path: &str| run_with(path, score);
    let local = |path: &str| run(&place.path(path).display().to_string()).0;
    let all = local("data");
    assert_eq!(all.len(), 9);
    for path in ["s3://corpus", "s3://corpus/", "'s3://corpus/**/*.parquet'"] {
        let (found, results) = run(path);
        assert_same_rows(&found, &all);
        assert_eq!(found[0].0, "corpus/lang-de/a.00000-00000.parquet");
        assert!(
            results.contains("s3://corpus/lang=de/a.parquet")
                && !results.contains("secret-of-anyone")
        );
    }
    let glob = place.path("data/lang=e?/*.parquet").display().to_string();
    assert_same_rows(&run("'s3://corpus/lang=e?/*.parquet'").0, &run(&format!("'{glob}'")).0);
    // A folder or a file that is named says where the data is: it is no column.
    let named = |path: &str| run_with(path, ", where: id != 3, part_bytes: 1").0;
    let english = named(&place.path("data/lang=en").display().to_string());
    for path in ["s3://corpus/lang=en", "s3://corpus/lang=en/"] {
        assert_same_rows(&named(path), &english);
    }
    let file = place.path("data/lang=en/b.parquet").display().to_string();
    assert_same_rows(&named("s3://corpus/lang=en/b.parquet"), &named(&file));
    assert_same_rows(
        &run("[s3://corpus/lang=en/b.parquet, 's3://corpus/lang=[a-d]*/a*']").0[..3],
        &all[..3],
    );

    let error = |path: &str| {
        fails(
            &Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() }
                .with(&pipeline(path, "")),
            &moto.endpoint(),
        )
    };
    let said = error("s3://corpus/lang=fr");
    assert!(said.contains("no such file or folder: s3://corpus/lang=fr"), "{said}");
    let said = error("'s3://corpus/*.parquet'");
    assert!(said.contains("s3://corpus/*.parquet") && said.contains("matches no file"), "{said}");
    let said = error("s3://corpus/notes.txt");
    assert!(said.contains("s3://corpus/notes.txt is not a Parquet file"), "{said}");
    let said = error("s3://nobody-s/lang=en");
    assert!(
        said.contains("there is no bucket `nobody-s`") && said.contains("AWS_REGION"),
        "{said}"
    );
    let said = error("ftp://corpus/a.parquet");
    assert!(said.contains("`ftp` is none of s3") && said.contains("pipeline.yaml:3"), "{said}");
    let said = error("s3://me:hunter2@corpus/a.parquet");
    assert!(
        said.contains("environment") && !said.split("-->").next().unwrap().contains("hunter2"),
        "{said}"
    );
}

#[test]
fn text_and_arrow_files_are_read_as_well() {
    let moto = Moto::start(&[]);
    let place = place();
    fs::create_dir(place.path("data")).unwrap();
    let lines: String = (0..50_000).map(|i| format!("line {i} of the text\n")).collect();
    fs::write(place.path("data/a.txt"), &lines).unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..200));
    let texts: ArrayRef =
        Arc::new(BinaryArray::from_iter_values((0..200).map(|i| format!("text {i}").into_bytes())));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(
        File::create(place.path("data/a.arrow")).unwrap(),
        &batch.schema(),
    )
    .unwrap();
    (0..3).for_each(|_| writer.write(&batch).unwrap());
    writer.finish().unwrap();
    upload(&moto, "corpus", &place.path("data"));
    for source in ["TextFiles, lines: true", "TextFiles", "ArrowBytes"] {
        let run = |path: &str| {
            let yaml = pipeline(path, "").replace("ParquetBytes", source);
            let place =
                Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() }.with(&yaml);
            tree(&done(&place, &moto.endpoint()).dir.join("outputs"))
        };
        let (found, expected) =
            (run("s3://corpus/"), run(&place.path("data").display().to_string()));
        let without_path = |parts: &[(String, Vec<u8>)]| -> Vec<RecordBatch> {
            let batches = parts.iter().flat_map(|(_, bytes)| rows(bytes));
            let keep = |b: &RecordBatch| {
                (0..b.num_columns())
                    .filter(|&i| b.schema().field(i).name() != "path")
                    .collect::<Vec<_>>()
            };
            batches.map(|b| b.project(&keep(&b)).unwrap()).collect()
        };
        assert_eq!(without_path(&found), without_path(&expected), "{source}");
    }
}

/// A pipeline whose input has a part of some 24 MB, one of as much, and one that is no upload of
/// several parts; and the parts of a local run of it.
fn three_parts() -> (Place, Vec<(String, Vec<u8>)>) {
    let place = place();
    write(&place.path("data/a.parquet"), 1, 12, 2_000_000, 4);
    write(&place.path("data/b.parquet"), 2, 12, 2_000_000, 4);
    write(&place.path("data/c.parquet"), 3, 10, 100, 4);
    let place = place.with(&pipeline("data", ""));
    let parts = tree(&place.done(&[]).dir.join("outputs"));
    assert_eq!(parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), NAMES);
    assert!(parts[0].1.len() > 20_000_000 && parts[2].1.len() < 100_000);
    (place, parts)
}

const NAMES: [&str; 3] = ["data/a.parquet", "data/b.parquet", "data/c.parquet"];
const TO_STORE: &str = ", output: 's3://out/scored'";

/// The parts below `scored/`, under their names there; the manifest is there too.
fn parts(moto: &Moto) -> Vec<(String, Vec<u8>)> {
    let objects = moto.objects("out").into_iter();
    let mut objects: Vec<_> = objects
        .map(|(key, bytes)| (key.strip_prefix("scored/").unwrap().to_owned(), bytes))
        .collect();
    let manifest = objects
        .iter()
        .position(|(name, _)| name == "_manifest.json")
        .expect("the manifest is there");
    objects.remove(manifest);
    objects
}

/// How often parts were begun to be written: as uploads, or at once.
fn begun(moto: &Moto) -> usize {
    let log = moto.log();
    let begun = |line: &&str| {
        line.contains("POST /out/scored/data/") && line.contains("?uploads")
            || line.contains("PUT /out/scored/data/") && !line.contains("partNumber")
    };
    log.lines().filter(begun).count()
}

#[test]
fn scores_go_to_a_store_and_are_the_bits_of_a_local_run() {
    let moto = Moto::start(&[]);
    moto.create_bucket("out");
    let (place, expected) = three_parts();
    let place = place.with(&pipeline("data", TO_STORE));
    let run = done(&place, &moto.endpoint());
    assert!(parts(&moto) == expected);
    assert_eq!((begun(&moto), moto.uploads("out")), (3, Vec::<String>::new()));
    assert!(tree(&run.dir.join("outputs")).is_empty());
    // It is done, as long as it is there.
    assert!(done(&place, &moto.endpoint()).stderr.contains("reused"));
    assert_eq!(begun(&moto), 3);
    moto.delete("out", "scored/data/b.parquet");
    done(&place, &moto.endpoint());
    assert!(parts(&moto) == expected);
    assert_eq!(begun(&moto), 4);
    // Another run of the same job, elsewhere, finds it done.
    fs::remove_dir_all(place.path("runs")).unwrap();
    done(&place, &moto.endpoint());
    assert_eq!(begun(&moto), 4);
    // Another job does not write there.
    for (score, said) in
        [(", limit: 3", "other input"), (", where: \"id > 3\"", "other settings: `where`")]
    {
        let place = Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() };
        let data = fs::canonicalize(Arc::into_inner(three_parts().0.dir).unwrap().keep())
            .unwrap()
            .join("data");
        let error = fails(
            &place.with(&pipeline(&data.display().to_string(), &(score.to_owned() + TO_STORE))),
            &moto.endpoint(),
        );
        assert!(
            error.contains("s3://out/scored holds other work") && error.contains(said),
            "{error}"
        );
    }
    assert!(parts(&moto) == expected);
    moto.put("out", "scored/more/theirs.parquet", b"PAR1");
    fs::remove_dir_all(place.path("runs")).unwrap();
    let error = fails(&place, &moto.endpoint());
    assert!(
        error.contains("s3://out/scored/more/theirs.parquet is no part of this job"),
        "{error}"
    );
}

/// Waits until the second part is on its way.
fn wait_for_second(moto: &Moto) {
    let begun = Instant::now();
    while !(moto.keys("out").contains(&"scored/data/a.parquet".into())
        && moto.uploads("out") == ["scored/data/b.parquet"])
    {
        assert!(begun.elapsed() < Duration::from_secs(100), "no second upload\n{}", moto.log());
    }
}

#[test]
fn killed_in_an_upload_it_leaves_no_part_and_goes_on() {
    let moto = Moto::start(&[]);
    moto.create_bucket("out");
    let (place, expected) = three_parts();
    // Small batches, so that there is time to kill.
    let place = place.with(&pipeline("data", &(", batch_bytes: 1000".to_owned() + TO_STORE)));
    let mut child = command(&place, &moto.endpoint())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_second(&moto);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
    assert!(parts(&moto) == expected[..1]);
    assert_eq!((begun(&moto), moto.uploads("out").len()), (2, 1));
    done(&place, &moto.endpoint());
    assert!(parts(&moto) == expected);
    // The first was not written again, and what the killed one had sent is gone.
    assert_eq!((begun(&moto), moto.uploads("out")), (4, Vec::<String>::new()));
}

#[test]
fn a_network_that_is_cut_in_an_upload_is_an_error_and_leaves_no_part() {
    let moto = Moto::start(&[]);
    moto.create_bucket("out");
    let proxy = Proxy::start(moto.port);
    let (place, expected) = three_parts();
    let place = place.with(&pipeline("data", &(", batch_bytes: 1000".to_owned() + TO_STORE)));
    let child = command(&place, &proxy.endpoint())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_second(&moto);
    proxy.cut();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot write s3://out/scored/data/b.parquet")
            && said.contains("run it again"),
        "{said}"
    );
    assert!(parts(&moto) == expected[..1]);
    proxy.mend();
    done(&place, &proxy.endpoint());
    assert!(parts(&moto) == expected);
    assert_eq!((begun(&moto), moto.uploads("out")), (4, Vec::<String>::new()));
    // Where there is no server, and before anything is scored.
    proxy.cut();
    let said = fails(&place, &proxy.endpoint());
    assert!(said.contains("s3://out/scored"), "{said}");
}

#[test]
fn who_may_not_is_told_what_to_set() {
    // Two requests of anyone, then credentials are asked for.
    let moto = Moto::start(&[("INITIAL_NO_AUTH_ACTION_COUNT", "2")]);
    let place = place();
    write(&place.path("data/a.parquet"), 1, 4, 10, 4);
    upload(&moto, "corpus", &place.path("data"));
    let place = place.with(&pipeline("s3://corpus/", ""));
    let said = fails(&place, &moto.endpoint());
    assert!(said.contains("access is denied") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert!(said.contains("s3://corpus/") && said.contains("pipeline.yaml:3"), "{said}");
    let place = place.with(&pipeline("data", TO_STORE));
    let said = fails(&place, &moto.endpoint());
    assert!(said.contains("s3://out/scored") && said.contains("access is denied"), "{said}");

    let moto = Moto::start(&[]);
    let said = fails(&place, &moto.endpoint());
    assert!(
        said.contains("there is no bucket `out`") && said.contains("pipeline.yaml:6"),
        "{said}"
    );
    let place = place.with(&pipeline("data", ", output: 'https://127.0.0.1/x'"));
    let said = fails(&place, &moto.endpoint());
    assert!(said.contains("takes no files") && said.contains("pipeline.yaml:6"), "{said}");
}

/// Two files of five row groups on a web server, and the folder they lie in.
fn web(ranges: bool) -> (Place, Web, u64) {
    let place = place();
    write(&place.path("data/a b.parquet"), 1, 50, 40_000, 10);
    let bytes = fs::read(place.path("data/a b.parquet")).unwrap();
    let size = bytes.len() as u64;
    let web = Web::start([("in/a%20b.parquet".to_owned(), bytes)].into(), ranges);
    (place, web, size)
}

#[test]
fn a_web_server_is_asked_for_what_is_needed() {
    let (place, server, size) = web(true);
    let url = server.url("in/a%20b.parquet");
    let place = place.with(&pipeline("data", ""));
    let expected = tree(&done(&place, "").dir.join("outputs"));
    let place = place.with(&pipeline(&url, ""));
    assert_same_rows(&tree(&done(&place, "").dir.join("outputs")), &expected);
    let all = server.bytes();
    assert!((size..size + size / 2).contains(&all), "{all} bytes asked for of a file of {size}");
    // Of five row groups one; its chunks are asked for once.
    let place = place.with(&pipeline(&url, ", where: \"id >= 20 and id < 30\""));
    server.asked.lock().unwrap().clear();
    done(&place, "");
    assert!(server.bytes() < size / 2, "{} bytes asked for of a file of {size}", server.bytes());

    let said = fails(&place.with(&pipeline(&server.url("in/none.parquet"), "")), "");
    assert!(said.contains("in/none.parquet is not there"), "{said}");
    let (place, server, _) = web(true);
    for folder in ["in/", "in/*.parquet"] {
        let place = Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() };
        let said = fails(&place.with(&pipeline(&format!("'{}'", server.url(folder)), "")), "");
        assert!(said.contains("a web server lists no files"), "{said}");
    }
    let said = fails(&place.with(&pipeline("http://example.org/a.parquet", "")), "");
    assert!(said.contains("use https://"), "{said}");
    let (place, server, _) = web(false);
    let said = fails(&place.with(&pipeline(&server.url("in/a%20b.parquet"), "")), "");
    assert!(said.contains("server that supports range requests"), "{said}");
}

#[test]
fn what_cannot_be_fetched_is_no_damaged_row() {
    let (place, server, size) = web(true);
    // The footer comes, and the rows do not.
    *server.broken_before.lock().unwrap() = size - (64 << 10);
    let url = server.url("in/a%20b.parquet");
    let said = fails(&place.with(&pipeline(&url, ", on_error: null")), "");
    assert!(said.contains(&format!("cannot read {url}")) && said.contains("503"), "{said}");
}
