//! `blt-run regress`: exit codes, the files it leaves, and that its verdict does not depend on
//! threads or load.

use crate::common::{Place, text};
use serde_json::Value;
use std::fs;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const VARIANTS: &str = "
ablate:
  entropy: {}
  stride:  {graph.patches: {node: StridePatch, in: docs, stride: 3}}
";

fn place() -> Place {
    let place = Place::new();
    let yaml = format!("{}{VARIANTS}", place.yaml);
    place.with(&yaml)
}

fn regress(place: &Place, args: &[&str]) -> Output {
    place
        .command(&[&["regress", "pipeline.yaml", "--baseline", "baseline.yaml"], args].concat())
        .output()
        .unwrap()
}

/// The program's output; it must have ended with `code`.
#[track_caller]
fn ended(output: &Output, code: i32) -> String {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    stdout
}

fn with_baseline() -> Place {
    let place = place();
    ended(&regress(&place, &["--update"]), 0);
    place
}

fn baseline(place: &Place) -> String {
    fs::read_to_string(place.path("baseline.yaml")).unwrap()
}

/// Replaces the number of `metric` in `variant`, or removes its line.
fn edit(place: &Place, variant: &str, metric: &str, number: Option<&str>) {
    let baseline = baseline(place);
    let at = baseline.find(&format!("\n  {variant}:\n")).unwrap();
    let line = at + baseline[at..].find(&format!("\n    {metric}: ")).unwrap() + 1;
    let end = line + baseline[line..].find('\n').unwrap() + 1;
    let new = number.map_or(String::new(), |number| format!("    {metric}: {number}\n"));
    fs::write(
        place.path("baseline.yaml"),
        format!("{}{new}{}", &baseline[..line], &baseline[end..]),
    )
    .unwrap();
}

fn verdicts(json: &Value, verdict: &str) -> Vec<String> {
    let rows = json["rows"].as_array().unwrap().iter().filter(|row| row["verdict"] == verdict);
    rows.map(|row| {
        format!("{} {}", row["variant"].as_str().unwrap(), row["metric"].as_str().unwrap())
    })
    .collect()
}

#[test]
fn the_same_run_passes_to_the_bit_and_an_update_changes_nothing() {
    let place = with_baseline();
    let written = baseline(&place);
    let stdout = ended(
        &regress(&place, &["--json", "out.json", "--junit", "out.xml", "--summary", "out.md"]),
        0,
    );
    assert!(
        stdout.contains("no regression in")
            && stdout.contains("entropy")
            && stdout.contains("stride"),
        "{stdout}"
    );
    let json: Value = serde_json::from_slice(&fs::read(place.path("out.json")).unwrap()).unwrap();
    assert_eq!(json["passed"], true);
    assert_eq!(verdicts(&json, "same").len(), json["rows"].as_array().unwrap().len());
    // Both variants have their bits per byte; a training that they share stands under one.
    let same = verdicts(&json, "same");
    for expected in [
        "entropy bpb",
        "stride bpb",
        "entropy run.0.train.bpb",
        "entropy prepared.patches.threshold",
    ] {
        assert!(same.iter().any(|row| row == expected), "{expected}: {same:?}");
    }
    assert!(!same.iter().any(|row| row == "stride run.0.train.bpb"), "{same:?}");
    assert!(
        fs::read_to_string(place.path("out.xml")).unwrap().contains("failures=\"0\" errors=\"0\"")
    );
    assert!(fs::read_to_string(place.path("out.md")).unwrap().contains("✅"));
    // The run directory is one like any other, with the comparison in it.
    let dir = place.path(stdout.trim_end().lines().last().unwrap());
    assert_eq!(
        serde_json::from_slice::<Value>(&fs::read(dir.join("regression.json")).unwrap()).unwrap(),
        json
    );
    assert!(dir.join("results.json").is_file() && dir.join("report.html").is_file());
    ended(&regress(&place, &["--update"]), 0);
    assert_eq!(baseline(&place), written);
}

