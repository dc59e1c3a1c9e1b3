//! The `score` step, run as a pipeline runs it: what it writes, that batches and spans do not show,
//! and how it goes on.

mod bench;
mod errors;
mod filters;
mod remote;
mod types;
mod units;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Int32Array, Int64Array, LargeBinaryArray, ListArray,
    RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema};
use arrow::ipc::writer::FileWriter;
use bench::*;
use blt_graph::run::RunReport;
use serde_json::Value;
use std::collections::HashMap;
use std::f64::consts::LN_2;
use std::fs::File;
use std::sync::Arc;

/// What must hold of any scores with all lists.
fn check_scores(batch: &RecordBatch, documents: &[Option<&[u8]>]) {
    let (n_bytes, n_patches) = (i64s(batch, "n_bytes"), i64s(batch, "n_patches"));
    let (nats, bits) = (f64s(batch, "nats"), f64s(batch, "bits_per_byte"));
    let (log_probs, entropies) = (f32_lists(batch, "log_probs"), f32_lists(batch, "entropies"));
    let lengths = i32_lists(batch, "patch_lengths");
    assert_eq!(batch.num_rows(), documents.len());
    for (i, document) in documents.iter().enumerate() {
        let Some(document) = document else {
            assert_eq!((n_bytes[i], n_patches[i], nats[i], bits[i]), (None, None, None, None));
            assert!(log_probs[i].is_none() && entropies[i].is_none() && lengths[i].is_none());
            continue;
        };
        let n = document.len();
        let (log_probs, entropies) =
            (log_probs[i].as_ref().unwrap(), entropies[i].as_ref().unwrap());
        let lengths = lengths[i].as_ref().unwrap();
        assert_eq!((n_bytes[i], log_probs.len(), entropies.len()), (Some(n as i64), n, n + 1));
        assert_eq!((lengths[0], lengths.iter().sum::<i32>()), (1, n as i32 + 1), "{lengths:?}");
        assert!(lengths.iter().all(|&l| l > 0));
        assert_eq!(n_patches[i], Some(lengths.len() as i64 - 1));
        let sum: f64 = log_probs.iter().map(|&x| x as f64).sum();
        assert!((sum + nats[i].unwrap()).abs() < 1e-9, "{sum} {nats:?}");
        assert!(log_probs.iter().all(|x| *x < 0.0) && entropies.iter().all(|x| *x > 0.0));
        match n {
            0 => assert_eq!((nats[i], bits[i]), (Some(0.0), None)),
            _ => assert_eq!(bits[i], Some(nats[i].unwrap() / LN_2 / n as f64)),
        }
    }
}

