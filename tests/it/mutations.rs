//! The shipped pipelines with one slip in each: `check` finds it, points at its line, and where the
//! right text is near, offers it. `MUTATIONS=5000 cargo test --release --test it mutations` tries
//! more than the suite does.

use blt::graph::diagnostic::Source;
use blt::graph::{Diagnostic, Diagnostics, PipelineSpec, check_source};
use blt::plugins::check_device;
use blt::report::check_report;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A generator of numbers: the suite tries the same slips each time.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.below(of.len())])
    }
}

/// A changed text, the line of the slip from 1, and whether the right text is near it.
struct Slip {
    text: String,
    line: usize,
    near: bool,
}

/// The words of `text` outside of comments that are followed by `after`: their ranges.
fn words(text: &str, after: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let code = &line[..line.find('#').unwrap_or(line.len())];
        for (at, _) in code.match_indices(after) {
            let word = |c: char| c.is_alphanumeric() || "_.".contains(c);
            let length = code[..at].chars().rev().take_while(|c| word(*c)).count();
            if length > 0 && !code[..at].ends_with('.') {
                found.push(start + at - length..start + at);
            }
        }
        start += line.len();
    }
    found
}

/// `word` with two letters in each other's place, one left out, or one twice.
fn misspelt(word: &str, rng: &mut Rng) -> Option<String> {
    let mut letters: Vec<char> = word.chars().collect();
    let at = rng.below(letters.len().checked_sub(1)?.max(1));
    match rng.below(3) {
        0 => letters.swap(at, at + 1),
        1 => drop(letters.remove(at)),
        _ => letters.insert(at, letters[at]),
    }
    let new: String = letters.into_iter().collect();
    (new != word && word.len() > 3).then_some(new)
}

const PARAMETERS: [&str; 14] = [
    "stride",
    "dim",
    "layers",
    "heads",
    "window",
    "table",
    "ngrams",
    "column",
    "batch_bytes",
    "steps",
    "bytes_per_patch",
    "span_bytes",
    "rule",
    "vocab",
];

const KINDS: [&str; 16] = [
    "parameter",
    "kind",
    "wire",
    "key",
    "colon",
    "bracket",
    "type",
    "quoted",
    "indented",
    "prefix",
    "index",
    "no-input",
    "twice",
    "device",
    "baseline",
    "goal",
];

/// A slip of this kind somewhere in `text`.
fn slip(kind: &str, text: &str, rng: &mut Rng) -> Option<Slip> {
    let keys = words(text, ": ");
    let named = |names: &[&str]| -> Vec<std::ops::Range<usize>> {
        let named = keys.iter().filter(|range| names.contains(&&text[(*range).clone()]));
        // At the beginning of a line it may be the name of a variant.
        let inner = |range: &&std::ops::Range<usize>| {
            ["{", ", ", "- "].iter().any(|before| text[..range.start].ends_with(before))
        };
        named.filter(inner).cloned().collect()
    };
    let put = |range: std::ops::Range<usize>, new: &str, near: bool| Slip {
        text: [&text[..range.start], new, &text[range.end..]].concat(),
        line: text[..range.start].matches('\n').count() + 1,
        near,
    };
    // The value after a key, up to what ends it in braces.
    let value = |key: &std::ops::Range<usize>| {
        let start = key.end + 2;
        let length = text[start..].find([',', '}', ']', '\n']).unwrap_or(0);
        start..start + length
    };
    match kind {
        "parameter" => {
            let key = rng.choose(&named(&PARAMETERS))?.clone();
            Some(put(key.clone(), &misspelt(&text[key], rng)?, true))
        }
        "kind" => {
            let key = value(rng.choose(&named(&["node"]))?);
            Some(put(key.clone(), &misspelt(&text[key], rng)?, true))
        }
        "wire" => {
            let key = value(rng.choose(&named(&["bytes", "entropies", "logits", "patches"]))?);
            let wire = text[key.clone()].split('.').next()?;
            let key = key.start..key.start + wire.len();
            (!wire.starts_with('{') && text.contains(&format!("\n  {wire}:")))
                .then(|| Some(put(key, &misspelt(wire, rng)?, true)))?
        }
        "goal" => {
            let key = value(rng.choose(&named(&["goal"]))?);
            Some(put(key.clone(), &misspelt(&text[key], rng)?, true))
        }
        "key" => {
            let name = *rng.choose(&["graph", "run", "ablate", "report", "seed"])?;
            let at = text.find(&format!("\n{name}:"))? + 1;
            let mut slip = put(at..at + name.len(), &misspelt(name, rng)?, true);
            // A pipeline without a graph is one error more, at its beginning.
            slip.near = name != "run";
            Some(slip)
        }
        "colon" => {
            let key = rng.choose(&named(&PARAMETERS))?.clone();
            let own = text[value(&key)].starts_with(['[', '{']);
            Some(put(key.end..key.end + 2, ":", !own || text[..key.start].contains('{')))
        }
        "bracket" => {
            let closing: Vec<usize> = text.match_indices("}\n").map(|(at, _)| at).collect();
            let at = *rng.choose(&closing)?;
            let line = &text[text[..at].rfind('\n').map_or(0, |at| at + 1)..at];
            (!line.contains('#')).then(|| put(at..at + 1, "", true))
        }
        "type" => {
            let numbers = ["stride", "dim", "layers", "heads", "window", "table", "steps", "lr"];
            let range = value(rng.choose(&named(&numbers))?);
            let number = text[range.clone()].parse::<f64>().is_ok();
            number.then(|| put(range, rng.choose(&["many", "true", "[1, x]"])?, false).into())?
        }
        "quoted" => {
            let range = value(rng.choose(&named(&["stride", "dim", "layers", "heads", "steps"]))?);
            let quoted = format!("'{}'", &text[range.clone()]);
            text[range.clone()].parse::<f64>().is_ok().then(|| put(range, &quoted, true))
        }
        "indented" => {
            let lines: Vec<usize> = text.match_indices("\n  ").map(|(at, _)| at + 1).collect();
            let at = *rng.choose(&lines)?;
            let line = text[at..].lines().next()?;
            let code = line.trim_start();
            // The last line of a map can be indented less and belong to nothing above it.
            let inner = text[at..].lines().nth(1).is_some_and(|next| next.starts_with("  "));
            let wide = text[..at - 1].rsplit('\n').next()?.starts_with("  ");
            let fine = !code.starts_with(['#', '-']) && inner && wide && code.contains('{');
            fine.then(|| put(at..at, " ", true))
        }
        "prefix" | "index" => {
            let (from, to) = if kind == "prefix" { ("graph.", "") } else { ("run.1.", "run.") };
            let ablate = text.find("\nablate:")?;
            let paths: Vec<usize> =
                text[ablate..].match_indices(from).map(|(at, _)| at + ablate).collect();
            let at = *rng.choose(&paths)?;
            let path = text[at..].split(':').next()?;
            let deep = path.matches('.').count() >= 2;
            deep.then(|| put(at..at + from.len(), to, true))
        }
        "no-input" => {
            let key = rng.choose(&named(&["in"]))?.clone();
            let range = value(&key);
            (!text[range.clone()].starts_with('{') && text[..key.start].ends_with(", "))
                .then(|| put(key.start - 2..range.end, "", false))
        }
        "twice" => {
            let lines: Vec<usize> = text.match_indices("\n  ").map(|(at, _)| at + 1).collect();
            let at = *rng.choose(&lines)?;
            let line = text[at..].lines().next()?;
            let is_entry = !line.trim_start().starts_with(['#', '-']) && line.ends_with('}');
            let mut slip = put(at..at, &format!("{line}\n"), false);
            slip.line += 1;
            is_entry.then_some(slip)
        }
        "device" => Some(Slip { text: format!("device: gpu\n{text}"), line: 1, near: false }),
        "baseline" => {
            let range = value(rng.choose(&named(&["baseline"]))?);
            let quoted = text[range.clone()].starts_with('\'');
            (!quoted).then(|| Some(put(range.clone(), &misspelt(&text[range], rng)?, true)))?
        }
        _ => None,
    }
}

