//! docs/reliability.md: each promise names tests, and those tests are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// The names of all tests of the workspace.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(Path::new(env!("CARGO_MANIFEST_DIR")), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for after in text.split("#[test]").skip(1) {
            let name = after.split_once("fn ").and_then(|(_, rest)| rest.split('(').next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md"));
    let (page, tests) = (page.unwrap(), tests());
    let mut promises = 0;
    for row in page.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| promise")) {
        let (_, proof) = row.trim_end_matches([' ', '|']).rsplit_once(" | ").unwrap();
        let named: Vec<&str> = proof.split(", ").map(|name| name.trim_matches('`')).collect();
        assert!(!named.is_empty(), "{row}");
        for name in named {
            assert!(tests.contains(name), "no test is called {name}: {row}");
        }
        promises += 1;
    }
    assert!(promises > 20, "{promises}");
    assert!(tests.contains("pairs_of_processes_end_well"));
}
