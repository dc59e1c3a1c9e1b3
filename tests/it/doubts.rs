//! What a run says that is no error: doubts, and where to look.

use crate::common::{Place, text};
use std::process::Output;

fn stderr(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn an_entropy_model_that_nothing_trains() {
    let train = "  - train: {goal: entropy.loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}\n";
    let untrained = "no step trains `entropy`";
    let said = stderr(&Place::new().run(&[]));
    assert!(!said.contains(untrained), "{said}");
    // Once: what the first step that needs it does is known to the ones after it.
    let said = stderr(&Place::new().edit(train, "").run(&[]));
    assert_eq!(said.matches(untrained).count(), 1, "{said}");
    assert!(said.contains("{goal: entropy.loss"), "{said}");
    let position = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}\n{said}"));
    assert!(position(untrained) < position("[1/2]"), "before the first step\n{said}");
    let checked =
        Place::new().edit(train, "").command(&["check", "pipeline.yaml"]).output().unwrap();
    assert_eq!(stderr(&checked).matches(untrained).count(), 1, "{}", text(&checked.stderr));
}

#[test]
fn a_threshold_found_on_few_documents() {
    // Sixteen lines of a program differ: the standard error of their mean is more than 2 %.
    let said = stderr(&Place::new().edit("calibration: 0.3", "calibration: 0.1").run(&[]));
    assert!(said.contains("warning: patches: the threshold was found on 1"), "{said}");
    assert!(said.contains("bytes per patch (standard error)"), "{said}");
}

#[test]
fn where_the_report_and_the_outputs_are() {
    let place = Place::new();
    let without = text(&place.run(&[]).stdout);
    let lines: Vec<&str> = without.trim_end().lines().collect();
    let run = *lines.last().unwrap();
    assert!(
        lines.contains(&format!("report   {run}/report.html").as_str()) && place.path(run).is_dir(),
        "{without}"
    );
    assert!(!without.contains("outputs "), "{without}");
    let yaml = format!("{}  - score: {{goal: loss, limit: 3}}\n", place.yaml);
    let with = text(&place.with(&yaml).run(&[]).stdout);
    let outputs = with
        .lines()
        .find_map(|line| line.strip_prefix("outputs  "))
        .unwrap_or_else(|| panic!("{with}"));
    assert!(outputs.ends_with("/outputs"), "{with}");
}

#[test]
fn who_made_what_is_kept() {
    let place = Place::new();
    place.done(&[]);
    let list = |args: &[&str]| {
        text(&place.command(&[&["store", "list"], args].concat()).output().unwrap().stdout)
    };
    let listed = list(&[]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.lines().all(|line| line.ends_with("(tiny, base, seed 7)")), "{listed}");
    assert_eq!(list(&["--store", "runs/.store"]), listed);
    assert_eq!(list(&["--store", "elsewhere"]), "");
}