#[test]
fn the_store_is_empty_each_time_and_gone_afterwards() {
    let place = with_baseline();
    place.done(&[]);
    let again = regress(&place, &[]);
    ended(&again, 0);
    let headings: Vec<String> =
        text(&again.stderr).lines().filter(|l| l.starts_with('[')).map(String::from).collect();
    let reused = headings.iter().filter(|line| line.contains("reused")).count();
    // Of the six steps, the second variant's first is the first variant's.
    assert_eq!((headings.len(), reused), (6, 1), "{headings:?}");
    let left: Vec<String> = fs::read_dir(place.path("runs"))
        .unwrap()
        .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".regress"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_number_that_moved_is_exit_4_and_named() {
    let place = with_baseline();
    // A thousandth of a bit more than the baseline says.
    let new: f64 = {
        let baseline = baseline(&place);
        let at = baseline.find("\n  stride:\n").unwrap();
        let from = at + baseline[at..].find("\n    bpb: ").unwrap() + "\n    bpb: ".len();
        baseline[from..].lines().next().unwrap().parse().unwrap()
    };
    edit(&place, "stride", "bpb", Some(&format!("{:?}", new - 0.001)));
    let output =
        regress(&place, &["--json", "out.json", "--junit", "out.xml", "--summary", "out.md"]);
    let stdout = ended(&output, 4);
    let row = stdout.lines().find(|line| line.contains("REGRESSED")).unwrap();
    assert!(row.contains("stride") && row.contains("bpb") && row.contains("+1.000e-3"), "{stdout}");
    let json: Value = serde_json::from_slice(&fs::read(place.path("out.json")).unwrap()).unwrap();
    assert_eq!(
        (&json["passed"], verdicts(&json, "regressed")),
        (&Value::Bool(false), vec!["stride bpb".to_string()])
    );
    let xml = fs::read_to_string(place.path("out.xml")).unwrap();
    assert!(
        xml.contains("failures=\"1\"") && xml.contains("name=\"bpb\" classname=\"tiny.stride\">"),
        "{xml}"
    );
    assert!(fs::read_to_string(place.path("out.md")).unwrap().contains("**REGRESSED**"));
    // The summary is appended to, as GitHub's is.
    ended(&regress(&place, &["--summary", "out.md"]), 4);
    assert_eq!(fs::read_to_string(place.path("out.md")).unwrap().matches("### ").count(), 2);
    // An update takes the number and passes.
    ended(&regress(&place, &["--update"]), 0);
    ended(&regress(&place, &[]), 0);
}

#[test]
fn what_either_side_lacks_is_exit_4() {
    let place = with_baseline();
    edit(&place, "entropy", "bpb", None);
    let stdout = ended(&regress(&place, &[]), 4);
    assert!(
        stdout.contains("NOT IN BASELINE") && stdout.contains("1 not in the baseline"),
        "{stdout}"
    );
    ended(&regress(&place, &["--update"]), 0);
    edit(&place, "entropy", "bytes", Some("9\n    extra: 1"));
    let stdout = ended(&regress(&place, &[]), 4);
    assert!(stdout.contains("extra") && stdout.contains("NOT MEASURED"), "{stdout}");
    ended(&regress(&place, &["--update"]), 0);
    // A variant less in the pipeline, and one more.
    let whole = place.yaml.clone();
    let stride = VARIANTS.lines().find(|line| line.contains("stride:")).unwrap();
    let place = place.edit(stride, "");
    let stdout = ended(&regress(&place, &[]), 4);
    assert!(
        stdout.lines().any(|line| line.starts_with("stride ") && line.ends_with("NOT MEASURED")),
        "{stdout}"
    );
    let place = place
        .with(&format!("{whole}  space:  {{graph.patches: {{node: SpacePatch, in: docs}}}}\n"));
    let stdout = ended(&regress(&place, &[]), 4);
    assert!(
        stdout.lines().any(|line| line.starts_with("space ") && line.ends_with("NOT IN BASELINE")),
        "{stdout}"
    );
}

#[test]
fn what_differs_is_said_and_has_its_own_tolerance() {
    let place = with_baseline();
    // Another pipeline moves numbers, and says that it is another.
    let args = ["--set", "run.1.train.lr=4.1e-3"];
    let stdout = ended(&regress(&place, &args), 4);
    assert!(stdout.contains("another pipeline: its `run` is "), "{stdout}");
    let written = baseline(&place);
    let any = "tolerances:\n  # Anything goes on another pipeline.\n  \"*\": {same: exact, pipeline: absolute 1e12}\n";
    let (head, tail) = (written.find("tolerances:").unwrap(), written.find("variants:").unwrap());
    fs::write(
        place.path("baseline.yaml"),
        format!("{}{any}{}", &written[..head], &written[tail..]),
    )
    .unwrap();
    let stdout = ended(&regress(&place, &args), 0);
    assert!(stdout.contains("(pipeline)") && stdout.contains("within"), "{stdout}");
    // Not on the same one, though.
    edit(&place, "stride", "bpb", Some("1"));
    ended(&regress(&place, &[]), 4);
    // Seeds, versions and processors are told apart from it.
    for (old, new, words) in [
        ("seeds: [7]", "seeds: [9]", "another seeds: [9] in the baseline, [7] now"),
        ("  cpu: ", "  cpu: z80 # ", "another cpu: z80 in the baseline, "),
        ("blt-core: \"", "blt-core: \"0.0.", "another version: blt-core is 0.0."),
        (
            "data:\n    docs.parquet: ",
            "data:\n    other.parquet: ",
            "another data: other.parquet is in the baseline alone",
        ),
    ] {
        let before = baseline(&place);
        assert!(before.contains(old), "{old} in {before}");
        fs::write(place.path("baseline.yaml"), before.replacen(old, new, 1)).unwrap();
        let stdout = ended(&regress(&place, &[]), 4);
        assert!(stdout.contains(words), "{words}: {stdout}");
        fs::write(place.path("baseline.yaml"), before).unwrap();
    }
    // An update keeps what a maintainer wrote.
    ended(&regress(&place, &["--update"]), 0);
    assert!(baseline(&place).contains(any));
}

#[test]
fn the_data_are_known_by_their_contents() {
    let place = with_baseline();
    // A checkout gives files another time: still the same data.
    let docs = fs::File::options().write(true).open(place.path("docs.parquet")).unwrap();
    docs.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(99))
        .unwrap();
    let stdout = ended(&regress(&place, &[]), 0);
    assert!(!stdout.contains("another"), "{stdout}");
    let texts = crate::common::texts();
    let fewer: Vec<Option<&str>> = texts.iter().skip(1).map(|t| Some(t.as_str())).collect();
    crate::common::write_parquet(&place.path("docs.parquet"), &fewer);
    assert!(ended(&regress(&place, &[]), 4).contains("another data: docs.parquet is "));
}