#[test]
fn rows_come_back_whole_and_scored() {
    let bench = Bench::new();
    let n = ROWS.len();
    let domain: DictionaryArray<Int8Type> = [
        Some("code"),
        None,
        Some("empty"),
        Some("code"),
        None,
        Some("x"),
        Some("prose"),
        Some("x"),
    ]
    .into_iter()
    .collect();
    let values: ArrayRef =
        Arc::new(Int32Array::from_iter((0..n as i32 * 2).map(|v| (v % 3 > 0).then_some(v))));
    let item = Arc::new(Field::new_list_field(DataType::Int32, true));
    let nulls = NullBuffer::from_iter((0..n).map(|i| i % 4 != 3));
    let list =
        ListArray::new(item.clone(), OffsetBuffer::from_lengths(vec![2; n]), values, Some(nulls));
    let name: ArrayRef =
        Arc::new(StringArray::from_iter((0..n).map(|i| (i != 2).then(|| format!("row {i}")))));
    let nested = StructArray::from(vec![
        (Arc::new(Field::new("list", list.data_type().clone(), true)), Arc::new(list) as ArrayRef),
        (Arc::new(Field::new("name", DataType::Utf8, true)), name),
    ]);
    let text: ArrayRef = Arc::new(LargeBinaryArray::from_iter(ROWS));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n as i64));
    let fields = vec![
        Field::new("id", DataType::Int64, false)
            .with_metadata(HashMap::from([("unit".to_string(), "row".to_string())])),
        Field::new("text", DataType::LargeBinary, true),
        Field::new("domain", domain.data_type().clone(), true),
        Field::new("nested", nested.data_type().clone(), true),
    ];
    let schema = Schema::new_with_metadata(
        fields,
        HashMap::from([("made by".to_string(), "a test".to_string())]),
    );
    let input =
        RecordBatch::try_new(Arc::new(schema), vec![ids, text, Arc::new(domain), Arc::new(nested)])
            .unwrap();
    std::fs::create_dir(bench.path("in/deep")).unwrap();
    write_parquet(&bench.path("in/a.parquet"), &input, 3);
    write_parquet(&bench.path("in/b.parquet"), &input.slice(0, 0), 3);
    write_parquet(&bench.path("in/deep/c.parquet"), &input.slice(4, 3), 3);

    let run =
        format!("  - evaluate: {{goal: loss, split: all}}\n  - score: {{goal: loss, {EMIT}}}\n");
    let report = bench
        .run_told(&(graph(SOURCE, ENTROPY) + &run), "runs", &Told::default())
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    let (evaluated, scored) = (&report.plans[0].steps[0].dir, &report.plans[0].steps[1].dir);
    // As the run's directory shows them.
    let outputs = report.dir.path.join("outputs/in");
    let written = read_parquet(&outputs.join("a.parquet"));
    assert_eq!(
        names(&written),
        [
            "id",
            "text",
            "domain",
            "nested",
            "n_bytes",
            "n_patches",
            "nats",
            "bits_per_byte",
            "log_probs",
            "entropies",
            "patch_lengths"
        ]
    );
    let (before, after) =
        (read_parquet(&bench.path("in/a.parquet")), written.project(&[0, 1, 2, 3]).unwrap());
    assert_eq!(after.columns(), before.columns());
    assert_eq!(after.schema().fields(), before.schema().fields());
    assert_eq!(written.schema().metadata()["made by"], "a test");
    let float = DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)));
    assert_eq!(written.schema().field_with_name("log_probs").unwrap().data_type(), &float);
    check_scores(&written, &ROWS);

    let none = read_parquet(&outputs.join("b.parquet"));
    assert_eq!((none.num_rows(), names(&none)), (0, names(&written)));
    let last = read_parquet(&outputs.join("deep/c.parquet"));
    check_scores(&last, &ROWS[4..7]);
    // A document's scores do not depend on its file.
    assert_eq!(last.columns(), written.slice(4, 3).columns());

    let result = result(scored);
    let counts = |key: &str| result[key].as_u64().unwrap();
    let bytes: u64 = ROWS.iter().chain(&ROWS[4..7]).flatten().map(|d| d.len() as u64).sum();
    assert_eq!(
        (counts("rows"), counts("documents"), counts("nulls"), counts("empty"), counts("bytes")),
        (11, 9, 2, 1, bytes)
    );
    assert_eq!(result["kind"], "score");
    let parts: Vec<_> = result["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["part"].as_str().unwrap(), p["rows"].as_u64().unwrap()))
        .collect();
    assert_eq!(parts, [("in/a.parquet", 8), ("in/b.parquet", 0), ("in/deep/c.parquet", 3)]);

    // The same numbers as the evaluation's, which leaves out null and empty documents.
    let lines = std::fs::read_to_string(evaluated.join("documents.jsonl")).unwrap();
    let mut compared = 0;
    for line in lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()) {
        let row = line["row"].as_u64().unwrap() as usize;
        let (batch, i) = if row < n { (&written, row) } else { (&last, row - n) };
        assert_eq!(i64s(batch, "n_bytes")[i], line["bytes"].as_i64());
        assert_eq!(i64s(batch, "n_patches")[i], line["patches"].as_i64());
        let (ours, theirs) = (f64s(batch, "nats")[i].unwrap(), line["nats"].as_f64().unwrap());
        assert!((ours - theirs).abs() <= 1e-12 * theirs, "{ours} {theirs}");
        compared += 1;
    }
    assert_eq!(compared, 8);
    let evaluation: Value =
        serde_json::from_slice(&std::fs::read(evaluated.join("result.json")).unwrap()).unwrap();
    assert!((result["bpb"].as_f64().unwrap() - evaluation["bpb"].as_f64().unwrap()).abs() < 1e-12);
}

