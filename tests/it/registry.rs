//! Walks the registry: every node and step has docs, ports and an example that is accepted, every
//! node's example is run, and docs/nodes.md is what the program prints.

use crate::common::{Place, text};
use arrow::array::{Array, ArrayRef, AsArray, Int32Builder, ListBuilder, RecordBatch, StringArray};
use arrow::array::{Float32Builder, cast::as_string_array};
use arrow::ipc::writer::FileWriter;
use blt::graph::registry::{self, NodeEntry};
use blt::graph::{PipelineSpec, check_all};
use blt::plugins as _;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A pipeline that a node's example fits into: the names that examples use for their wires, each
/// with a node of the kind that the name stands for. The node under test takes the place of the one
/// whose outputs are of its types.
const CONTEXT: [(&str, &str); 8] = [
    (
        "docs",
        "{node: ParquetBytes, path: corpus/sample.parquet, column: text, split: {valid: 0.3, by: id, calibration: 0.3}}",
    ),
    ("entropy", "{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}"),
    ("patches", "{node: StridePatch, in: docs, stride: 4}"),
    ("embed", "{node: ByteEmbed, in: docs, dim: 64, ngrams: [3], table: 64}"),
    (
        "encoder",
        "{node: LocalEncoder, in: {bytes: embed, patches: patches}, layers: 1, heads: 2, k: 2, window: 16}",
    ),
    ("latent", "{node: Latent, in: encoder.patches, dim: 128, layers: 1, heads: 2}"),
    (
        "decoder",
        "{node: LocalDecoder, in: {bytes: encoder.bytes, patches: latent}, layers: 1, heads: 2, window: 16}",
    ),
    ("loss", "{node: NextByteLoss, in: {logits: decoder, bytes: docs}}"),
];

/// A patcher that reads entropies, so that what gives them is used.
const READS_ENTROPIES: &str =
    "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 4}";

fn output_types(node: &NodeEntry) -> Vec<&'static str> {
    node.out_slots().iter().map(|slot| slot.name).collect()
}

/// The node's place in [`CONTEXT`]: where the same types come out, or at least the same first one.
/// A metric stands beside.
pub fn role(node: &NodeEntry) -> Result<&'static str, String> {
    let types = output_types(node);
    let entries = CONTEXT.map(|(name, yaml)| {
        let kind = yaml.trim_start_matches("{node: ").split(',').next().unwrap_or_default();
        (name, output_types(registry::find(kind).expect("the context is of registered nodes")))
    });
    let exact = entries.iter().find(|(_, of)| *of == types);
    let first = entries.iter().find(|(_, of)| of.first() == types.first());
    match exact.or(first) {
        Some((name, _)) => Ok(name),
        None if types == ["Metric"] => Ok("metric"),
        None => Err(format!(
            "node {} ({}) gives {types:?}, and no node of CONTEXT in tests/it/registry.rs does: add one there that does, or, as for \
             Metric, say in `role` and `pipeline` how a step reaches it",
            node.name, node.origin
        )),
    }
}

/// A pipeline that trains a step and evaluates, with the node's example in its place.
pub fn pipeline(node: &NodeEntry) -> Result<String, String> {
    let role = role(node)?;
    let reads = |port: &str| node.in_slots().iter().any(|slot| slot.name == port);
    let with_entropies = role == "entropy" || reads("Entropies");
    let mut yaml = "name: example\nseed: 3\n\ngraph:\n".to_string();
    for (name, context) in CONTEXT {
        let line = match name {
            _ if name == role => node.example,
            "entropy" if !with_entropies => continue,
            // A loss without logits is a whole model: the parts have no use.
            "patches" | "embed" | "encoder" | "latent" | "decoder"
                if role == "loss" && !reads("Logits") =>
            {
                continue;
            }
            "patches" if role == "entropy" => READS_ENTROPIES,
            _ => context,
        };
        yaml += &format!("  {name}: {line}\n");
    }
    if role == "patches" && reads("Patches") {
        yaml += "  strides: {node: StridePatch, in: docs, stride: 4}\n";
    }
    if role == "metric" {
        yaml += &format!("  metric: {}\n", node.example);
    }
    yaml += "\nrun:\n";
    let types = output_types(if role == "entropy" {
        node
    } else {
        registry::find("ByteLm").expect("registered")
    });
    // Counts are fitted, not trained.
    if with_entropies && types.contains(&"Loss") && node.name != "NgramLm" {
        yaml += "  - train: {goal: entropy.loss, steps: 1, batch_bytes: 1024, lr: 1e-3}\n";
    }
    yaml += "  - train: {goal: loss, steps: 1, batch_bytes: 1024, lr: 1e-3}\n";
    let metrics = if role == "metric" { ", metrics: [metric]" } else { "" };
    yaml += &format!("  - evaluate: {{goal: loss, split: all, limit: 3{metrics}}}\n");
    Ok(yaml)
}

