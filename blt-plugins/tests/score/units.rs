//! Units: how input is divided, that a part depends on its unit alone, and that what was stopped at
//! any place ends in the same files.

use crate::bench::*;
use arrow::array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use blt_plugins::scoring::Manifest;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const UNITS: &str = "emit: [log_probs, entropies, patch_lengths], context_bytes: 3";

/// Two files: seven row groups, and one.
fn two_files(bench: &Bench) -> Vec<Option<Vec<u8>>> {
    let rows: Vec<Option<Vec<u8>>> = (0..20)
        .map(|i| {
            (i % 6 != 5)
                .then(|| format!("document {i} {}\n", "of words ".repeat(i % 5)).into_bytes())
        })
        .collect();
    let slices: Vec<Option<&[u8]>> = rows.iter().map(|r| r.as_deref()).collect();
    write_parquet(&bench.path("in/a.parquet"), &texts(&slices), 3);
    write_parquet(&bench.path("in/b.parquet"), &texts(&slices[..4]), 10);
    rows
}

fn pipeline(score: &str) -> String {
    let source = "{node: ParquetBytes, path: in, span_bytes: 20}";
    graph(source, ENTROPY) + &format!("  - score: {{goal: loss, {score}}}\n")
}

#[test]
fn a_large_file_is_many_parts_that_hold_what_one_would() {
    let bench = Bench::new();
    two_files(&bench);
    let whole = bench.run(&pipeline(UNITS));
    assert_eq!(file_names(&whole.join("outputs")), ["in/a.parquet", "in/b.parquet"]);
    let whole_a = read_parquet(&whole.join("outputs/in/a.parquet"));
    // A row group of three short rows has some 200 bytes.
    let groups = bench.run(&pipeline(&format!("{UNITS}, part_bytes: 1")));
    let names: Vec<String> = (0..7).map(|g| format!("in/a.{g:05}-{g:05}.parquet")).collect();
    let outputs = groups.join("outputs");
    assert_eq!(file_names(&outputs), [&names[..], &["in/b.parquet".into()]].concat());
    let mut row = 0;
    for name in &names {
        let part = read_parquet(&outputs.join(name));
        assert_eq!(part.columns(), whole_a.slice(row, part.num_rows()).columns(), "{name}");
        row += part.num_rows();
    }
    assert_eq!(row, whole_a.num_rows());
    let sums = |dir: &Path| {
        let mut result = result(dir);
        result.as_object_mut().unwrap().remove("parts");
        // Sums of parts: the same numbers, added in another order.
        let nats = result["nats"].as_f64().unwrap();
        for key in ["nats", "bpb", "histogram"] {
            result.as_object_mut().unwrap().remove(key);
        }
        (result, nats)
    };
    let ((a, a_nats), (b, b_nats)) = (sums(&whole), sums(&groups));
    assert_eq!(a, b);
    assert!((a_nats - b_nats).abs() < 1e-9 * a_nats);
    // The manifest, the results and the footers tell the same of each.
    let manifest: Manifest =
        serde_json::from_slice(&std::fs::read(groups.join("manifest.json")).unwrap()).unwrap();
    let parts = result(&groups)["parts"].clone();
    let parts = parts.as_array().unwrap();
    assert_eq!(parts.len(), 8);
    for (unit, part) in manifest.units.iter().zip(parts) {
        let footer = footer(&outputs.join(&unit.part));
        assert_eq!(
            (part["part"].as_str(), part["input"].as_str()),
            (Some(&unit.part[..]), Some(&unit.input[..]))
        );
        assert_eq!(
            (footer["key"].as_str(), footer["model"].as_str()),
            (Some(&unit.key[..]), Some(&manifest.model[..]))
        );
        assert_eq!(footer["summary"]["rows"], part["rows"]);
        assert!(footer["version"].as_str().unwrap().starts_with("test build f32 "), "{footer}");
    }
    assert_eq!(result(&groups)["model"], manifest.model.as_str());
}

