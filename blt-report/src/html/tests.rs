//! The report on a whole run, and on runs that lack parts of it.

use super::*;
use serde_json::json;

const PROSE: &str = "The harbour was walled by 1432.\nLübeck's traders came.";
const KOREAN: &str = "한국어는 대한민국의 공용어이다.";

fn sample(group: &str, row: u64, text: &str, patch: usize, entropies: bool) -> Sample {
    let entropies = entropies.then(|| (0..text.len()).map(|i| (i % 7) as f32 * 0.5).collect());
    let starts = Some((0..text.len()).step_by(patch).collect());
    Sample {
        group: Some(group.to_owned()),
        row,
        bytes: text.as_bytes().to_vec(),
        starts,
        entropies,
    }
}

fn variant(bpb: f64, bytes_per_patch: f64, entropy_flops: f64) -> Value {
    json!({
        "goal": "loss", "bpb": bpb, "bpb_by": {"code": bpb - 0.3, "korean": bpb + 0.2}, "bytes": 429609, "documents": 212,
        "bytes_per_patch": bytes_per_patch, "patch_lengths": {"1": 20, "6": 700, "10": 5},
        "flops_per_byte": 520000.0 + entropy_flops, "entropy_flops_per_byte": entropy_flops,
        "flops_by_node": {"decoder": 300000.0, "encoder": 120000.0, "latent": 100000.0, "entropy": entropy_flops},
        "closed_form_flops_per_byte": 540000.0, "parameters": 1712345, "metrics": {"top5.accuracy": 0.7123},
        "prepared": {}, "train_bytes_per_second": 51000.5, "evaluate_bytes_per_second": 160000.0, "boundary_lookahead": false,
    })
}

/// Four variants: a baseline, two that differ by less than their errors, and one that looks ahead.
fn results() -> Value {
    let mut variants = json!({
        "stride-6": variant(2.31, 6.0, 0.0), "space": variant(2.22, 5.6, 0.0), "bpe": variant(2.18, 4.1, 0.0),
        "entropy": variant(2.214, 6.03, 205000.0),
    });
    for (name, bpb) in [("space", -0.09), ("bpe", -0.13), ("entropy", -0.096)] {
        let by = json!({"code": {"bpb": bpb, "half_width_simultaneous": 0.02, "p_holm": 0.01}});
        variants[name]["difference"] = json!({
            "bpb": bpb, "se_documents": 0.01, "se_seeds": null, "se": 0.01, "clusters": 29, "df": 27.5,
            "half_width": 0.02, "half_width_simultaneous": 0.024, "p": 1e-6, "p_holm": 2e-6, "by": by,
        });
    }
    variants["bpe"]["boundary_lookahead"] = json!(true);
    variants["entropy"]["prepared"] =
        json!({"patches": {"threshold": 1.5532911, "bytes_per_patch": 6.04}});
    let rates =
        json!({"trained": {"bytes_per_patch": 5.5219}, "matched": {"bytes_per_patch": 6.0}});
    variants["entropy"]["matched"] = json!({"node": "patches", "groups": {"code": rates}});
    let pair = |variant: &str, next: &str, bpb: f64, p: f64| {
        let difference =
            json!({"bpb": bpb, "clusters": 29, "half_width_simultaneous": 0.03, "p_holm": p});
        json!({"variant": variant, "next": next, "difference": difference})
    };
    let order = [pair("entropy", "space", 0.006, 0.6), pair("space", "stride-6", 0.09, 0.001)];
    json!({"schema": 1, "pipeline": "ablation", "id": "r1", "seed": 42, "seeds": [42], "baseline": "stride-6", "cluster": "source", "variants": variants, "order": order})
}

fn read(results: Value) -> Results {
    serde_json::from_value(results).unwrap()
}

fn line(variant: &str, goal: &str, run_step: u64, step: u64, bpb: f64) -> MetricsLine {
    MetricsLine {
        variant: Some(variant.to_owned()),
        run_step: Some(run_step),
        goal: Some(goal.to_owned()),
        step: Some(step),
        bpb: Some(bpb),
        bytes: Some(step * 16384),
        ..MetricsLine::default()
    }
}

