//! A comparison for a terminal, for GitHub and for what reads JUnit XML.

use super::baseline::written;
use super::compare::{Comparison, Row, Verdict};
use super::fingerprint::Difference;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};
use unicode_width::UnicodeWidthStr;

const HEADER: [&str; 7] = ["variant", "metric", "old", "new", "delta", "allowed", "verdict"];

/// Significant digits of the numbers shown; the files have all.
const DIGITS: usize = 9;

fn shown(value: Option<f64>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return written(value);
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..9.0).contains(&magnitude) {
        return format!("{value:.4e}");
    }
    let decimals = (DIGITS as f64 - 1.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn delta(row: &Row) -> String {
    match row.delta {
        None => "–".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(delta) => format!("{delta:+.3e}"),
    }
}

fn cells(row: &Row) -> [String; 7] {
    let dash = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
    [
        row.variant.clone(),
        row.metric.clone(),
        shown(row.old),
        shown(row.new),
        delta(row),
        dash(&row.allowed),
        row.verdict.to_string(),
    ]
}

/// The rows worth reading: bits per byte of every variant, and whatever is not the same to the bit.
fn worth_reading(comparison: &Comparison, all: bool) -> Vec<&Row> {
    let worth = |row: &&Row| all || row.metric == "bpb" || row.verdict != Verdict::Same;
    comparison.rows.iter().filter(worth).collect()
}

fn differences(comparison: &Comparison) -> Vec<String> {
    let line = |Difference { case, words }: &Difference| {
        format!("another {case}: {words}; tolerances written for `{case}` hold as well")
    };
    comparison.differences.iter().map(line).collect()
}

/// `regression: 2 of 40 numbers (1 regressed, 1 not measured)` or `no regression: ...`.
fn verdict(comparison: &Comparison) -> String {
    let counts = [
        (Verdict::Regressed, "regressed"),
        (Verdict::NotMeasured, "not measured"),
        (Verdict::NotInBaseline, "not in the baseline"),
        (Verdict::Renamed, "renamed"),
        (Verdict::ImprovedUnasked, "improved beyond tolerance"),
        (Verdict::Improved, "improved"),
        (Verdict::Ignored, "ignored"),
        (Verdict::Within, "within tolerance"),
        (Verdict::Same, "the same to the bit"),
    ];
    let counts = counts.into_iter().map(|(verdict, words)| (comparison.count(verdict), words));
    let counts: Vec<String> =
        counts.filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")).collect();
    let n = comparison.rows.len();
    match (comparison.passed(), n) {
        (_, 0) => "regression: there was nothing to compare".to_owned(),
        (true, _) => format!("no regression in {n} numbers: {}", counts.join(", ")),
        (false, _) => format!("regression in {n} numbers: {}", counts.join(", ")),
    }
}

/// What to do about it, for a run that does not write the baseline anyway.
pub fn advice(comparison: &Comparison) -> Option<&'static str> {
    let improved = comparison.count(Verdict::Improved) > 0;
    let unasked = comparison.count(Verdict::ImprovedUnasked);
    match comparison.passed() {
        false if comparison.failures().count() == unasked => Some(
            "better than the baseline allows: find out why first, since a leak looks the same; to keep it, run with `--update` and \
             commit the baseline",
        ),
        false => {
            Some("if the change is meant, run it again with `--update` and commit the baseline")
        }
        true if improved => Some("`--update` writes what improved into the baseline"),
        true => None,
    }
}