#[test]
fn the_model_s_digest_is_of_what_it_is_and_not_of_where_it_lies() {
    let bench = Bench::new();
    two_files(&bench);
    let train = "  - train: {goal: loss, steps: 2, batch_bytes: 200, lr: 1e-3}\n";
    let trained = |seed: u64| {
        let text =
            graph("{node: ParquetBytes, path: in}", ENTROPY) + train + "  - score: {goal: loss}\n";
        let report = bench
            .run_told(&format!("seed: {seed}\n{text}"), "runs", &Told::default())
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        (
            result(&report.plans[0].steps[1].dir)["model"].clone(),
            report.plans[0].steps[0].dir.join("checkpoints/final"),
        )
    };
    let ((first, checkpoint), (other, _)) = (trained(1), trained(2));
    assert_ne!(first, other);
    let by_node = |dir: &str| {
        let text = format!(
            "name: score\ngraph:\n  docs: {{node: ParquetBytes, path: in}}\n  blt: {{node: Blt, in: docs, checkpoint: {dir}}}\nrun:\n  - score: {{goal: blt}}\n"
        );
        let dir = bench.run(&text);
        (result(&dir)["model"].clone(), files(&dir.join("outputs")))
    };
    let copy = bench.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&checkpoint).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    assert_eq!(by_node("copy"), by_node(checkpoint.to_str().unwrap()));
}

#[test]
fn the_entropy_model_of_a_checkpoint_scores_alone() {
    let bench = Bench::new();
    two_files(&bench);
    let train = "  - train: {goal: loss, steps: 2, batch_bytes: 200, lr: 1e-3}\n";
    let score = |goal: &str| format!("  - score: {{goal: {goal}, emit: [log_probs, entropies]}}\n");
    let trained =
        graph("{node: ParquetBytes, path: in}", ENTROPY) + train + &score("lm") + &score("loss");
    let report = bench
        .run_told(&trained, "runs", &Told::default())
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    let dirs: Vec<&PathBuf> = report.plans[0].steps.iter().map(|step| &step.dir).collect();
    let [trained, alone, whole] = dirs[..] else { panic!("{} steps", dirs.len()) };
    let text = format!(
        "name: score\ngraph:\n  docs: {{node: ParquetBytes, path: in}}\n  blt: {{node: Blt, in: docs, checkpoint: {}}}\nrun:\n{}",
        trained.join("checkpoints/final").display(),
        score("blt.entropies")
    );
    let read = |dir: &Path| {
        let outputs = dir.join("outputs");
        let parts = file_names(&outputs);
        let columns = parts.iter().map(|name| {
            let part = read_parquet(&outputs.join(name));
            (f64s(&part, "nats"), f32_lists(&part, "log_probs"), f32_lists(&part, "entropies"))
        });
        columns.collect::<Vec<_>>()
    };
    let by_node = read(&bench.run(&text));
    assert_eq!(by_node, read(alone));
    assert_ne!(by_node, read(whole));
}

#[test]
fn stopped_at_any_row_it_ends_in_the_same_files_and_scores_no_part_twice() {
    let bench = Bench::new();
    two_files(&bench);
    let text = pipeline(&format!("{UNITS}, part_bytes: 500, batch_bytes: 40"));
    let whole = bench
        .run_told(&text, "whole", &Told::default())
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    let whole = &whole.plans[0].steps[0].dir;
    assert!(file_names(&whole.join("outputs")).len() >= 4);
    let (mut stops, mut most_done) = (0, 0);
    for stop_after in 0..24 {
        let runs = format!("runs-{stop_after}");
        let mut finished: Vec<(String, std::time::SystemTime)> = Vec::new();
        let mut left = u64::MAX;
        // Stopped again and again, after as many rows each time.
        let done = loop {
            let told = Told { stop_after: Some(stop_after), ..Told::default() };
            let ended = bench.run_told(&text, &runs, &told);
            let to_do = told.totals.borrow().first().copied().flatten().unwrap();
            assert!(to_do <= left, "what was finished was to be scored again");
            let stopped = match ended {
                Ok(report) => break report,
                Err(error) => error,
            };
            assert!(stopped.interrupted(), "{stopped}");
            stops += 1;
            let outputs = stopped_dir(&bench, &runs).join("outputs");
            let modified =
                |name: &str| std::fs::metadata(outputs.join(name)).unwrap().modified().unwrap();
            finished
                .iter()
                .for_each(|(name, at)| assert_eq!(modified(name), *at, "{name} was written again"));
            finished = file_names(&outputs)
                .into_iter()
                .map(|name| (name.clone(), modified(&name)))
                .collect();
            most_done = most_done.max(finished.len());
            if to_do == left {
                // Too few rows to finish a part with: now without an end.
                break bench
                    .run_told(&text, &runs, &Told::default())
                    .unwrap_or_else(|e| panic!("{}", e.render(false)));
            }
            left = to_do;
        };
        let dir = &done.plans[0].steps[0].dir;
        for what in ["outputs", ""] {
            let without_times = |dir: &Path| -> Vec<(String, Vec<u8>)> {
                let not = |name: &str| ["timing.json", "step.json"].contains(&name);
                files(&dir.join(what)).into_iter().filter(|(name, _)| !not(name)).collect()
            };
            assert!(
                without_times(dir) == without_times(whole),
                "stopped after {stop_after} rows: {what}"
            );
        }
    }
    assert!(
        stops > 24 && most_done >= 3,
        "{stops} stops, at most {most_done} parts finished before one"
    );
}