fn input() -> ReportInput {
    let mut metrics = Vec::new();
    for step in 1..40 {
        for (i, name) in ["stride-6", "space", "bpe", "entropy"].into_iter().enumerate() {
            metrics.push(line(name, "entropy.loss", 0, step, 3.0 + 5.0 / step as f64));
            metrics.push(line(name, "loss", 1, step, 2.0 + i as f64 * 0.1 + 6.0 / step as f64));
        }
    }
    let samples = [("stride-6", 6, false), ("space", 4, false), ("entropy", 5, true)].map(
        |(name, patch, entropies)| {
            let list = vec![
                sample("korean", 3, KOREAN, patch, entropies),
                sample("prose", 9, PROSE, patch, entropies),
            ];
            (name.to_owned(), list)
        },
    );
    ReportInput {
        graph: String::new(),
        results: read(results()),
        metrics,
        samples: samples.into_iter().collect(),
        pipeline: "name: ablation # <as written>\n".to_owned(),
        resolved: "name: ablation\n".to_owned(),
        facts: vec![("processor".to_owned(), "A & B".to_owned())],
    }
}

/// Every element that is opened is closed, in order.
fn assert_well_formed(html: &str) {
    let body = &html[html.find("<body>").expect("a body")..];
    let mut open: Vec<&str> = Vec::new();
    for piece in body.split('<').skip(1) {
        let tag = &piece[..piece.find('>').expect("a tag ends")];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        if let Some(closed) = tag.strip_prefix('/') {
            // A list item or a paragraph may not be left open here, though HTML would allow it.
            assert_eq!(open.pop(), Some(closed), "at <{piece}");
        } else if !tag.ends_with('/') && name != "br" {
            open.push(name);
        }
    }
    assert_eq!(open, ["html"; 0], "left open");
}

fn page(input: &ReportInput) -> String {
    let html = html(input).unwrap();
    assert_well_formed(html.trim_end().trim_end_matches("</html>"));
    assert!(
        !html.contains("NaN") && !html.contains("inf\""),
        "a number that is none got into the page"
    );
    for outside in ["<script", "http://", "https://", "<link", "src=", "@import", "url(h"] {
        assert!(!html.contains(outside), "the page needs {outside}");
    }
    html
}

#[test]
fn a_whole_run_shows_every_section() {
    let html = page(&input());
    for heading in [
        "Results",
        "Bits per byte against cost",
        "Training",
        "Bits per byte by domain",
        "The same text under every patcher",
        "Patch lengths",
        "Compute by node",
        "Metrics",
        "Found on the data",
        "The pipeline",
        "The run",
    ] {
        assert!(html.contains(&format!(">{heading}</h2>")), "no section {heading}");
    }
    assert!(
        html.contains("1.55329")
            && html.contains("patches, scored code")
            && html.contains("5.5219")
            && html.contains("0.7123")
            && html.contains("A &amp; B")
            && html.contains("&lt;as written&gt;")
    );
    assert!(html.contains("entropies from variant entropy"), "borrowed entropies are not owned to");
    assert_eq!(
        html.matches("all variants</span>").count(),
        1,
        "the shared entropy model is one line"
    );
}

#[test]
fn ids_are_unique_and_references_lead_somewhere() {
    let html = page(&input());
    let ids: Vec<&str> = html.split(" id=\"").skip(1).map(|s| &s[..s.find('"').unwrap()]).collect();
    for (i, id) in ids.iter().enumerate() {
        assert!(!ids[..i].contains(id), "{id} twice");
    }
    for labels in html.split("aria-labelledby=\"").skip(1) {
        for id in labels[..labels.find('"').unwrap()].split(' ') {
            assert!(ids.contains(&id), "no {id}");
        }
    }
}