#[test]
fn batches_change_no_bit() {
    let bench = Bench::new();
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 3);
    write_parquet(&bench.path("in/b.parquet"), &texts(&ROWS[3..6]), 2);
    for path in ["fused", "reference"] {
        let parts = |batch_bytes: usize| -> Vec<Vec<u8>> {
            let run = format!(
                "  - score: {{goal: loss, {EMIT}, context_bytes: 2, batch_bytes: {batch_bytes}}}\npath: {path}\n"
            );
            let source = "{node: ParquetBytes, path: in, span_bytes: 12}";
            let outputs = bench.run(&(graph(source, ENTROPY) + &run)).join("outputs/in");
            ["a.parquet", "b.parquet"]
                .iter()
                .map(|part| std::fs::read(outputs.join(part)).unwrap())
                .collect()
        };
        // A batch of 1 is each span alone.
        let alone = parts(1);
        for batch_bytes in [20, 57, 32 * 1024] {
            assert!(parts(batch_bytes) == alone, "{path} with batch_bytes {batch_bytes}");
        }
    }
}

#[test]
fn spans_count_each_byte_once_and_see_their_context() {
    let bench = Bench::new();
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 100);
    let score = |span_bytes: usize, context: usize, goal: &str, emit: &str| {
        let source = format!("{{node: ParquetBytes, path: in, span_bytes: {span_bytes}}}");
        let run = format!("  - score: {{goal: {goal}, {emit}, context_bytes: {context}}}\n");
        let text = if goal == "loss" { graph(&source, ENTROPY) } else { lm_graph(&source) };
        read_parquet(&bench.run(&(text + &run)).join("outputs/in/a.parquet"))
    };
    for (span_bytes, context) in [(8, 0), (8, 4), (9, 8), (1, 0), (2, 1)] {
        check_scores(&score(span_bytes, context, "loss", EMIT), &ROWS);
    }
    // The model sees 4 ids back, so with that much context, spans differ from the whole by rounding
    // alone.
    let emit = "emit: [log_probs, entropies]";
    let whole = score(1000, 0, "lm", emit);
    let distance = |other: &RecordBatch| -> f32 {
        let columns = ["log_probs", "entropies"]
            .into_iter()
            .flat_map(|c| f32_lists(&whole, c).into_iter().zip(f32_lists(other, c)));
        let pairs = columns.filter_map(|(a, b)| Some((a?, b?)));
        let far = pairs.map(|(a, b)| {
            assert_eq!(a.len(), b.len());
            a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        });
        far.fold(0.0, f32::max)
    };
    assert!(distance(&score(8, 4, "lm", emit)) < 1e-4);
    assert!(distance(&score(13, 7, "lm", emit)) < 1e-4);
    assert!(distance(&score(8, 0, "lm", emit)) > 1e-2);
    let error = bench.fails(
        &(lm_graph("{node: ParquetBytes, path: in, span_bytes: 8}")
            + "  - score: {goal: lm, context_bytes: 8}\n"),
    );
    assert!(error.contains("context_bytes is 8") && error.contains("span_bytes"), "{error}");
}

