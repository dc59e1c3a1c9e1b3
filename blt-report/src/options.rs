//! The pipeline's `report` section.

use blt_graph::diagnostic::nearest;
use blt_graph::{Diagnostic, Diagnostics, PipelineSpec, Variant};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What the `report` section asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportOptions {
    /// The variant that differences are to.
    pub baseline: Option<String>,
    /// The column whose values are the clusters of documents.
    pub cluster: Option<String>,
    /// The variants that are controls, in order, and what each controls.
    pub controls: Vec<(String, ControlOf)>,
    /// Rows beside the variants: a name, and the goal of which an `evaluate` step has the numbers.
    pub references: Vec<(String, String)>,
}

/// What a control controls: `NAME: ARM`, or `NAME: {of: ARM, what: TEXT}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlOf {
    /// The variant that it is compared with.
    #[serde(rename = "of")]
    pub arm: String,
    /// What it changes, in words that a cost can follow: "no latents".
    pub what: Option<String>,
}

impl ControlOf {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(arm) => Some(ControlOf { arm: arm.clone(), what: None }),
            other => serde_json::from_value(other.clone()).ok(),
        }
    }
}

impl ReportOptions {
    /// Reads a section that [`check_report`] has passed.
    pub fn of(section: &Map<String, Value>) -> Self {
        let text = |key: &str| section.get(key).and_then(Value::as_str).map(str::to_owned);
        let controls = section.get("controls").and_then(Value::as_object).into_iter().flatten();
        let controls = controls.filter_map(|(name, of)| Some((name.clone(), ControlOf::read(of)?)));
        let references = section.get("references").and_then(Value::as_object).into_iter().flatten();
        let references =
            references.filter_map(|(name, goal)| Some((name.clone(), goal.as_str()?.to_owned())));
        ReportOptions {
            baseline: text("baseline"),
            cluster: text("cluster"),
            controls: controls.collect(),
            references: references.collect(),
        }
    }

    /// Whether the variant is a control.
    pub fn is_control(&self, variant: &str) -> bool {
        self.controls.iter().any(|(name, _)| name == variant)
    }
}

/// What the report compares.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "its schema is what is used")]
struct ReportKeys {
    /// The variant that differences are to.
    baseline: Option<String>,
    /// The column whose values are clusters of documents, which count as one observation.
    cluster: Option<String>,
    /// Variants that show what the run can see, each with the variant that it is compared with:
    /// `{CONTROL: ARM}` or `{CONTROL: {of: ARM, what: TEXT}}`. They are never ranked.
    controls: Option<BTreeMap<String, ControlKeys>>,
    /// Goals of other `evaluate` steps that are rows of the table: `{NAME: GOAL}`.
    references: Option<BTreeMap<String, String>>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "its schema is what is used")]
enum ControlKeys {
    Arm(String),
    Of {
        /// The variant that it is compared with.
        of: String,
        /// What it changes, in words that a cost can follow: "no latents".
        what: Option<String>,
    },
}

/// The JSON Schema of the section.
pub fn report_schema() -> Value {
    schemars::SchemaGenerator::default().into_root_schema_for::<ReportKeys>().to_value()
}

blt_graph::code! {
    /// The section `report` asks for what is not there.
    ///
    /// `baseline` and `controls` name variants, `references` goals of `evaluate` steps, `cluster` a
    /// column. `blt-run keys report` has all of its keys.
    pub REPORT = "BLT0601"
}

/// Checks the pipeline's `report` section: `baseline` and `controls` name variants, `cluster` a
/// column. (The steps that read documents check that there is such a column.)
///
/// # Errors
/// Diagnostics that point at the keys or the values at fault.
pub fn check_report(spec: &PipelineSpec) -> Result<(), Diagnostics> {
    let mut check = Check { spec, found: Vec::new() };
    let schema = report_schema();
    let keys = schema["properties"].as_object().map(|keys| keys.keys().map(String::as_str));
    let keys: Vec<&str> = keys.into_iter().flatten().collect();
    for key in spec.report.keys().filter(|key| !keys.contains(&key.as_str())) {
        let message = format!("`report` has no `{key}`; it takes `{}`", keys.join("`, `"));
        let near = nearest(key, keys.iter().copied());
        check.say_key(&["report", key], message, near);
    }
    if let Some(cluster) = spec.report.get("cluster").filter(|cluster| !cluster.is_string()) {
        let message = format!("`report.cluster` is {cluster}, and it takes the name of a column");
        check.say(&["report", "cluster"], message);
    }
    let named =
        ["baseline", "controls", "references"].iter().any(|key| spec.report.contains_key(*key));
    if named {
        let variants = spec.variants()?;
        let names: Vec<String> = variants.iter().map(|variant| variant.name.clone()).collect();
        if let Some(baseline) = spec.report.get("baseline") {
            let named = baseline.as_str().map_or_else(|| baseline.to_string(), str::to_owned);
            if !names.contains(&named) {
                let (message, near) = unknown(&names, "`report.baseline` is", &named);
                check.say_near(&["report", "baseline"], message, near);
            }
        }
        check.controls(&names);
        check.references(&names, &variants);
    }
    if check.found.is_empty() { Ok(()) } else { Err(Diagnostics(check.found)) }
}