#[test]
fn the_summary_says_who_is_ahead_and_how_surely() {
    let html = page(&input());
    assert!(html.contains(
        "Of 3 ranked variants, entropy has the fewest bits per byte: 2.2140 on 429,609 bytes of 212 documents."
    ));
    assert!(
        html.contains("0.0960 ± 0.0240 (95 %) bits per byte fewer than the baseline, stride-6.")
    );
    assert!(html.contains("Its lead over space is not certain"));
    assert!(html.contains("from the cheapest up, space and entropy are not beaten"));
}

#[test]
fn the_table_ranks_and_sets_lookahead_apart() {
    let table = table(&read(results()));
    let at = |text: &str| table.find(text).unwrap_or_else(|| panic!("no {text} in\n{table}"));
    assert!(at("1  entropy") < at("2  space") && at("2  space") < at("3  stride-6 *"));
    assert!(at("3  stride-6 *") < at("not ranked") && at("not ranked") < at("   bpe "), "{table}");
    assert!(table.contains("-0.0960 ± 0.0240  <0.001  27.5") && table.contains("1,712,345"));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let by_group = ["difference ± 95 % by group code", "entropy -0.0960 ± 0.0200"];
    for row in by_group {
        assert!(table.lines().any(|line| words(line) == row), "no {row} in\n{table}");
    }
    let notes = table.replace('\n', " ");
    assert!(notes.contains("Against the baseline, stride-6 – fewer bits: entropy and space."));
    assert!(
        notes.contains("order of entropy and space is not certain: they are 0.0060 ± 0.0300 bits")
    );
    assert!(notes.contains("over one seed and 29 clusters of documents (`source`); p"), "{table}");
    assert!(!table.contains("order of space and stride-6"), "{table}");
    assert!(notes.contains("With one seed"));
    let widths: Vec<usize> =
        table.lines().take_while(|l| !l.is_empty()).map(|l| l.chars().count()).collect();
    assert!(widths.iter().all(|w| *w <= widths[1]), "columns are not aligned:\n{table}");
}

/// [`results`] with `space` as a control that is so many half-widths from its arm.
fn controlled(half_widths: f64, seeds_needed: Option<u64>) -> Value {
    let mut results = results();
    let difference = json!({"bpb": 0.02, "half_width": 0.02 / half_widths, "p": 0.1});
    let control = json!({"arm": "entropy", "what": "other places", "difference": difference,
        "half_widths": half_widths, "seeds_needed": seeds_needed});
    results["instrument"] =
        json!({"controls": {"space": control}, "sees": half_widths >= 3.0, "resolves": 0.0244});
    results["unequal_patches"] = json!({"entropy": 0.9});
    results
}

#[test]
fn a_run_says_first_what_it_can_see() {
    let mut input = input();
    input.results = read(controlled(4.0, None));
    let table = table(&input.results);
    let words = table.replace('\n', " ");
    assert!(words.starts_with("What this run can see: other places (space) costs 0.0200 bits per byte against entropy, 95 % interval 0.0150 to 0.0250 (4.0 half-widths); this run resolves differences of 0.0244."), "{table}");
    let at = |text: &str| table.find(text).unwrap_or_else(|| panic!("no {text} in\n{table}"));
    assert!(at("1  entropy") < at("2  stride-6 *") && at("2  stride-6") < at("── controls, not"));
    assert!(at("── controls, not ranked") < at("   space "), "{table}");
    assert!(words.contains("Warning: not the same patch size. The baseline has 6.00 bytes a patch; entropy has 5.40, 10 % fewer."), "{table}");
    let html = page(&input);
    assert!(html.contains("What this run can see") && html.contains("Controls, not ranked:"));
}

#[test]
fn a_run_that_sees_no_control_ranks_nothing_and_says_what_to_raise() {
    for (seeds, needed, said) in [
        (json!([1, 2, 3]), Some(9), "space: by the spread seen, 9 seeds would show it"),
        (json!([1, 2, 3]), None, "space: more seeds alone do not suffice"),
        (json!([1]), None, "space: one seed shows no spread of seeds"),
    ] {
        let mut results = controlled(1.2, needed);
        results["seeds"] = seeds;
        let mut input = input();
        input.results = read(results);
        let table = table(&input.results);
        assert!(table.replace('\n', " ").contains(said), "{table}");
        assert!(table.contains("not ranked: no control can be seen"), "{table}");
        assert!(!table.contains("\n1  ") && !table.contains("Against the baseline"), "{table}");
        assert!(page(&input).contains("No variant is ranked"));
    }
}

