//! Which rows are read and written: `where`, `sample`, `limit`, `keep`.

use crate::bench::*;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of `id` in order, `lang` by turns, `text`; ten to a row group.
fn numbered(path: &Path, ids: std::ops::Range<i64>) {
    let langs = ["en", "ko", "de"];
    let of = |f: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(ids.clone().map(f)))
    };
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        ("lang", of(&|i| langs[i as usize % 3].to_owned())),
        ("text", of(&|i| format!("document {i} {}", "word ".repeat(i as usize % 4)))),
    ];
    write_parquet(path, &RecordBatch::try_from_iter(columns).unwrap(), 10);
}

struct Scored {
    dir: PathBuf,
}

impl Scored {
    fn ids(&self) -> Vec<i64> {
        let outputs = self.dir.join("outputs");
        let parts = file_names(&outputs).into_iter().map(|name| read_parquet(&outputs.join(name)));
        parts.flat_map(|part| i64s(&part, "id").into_iter().flatten().collect::<Vec<_>>()).collect()
    }

    fn count(&self, key: &str) -> u64 {
        result(&self.dir)[key].as_u64().unwrap()
    }
}

/// Two files of 45 and 30 rows.
fn bench() -> Bench {
    let bench = Bench::new();
    numbered(&bench.path("in/a.parquet"), 0..45);
    numbered(&bench.path("in/b.parquet"), 45..75);
    bench
}

fn text(score: &str) -> String {
    lm_graph("{node: ParquetBytes, path: in}") + &format!("  - score: {{goal: lm, {score}}}\n")
}

fn score(bench: &Bench, score: &str) -> Scored {
    Scored { dir: bench.run(&text(score)) }
}

#[test]
fn a_condition_reads_only_row_groups_that_may_fulfil_it() {
    let bench = bench();
    let all = score(&bench, "where: id >= 0");
    assert_eq!((all.ids(), all.count("row_groups_skipped")), ((0..75).collect(), 0));
    // Row groups 0 to 9, 10 to 19, ... of which the first three are passed over: damaged, they are
    // not noticed.
    (0..3).for_each(|group| break_chunk(&bench.path("in/a.parquet"), group, 2));
    let some =
        score(&bench, "where: \"id >= 33 and (lang = 'ko' or id in (35, 74)) and not id = 34\"");
    let expected: Vec<i64> =
        (33..75).filter(|i| (i % 3 == 1 || [35, 74].contains(i)) && *i != 34).collect();
    assert_eq!((some.ids(), some.count("row_groups_skipped")), (expected.clone(), 3));
    assert_eq!(
        (some.count("rows"), some.count("kept")),
        (expected.len() as u64, expected.len() as u64)
    );
    // A part for each unit, though nothing is in it.
    let none = score(&bench, "where: id < 0, part_bytes: 1");
    assert_eq!((none.ids(), none.count("row_groups_skipped"), none.count("rows")), (vec![], 8, 0));
    assert_eq!(file_names(&none.dir.join("outputs")).len(), 8);
    // The numbers are those of the whole.
    let part = |scored: &Scored| read_parquet(&scored.dir.join("outputs/in/b.parquet"));
    let (whole, some) = (part(&all), part(&some));
    for (id, nats) in i64s(&some, "id").into_iter().zip(f64s(&some, "nats")) {
        assert_eq!(nats, f64s(&whole, "nats")[id.unwrap() as usize - 45]);
    }
}

#[test]
fn a_limit_is_of_rows_over_all_parts() {
    let bench = bench();
    for part_bytes in [1, 500, 1 << 20] {
        for (filter, rows) in [
            ("", (0..75).collect::<Vec<i64>>()),
            (", where: lang = 'en'", (0..75).step_by(3).collect()),
            (", where: id > 40 and id < 50", (41..50).collect()),
        ] {
            for limit in [1, 4, 7, 10, 11, 50, 1000] {
                let scored =
                    score(&bench, &format!("limit: {limit}, part_bytes: {part_bytes}{filter}"));
                let expected: Vec<i64> = rows.iter().copied().take(limit).collect();
                assert_eq!(
                    scored.ids(),
                    expected,
                    "limit {limit}, part_bytes {part_bytes}{filter}"
                );
            }
        }
    }
    // What lies behind the last row is not looked at.
    break_chunk(&bench.path("in/b.parquet"), 0, 0);
    assert_eq!(score(&bench, "limit: 15, where: id >= 30").ids(), (30..45).collect::<Vec<_>>());
}