#[test]
fn a_byte_lm_and_a_patcher_are_goals_too() {
    let bench = Bench::new();
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 3);
    let score = |text: String| read_parquet(&bench.run(&text).join("outputs/in/a.parquet"));
    let lm = score(lm_graph(SOURCE) + "  - score: {goal: lm, emit: [log_probs]}\n");
    assert_eq!(names(&lm), ["id", "text", "n_bytes", "nats", "bits_per_byte", "log_probs"]);
    let loss =
        score(lm_graph(SOURCE) + "  - score: {goal: lm.loss, emit: [log_probs, entropies]}\n");
    assert_eq!(f64s(&lm, "nats"), f64s(&loss, "nats"));
    assert_eq!(f32_lists(&loss, "entropies")[2].as_ref().unwrap().len(), 1);

    let patcher = |patcher: &str, score: &str| {
        format!(
            "name: score\ngraph:\n  docs: {SOURCE}\n  patches: {patcher}\nrun:\n  - score: {{goal: patches{score}}}\n"
        )
    };
    let stride =
        score(patcher("{node: StridePatch, in: docs, stride: 4}", ", emit: [patch_lengths]"));
    assert_eq!(names(&stride), ["id", "text", "n_bytes", "n_patches", "patch_lengths"]);
    let expected = |n: usize| -> Vec<i32> {
        std::iter::once(1).chain((0..n).step_by(4).map(|i| 4.min(n - i) as i32)).collect()
    };
    let lengths = ROWS.iter().map(|row| row.map(|row| expected(row.len())));
    assert_eq!(i32_lists(&stride, "patch_lengths"), lengths.collect::<Vec<_>>());
    let patches = ROWS.iter().map(|row| row.map(|row| row.len().div_ceil(4) as i64));
    assert_eq!(i64s(&stride, "n_patches"), patches.collect::<Vec<_>>());

    for (emit, said) in [("log_probs", "no log_probs"), ("entropies", "no entropies")] {
        let error = bench.fails(&patcher(
            "{node: StridePatch, in: docs, stride: 4}",
            &format!(", emit: [{emit}]"),
        ));
        assert!(error.contains(said), "{error}");
    }
    let error = bench.fails(&(lm_graph(SOURCE) + "  - score: {goal: lm, emit: [patch_lengths]}\n"));
    assert!(error.contains("no patch_lengths"), "{error}");
    let error = bench.fails(&(lm_graph(SOURCE) + "  - score: {goal: lm.logits}\n"));
    assert!(error.contains("is Logits"), "{error}");
}

#[test]
fn lists_fed_back_in_give_the_same_patches() {
    let bench = Bench::new();
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 3);
    let emit = "  - score: {goal: loss, emit: [entropies, patch_lengths]}\n";
    let first =
        read_parquet(&bench.run(&(graph(SOURCE, ENTROPY) + emit)).join("outputs/in/a.parquet"));
    let again = ["id", "text", "entropies", "patch_lengths"]
        .map(|name| (format!("given {name}"), first[name].clone(), true));
    std::fs::create_dir(bench.path("again")).unwrap();
    write_parquet(
        &bench.path("again/a.parquet"),
        &RecordBatch::try_from_iter_with_nullable(again).unwrap(),
        3,
    );
    let patches = |nodes: &str| {
        let source = "{node: ParquetBytes, path: again, column: given text}";
        let text = format!(
            "name: score\ngraph:\n  docs: {source}\n{nodes}run:\n  - score: {{goal: patches, emit: [patch_lengths]}}\n"
        );
        i32_lists(&read_parquet(&bench.run(&text).join("outputs/again/a.parquet")), "patch_lengths")
    };
    let lengths = i32_lists(&first, "patch_lengths");
    assert!(
        lengths.iter().flatten().any(|l| l.iter().any(|&l| l > 1)),
        "no patch is longer than a byte: {lengths:?}"
    );
    assert_eq!(
        patches("  patches: {node: ColumnPatch, in: docs, column: given patch_lengths}\n"),
        lengths
    );
    let entropies = "  given: {node: ColumnEntropies, in: docs, column: given entropies}\n";
    let rule = ENTROPY.replace("lm", "given");
    assert_eq!(patches(&format!("{entropies}  patches: {rule}\n")), lengths);
}