#[test]
fn a_part_of_another_job_is_not_taken_for_one() {
    let bench = Bench::new();
    two_files(&bench);
    let text = pipeline("part_bytes: 500, batch_bytes: 40");
    let stop = Told { stop_after: Some(14), ..Told::default() };
    assert!(bench.run_told(&text, "runs", &stop).is_err_and(|e| e.interrupted()));
    let outputs = stopped_dir(&bench, "runs").join("outputs");
    let finished = file_names(&outputs);
    std::fs::copy(outputs.join(&finished[0]), outputs.join("in/b.parquet")).unwrap();
    let error = bench.fails(&text);
    assert!(
        error.contains("in/b.parquet holds other scores: of in/a.parquet, by model"),
        "{error}"
    );
    std::fs::write(outputs.join("in/b.parquet"), "no Parquet").unwrap();
    let error = bench.fails(&text);
    assert!(error.contains("in/b.parquet is not the part that an earlier run left"), "{error}");
}

#[test]
fn threads_change_no_bit() {
    let bench = Bench::new();
    two_files(&bench);
    let parts = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let text = pipeline(UNITS);
        pool.install(|| {
            let runs = format!("runs-{threads}");
            let report = bench
                .run_told(&text, &runs, &Told::default())
                .unwrap_or_else(|e| panic!("{}", e.render(false)));
            files(&report.plans[0].steps[0].dir.join("outputs"))
        })
    };
    let one = parts(1);
    assert!(one.len() == 2);
    for threads in [2, 3, 7] {
        assert!(parts(threads) == one, "{threads} threads");
    }
}