/// The files and columns that examples name: cut from the sample corpus, and a model of the parity
/// fixtures.
pub fn corpus(place: &Place) {
    let sample =
        File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/corpus/sample.parquet"))
            .unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(sample)
        .unwrap()
        .with_batch_size(60)
        .build()
        .unwrap();
    let rows = reader.next().unwrap().unwrap();
    let column = |name: &str| -> ArrayRef { rows.column_by_name(name).unwrap().clone() };
    let texts = arrow::compute::cast(&column("text"), &arrow::datatypes::DataType::Utf8).unwrap();
    let short: StringArray = as_string_array(&texts)
        .iter()
        .map(|t| t.map(|t| t.chars().take(200).collect::<String>()))
        .collect();
    // As scoring leaves them: one entropy for BOS and each byte; BOS's patch, then patches of four
    // bytes.
    let mut entropies = ListBuilder::new(Float32Builder::new());
    let mut lengths = ListBuilder::new(Int32Builder::new());
    for text in short.iter().flatten() {
        (0..=text.len())
            .for_each(|t| entropies.values().append_value((t * 7919 % 1013) as f32 / 256.0));
        entropies.append(true);
        lengths.values().append_value(1);
        (0..text.len())
            .step_by(4)
            .for_each(|at| lengths.values().append_value((text.len() - at).min(4) as i32));
        lengths.append(true);
    }
    let (entropies, lengths): (ArrayRef, ArrayRef) =
        (Arc::new(entropies.finish()), Arc::new(lengths.finish()));
    let text: ArrayRef = Arc::new(short.clone());
    let columns = [
        ("id", column("id")),
        ("domain", column("domain")),
        ("text", text),
        ("entropies", entropies),
        ("patch_lengths", lengths),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();

    fs::create_dir_all(place.path("corpus")).unwrap();
    let file = File::create(place.path("corpus/sample.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let mut writer =
        FileWriter::try_new(File::create(place.path("corpus.arrow")).unwrap(), &batch.schema())
            .unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    fs::create_dir_all(place.path("docs/deep")).unwrap();
    for (i, text) in batch.column(2).as_string::<i32>().iter().flatten().enumerate() {
        fs::write(place.path(&format!("docs/deep/{i}.txt")), text).unwrap();
    }
    fs::create_dir_all(place.path("path/to/dir")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/k2_base").join(name);
        fs::copy(fixture, place.path("path/to/dir").join(name)).unwrap();
    }
    assert!(batch.column(2).null_count() == 0 && batch.num_rows() == 60);
}

#[test]
fn nothing_is_wrong_with_the_registry() {
    assert_eq!(blt::graph::testing::self_test(), [""; 0]);
    assert!(
        registry::nodes().len() >= 14 && registry::steps().len() >= 2,
        "the built-in nodes are linked"
    );
}

/// What the program prints.
fn printed(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_blt-run")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The help of a node or a step as Markdown.
fn markdown(help: &str) -> String {
    let (title, rest) = help.split_once('\n').unwrap();
    let mut page = format!("### {}\n", title.split(' ').next().unwrap());
    let mut section = "";
    for line in rest.lines() {
        page += &match (section, line.trim_start()) {
            (_, "Inputs:" | "Outputs:" | "Parameters:" | "Example:") => {
                section = line;
                format!("**{line}**\n\n")
            }
            (_, "") | ("", _) => format!("{line}\n"),
            ("Example:", example) => format!("```yaml\n{example}\n```\n"),
            ("Parameters:", doc) if line.starts_with("   ") => format!("  {doc}\n"),
            ("Parameters:", parameter) => {
                let (name, kind) = parameter.split_once(": ").unwrap();
                format!("- `{name}`: {kind}\\\n")
            }
            (_, port) => {
                let (name, kind) = port.split_once(' ').unwrap();
                format!("- `{name}`: {}\n", kind.trim_start())
            }
        };
    }
    page
}

/// docs/nodes.md, as `nodes` and `steps` print it.
fn page_of_nodes() -> String {
    let mut page =
        "# Nodes and steps\n\n<!-- Generated by tests/it/registry.rs: do not edit. -->\n\n\
        This page has what `blt-run nodes NAME` and `blt-run steps NAME` print.\n"
            .to_string();
    for (kind, title) in [("nodes", "Nodes"), ("steps", "Steps")] {
        let list = printed(&[kind]);
        let entries = list.lines().take_while(|line| !line.is_empty());
        let entries: Vec<(&str, &str)> =
            entries.map(|line| line.split_once("  ").unwrap()).collect();
        page += &format!("\n## {title}\n\n| name | |\n|---|---|\n");
        for (name, summary) in &entries {
            let anchor = name.to_lowercase();
            page += &format!("| [`{name}`](#{anchor}) | {} |\n", summary.trim_start());
        }
        for (name, _) in entries {
            page += &format!("\n{}", markdown(&printed(&[kind, name])));
        }
    }
    page
}

#[test]
fn the_page_of_nodes_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nodes.md");
    let page = page_of_nodes();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(written.lines()).find(|(new, old)| new != old);
    assert!(
        page == written,
        "docs/nodes.md is not what the program prints, first at {differs:?}. To write it anew: \
         UPDATE=1 cargo test --release --test it the_page_of_nodes"
    );
}

#[test]
fn the_page_of_errors_is_what_the_program_explains() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let mut page =
        "# Errors\n\nEach error and warning of a pipeline has a code, which stays when its \
                    message changes.\n`blt-run explain CODE` prints what is below.\n"
            .to_string();
    // A code of another crate of this program would not be on the page: plugins have their own.
    for code in blt::graph::codes().into_iter().filter(|code| code.id.starts_with("BLT")) {
        let text = code.text();
        let (_, rest) = text.split_once("\n\n").unwrap();
        page.push_str(&format!("\n## {}: {}\n\n{}\n", code.id, code.name(), rest.trim_end()));
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page, written, "UPDATE=1 cargo test --release --test it the_page_of_errors");
}

#[test]
fn no_node_and_no_step_takes_a_parameter_that_it_does_not_know() {
    let more = |example: &str| {
        let open = example.trim_end().strip_suffix('}').unwrap();
        format!("{open}, unheard_of: 1}}")
    };
    let nodes = registry::nodes().into_iter();
    let nodes = nodes.map(|entry| format!("graph:\n  node: {}\n", more(entry.example)));
    let steps = registry::steps().into_iter();
    let steps = steps.map(|entry| format!("graph: {{}}\nrun:\n  - {}\n", more(entry.example)));
    for yaml in nodes.chain(steps) {
        let spec = PipelineSpec::parse(&format!("name: x\n{yaml}"), "x.yaml")
            .unwrap_or_else(|e| panic!("{yaml}\n{e}"));
        let refused = check_all(&spec, Path::new(".")).err().map(|e| e.to_string());
        let refused = refused.unwrap_or_default();
        assert!(refused.contains("has no parameter `unheard_of`"), "{yaml}\n{refused}");
    }
    let yaml =
        "name: x\ngraph:\n  docs: {node: ParquetBytes, path: a, split: {valid: 0, vaild: 1}}\n";
    let spec = PipelineSpec::parse(yaml, "x.yaml").unwrap();
    let refused = check_all(&spec, Path::new(".")).err().unwrap().to_string();
    assert!(refused.contains("has no key `vaild`"), "{refused}");
}

#[test]
fn every_example_runs() {
    let mut wrong = Vec::new();
    let place = Place::new();
    corpus(&place);
    let mut place = place;
    // A node that a test of this program registers is not in `blt-run`.
    let shipped = registry::nodes().into_iter().filter(|n| !n.origin.file.starts_with("tests/"));
    for node in shipped {
        let yaml = match pipeline(node) {
            Ok(yaml) => yaml,
            Err(what) => {
                wrong.push(what);
                continue;
            }
        };
        place = place.with(&yaml);
        let output = place.run(&[]);
        if !output.status.success() {
            wrong.push(format!(
                "the example of node {} ({}) does not run. If it names files, columns or wires, `corpus` and CONTEXT in \
                 tests/it/registry.rs are to have them.\n{yaml}\n{}",
                node.name,
                node.origin,
                text(&output.stderr)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_node_that_fits_nowhere_is_said_so() {
    /// A port that no node of the context gives.
    enum Elsewhere {}
    impl blt::graph::Port for Elsewhere {
        const NAME: &'static str = "Elsewhere";
        const PORT: &'static str = "elsewhere";
        type Value = ();
        type Info = ();
    }

    /// Gives what nothing takes.
    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    struct Stray {}
    impl blt::graph::Node for Stray {
        const NAME: &'static str = "Stray";
        const INPUTS: &'static [&'static str] = &[];
        const OUTPUTS: &'static [&'static str] = &["elsewhere"];
        const EXAMPLE: &'static str = "{node: Stray}";
        type In = ();
        type Out = Elsewhere;
        type State = ();
        fn check(&self, _: (), _: &blt::graph::CheckCx) -> Result<(), blt::graph::NodeError> {
            Ok(())
        }
        fn build(&self, _: (), _: &mut blt::graph::BuildCx) -> Result<(), blt::graph::NodeError> {
            Ok(())
        }
        fn run(&self, _: &(), _: (), _: &blt::graph::RunCx) -> Result<(), blt::graph::NodeError> {
            Ok(())
        }
    }

    let origin = registry::nodes()[0].origin;
    let error = pipeline(&NodeEntry::of::<Stray>(origin)).unwrap_err();
    assert!(error.contains("Stray") && error.contains("CONTEXT"), "{error}");
}
