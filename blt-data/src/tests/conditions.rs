//! Conditions against what pyarrow makes of them. fixtures/conditions.py wrote the table.

use crate::predicate::Predicate;

use super::*;

#[test]
fn conditions_are_true_for_the_rows_that_pyarrow_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    std::fs::write(&path, include_bytes!("fixtures/conditions.parquet")).unwrap();
    let source = Arc::new(Corpus::new(parquet_corpus(dir.path())).unwrap());
    let file = &source.files().unwrap()[0];
    let names: Vec<String> = file.schema.fields().iter().map(|f| f.name().clone()).collect();
    let mut reader = source.reader(&names).unwrap();
    let groups: Vec<RecordBatch> = (0..file.groups.len())
        .flat_map(|group| {
            let rows = 0..file.groups[group].rows;
            reader.open(0, group, std::slice::from_ref(&rows)).unwrap().map(Result::unwrap)
        })
        .collect();
    assert_eq!(groups.len(), 3);
    let (mut wrong, mut n, mut skipped) = (Vec::new(), 0, 0);
    for line in include_str!("fixtures/conditions.tsv").lines() {
        let (text, expected) = line.split_once('\t').unwrap();
        let condition = Predicate::parse(text).unwrap_or_else(|e| panic!("{e}"));
        condition.check([file.schema.as_ref()]).unwrap_or_else(|(_, e)| panic!("{text}: {e}"));
        let columns = condition.columns(&file.schema);
        let statistics = source.statistics(0, &columns).unwrap();
        let may = condition.may_match(3, &mut |name| statistics.get(name).cloned()).unwrap();
        let mut found = String::new();
        for (group, may) in groups.iter().zip(may) {
            let rows = condition.evaluate(group).unwrap();
            skipped += usize::from(!may);
            found.extend(rows.iter().map(|row| match (row, may) {
                (true, true) => '1',
                (true, false) => '!',
                (false, _) => '0',
            }));
        }
        n += 1;
        if found != expected {
            wrong.push(format!("{text}: {found}, and pyarrow says {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(n > 700 && skipped > 100, "{n} conditions, {skipped} row groups ruled out");
}

#[test]
fn a_zone_that_there_is_not_is_named() {
    let zone = Some("Mars/Olympus".into());
    let field = arrow::datatypes::Field::new(
        "at",
        arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Second, zone),
        true,
    );
    let schema = arrow::datatypes::Schema::new(vec![field]);
    let condition = Predicate::parse("at > '2020-01-01'").unwrap();
    let (_, error) = condition.check([&schema]).unwrap_err();
    assert!(error.to_string().contains("Mars/Olympus"), "{error}");
}
