//! Every diagnostic, as users read it: `diagnostics/NAME.yaml` is checked, and what is said stands
//! in `NAME.txt`. `UPDATE=1 cargo test --test diagnostics` writes the texts anew.

#[allow(dead_code)]
mod nodes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blt_graph::diagnostic::Source;
use blt_graph::{AnyValue, Diagnostics, Live, PipelineSpec, World, check_all, check_source, codes};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics")
}

fn check(yaml: &str, file: &str) -> Result<(), Diagnostics> {
    let source = Arc::new(Source { name: file.to_string(), text: yaml.to_string() });
    let errors = check_source(&source, &[], Path::new("."), &|_, _| Vec::new()).errors;
    if errors.is_empty() { Ok(()) } else { Err(Diagnostics(errors)) }
}

/// Compares with the golden text, or writes it.
fn golden(name: &str, said: &str) -> Result<(), String> {
    let path = folder().join(format!("{name}.txt"));
    let said = format!("{}\n", said.trim_end());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, said).map_err(|error| error.to_string())?;
        return Ok(());
    }
    let expected =
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if said == expected {
        Ok(())
    } else {
        Err(format!("--- {name}: expected\n{expected}--- said\n{said}"))
    }
}

#[test]
fn documents() {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|item| {
            item.unwrap().file_name().to_str()?.strip_suffix(".yaml").map(String::from)
        })
        .collect();
    names.sort();
    assert!(names.len() > 20, "the folder of documents is there");
    let mut wrong = Vec::new();
    for name in names {
        let file = format!("{name}.yaml");
        let yaml = fs::read_to_string(folder().join(&file)).unwrap();
        match check(&yaml, &file) {
            Ok(()) => wrong.push(format!("{file} is accepted")),
            Err(diagnostics) => wrong.extend(golden(&name, &diagnostics.to_string()).err()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const FINE: &str = "\
graph:
  a: {node: Constant, value: 1}
  b: {node: Scale, in: a, factor: 2}
run:
  - sum: {goal: b}
";

#[test]
fn overrides() {
    let spec = PipelineSpec::parse(FINE, "fine.yaml").unwrap();
    let mut said = String::new();
    for assignment in [
        "graph.b.factor",
        "graph.b.facter=3",
        "graph.b.factor=[1, 2",
        "graph.b.factor=high",
        "graph.b.rule=globl",
        "graph.b.limits.low=2e9",
        "graph.b.limits.middle=2",
        "graph.b.sizes.0=2",
        "graph.a.value.x=2",
        "graph.c={node: Constant, value: 1}",
        "graph.a={node: Constnt, value: 1}",
        "graph.a={node: Constant, valu: 1}",
        "run.0.sum.stepps=3",
        "run.0.sum.goal=bb",
        "b.factor=2",
        "run.sum.steps=2",
        "run.7.sum.steps=2",
        "steps=2",
        "sum.stepps=2",
        "seed.x=1",
        "seed=",
        "ablate.x=1",
        "path=fast",
    ] {
        let result =
            spec.set(assignment).and_then(|spec| check_all(&spec, Path::new(".")).map(|_| ()));
        let diagnostics = result.expect_err(assignment);
        said.push_str(&format!("=== --set {assignment}\n{diagnostics}\n"));
    }
    golden("overrides", &said).unwrap();
}

#[test]
fn while_a_graph_is_built_and_run() {
    let yaml = "\
graph:
  a: {node: Source, path: no/such/file.txt}
  b: {node: Source}
  c: {node: Show, in: b, digits: 4}
run:
  - look: {goal: a}
  - look: {goal: c}
";
    let spec = PipelineSpec::parse(yaml, "run.yaml").unwrap();
    let plan = check_all(&spec, Path::new(".")).unwrap().remove(0);
    let mut said =
        format!("=== build\n{}\n", Live::build(&plan, &["a"], World::new()).err().unwrap());
    let live = Live::build(&plan, &["c"], World::new()).unwrap();
    said.push_str(&format!("=== run\n{}\n", live.run(&[], &["c"]).unwrap_err()));
    said.push_str(&format!("=== another goal\n{}\n", live.run(&[], &["a"]).unwrap_err()));
    let b = ("b", AnyValue::new::<nodes::Number>(1.0));
    let failed = live.get::<nodes::Number>(&[b], "c").unwrap_err();
    said.push_str(&format!("=== another type\n{failed}\n"));
    golden("live", &said).unwrap();
}

/// No word of the libraries that read YAML and parameters reaches a user, and each error of a
/// document has a code.
#[test]
fn words_of_libraries_stay_inside() {
    let all = fs::read_dir(folder()).unwrap().map(|item| item.unwrap().path());
    for path in all.filter(|path| path.extension().is_some_and(|e| e == "txt")) {
        let said = fs::read_to_string(&path).unwrap();
        for word in [
            "invalid type",
            "invalid value",
            "unknown variant",
            "expected struct",
            "tuple",
            "did not find",
            "while parsing",
            "simple key",
            "data did not match",
            "f64",
            "usize",
        ] {
            assert!(!said.contains(word), "{}: `{word}`", path.display());
        }
        assert!(path.ends_with("live.txt") || !said.contains("error: "), "{}", path.display());
    }
}

#[test]
fn codes_are_distinct_and_explained() {
    let codes = codes();
    assert!(codes.len() > 20);
    for pair in codes.windows(2) {
        assert_ne!(pair[0].id, pair[1].id);
    }
    for code in codes {
        let text = code.text();
        assert!(text.contains("\n\n") && code.name().len() < 72, "{}: {text}", code.id);
    }
}

#[test]
fn warnings_do_not_refuse() {
    let spec = PipelineSpec::parse(&FINE.replace("factor: 2", "factor: 0"), "fine.yaml").unwrap();
    let plans = check_all(&spec, Path::new(".")).unwrap();
    golden("warning", &plans[0].warnings[0].render(false)).unwrap();
}

#[test]
fn places_are_plain_data_too() {
    let yaml = "graph:\n  ключ: {node: Constant, value: 1}\n  b: {node: Scale, in: ключ, doc: \"é\", factr: 2}\n";
    let Diagnostics(found) = check(yaml, "p.yaml").unwrap_err();
    let [diagnostic] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(diagnostic.path, "graph.b.factr");
    assert_eq!(
        (diagnostic.file(), diagnostic.line(), diagnostic.column()),
        (Some("p.yaml"), Some(3), Some(40))
    );
    assert_eq!(diagnostic.place.as_ref().unwrap().text(), "factr");
    assert_eq!(diagnostic.suggestion.as_deref(), Some("factor"));
}

#[test]
fn a_document_may_begin_with_a_byte_order_mark_and_end_lines_as_windows_does() {
    let yaml = format!("\u{feff}{}", FINE.replace('\n', "\r\n"));
    check(&yaml, "bom.yaml").unwrap();
    let Diagnostics(found) = check(&yaml.replace("factor", "fctor"), "bom.yaml").unwrap_err();
    assert_eq!(found[0].place.as_ref().unwrap().text(), "fctor");
    assert_eq!(found[0].line(), Some(3));
}

#[test]
fn hostile_documents_end_in_an_error() {
    for levels in [100, 100_000] {
        let deep = format!("graph: {}{}", "[".repeat(levels), "]".repeat(levels));
        let Diagnostics(found) = PipelineSpec::parse(&deep, "x").unwrap_err();
        let message = &found[0].message;
        assert!(
            message.contains("nested deeper") || message.contains("nested too deep"),
            "{message}"
        );
    }
    let mut laughs = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (this, last) in ["b", "c", "d", "e", "f", "g"].iter().zip(["a", "b", "c", "d", "e", "f"]) {
        laughs
            .push_str(&format!("{this}: &{this} [{}]\n", vec![format!("*{last}"); 10].join(", ")));
    }
    assert!(PipelineSpec::parse(&laughs, "x").unwrap_err().to_string().contains("aliases expand"));
    assert!(
        PipelineSpec::parse("a: &a [*a]", "x").unwrap_err().to_string().contains("contains it")
    );
    let missing = PipelineSpec::read("no/such/pipeline.yaml").unwrap_err().to_string();
    assert!(missing.contains("no/such/pipeline.yaml"), "{missing}");
}
