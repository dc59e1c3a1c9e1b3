//! What cannot be read or scored: told, or counted and written as nulls.

use crate::bench::*;
use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use std::path::Path;
use std::sync::Arc;

/// `id`, which may not be null, `text` and `more`; ten rows to a row group.
fn required(path: &Path, n: i64) {
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("more", DataType::Utf8, false),
    ];
    let of = |name: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter(
            (0..n).map(|i| (i % 10 != 7 || name == "more").then(|| format!("{name} {i}"))),
        ))
    };
    let columns =
        vec![Arc::new(Int64Array::from_iter_values(0..n)) as ArrayRef, of("text"), of("more")];
    write_parquet(path, &RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap(), 10);
}

fn text(source: &str, score: &str) -> String {
    lm_graph(source) + &format!("  - score: {{goal: lm{score}}}\n")
}

/// Documents of more than eight bytes are cut.
const SPANS: &str = "{node: ParquetBytes, path: in, span_bytes: 8}";
const IN: &str = "{node: ParquetBytes, path: in}";

#[test]
fn a_row_group_that_does_not_decode_becomes_nulls() {
    let bench = Bench::new();
    required(&bench.path("in/a.parquet"), 50);
    required(&bench.path("in/b.parquet"), 20);
    let whole = bench.run(&text(IN, ", on_error: \"null\""));
    let path = bench.path("in/a.parquet");
    break_chunk(&path, 1, 1);
    break_chunk(&path, 3, 2);
    let error = bench.fails(&text(IN, ""));
    assert!(error.contains("a.parquet") && error.contains("row group 1, rows 10 to 19"), "{error}");

    // YAML's null, too.
    let dir = bench.run(&text(IN, ", on_error: null, by: more"));
    let found = result(&dir);
    let counts = ["rows", "documents", "nulls"].map(|key| found[key].as_u64().unwrap());
    assert_eq!(counts, [70, 45, 5]);
    assert_eq!(found["failed"], serde_json::json!({"unreadable": 20}));
    let unreadable = found["unreadable"].as_array().unwrap();
    assert_eq!(unreadable.len(), 2);
    for (at, group, rows, column) in [(0, 1, [10, 20], "text"), (1, 3, [30, 40], "more")] {
        let one = &unreadable[at];
        assert_eq!((&one["input"], &one["group"]), (&"in/a.parquet".into(), &group.into()));
        assert_eq!(
            (&one["rows"]["start"], &one["rows"]["end"]),
            (&rows[0].into(), &rows[1].into())
        );
        assert_eq!(one["columns"], serde_json::json!([column]));
        assert!(!one["cause"].as_str().unwrap().is_empty());
    }
    // Each row is there; what can be read of it is kept, and the readable ones have the scores they
    // have without the damage.
    let (part, before) = (
        read_parquet(&dir.join("outputs/in/a.parquet")),
        read_parquet(&whole.join("outputs/in/a.parquet")),
    );
    assert_eq!(i64s(&part, "id"), (0..50).map(Some).collect::<Vec<_>>());
    let (texts, more, nats) = (strings(&part, "text"), strings(&part, "more"), f64s(&part, "nats"));
    for i in 0..50 {
        let (lost_text, lost_more) = (i / 10 == 1, i / 10 == 3);
        assert_eq!(texts[i], (!lost_text && i % 10 != 7).then(|| format!("text {i}")));
        assert_eq!(more[i], (!lost_more).then(|| format!("more {i}")));
        let expected = if lost_text || lost_more { None } else { f64s(&before, "nats")[i] };
        assert_eq!(nats[i], expected, "row {i}");
    }
    let error = bench.fails(&text(IN, ", on_error: skip"));
    assert!(error.contains("should be \"fail\" or \"null\", and is \"skip\""), "{error}");
    let sound = |dir: &Path| read_parquet(&dir.join("outputs/in/b.parquet"));
    assert_eq!(sound(&dir).columns(), sound(&whole).columns());
    // A condition reads what is left; a row of which it cannot be known is not taken.
    let dir = bench
        .run(&text(IN, ", on_error: \"null\", where: \"id >= 15 and id < 35 and more != 'x'\""));
    let part = read_parquet(&dir.join("outputs/in/a.parquet"));
    assert_eq!(i64s(&part, "id"), (15..30).map(Some).collect::<Vec<_>>());
    assert_eq!(result(&dir)["failed"], serde_json::json!({"unreadable": 5}));
    // `limit` counts those rows like others.
    let dir =
        bench.run(&text(IN, ", on_error: \"null\", where: text is null, limit: 14, part_bytes: 1"));
    let found = result(&dir);
    assert_eq!(
        (&found["rows"], &found["nulls"], &found["failed"]["unreadable"]),
        (&14.into(), &3.into(), &11.into())
    );
}