#[test]
fn a_checkpoint_is_data() {
    let place = Place::new().with(
        "name: score
graph:
  docs: {node: ParquetBytes, path: docs.parquet, column: text}
  blt:  {node: Blt, in: docs, checkpoint: model/}
run:
  - evaluate: {goal: blt, split: all, limit: 5}
",
    );
    fs::create_dir(place.path("model")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/parity/k2_base")
            .join(file);
        fs::copy(fixture, place.path("model").join(file)).unwrap();
    }
    ended(&regress(&place, &["--update"]), 0);
    assert!(baseline(&place).contains("model/model.safetensors: "), "{}", baseline(&place));
    // The same model, told at more length.
    let config = fs::read_to_string(place.path("model/config.json")).unwrap();
    fs::write(place.path("model/config.json"), format!("{config}\n")).unwrap();
    let stdout = ended(&regress(&place, &[]), 0);
    assert!(stdout.contains("another data: model/config.json is "), "{stdout}");
}

#[test]
fn a_run_or_a_baseline_that_fails_is_exit_1() {
    let place = place();
    let missing = regress(&place, &["--junit", "out.xml", "--summary", "out.md"]);
    ended(&missing, 1);
    assert!(
        text(&missing.stderr)
            .contains("there is no baseline baseline.yaml; make one with `--update`")
    );
    assert!(fs::read_to_string(place.path("out.xml")).unwrap().contains("errors=\"1\""));
    assert!(fs::read_to_string(place.path("out.md")).unwrap().contains("❌"));
    assert!(place.runs().is_empty(), "told before anything runs");
    fs::write(place.path("baseline.yaml"), "format: 1\nvariants: {").unwrap();
    for args in [&[][..], &["--update"]] {
        let damaged = regress(&place, args);
        ended(&damaged, 1);
        assert!(
            text(&damaged.stderr).contains("baseline.yaml is damaged"),
            "{}",
            text(&damaged.stderr)
        );
    }
    fs::remove_file(place.path("baseline.yaml")).unwrap();
    ended(&regress(&place, &["--update"]), 0);
    let written = baseline(&place);
    let failed =
        regress(&place, &["--set", "run.1.train.lr=1e30", "--update", "--junit", "out.xml"]);
    ended(&failed, 1);
    assert!(text(&failed.stderr).contains("not finite"), "{}", text(&failed.stderr));
    assert!(fs::read_to_string(place.path("out.xml")).unwrap().contains("not finite"));
    assert_eq!(baseline(&place), written, "a failed run writes no baseline");
}

