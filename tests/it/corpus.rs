//! The sample corpus is as its data card says, and can be split by work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use blt_data::{Corpus, Portion, ReadDocuments, Request, Row, SourceConfig, SourceKind, Split};

/// Bytes by domain and work.
type Works = BTreeMap<String, BTreeMap<String, u64>>;

fn works(folder: &Path, portion: Portion) -> Works {
    let split = Some(Split::of(0.1, "work"));
    let config =
        SourceConfig { split, ..SourceConfig::new(SourceKind::Parquet, "sample.parquet", folder) };
    let scalars = vec!["domain".to_owned(), "work".to_owned()];
    let request = Request { scalars, ..Request::portion(portion) };
    let mut reader = Corpus::new(config).unwrap().open(&request).unwrap();
    let mut works = Works::new();
    while let Some(row) = reader.next().unwrap() {
        let Row::Document(document) = row else { panic!("a null in the sample corpus") };
        let value = |column: &str| document.scalars[column].clone().unwrap();
        let bytes = document.bytes.len() as u64;
        *works.entry(value("domain")).or_default().entry(value("work")).or_default() += bytes;
    }
    works
}

/// Differences between patchers are tested over held-out works, for which a handful is too few.
#[test]
fn a_tenth_by_work_holds_out_works_of_every_domain() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/corpus"));
    let [train, held_out] = [Portion::Train, Portion::Valid].map(|portion| works(folder, portion));
    let names = |works: &Works| works.values().flat_map(|w| w.keys().cloned()).collect();
    let (seen, unseen): (BTreeSet<String>, BTreeSet<String>) = (names(&train), names(&held_out));
    assert_eq!(seen.intersection(&unseen).collect::<Vec<_>>(), Vec::<&String>::new());

    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    assert_eq!(train.len(), 5, "{:?}", train.keys());
    for (domain, trained) in &train {
        let held_out = &held_out[domain];
        assert!(held_out.len() >= 8, "{domain}: {held_out:?}");
        let bytes: u64 = held_out.values().sum();
        let all = bytes + trained.values().sum::<u64>();
        let row = format!(
            "| {domain} | {} | {} | {bytes} | {:.1} % |",
            trained.len() + held_out.len(),
            held_out.len(),
            100.0 * bytes as f64 / all as f64
        );
        assert!(card.contains(&row), "pipelines/corpus/README.md lacks\n{row}");
    }
}