#[test]
fn a_stopped_run_goes_on_with_what_is_not_finished() {
    let bench = Bench::new();
    for file in ["a", "b", "c"] {
        write_parquet(&bench.path(&format!("in/{file}.parquet")), &texts(&ROWS), 3);
    }
    let text =
        graph(SOURCE, ENTROPY) + &format!("  - score: {{goal: loss, {EMIT}, batch_bytes: 30}}\n");
    let stop = Told { stop_after: Some(12), ..Told::default() };
    let Err(stopped) = bench.run_told(&text, "runs", &stop) else { panic!("it was not stopped") };
    assert!(stopped.interrupted(), "{stopped}");
    let partial = stopped_dir(&bench, "runs");
    let finished: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .filter(|f| partial.join(format!("outputs/in/{f}.parquet")).exists())
        .collect();
    assert_eq!(finished, ["a"]);
    // What a kill left of the part in work.
    std::fs::create_dir_all(partial.join("partial")).unwrap();
    std::fs::write(partial.join("partial/1.parquet"), "torn").unwrap();

    let stop = Told { stop_after: Some(12), ..Told::default() };
    assert!(bench.run_told(&text, "runs", &stop).is_err_and(|e| e.interrupted()));
    assert_eq!(*stop.totals.borrow(), [Some(16)]);
    // A part that is lost is made again, and no other.
    std::fs::remove_file(partial.join("outputs/in/a.parquet")).unwrap();
    let rest = Told::default();
    let resumed =
        bench.run_told(&text, "runs", &rest).unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert_eq!(*rest.totals.borrow(), [Some(16)]);
    let whole = bench
        .run_told(&text, "others", &Told::default())
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    for file in
        ["outputs/in/a.parquet", "outputs/in/b.parquet", "outputs/in/c.parquet", "result.json"]
    {
        let read =
            |report: &RunReport| std::fs::read(report.plans[0].steps[0].dir.join(file)).unwrap();
        assert!(read(&resumed) == read(&whole), "{file}");
    }
    assert!(!resumed.plans[0].steps[0].dir.join("partial").exists());
}

#[test]
fn arrow_and_text_files_become_parquet() {
    let bench = Bench::new();
    // One batch of more rows than a piece has, and a dictionary as the text.
    let n = 2500;
    let words = ["one", "", "three and more", "4"];
    let text: DictionaryArray<Int32Type> =
        (0..n).map(|i| (i % 7 != 0).then(|| words[i % 4])).collect();
    let views: ArrayRef = Arc::new(StringViewArray::from_iter(
        (0..n).map(|i| (i % 5 != 0).then(|| format!("a string of some length {i}"))),
    ));
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("text", Arc::new(text) as ArrayRef, true),
        ("view", views, true),
    ])
    .unwrap();
    let mut writer =
        FileWriter::try_new(File::create(bench.path("in/a.arrow")).unwrap(), &batch.schema())
            .unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let dir = bench.run(
        &(lm_graph("{node: ArrowBytes, path: in}") + "  - score: {goal: lm, batch_bytes: 300}\n"),
    );
    let written = read_parquet(&dir.join("outputs/in/a.arrow.parquet"));
    assert_eq!((written.num_rows(), &written["view"]), (n, &batch["view"]));
    assert_eq!(written.schema().field(0), batch.schema().field(0));
    let n_bytes: Vec<Option<i64>> =
        (0..n).map(|i| (i % 7 != 0).then(|| words[i % 4].len() as i64)).collect();
    assert_eq!(i64s(&written, "n_bytes"), n_bytes);
    let nats = f64s(&written, "nats");
    assert!((28..n).all(|i| nats[i] == nats[i % 28]));

    std::fs::write(bench.path("in/a.txt"), "one line\n\nthree").unwrap();
    std::fs::write(bench.path("in/b.txt"), "").unwrap();
    let score = |source: &str| {
        bench.run(&(lm_graph(source) + "  - score: {goal: lm}\n")).join("outputs/in")
    };
    let lines =
        read_parquet(&score("{node: TextFiles, path: in, lines: true}").join("a.txt.parquet"));
    assert_eq!(i64s(&lines, "n_bytes"), [Some(8), Some(0), Some(5)]);
    let files = score("{node: TextFiles, path: in}");
    for (file, n) in [("a", 15), ("b", 0)] {
        let file = read_parquet(&files.join(format!("{file}.txt.parquet")));
        assert_eq!(
            (names(&file)[..2].to_vec(), i64s(&file, "n_bytes")),
            (vec!["text".into(), "path".into()], vec![Some(n)])
        );
    }
}