/// The table for a terminal: bits per byte of every variant and whatever moved, or all rows; then
/// the verdict. Ends without a newline.
pub fn table(comparison: &Comparison, all: bool) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(worth_reading(comparison, all).into_iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let padded = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let pad = " ".repeat(width - cell.width());
            // Numbers to the right, words to the left.
            if (2..5).contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out =
        vec![line(&rows[0]), "─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1))];
    out.extend(rows[1..].iter().map(line));
    out.push(String::new());
    out.extend(differences(comparison));
    out.push(verdict(comparison));
    out.join("\n")
}

/// A section of a GitHub step summary. Ends with a newline.
pub fn markdown(comparison: &Comparison) -> String {
    let mark = if comparison.passed() { "✅" } else { "❌" };
    let mut out = format!(
        "### {mark} Regression run of `{}`\n\n{}\n\n",
        comparison.pipeline,
        verdict(comparison)
    );
    for words in differences(comparison) {
        out.push_str(&format!("- {}\n", cell(&words)));
    }
    let rows = worth_reading(comparison, false);
    if !rows.is_empty() {
        out.push_str(&format!("\n| {} |\n|---|---|--:|--:|--:|---|---|\n", HEADER.join(" | ")));
    }
    for row in rows {
        let bold = if row.verdict.passes() { "" } else { "**" };
        let mut cells = cells(row).map(|text| cell(&text));
        cells[6] = format!("{bold}{}{bold}", cells[6]);
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    if let Some(advice) = advice(comparison) {
        out.push_str(&format!("\n{advice}\n"));
    }
    out.push('\n');
    out
}

/// As [`markdown`], of a run that did not end well.
pub fn failed_markdown(pipeline: &str, error: &str) -> String {
    let quoted: String = error.trim_end().lines().map(|line| format!("    {line}\n")).collect();
    format!("### ❌ Regression run of `{pipeline}`\n\nthe run failed\n\n{quoted}\n")
}

/// Text inside a table: `|` would end the cell, and `<` and `*` mean something.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('*', "\\*")
        .replace('_', "\\_")
        .replace('<', "&lt;")
}

/// JUnit XML: a test suite of the pipeline, a test case for each number, by variant.
pub fn junit(comparison: &Comparison) -> String {
    let mut suite = TestSuite::new(&*comparison.pipeline);
    for Difference { case, words } in &comparison.differences {
        suite.add_property(Property::new(format!("another {case}"), words));
    }
    let failure = |message: String| {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_type("regression").set_message(message);
        status
    };
    for row in &comparison.rows {
        let [_, _, old, new, delta, allowed, verdict] = cells(row);
        let status = match row.verdict.passes() {
            true => TestCaseStatus::success(),
            false => failure(format!(
                "{verdict}: old {old}, new {new}, delta {delta}, allowed {allowed}"
            )),
        };
        let mut case = TestCase::new(&*row.metric, status);
        case.set_classname(format!("{}.{}", comparison.pipeline, row.variant));
        suite.add_test_case(case);
    }
    // A suite of no test would count as a success.
    if comparison.rows.is_empty() {
        suite.add_test_case(run_case(
            &comparison.pipeline,
            failure("there was nothing to compare".to_owned()),
        ));
    }
    report(suite)
}

/// As [`junit`], of a run that did not end well: one test case with its error.
pub fn failed_junit(pipeline: &str, error: &str) -> String {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_type("run").set_message("the run failed").set_description(error);
    let mut suite = TestSuite::new(pipeline);
    suite.add_test_case(run_case(pipeline, status));
    report(suite)
}

/// The test case of the run as a whole.
fn run_case(pipeline: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new("run", status);
    case.set_classname(pipeline);
    case
}

fn report(suite: TestSuite) -> String {
    let mut report = Report::new("blt-run regress");
    report.add_test_suite(suite);
    report.to_string().expect("what is written into memory is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regress::Case;

    fn row(
        variant: &str,
        metric: &str,
        old: Option<f64>,
        new: Option<f64>,
        verdict: Verdict,
    ) -> Row {
        let delta = old.zip(new).map(|(old, new)| new - old);
        let allowed = if delta.is_some() { "±0.0001".to_owned() } else { String::new() };
        Row { variant: variant.into(), metric: metric.into(), old, new, delta, allowed, verdict }
    }

    fn comparison() -> Comparison {
        Comparison {
            pipeline: "a<b".into(),
            differences: vec![Difference { case: Case::Cpu, words: "\"x\" & y".into() }],
            rows: vec![
                row("byte", "bpb", Some(6.125), Some(6.125), Verdict::Same),
                row("byte", "bytes", Some(81234.0), Some(81234.0), Verdict::Same),
                row("k=1|x", "bpb", Some(2.0), Some(2.00012345), Verdict::Regressed),
                row("k=1|x", "gone", Some(2.0), None, Verdict::NotMeasured),
            ],
        }
    }

    #[test]
    fn a_table_shows_what_moved() {
        let expected = "\
variant  metric    old         new       delta  allowed  verdict
────────────────────────────────────────────────────────────────────
byte     bpb     6.125       6.125           0  ±0.0001  same
k=1|x    bpb         2  2.00012345  +1.234e-4  ±0.0001  REGRESSED
k=1|x    gone        2           –           –  –        NOT MEASURED

another cpu: \"x\" & y; tolerances written for `cpu` hold as well
regression in 4 numbers: 1 regressed, 1 not measured, 2 the same to the bit";
        let squeezed = |text: &str| {
            text.split_whitespace().map(|w| w.trim_matches('─')).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            squeezed(&table(&comparison(), false)),
            squeezed(expected),
            "{}",
            table(&comparison(), false)
        );
        assert!(
            table(&comparison(), true).contains("81234")
                && !table(&comparison(), false).contains("81234")
        );
        let columns: Vec<usize> =
            table(&comparison(), true).lines().take(2).map(|line| line.chars().count()).collect();
        assert!(columns[0] <= columns[1]);
        assert!(advice(&comparison()).is_some_and(|advice| advice.contains("`--update`")));
    }

    #[test]
    fn numbers_are_short_and_tell_apart_what_differs() {
        assert_eq!(shown(Some(2.0)), "2");
        assert_eq!(shown(Some(0.1 + 0.2)), "0.3");
        assert_eq!(shown(Some(5.123456789123)), "5.12345679");
        assert_eq!(shown(Some(123456.789123)), "123456.789");
        assert_eq!(shown(Some(-1.25e-7)), "-1.2500e-7");
        assert_eq!(shown(Some(1e300)), "1.0000e300");
        assert_eq!(shown(None), "–");
    }

    #[test]
    fn junit_has_a_case_for_each_number_and_escapes_names() {
        let xml = junit(&comparison());
        assert!(
            xml.contains(
                "<testsuite name=\"a&lt;b\" tests=\"4\" skipped=\"0\" errors=\"0\" failures=\"2\">"
            ),
            "{xml}"
        );
        assert_eq!((xml.matches("<testcase ").count(), xml.matches("<failure ").count()), (4, 2));
        assert!(
            xml.contains("<property name=\"another cpu\" value=\"&quot;x&quot; &amp; y\"/>"),
            "{xml}"
        );
        assert!(
            xml.contains(
                "message=\"REGRESSED: old 2, new 2.00012345, delta +1.234e-4, allowed ±0.0001\""
            ),
            "{xml}"
        );
        assert_balanced(&xml);
        let nothing = Comparison { differences: vec![], rows: vec![], ..comparison() };
        assert!(junit(&nothing).contains("tests=\"1\" skipped=\"0\" errors=\"0\" failures=\"1\""));
        assert_balanced(&junit(&nothing));
        let failed = failed_junit("p", "error: \u{1b}[31m<no>");
        assert!(
            failed.contains("errors=\"1\"") && failed.contains(">error: &lt;no&gt;</error>"),
            "{failed}"
        );
        assert_balanced(&failed);
    }

    /// Every element that is opened is closed, in order.
    fn assert_balanced(xml: &str) {
        let mut open = Vec::new();
        for tag in xml.split('<').skip(2).map(|rest| &rest[..rest.find('>').unwrap()]) {
            let name = tag
                .trim_start_matches('/')
                .split_whitespace()
                .next()
                .unwrap()
                .trim_end_matches('/');
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{xml}");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{xml}");
    }

    #[test]
    fn markdown_is_a_table_that_cells_cannot_break() {
        let text = markdown(&comparison());
        assert!(text.starts_with("### ❌ Regression run of `a<b`\n"), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + 3, "{text}");
        assert!(rows.iter().all(|row| row.replace("\\|", "").matches('|').count() == 8), "{text}");
        assert!(rows[3].contains("k=1\\|x") && rows[3].contains("**REGRESSED**"), "{text}");
        assert!(failed_markdown("p", "error: x\n  at y\n").contains("    error: x\n      at y\n"));
    }
}