fn errors(text: &str, dir: &Path) -> Vec<Diagnostic> {
    let source = Arc::new(Source { name: "slip.yaml".to_string(), text: text.to_string() });
    let also = |spec: &PipelineSpec, _: &[_]| {
        let all = [check_report(spec), check_device(spec)];
        all.into_iter().filter_map(Result::err).flat_map(|Diagnostics(new)| new).collect()
    };
    check_source(&source, &[], dir, &also).errors
}

/// Whether the first fix gives the pipeline back.
fn mends(errors: &[Diagnostic], text: &str, original: &str) -> bool {
    let read = |text: &str| PipelineSpec::parse(text, "slip.yaml").ok();
    errors.iter().filter_map(Diagnostic::patch).any(|(place, new)| {
        let span = &place.span;
        let mended = [&text[..span.start], new, &text[span.end..]].concat();
        read(&mended).is_some_and(|mended| Some(mended) == read(original))
    })
}

#[test]
fn slips_are_found_where_they_are() {
    let count = std::env::var("MUTATIONS").map_or(300, |n| n.parse().unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let files = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    let texts: Vec<String> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut rng = Rng(21);
    // Of each kind: slips, refused, right line, those with a right text near, right fix.
    let mut tally: BTreeMap<&str, [usize; 5]> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut tried = 0;
    while tried < count {
        let kind = KINDS[rng.below(KINDS.len())];
        let original = &texts[rng.below(texts.len())];
        let Some(slip) = slip(kind, original, &mut rng) else { continue };
        tried += 1;
        let found = errors(&slip.text, &root);
        let at = |diagnostic: &Diagnostic| {
            let labels = diagnostic.labels.iter().map(|label| label.place.line());
            diagnostic.line().into_iter().chain(labels).any(|line| line == slip.line)
        };
        let (refused, line) = (!found.is_empty(), found.iter().any(at));
        let fix = slip.near && mends(&found, &slip.text, original);
        let of = tally.entry(kind).or_default();
        for (count, more) in of.iter_mut().zip([true, refused, line, slip.near, fix]) {
            *count += usize::from(more);
        }
        if !refused || !line || fix != slip.near {
            let said: Vec<String> = found.iter().map(|found| found.render(false)).collect();
            let written = slip.text.lines().nth(slip.line - 1).unwrap_or_default();
            wrong.push(format!("== {kind}, line {}: {written}\n{}", slip.line, said.join("\n")));
        }
    }
    let sum = |index: usize| tally.values().map(|of| of[index]).sum::<usize>() as f64;
    let shares = (sum(1) / sum(0), sum(2) / sum(0), sum(4) / sum(3));
    assert!(
        shares.0 >= 0.995 && shares.1 >= 0.99 && shares.2 >= 0.95,
        "{shares:?}\n{tally:#?}\n{}",
        wrong.join("\n\n")
    );
}

#[test]
fn a_tab_after_a_colon_is_yaml() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let text = fs::read_to_string(root.join("held_out.yaml")).unwrap();
    let tabs = text.replace("column: text", "column:\ttext").replace(", layers", ",\tlayers");
    assert_ne!(tabs, text);
    assert_eq!(errors(&tabs, &root), [], "{tabs}");
}