#[test]
fn files_with_other_columns() {
    let bench = Bench::new();
    let strings = |name: &'static str, n: usize| -> (&'static str, ArrayRef, bool) {
        (name, Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("{name} {i}")))), true)
    };
    let numbers: (&str, ArrayRef, bool) = ("text", Arc::new(Int32Array::from(vec![1, 2])), true);
    let batch = |columns: Vec<(&'static str, ArrayRef, bool)>| {
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    write_parquet(
        &bench.path("in/a.parquet"),
        &batch(vec![strings("text", 3), strings("url", 3)]),
        10,
    );
    write_parquet(
        &bench.path("in/b.parquet"),
        &batch(vec![strings("lang", 2), strings("text", 2)]),
        10,
    );
    // The columns that are needed are in both.
    let dir = bench.run(&text(IN, ", where: url is null or text != 'text 1', by: lang"));
    let [a, b] =
        ["a", "b"].map(|name| read_parquet(&dir.join(format!("outputs/in/{name}.parquet"))));
    assert_eq!(
        (names(&a), a.num_rows()),
        (["text", "url", "n_bytes", "nats", "bits_per_byte"].map(String::from).to_vec(), 2)
    );
    assert_eq!(
        (names(&b), b.num_rows()),
        (["lang", "text", "n_bytes", "nats", "bits_per_byte"].map(String::from).to_vec(), 2)
    );
    let groups = result(&dir)["histogram"]["groups"].clone();
    assert_eq!(
        groups.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["lang 0", "lang 1", "null"]
    );

    write_parquet(&bench.path("in/c.parquet"), &batch(vec![strings("body", 4)]), 10);
    write_parquet(&bench.path("in/d.parquet"), &batch(vec![numbers]), 10);
    let error = bench.fails(&text(IN, ""));
    assert!(error.contains("no column `text` in") && error.contains("c.parquet"), "{error}");
    let dir = bench.run(&text(IN, ", on_error: \"null\""));
    let found = result(&dir);
    assert_eq!((&found["rows"], &found["documents"]), (&11.into(), &5.into()));
    assert_eq!(found["failed"], serde_json::json!({"no_column": 6}));
    let c = read_parquet(&dir.join("outputs/in/c.parquet"));
    assert_eq!((names(&c)[0].as_str(), f64s(&c, "nats")), ("body", vec![None; 4]));
    // A name that no file has is a mistake, whatever is to be done about rows.
    let error =
        bench.fails(&text("{node: ParquetBytes, path: in, column: texts}", ", on_error: \"null\""));
    assert!(error.contains("no column `texts`"), "{error}");
}

#[test]
fn lists_that_do_not_fit_their_document() {
    let bench = Bench::new();
    let documents: ArrayRef =
        Arc::new(StringArray::from(vec![Some("abc"), Some("de"), None, Some("f")]));
    let lengths: [&[i32]; 4] = [&[1, 3], &[1, 7], &[], &[1, 1]];
    let values: ArrayRef = Arc::new(Int32Array::from(lengths.concat()));
    let item = Arc::new(Field::new_list_field(DataType::Int32, true));
    let lists =
        ListArray::new(item, OffsetBuffer::from_lengths(lengths.map(<[i32]>::len)), values, None);
    let columns = [("text", documents, true), ("lengths", Arc::new(lists) as ArrayRef, true)];
    write_parquet(
        &bench.path("in/a.parquet"),
        &RecordBatch::try_from_iter_with_nullable(columns).unwrap(),
        10,
    );
    let text = |more: &str| {
        format!(
            "name: score\ngraph:\n  docs: {IN}\n  patches: {{node: ColumnPatch, in: docs, column: lengths}}\nrun:\n  - score: {{goal: patches{more}}}\n"
        )
    };
    let error = bench.fails(&text(""));
    assert!(error.contains("`lengths`") && error.contains("row 1"), "{error}");
    let dir = bench.run(&text(", on_error: \"null\""));
    let part = read_parquet(&dir.join("outputs/in/a.parquet"));
    assert_eq!(i64s(&part, "n_patches"), [Some(1), None, None, Some(1)]);
    assert_eq!(result(&dir)["failed"], serde_json::json!({"invalid_list": 1}));
    assert_eq!(result(&dir)["nulls"], 1);
}

