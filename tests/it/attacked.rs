//! Kills at any time, and pairs of processes: a few in CI, hundreds with `BLT_KILLS=500` and
//! `BLT_PAIRS=200`. Prints how many there were.

use crate::common::{Place, text, tree};
use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

fn times(variable: &str, by_default: usize) -> usize {
    std::env::var(variable).map_or(by_default, |n| n.parse().expect("a number"))
}

/// Training, evaluation, scoring and an export.
fn place() -> Place {
    let place = Place::new();
    let yaml = place
        .yaml
        .replace("steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2", "steps: 40, batch_bytes: 512, lr: 4e-3, checkpoint_every: 3")
        .replace("patches: {node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}", "patches: {node: StridePatch, in: docs, stride: 3}")
        .replace("  - evaluate: {goal: loss, by: domain}\n", "  - evaluate: {goal: loss, by: domain}\n  - score: {goal: loss, part_bytes: 1}\n  - export: {goal: loss, verify: 2}\n");
    place.with(&yaml)
}

fn start(place: &Place, args: &[&str]) -> Child {
    let args = [&["pipeline.yaml", "--threads", "1"], args].concat();
    place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What must be the same however often a run was killed.
fn left(run: &Path) -> Vec<(String, Vec<u8>)> {
    let all = tree(&run.join("checkpoints")).into_iter().chain(tree(&run.join("outputs")));
    let metrics = ("metrics.jsonl".to_string(), fs::read(run.join("metrics.jsonl")).unwrap());
    all.chain([metrics]).collect()
}

fn run_of(output: &Output, place: &Place) -> std::path::PathBuf {
    place.path(text(&output.stdout).trim_end().lines().last().unwrap())
}

#[test]
fn killed_at_any_time_a_run_ends_in_the_same_bits() {
    let whole = place();
    let expected = left(&whole.done(&["--threads", "1"]).dir);
    let (wanted, mut kills, mut ends) = (times("BLT_KILLS", 6), 0, 0);
    // A generator of its own: delays that differ, and no two runs the same.
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    while kills < wanted {
        let place = place();
        // Some kills, each further on, and then to the end.
        for _ in 0..5 {
            let mut child = start(&place, &[]);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            std::thread::sleep(Duration::from_millis(50 + (random >> 33) % 900));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            child.wait_with_output().unwrap();
            kills += 1;
        }
        let output = start(&place, &[]).wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success() && !said.contains("panicked"), "{said}");
        let found = left(&run_of(&output, &place));
        let names = |files: &[(String, Vec<u8>)]| {
            files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&expected), names(&found));
        for ((name, a), (_, b)) in expected.iter().zip(&found) {
            assert!(a == b, "{name} differs after {kills} kills");
        }
        ends += 1;
    }
    println!("{kills} kills -9, {ends} runs went on to their ends, all to the same bits");
}

#[test]
fn pairs_of_processes_end_well() {
    let wanted = times("BLT_PAIRS", 4);
    let (mut same, mut refused) = (0, 0);
    let expected = left(&place().done(&["--threads", "1"]).dir);
    for pair in 0..wanted {
        let place = place();
        let other = ["--set", "graph.latent.rope_theta=1000"];
        let into = ["--set", "run.3.score.output=both"];
        // Two of one pipeline, or two that score other models into one folder.
        let (a, b): (Vec<&str>, Vec<&str>) = match pair % 2 {
            0 => (vec![], vec![]),
            _ => (into.to_vec(), [into, other].concat()),
        };
        let both = [start(&place, &a), start(&place, &b)].map(|c| c.wait_with_output().unwrap());
        let said = both.iter().map(|output| text(&output.stderr)).collect::<Vec<_>>();
        assert!(said.iter().all(|said| !said.contains("panicked")), "{said:?}");
        let good: Vec<&Output> = both.iter().filter(|output| output.status.success()).collect();
        if pair % 2 == 0 {
            assert_eq!(good.len(), 2, "{said:?}");
            assert!(good.iter().all(|output| left(&run_of(output, &place)) == expected));
            same += 1;
        } else {
            assert_eq!(good.len(), 1, "{said:?}");
            assert!(said.iter().any(|said| said.contains("holds other work")), "{said:?}");
            refused += 1;
        }
    }
    println!(
        "{same} pairs of one job ended in the same bits, of {refused} pairs of two jobs in one folder one was refused"
    );
}