#[test]
fn folders_of_partitions_become_columns() {
    let bench = Bench::new();
    let plain = texts(&[Some(b"one"), None]);
    let own: ArrayRef = Arc::new(StringArray::from(vec!["own"]));
    let text: ArrayRef = Arc::new(LargeBinaryArray::from_iter([Some(b"three")]));
    let differs =
        RecordBatch::try_from_iter_with_nullable([("lang", own, true), ("text", text, true)])
            .unwrap();
    for (name, batch) in [
        ("in/lang=en/year=2024/a.parquet", &plain),
        ("in/lang=__HIVE_DEFAULT_PARTITION__/year=2025/a.parquet", &plain),
        ("in/lang=de/b.parquet", &differs),
    ] {
        let path = bench.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_parquet(&path, batch, 10);
    }
    let score = |more: &str| {
        bench.run(
            &(lm_graph("{node: ParquetBytes, path: in}")
                + &format!("  - score: {{goal: lm{more}}}\n")),
        )
    };
    let outputs = score("").join("outputs");
    let expected = [
        "in/lang-__HIVE_DEFAULT_PARTITION__/year-2025/a.parquet",
        "in/lang-de/b.parquet",
        "in/lang-en/year-2024/a.parquet",
    ];
    assert_eq!(file_names(&outputs), expected);
    let [none, de, en] = expected.map(|name| read_parquet(&outputs.join(name)));
    assert_eq!(names(&en), ["id", "text", "lang", "year", "n_bytes", "nats", "bits_per_byte"]);
    assert_eq!(
        (strings(&en, "lang"), i64s(&en, "year")),
        (vec![Some("en".into()); 2], vec![Some(2024); 2])
    );
    assert_eq!((strings(&none, "lang"), i64s(&none, "year")), (vec![None; 2], vec![Some(2025); 2]));
    // A column of the file's own is not doubled; a folder that others have is null.
    assert_eq!(names(&de), ["lang", "text", "year", "n_bytes", "nats", "bits_per_byte"]);
    assert_eq!((strings(&de, "lang"), i64s(&de, "year")), (vec![Some("own".into())], vec![None]));
    // What stands above the path that is named says where the data is, and is no column.
    let named = lm_graph("{node: ParquetBytes, path: in/lang=en}") + "  - score: {goal: lm}\n";
    let part = bench.run(&named).join("outputs").join(expected[2]);
    assert_eq!(names(&read_parquet(&part))[2..], ["year", "n_bytes", "nats", "bits_per_byte"]);
    // They can be asked for like any other, and what they rule out is not read.
    break_chunk(&bench.path("in/lang=__HIVE_DEFAULT_PARTITION__/year=2025/a.parquet"), 0, 0);
    let dir = score(", where: \"year <= 2024 and lang = 'en'\", by: lang");
    let found = result(&dir);
    assert_eq!(
        (&found["rows"], &found["documents"], &found["row_groups_skipped"]),
        (&2.into(), &1.into(), &2.into())
    );
    assert_eq!(
        found["histogram"]["groups"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["en"]
    );
    assert_eq!(file_names(&dir.join("outputs")), expected);
}

#[test]
fn a_hundred_megabytes_in_one_document() {
    let bench = Bench::new();
    let mut document = b"A line of text, and another.\n".repeat(100_000_000 / 29 + 1);
    document.truncate(100_000_000);
    let rows: Vec<Option<&[u8]>> = vec![Some(b"before"), Some(&document), Some(b"after")];
    let text: ArrayRef = Arc::new(LargeBinaryArray::from_iter(rows));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2]));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", text)]).unwrap();
    write_parquet(&bench.path("in/a.parquet"), &batch, 3);
    let source = "{node: ParquetBytes, path: in}";
    let text = format!(
        "name: score\ngraph:\n  docs: {source}\n  patches: {{node: SpacePatch, in: docs}}\nrun:\n  - score: {{goal: patches, context_bytes: 100}}\n"
    );
    let scored = read_parquet(&bench.run(&text).join("outputs/in/a.parquet"));
    assert_eq!(i64s(&scored, "n_bytes"), [Some(6), Some(100_000_000), Some(5)]);
    // A patch of each word, spans or not, but for those cut by a span's start: at most one more in
    // each of 12,356 spans.
    let words = 6 * (100_000_000 / 29);
    let n_patches = i64s(&scored, "n_patches")[1].unwrap();
    assert!((words..words + 15_000).contains(&n_patches), "{n_patches} patches of {words} words");
    assert_eq!(scored["text"].as_ref(), batch["text"].as_ref());
}