#[test]
fn a_split_leaves_its_rows_alone() {
    let bench = Bench::new();
    let documents: Vec<String> = (0..60).map(|i| format!("document {i}")).collect();
    let rows: Vec<Option<&[u8]>> = documents.iter().map(|d| Some(d.as_bytes())).collect();
    write_parquet(&bench.path("in/a.parquet"), &texts(&rows), 7);
    let score = |split: &str| {
        let source = "{node: ParquetBytes, path: in, split: {valid: 0.4, by: id}}";
        let dir =
            bench.run(&(lm_graph(source) + &format!("  - score: {{goal: lm, split: {split}}}\n")));
        let batch = read_parquet(&dir.join("outputs/in/a.parquet"));
        i64s(&batch, "id").into_iter().zip(f64s(&batch, "nats")).collect::<Vec<_>>()
    };
    let (all, train, valid) = (score("all"), score("train"), score("valid"));
    assert!(train.len() > 10 && valid.len() > 10 && train.is_sorted_by_key(|(id, _)| *id));
    let mut both: Vec<_> = train.into_iter().chain(valid).collect();
    both.sort_by_key(|(id, _)| *id);
    assert_eq!(both, all);
}

#[test]
fn columns_that_clash_are_told_before_anything_is_trained() {
    let bench = Bench::new();
    let batch = texts(&ROWS);
    let columns = [("text", batch["text"].clone(), true), ("nats", batch["id"].clone(), true)];
    write_parquet(
        &bench.path("in/a.parquet"),
        &RecordBatch::try_from_iter_with_nullable(columns).unwrap(),
        3,
    );
    let train =
        "  - train: {goal: lm.loss, steps: 1, batch_bytes: 100, lr: 1e-3}\n  - score: {goal: lm}\n";
    let error = bench.fails(&(lm_graph(SOURCE) + train));
    assert!(
        error.contains("in/a.parquet") && error.contains("`nats`") && error.contains("rename"),
        "{error}"
    );
    assert!(!bench.path("runs/score").exists(), "a run was begun");
    // A patcher writes no nats.
    let text = format!(
        "name: score\ngraph:\n  docs: {SOURCE}\n  patches: {{node: BytePatch, in: docs}}\nrun:\n  - score: {{goal: patches}}\n"
    );
    bench.run(&text);
}

#[test]
fn damage_is_told_with_its_place_and_finished_parts_stay() {
    let bench = Bench::new();
    write_parquet(&bench.path("in/a.parquet"), &texts(&ROWS), 3);
    write_parquet(&bench.path("in/b.parquet"), &texts(&ROWS), 4);
    break_chunk(&bench.path("in/b.parquet"), 1, 1);
    let error = bench.fails(&(lm_graph(SOURCE) + "  - score: {goal: lm}\n"));
    assert!(error.contains("b.parquet") && error.contains("row group 1, rows 4 to 7"), "{error}");
    let partial = stopped_dir(&bench, "runs");
    assert!(
        partial.join("outputs/in/a.parquet").exists()
            && !partial.join("outputs/in/b.parquet").exists()
    );
}
