//! What README and the book show works: their pipelines check, their links lead somewhere, and
//! every page is in the table of contents. (Their Rust is compiled as doc tests.)

use blt_graph::{PipelineSpec, check_all};
use blt_plugins as _;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Markdown page: its path below the root, and its text.
struct Page {
    name: String,
    text: String,
}

impl Page {
    fn read(name: &str) -> Page {
        Page { name: name.to_string(), text: fs::read_to_string(root().join(name)).unwrap() }
    }

    /// The lines outside of fenced blocks.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut fenced = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
    }

    /// The targets of its links.
    fn links(&self) -> Vec<&str> {
        let after = self.prose().flat_map(|line| line.split("](").skip(1));
        after.map(|rest| rest.split(')').next().unwrap()).collect()
    }

    /// The anchors that its headings make, as mdBook and GitHub spell them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        let anchor = |heading: &str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            text.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        };
        headings.map(anchor).collect()
    }
}

/// README and its like, and the pages of the book.
fn pages() -> Vec<Page> {
    let names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from);
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs.map(|name| name.to_string_lossy().into_owned());
    let docs: BTreeSet<String> = docs.filter(|name| name.ends_with(".md")).collect();
    let docs = docs.into_iter().map(|name| format!("docs/{name}"));
    names.into_iter().chain(docs).map(|name| Page::read(&name)).collect()
}

/// A block of YAML with a line `graph:` is a pipeline. The variants of each, by page.
#[test]
fn the_pipelines_on_pages_check() {
    let pages = pages();
    let mut checked = Vec::new();
    for Page { name, text } in &pages {
        let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let pipelines = blocks.filter(|block| block.lines().any(|line| line == "graph:"));
        let variants: Vec<usize> = pipelines
            .map(|block| {
                let spec = PipelineSpec::parse(block, name)
                    .unwrap_or_else(|e| panic!("{name}: {}", e.render(false)));
                check_all(&spec, root())
                    .unwrap_or_else(|e| panic!("{name}: {}", e.render(false)))
                    .len()
            })
            .collect();
        if !variants.is_empty() {
            checked.push((name.as_str(), variants));
        }
    }
    let expected: [(&str, &[usize]); 5] = [
        ("README.md", &[3]),
        ("docs/generation.md", &[1]),
        ("docs/pipelines.md", &[1, 1, 8, 8, 2, 1, 2]),
        ("docs/scoring.md", &[1]),
        ("docs/tutorial.md", &[1, 3, 1]),
    ];
    assert_eq!(checked, expected.map(|(name, variants)| (name, variants.to_vec())));
}

#[test]
fn every_shipped_pipeline_checks() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("pipelines")).unwrap() {
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

/// Pages of the book link to pages of the book alone: the built book has nothing else.
#[test]
fn links_lead_somewhere() {
    for page in &pages() {
        let folder = Path::new(&page.name).parent().unwrap();
        for link in page.links().into_iter().filter(|link| !link.starts_with("https://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.name.clone() } else { path(folder, file) };
            assert!(root().join(&target).exists(), "{} links to {link}", page.name);
            assert!(
                !page.name.starts_with("docs/") || !file.starts_with(".."),
                "{} links to {link}, which is not in the book",
                page.name
            );
            assert!(
                anchor.is_empty() || Page::read(&target).anchors().contains(anchor),
                "{} links to {link}, and there is no such heading",
                page.name
            );
        }
    }
}

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).to_string_lossy().into_owned()
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: BTreeSet<String> =
        summary.links().into_iter().map(|link| format!("docs/{link}")).collect();
    let written: BTreeSet<String> = pages()
        .into_iter()
        .map(|page| page.name)
        .filter(|name| name.starts_with("docs/") && *name != summary.name)
        .collect();
    assert_eq!(listed, written);
}

/// Every file and folder in the tables "I look for | open" of docs/architecture.md exists. The
/// heading above names the folder that they are in: "### Data (`blt-data/src`)".
#[test]
fn the_map_names_what_is_there() {
    let page = Page::read("docs/architecture.md");
    let quoted = |text: &str| -> Vec<String> {
        text.split('`').skip(1).step_by(2).map(String::from).collect()
    };
    let (mut folder, mut in_map, mut seen) = (String::new(), false, 0);
    for line in page.prose() {
        if line.starts_with('#') {
            folder = quoted(line).pop().unwrap_or_default();
        }
        in_map = line == "| I look for | open |" || in_map && line.starts_with('|');
        let cell = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in quoted(cell).iter().filter(|name| in_map && !name.contains("NAME")) {
            assert!(root().join(&folder).join(name).exists(), "no {name} in `{folder}`");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} files");
}

/// 100 columns, tables and blocks aside.
#[test]
fn prose_is_narrow() {
    for page in &pages() {
        for line in page.prose().filter(|line| !line.starts_with('|')) {
            assert!(line.chars().count() <= 100, "{}: {line}", page.name);
        }
    }
}