/// A check of the section, and what it found.
struct Check<'a> {
    spec: &'a PipelineSpec,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn say(&mut self, path: &[&str], message: String) {
        self.say_near(path, message, None);
    }

    /// `near`: what may be meant by the value.
    fn say_near(&mut self, path: &[&str], message: String, near: Option<&str>) {
        let Diagnostics(new) = self.spec.diagnose(&REPORT, path, message, None);
        let suggestion = near.map(str::to_owned);
        self.found.extend(
            new.into_iter().map(|new| Diagnostic { suggestion: suggestion.clone(), ..new }),
        );
    }

    /// `near`: what may be meant by the key.
    fn say_key(&mut self, path: &[&str], message: String, near: Option<&str>) {
        let Diagnostics(new) = self.spec.diagnose_key(&REPORT, path, message, near);
        self.found.extend(new);
    }

    /// References are goals that some `evaluate` step measures, under names that no variant has.
    fn references(&mut self, names: &[String], variants: &[Variant]) {
        let Some(section) = self.spec.report.get("references") else { return };
        let Value::Object(references) = section else {
            let message =
                format!("`report.references` is {section}; expected `references: {{NAME: GOAL}}`");
            return self.say(&["report", "references"], message);
        };
        let steps = variants.iter().flat_map(|variant| &variant.spec.run);
        let evaluated = steps.filter(|step| step.step == "evaluate");
        let goals = evaluated.filter_map(|step| step.params.get("goal")?.as_str());
        let goals: Vec<&str> = goals.collect::<BTreeSet<_>>().into_iter().collect();
        for (name, goal) in references {
            let (message, meant) = if names.contains(name) {
                (format!("the reference `{name}` has the name of a variant"), None)
            } else if goal.as_str().is_some_and(|goal| goals.contains(&goal)) {
                continue;
            } else {
                let message = format!(
                    "the reference `{name}` is {goal}, and `evaluate` steps have the goals `{}`",
                    goals.join("`, `")
                );
                (message, goal.as_str().and_then(|goal| nearest(goal, goals.iter().copied())))
            };
            self.say_near(&["report", "references", name], message, meant);
        }
    }

    /// Controls and what they control are variants, and no variant is both.
    fn controls(&mut self, names: &[String]) {
        const GRAMMAR: &str =
            "`controls: {CONTROL: ARM}` or `controls: {CONTROL: {of: ARM, what: TEXT}}`";
        let spec = self.spec;
        let Some(section) = spec.report.get("controls") else { return };
        let Value::Object(controls) = section else {
            let message = format!("`report.controls` is {section}; expected {GRAMMAR}");
            return self.say(&["report", "controls"], message);
        };
        for (name, value) in controls {
            let at = ["report", "controls", name.as_str()];
            let Some(of) = ControlOf::read(value) else {
                self.say(&at, format!("the control `{name}` is {value}; expected {GRAMMAR}"));
                continue;
            };
            if !names.contains(name) {
                let (message, near) = unknown(names, "a control is", name);
                self.say_key(&at, message, near);
            }
            if !names.contains(&of.arm) {
                let (message, near) = unknown(names, &format!("`{name}` controls"), &of.arm);
                let of = [&at[..], &["of"]].concat();
                self.say_near(if value.is_object() { &of } else { &at }, message, near);
            }
            if controls.contains_key(&of.arm) {
                let message = format!("`{name}` controls `{}`, which is a control itself", of.arm);
                self.say(&at, message);
            } else if spec.report.get("baseline").and_then(Value::as_str) == Some(name) {
                let message =
                    format!("`{name}` is the baseline, and as a control it is not ranked");
                self.say(&at, message);
            }
        }
    }
}

/// What is wrong with `named`, which is no variant, and which one may be meant. `says`: what the name
/// is for.
fn unknown<'a>(names: &'a [String], says: &str, named: &str) -> (String, Option<&'a str>) {
    let message = format!("{says} \"{named}\", and the variants are `{}`", names.join("`, `"));
    (message, nearest(named, names.iter().map(String::as_str)))
}