#[test]
fn without_intervals_nothing_is_claimed() {
    let mut results = results();
    for (name, clusters) in [("few", json!(4)), ("old", Value::Null)] {
        for (_, variant) in results["variants"].as_object_mut().unwrap() {
            variant["difference"] = json!({"bpb": -0.5, "clusters": clusters});
        }
        results["order"] = json!([]);
        let table = table(&read(results.clone())).replace('\n', " ");
        assert!(table.contains(" -0.5000 ") && !table.contains("±  "), "{name}: {table}");
        assert!(!table.contains("Against the baseline"), "{name}: {table}");
        let said = match name {
            "few" => "cannot be told from 4 clusters of documents (`source`): 6 are needed",
            _ => "an earlier version wrote these results",
        };
        assert!(table.contains(said), "{name}: {table}");
    }
}

#[test]
fn single_bytes_and_long_patches_are_counted_in_bytes() {
    let mut results = results();
    for (_, variant) in results["variants"].as_object_mut().unwrap() {
        // Means are as recorded: 2.4 bytes, of which 10 are over four times as many.
        variant["bytes_per_patch"] = json!(2.4);
        variant["patch_lengths"] = json!({"1": 20, "6": 3, "10": 6});
    }
    let mut input = input();
    input.results = read(results);
    let html = page(&input);
    assert!(html.contains("bytes in patches of one byte: 20.4 %"), "{html}");
    assert!(html.contains("; of over 4 times the mean: 61.2 %"), "{html}");
}

#[test]
fn an_entropy_model_stands_beside_the_references() {
    let mut results = results();
    results["variants"]["entropy"]["entropy_model"] = json!("lm");
    let of = |bpb: f64| json!({"goal": "lm.loss", "bpb": bpb});
    let evaluations = |bpb: f64| json!([{"evaluate": of(bpb)}]);
    results["variants"]["entropy"]["evaluations"] = evaluations(2.1);
    let said = |results: &Value| table(&read(results.clone())).replace('\n', " ");
    assert!(!said(&results).contains("places patches"), "nothing to hold it against");
    results["references"] = json!({"counts of order 3": {"goal": "counts.loss", "bpb": 2.4}});
    let good = said(&results);
    let expected = "Patches of entropy are placed by entropies of `lm`, which has 2.1000 bits per byte (counts of order 3: 2.4000).";
    assert!(good.contains(expected) && !good.contains("predicts worse"), "{good}");
    results["variants"]["entropy"]["evaluations"] = evaluations(3.77);
    let bad = said(&results);
    assert!(bad.contains("predicts worse than counts of order 3"), "{bad}");
}

#[test]
fn errors_over_seeds_are_drawn() {
    let mut input = input();
    assert!(!page(&input).contains("class=\"e c"));
    let mut results = results();
    results["seeds"] = json!([42, 43]);
    for (_, variant) in results["variants"].as_object_mut().unwrap() {
        variant["bpb_se_seeds"] = json!(0.004);
        variant["seeds"] = json!({"42": variant.clone(), "43": variant.clone()});
    }
    input.results = read(results);
    let html = page(&input);
    assert!(
        html.contains("class=\"e c0\"")
            && html.contains("seeds 42, 43")
            && html.contains("standard error over seeds")
    );
    assert!(!table(&input.results).contains("one seed"));
}