/// Sets the first element of a row of a tensor.
fn damage(checkpoint: &Path, tensor: &str, row: usize, value: f32) {
    let path = checkpoint.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, tensor) = tensors.tensors().into_iter().find(|(name, _)| name == tensor).unwrap();
    let at =
        tensor.data().as_ptr() as usize - bytes.as_ptr() as usize + row * tensor.shape()[1] * 4;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
}

/// The id of the byte that damaged models cannot score.
const POISON: usize = b'?' as usize + 4;

#[test]
fn a_loss_that_is_not_finite() {
    let embedding = [("model.local_encoder.embed_tokens.weight", POISON, f32::MAX)];
    not_finite(&embedding, "document in row 1 is not finite");
}

/// The poison's state lies along its first element, 4 after the norm, and the head makes that
/// infinite; of no other byte's.
#[test]
fn an_entropy_that_is_not_finite() {
    let damaged = [
        ("model.patcher.embed_tokens.weight", POISON, 1e18),
        ("model.patcher.lm_head.weight", 0, 1.2e38),
    ];
    not_finite(&damaged, "row 1: the entropy at position 5");
}

fn not_finite(damaged: &[(&str, usize, f32)], what: &str) {
    let bench = Bench::new();
    let rows: [Option<&[u8]>; 6] = [
        Some(b"one"),
        Some(b"two ? of"),
        None,
        Some(b"?"),
        Some(b"three"),
        Some(b"a ? in a text of several spans"),
    ];
    let cured: Vec<Option<Vec<u8>>> = rows
        .iter()
        .map(|row| {
            row.map(|text| text.iter().map(|b| if *b == b'?' { b'x' } else { *b }).collect())
        })
        .collect();
    let cured: Vec<Option<&[u8]>> = cured.iter().map(Option::as_deref).collect();
    write_parquet(&bench.path("in/a.parquet"), &texts(&cured), 10);
    let train = "  - train: {goal: loss, steps: 1, batch_bytes: 100, lr: 1e-3}\n";
    let trained = bench.run(&(graph(SPANS, ENTROPY) + train)).join("checkpoints/final");
    let copy = bench.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["state.json", "model.safetensors"] {
        std::fs::copy(trained.join(file), copy.join(file)).unwrap();
    }
    let blt = |more: &str| {
        format!(
            "name: score\ngraph:\n  docs: {SPANS}\n  blt: {{node: Blt, in: docs, checkpoint: copy}}\nrun:\n  - score: {{goal: blt, emit: [log_probs]{more}}}\n"
        )
    };
    damaged.iter().for_each(|(tensor, row, value)| damage(&copy, tensor, *row, *value));
    let sound = read_parquet(&bench.run(&blt("")).join("outputs/in/a.parquet"));
    write_parquet(&bench.path("in/a.parquet"), &texts(&rows), 10);

    let error = bench.fails(&blt(""));
    assert!(error.contains(what), "{error}");
    let dir = bench.run(&blt(", on_error: \"null\""));
    assert_eq!(result(&dir)["failed"], serde_json::json!({"not_finite": 3}));
    assert_eq!((&result(&dir)["documents"], &result(&dir)["nulls"]), (&2.into(), &1.into()));
    let part = read_parquet(&dir.join("outputs/in/a.parquet"));
    for column in ["n_bytes", "nats", "bits_per_byte", "log_probs"] {
        // The others of the same batch are not touched.
        for row in [0, 2, 4] {
            assert_eq!(
                part[column].slice(row, 1).as_ref(),
                sound[column].slice(row, 1).as_ref(),
                "{column} {row}"
            );
        }
        assert!(
            part[column].is_null(1) && part[column].is_null(3) && part[column].is_null(5),
            "{column}"
        );
    }
}