#[test]
fn a_limit_counts_no_row_of_a_file_that_lacks_the_column() {
    let bench = Bench::new();
    numbered(&bench.path("in/b.parquet"), 45..75);
    let with = read_parquet(&bench.path("in/b.parquet"));
    let without = with.project(&[0, 2]).unwrap();
    write_parquet(&bench.path("in/a.parquet"), &without, 10);
    for limit in [3, 12, 35, 500] {
        let of = |condition: &str| score(&bench, &format!("limit: {limit}, where: {condition}"));
        let expected: Vec<i64> = (45..75).step_by(3).take(limit).collect();
        assert_eq!(of("lang = 'en'").ids(), expected, "limit {limit}");
        let nulls = of("lang is null");
        assert_eq!(nulls.ids(), (45..75).take(limit).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[test]
fn a_sample_is_the_same_rows_however_they_are_divided() {
    let bench = bench();
    let of = |more: &str| score(&bench, &format!("sample: 0.4{more}")).ids();
    let sample = of("");
    // 75 rows of which each is drawn with 0.4: 30, with a deviation of 4.
    assert!((12..48).contains(&sample.len()) && sample.is_sorted(), "{sample:?}");
    assert_eq!(of(", part_bytes: 1"), sample);
    assert_eq!(of(", limit: 5, part_bytes: 1"), sample[..5]);
    let ko: Vec<i64> = sample.iter().copied().filter(|i| i % 3 == 1).collect();
    assert_eq!(of(", where: lang = 'ko'"), ko);
    assert_eq!(score(&bench, "sample: 1").ids().len(), 75);
    let other = Scored { dir: bench.run(&format!("seed: 9\n{}", text("sample: 0.4"))) };
    assert_ne!(other.ids(), sample);
    let error = bench.fails(&text("sample: 1.5"));
    assert!(error.contains("`sample` of step `run.0.score` is 1.5; expected number"), "{error}");
    let error = bench.fails(&text("sample: 0"));
    assert!(error.contains("a share of the rows, above 0 and up to 1, not 0"), "{error}");
}

#[test]
fn keep_writes_what_passes_and_counts_all() {
    let bench = bench();
    let all = score(&bench, "emit: [log_probs]");
    let parts =
        ["a", "b"].map(|name| read_parquet(&all.dir.join(format!("outputs/in/{name}.parquet"))));
    let mut bits: Vec<f64> =
        parts.iter().flat_map(|p| f64s(p, "bits_per_byte")).flatten().collect();
    bits.sort_by(f64::total_cmp);
    let median = bits[37];
    let kept = score(
        &bench,
        &format!("emit: [log_probs], keep: \"bits_per_byte < {median} and lang != 'de'\""),
    );
    let pass = |part: &RecordBatch| -> Vec<i64> {
        let rows = i64s(part, "id").into_iter().flatten().zip(f64s(part, "bits_per_byte"));
        rows.filter(|(id, bits)| bits.unwrap() < median && id % 3 != 2).map(|(id, _)| id).collect()
    };
    let expected: Vec<i64> = parts.iter().flat_map(pass).collect();
    assert!(expected.len() > 10);
    assert_eq!(
        (kept.ids(), kept.count("kept"), kept.count("rows")),
        (expected.clone(), expected.len() as u64, 75)
    );
    assert_eq!(result(&kept.dir)["histogram"], result(&all.dir)["histogram"]);
}

#[test]
fn mistaken_conditions_point_at_their_parameter() {
    let bench = bench();
    for (parameters, said) in [
        ("where: lang = ", "expected a number, text in quotes"),
        ("where: land = 'en'", "no column `land`, did you mean `lang`?"),
        ("where: id = 'en'", "column `id` is Int64, which is not compared with 'en'"),
        ("where: bits_per_byte < 1.2", "no column `bits_per_byte`"),
        ("keep: bits_per_bite < 1.2", "did you mean `bits_per_byte`?"),
        ("keep: bits_per_byte < '1.2'", "expected a number"),
        ("keep: (bits_per_byte < 1.2", "`)`"),
        ("by: land", "no column `land`"),
        ("limit: 0", "is 0; expected integer from 1 to"),
    ] {
        let train = "  - train: {goal: lm.loss, steps: 1, batch_bytes: 100, lr: 1e-3}\n";
        let text = lm_graph("{node: ParquetBytes, path: in}")
            + train
            + "  - score:\n      goal: lm\n      "
            + parameters
            + "\n";
        let error = bench.fails(&text);
        let line = format!("score.yaml:{}", text.lines().count());
        assert!(error.contains(said) && error.contains(&line), "{parameters}: {error}");
        assert!(!bench.path("runs/score").exists(), "a run was begun");
    }
}