#[test]
fn results_show_distributions() {
    let bench = Bench::new();
    two_files(&bench);
    let found = result(&bench.run(&pipeline("by: id")));
    let histogram = &found["histogram"];
    assert_eq!((&histogram["of"], &histogram["by"]), (&"bits_per_byte".into(), &"id".into()));
    let sum = |counts: &Value| {
        counts.as_object().unwrap().values().map(|c| c.as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(sum(&histogram["all"]["counts"]), found["documents"].as_u64().unwrap());
    // Ids 0 to 3 are in both files, of which 5, 11, 17 are null.
    let groups = histogram["groups"].as_object().unwrap();
    assert_eq!(
        (groups.len(), &groups["0"]["documents"], &groups["19"]["documents"]),
        (17, &2.into(), &1.into())
    );
    let bytes: u64 = groups.values().map(|g| g["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, found["bytes"].as_u64().unwrap());
}

#[test]
fn a_condition_that_one_file_does_not_fit_names_it() {
    let bench = Bench::new();
    two_files(&bench);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a text", "another"]));
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    write_parquet(
        &bench.path("in/b.parquet"),
        &RecordBatch::try_from_iter([("id", ids), ("text", text)]).unwrap(),
        10,
    );
    for (condition, file) in [("id > 0", "in/b.parquet"), ("id = 'x'", "in/a.parquet")] {
        for parameter in ["where", "keep"] {
            let error = bench.fails(&pipeline(&format!("{parameter}: \"{condition}\"")));
            assert!(
                error.contains("does not fit the columns of")
                    && error.contains(&format!("{file}: ")),
                "{error}"
            );
        }
    }
}

#[test]
fn parts_go_where_output_says() {
    let bench = Bench::new();
    two_files(&bench);
    let units = format!("{UNITS}, part_bytes: 500");
    let expected = files(&bench.run(&pipeline(&units)).join("outputs"));
    let text = pipeline(&format!("{units}, output: to/scored"));
    let run = |text: &str, runs: &str| {
        let report = bench
            .run_told(text, runs, &Told::default())
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        let steps = &report.plans[0].steps;
        (steps[0].dir.clone(), steps[0].reused)
    };
    let to = bench.path("to/scored");
    let parts = || {
        files(&to).into_iter().filter(|(name, _)| name.ends_with(".parquet")).collect::<Vec<_>>()
    };
    let (dir, _) = run(&text, "runs");
    assert!(parts() == expected && !dir.join("outputs").exists());
    assert_eq!(result(&dir)["output"], "to/scored");
    // Beside the parts nothing but the manifest, which is the step's own.
    let others: Vec<String> =
        file_names(&to).into_iter().filter(|name| !name.ends_with(".parquet")).collect();
    assert_eq!(others, ["_manifest.json"]);
    let manifest =
        |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(manifest(&to.join("_manifest.json")), manifest(&dir.join("manifest.json")));

    // Done, as long as all is there; and what is there is not written again, whichever run asks.
    assert!(run(&text, "runs").1);
    let written = |name: &str| std::fs::metadata(to.join(name)).unwrap().modified().unwrap();
    let (first, last) = (&expected[0].0, &expected[expected.len() - 1].0);
    let at = written(first);
    std::fs::remove_file(to.join(last)).unwrap();
    assert!(!run(&text, "runs").1);
    assert!(parts() == expected);
    assert!(!run(&text, "other-runs").1);
    assert_eq!(written(first), at);

    // A part that was cut off since is noticed, and told.
    let whole = std::fs::read(to.join(last)).unwrap();
    std::fs::write(to.join(last), &whole[..whole.len() / 2]).unwrap();
    let error =
        bench.run_told(&text, "runs", &Told::default()).map(|_| ()).unwrap_err().render(false);
    assert!(
        error.contains("is not the part that an earlier run left") && error.contains(last),
        "{error}"
    );
    std::fs::write(to.join(last), &whole).unwrap();
    run(&text, "runs");
    assert!(run(&text, "runs").1);

    // What others do there is left alone.
    let refused = |text: &str, said: &str| {
        let error = bench
            .run_told(text, "third-runs", &Told::default())
            .map(|_| ())
            .unwrap_err()
            .render(false);
        assert!(error.contains("to/scored holds other work") && error.contains(said), "{error}");
        assert!(parts().len() >= expected.len());
    };
    refused(
        &text.replace("part_bytes: 500", "part_bytes: 500, keep: \"n_bytes > 3\""),
        "other settings: `keep`",
    );
    refused(
        &text.replace("part_bytes: 500", "part_bytes: 1"),
        "other input: it is divided by another `part_bytes`",
    );
    refused(&format!("seed: 5\n{text}"), "another model");
    std::fs::write(to.join("theirs.parquet"), "PAR1").unwrap();
    refused(&text, "theirs.parquet is no part of this job");
    let error =
        bench.run_told(&text, "runs", &Told::default()).map(|_| ()).unwrap_err().render(false);
    assert!(error.contains("theirs.parquet is no part of this job"), "{error}");
    std::fs::remove_file(to.join("theirs.parquet")).unwrap();
    std::fs::write(to.join("_manifest.json"), "{}").unwrap();
    refused(&text, "is not one of this program");
    // Without a manifest, parts are known by what they hold.
    std::fs::remove_file(to.join("_manifest.json")).unwrap();
    std::fs::write(to.join(first), "no part").unwrap();
    let error = bench
        .run_told(&text, "third-runs", &Told::default())
        .map(|_| ())
        .unwrap_err()
        .render(false);
    assert!(
        error.contains("is no part that this program wrote") && error.contains(first),
        "{error}"
    );
    // The input's own folder is such a place.
    let error = bench.fails(&pipeline(&format!("{units}, output: in")));
    assert!(
        error.contains("in holds the input")
            && error.contains("a.parquet, and scores go to a folder of their own"),
        "{error}"
    );
    let error = bench.fails(&pipeline(&format!("{units}, output: ' '")));
    assert!(error.contains("a folder or a URL, and not empty"), "{error}");
}
