//! What README shows works: its pipeline checks, and it names no file that is not there. (Its Rust
//! is compiled as a doc test.)

use blt_graph::{PipelineSpec, check_all};
use blt_plugins as _;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_pipelines_in_readme_check() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let variants = blocks.map(|text| {
        let spec = PipelineSpec::parse(text, "README.md")
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        check_all(&spec, root()).unwrap_or_else(|e| panic!("{}", e.render(false))).len()
    });
    assert_eq!(variants.collect::<Vec<_>>(), [3, 1, 1]);
}

#[test]
fn every_shipped_pipeline_checks() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let spec = PipelineSpec::read(&path).unwrap_or_else(|e| panic!("{}", e.render(false)));
            check_all(&spec, path.parent().unwrap())
                .unwrap_or_else(|e| panic!("{}", e.render(false)));
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} pipelines");
}

#[test]
fn links_lead_somewhere() {
    for name in ["README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            assert!(
                link.starts_with("https://") || root().join(link).exists(),
                "{name} links to {link}"
            );
        }
    }
}