#[test]
fn what_is_not_there_is_left_out() {
    let (mut input, mut results) = (input(), results());
    for (_, variant) in results["variants"].as_object_mut().unwrap() {
        for key in [
            "bytes_per_patch",
            "patch_lengths",
            "flops_by_node",
            "metrics",
            "prepared",
            "bpb_by",
            "difference",
            "parameters",
        ] {
            variant[key] = Value::Null;
        }
    }
    input.results = read(results);
    input.metrics = [json!({"rows": 3}), json!({"goal": "loss", "bpb": null, "step": 1})]
        .iter()
        .chain([&json!({"goal": 7, "bpb": 2.0, "step": 1})])
        .map(read_object)
        .collect();
    input.samples.clear();
    let html = page(&input);
    for heading in [
        "Patch lengths",
        "Compute by node",
        "Metrics",
        "Training",
        "by domain",
        "same text",
        "against patch size",
    ] {
        assert!(!html.contains(heading), "{heading} is shown");
    }
    assert!(html.contains("against compute") && !table(&input.results).contains("bytes/patch"));
}

#[test]
fn nothing_at_all_is_no_panic() {
    for results in [
        Value::Null,
        json!({}),
        json!({"variants": {}}),
        json!({"variants": {"a": null, "b": 3, "c": {"bpb": "x", "patch_lengths": {"x": 1, "0": 2}, "flops_by_node": {"n": 0}}}}),
        json!({"variants": {"a": {"bpb": 0.0, "bytes_per_patch": 0.0, "flops_per_byte": 0.0, "patch_lengths": {"3": 0}, "bpb_by": {"x": 0.0}}}}),
        json!({"baseline": "gone", "variants": {"a": {"bpb": -1.5, "bytes_per_patch": 1e300}, "b": {"bpb": 1e-300, "bytes_per_patch": -4, "boundary_lookahead": true}}}),
    ] {
        let input = ReportInput { results: read_object(&results), ..ReportInput::default() };
        page(&input);
        assert!(!table(&input.results).is_empty());
    }
}

#[test]
fn names_are_text_wherever_they_stand() {
    let mut input = input();
    let hostile = "<img onerror=x>&\"'";
    let text = results().to_string().replace("space", &hostile.replace('"', "\\\""));
    let mut results: Value = serde_json::from_str(&text).unwrap();
    results["variants"][hostile]["metrics"] = json!({ hostile: 1.0 });
    results["variants"][hostile]["bpb_by"] = json!({ hostile: 1.0 });
    results["variants"][hostile]["flops_by_node"] = json!({ hostile: 1.0 });
    results["variants"][hostile]["prepared"] = json!({ hostile: { hostile: hostile } });
    input.results = read(results);
    input.samples.insert(hostile.to_owned(), vec![sample(hostile, 1, hostile, 3, true)]);
    input.metrics.push(line(hostile, hostile, 7, 1, 2.0));
    let html = page(&input);
    assert!(!html.contains("<img") && html.contains("&lt;img"));
}

#[test]
fn twenty_variants_all_look_different() {
    let (mut input, mut results) = (input(), results());
    let names: Vec<String> =
        (0..20).map(|i| format!("pooling={i},{}", "long ".repeat(9))).collect();
    let variants = names
        .iter()
        .enumerate()
        .map(|(i, n)| (n.clone(), variant(2.0 + i as f64 * 1e-3, 6.0, 0.0)));
    results["variants"] = Value::Object(variants.collect());
    input.results = read(results);
    let html = page(&input);
    let legend = &html[html.find("<ul class=\"legend\">").unwrap()..];
    let legend = &legend[..legend.find("</ul>").unwrap()];
    let swatches: Vec<&str> =
        legend.split("<svg").skip(1).map(|s| &s[..s.find("</svg>").unwrap()]).collect();
    assert_eq!(swatches.len(), 20);
    for (i, swatch) in swatches.iter().enumerate() {
        assert!(!swatches[..i].contains(swatch), "swatch {i} comes twice");
    }
}