#[test]
fn over_seeds_a_difference_counts_in_standard_errors() {
    let place = place().edit("seed: 7", "seeds: [1, 2, 3]");
    ended(&regress(&place, &["--update"]), 0);
    let written = baseline(&place);
    assert!(
        written.contains("seeds: [1, 2, 3]") && written.contains("    bpb: {mean: "),
        "{written}"
    );
    let tolerances = "tolerances:\n  bpb: {same: standard_errors 3}\n  \"*\": {same: exact}\n";
    let (head, tail) = (written.find("tolerances:").unwrap(), written.find("variants:").unwrap());
    fs::write(
        place.path("baseline.yaml"),
        format!("{}{tolerances}{}", &written[..head], &written[tail..]),
    )
    .unwrap();
    let at = written.find("\n  stride:\n").unwrap();
    let from = at + written[at..].find("bpb: {mean: ").unwrap() + "bpb: {mean: ".len();
    let (mean, rest) = written[from..].split_once(", se: ").unwrap();
    let (mean, se): (f64, f64) =
        (mean.parse().unwrap(), rest.split_once('}').unwrap().0.parse().unwrap());
    assert!(se > 0.0);
    // Two equal errors make one of sqrt(2) of each: three of them are 4.24.
    for (errors, code) in [(4.0, 0), (4.5, 4)] {
        edit(
            &place,
            "stride",
            "bpb",
            Some(&format!("{{mean: {:?}, se: {se:?}}}", mean - errors * se)),
        );
        let stdout = ended(&regress(&place, &[]), code);
        assert!(stdout.contains("3.0 s.e."), "{stdout}");
    }
}

/// Threads that do nothing but compute, until this is dropped.
struct Load(Arc<AtomicBool>, Vec<std::thread::JoinHandle<u64>>);

impl Load {
    fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = 2 * std::thread::available_parallelism().map_or(2, usize::from);
        let busy = |stop: Arc<AtomicBool>| {
            move || {
                let mut x = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                }
                x
            }
        };
        let threads = (0..threads).map(|_| std::thread::spawn(busy(stop.clone()))).collect();
        Load(stop, threads)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn twenty_runs_under_load_give_the_same_verdict() {
    let place = with_baseline();
    let _load = Load::new();
    let mut first = None;
    for run in 0..20 {
        let threads = ["1", "2"][run % 2];
        ended(&regress(&place, &["--threads", threads, "--json", "out.json"]), 0);
        let json = fs::read(place.path("out.json")).unwrap();
        let read: Value = serde_json::from_slice(&json).unwrap();
        // Every number to the bit, which is more than the same verdict.
        assert_eq!(
            verdicts(&read, "same").len(),
            read["rows"].as_array().unwrap().len(),
            "run {run}, {threads} threads"
        );
        let first = first.get_or_insert_with(|| json.clone());
        assert!(*first == json, "run {run}, {threads} threads: {read:#}");
    }
}

/// What the workflow for users' repositories runs is something that the program understands.
#[test]
fn the_workflow_calls_what_there_is() {
    let tree: serde_yaml::Value =
        serde_yaml::from_str(include_str!("../../examples/github/regression.yml")).unwrap();
    let steps = tree["jobs"]["regression"]["steps"].as_sequence().unwrap();
    let call = steps
        .iter()
        .find_map(|step| step["run"].as_str().filter(|run| run.contains("blt-run regress")))
        .unwrap();
    let help = ended(&Place::new().command(&["regress", "--help"]).output().unwrap(), 0);
    let flags: Vec<&str> = call.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert!(
        flags.contains(&"--baseline") && flags.contains(&"--summary") && flags.contains(&"--junit"),
        "{flags:?}"
    );
    assert!(flags.iter().all(|flag| help.contains(flag)), "{flags:?} in {help}");
}