#[test]
fn a_run_directory_is_read_and_its_faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    assert!(matches!(ReportInput::read(dir.path()), Err(ReportError::NotARun { .. })));
    write("results.json", &results().to_string());
    let bare = ReportInput::read(dir.path()).unwrap();
    assert!(bare.metrics.is_empty() && bare.samples.is_empty() && bare.facts.is_empty());
    page(&bare);

    let whole = input();
    let line = |line: &MetricsLine| serde_json::to_string(line).unwrap() + "\n";
    write("metrics.jsonl", &whole.metrics.iter().map(line).collect::<String>());
    write(SAMPLES_FILE, &serde_json::to_string(&whole.samples).unwrap());
    write("pipeline.yaml", &whole.pipeline);
    write("resolved.yaml", &whole.resolved);
    write("status.json", r#"{"state": "done", "started": "2026-01-31T12:00:00Z"}"#);
    write(MACHINE_FILE, &machine().to_string());
    let read = ReportInput::read(dir.path()).unwrap();
    assert_eq!((read.metrics.len(), &read.samples), (whole.metrics.len(), &whole.samples));
    assert_eq!(read.facts[0], ("started".to_owned(), "2026-01-31T12:00:00Z".to_owned()));
    assert!(
        read.facts.iter().any(|(name, value)| name == "blt" && value == env!("CARGO_PKG_VERSION"))
    );
    let shown = |html: String| html[..html.find("<h2 id=\"facts\"").unwrap()].to_owned();
    assert_eq!(shown(page(&read)), shown(page(&whole)), "what is read back shows the same");

    write("metrics.jsonl", "{\"a\": 1}\n{\"b\":");
    assert!(matches!(ReportInput::read(dir.path()), Err(ReportError::DamagedLine { line: 2, .. })));
    write("metrics.jsonl", "");
    write(SAMPLES_FILE, "[]");
    assert!(matches!(ReportInput::read(dir.path()), Err(ReportError::Damaged { .. })));
    write("results.json", r#"{"schema": 99}"#);
    assert!(matches!(ReportInput::read(dir.path()), Err(ReportError::Schema { .. })));
}

#[test]
fn scores_are_shown_by_their_column() {
    let group = |documents: u64, bpb: f64, counts: Value| json!({"documents": documents, "bytes": documents * 100, "nats": 1.0, "bpb": bpb, "counts": counts});
    let score = json!({
        "goal": "loss", "rows": 12, "kept": 5, "documents": 9, "bytes": 900, "nulls": 1, "empty": 0, "nats": 1.0, "bpb": 2.5,
        "failed": {"unreadable": 2},
        "unreadable": [{"input": "in/<a>.parquet", "group": 3, "rows": {"start": 30, "end": 32}, "columns": ["text"], "cause": "x"}],
        "histogram": {
            "of": "bits_per_byte", "width": 0.1, "last": 15.9, "by": "lang", "all": group(9, 2.5, json!({"2.0": 4, "3.1": 5})),
            "groups": {"<en>": group(4, 2.05, json!({"2.0": 4})), "ko": group(5, 3.15, json!({"3.1": 5})), "none": group(0, 0.0, json!({}))},
        },
    });
    let (mut input, mut results) = (input(), results());
    results["variants"]["space"]["steps"] = json!([{"train": {}}, {"score": score}]);
    input.results = read(results);
    let html = page(&input);
    for said in [
        "12 rows, 9 documents of 900 bytes: 2.5000 bits per byte",
        "failed: 2 unreadable",
        "kept: 5",
    ] {
        assert!(html.contains(said), "{said}");
    }
    assert!(html.contains("&lt;a&gt;.parquet, row group 3, rows 30 to 31"));
    assert!(
        html.contains("by <code>lang</code>")
            && html.contains("<b>&lt;en&gt;</b>, 4 documents, mean 2.050")
    );
    // A chart of all and of the two values that have any, over the same twelve bins.
    assert_eq!(html.matches("id=\"scores-1-0-").count(), 3 * 2);
    assert!(html.contains("2.0: 44.4 %; 2.1: 0.0 %") && html.contains("3.1: 100.0 %"));
    // Others have no such section.
    assert_eq!(html.matches("<h2 id=\"scores-").count(), 1);
}
