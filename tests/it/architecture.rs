//! The rules of docs/architecture.md: which crate may use which, and that no files of a crate use
//! each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;

/// Each crate of the workspace, and the crates of the workspace that it may depend on.
const ARROWS: [(&str, &[&str]); 9] = [
    ("blt-derive", &[]),
    ("blt-core", &[]),
    ("blt-data", &["blt-core"]),
    ("blt-graph", &[]),
    ("blt-report", &["blt-graph"]),
    ("blt-plugins", &["blt-core", "blt-data", "blt-graph", "blt-report"]),
    ("blt", &["blt-core", "blt-data", "blt-graph", "blt-report", "blt-plugins"]),
    ("blt-python", &["blt-core", "blt-data", "blt-graph", "blt-report", "blt-plugins"]),
    ("newline-plugin", &["blt"]),
];

/// Any crate may use these: macros, which know no other crate.
const EVERYWHERE: [&str; 1] = ["blt-derive"];

/// The crates in which files may still use each other in a circle: in each folder of blt-core's
/// `backend/` the files and their `mod.rs` do.
const WITH_CIRCLES: [&str; 1] = ["blt-core"];

#[test]
fn no_crate_uses_one_above_it() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let mut forbidden = Vec::new();
    for package in &packages {
        let name = text(package, "name");
        let allowed = ARROWS.iter().find(|(krate, _)| *krate == name);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{name}: give it a line in ARROWS"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = text(dependency, "name");
            // Tests may use any crate.
            if !names.contains(to) || dependency["kind"] == "dev" {
                continue;
            }
            if !allowed.contains(&to) && !EVERYWHERE.contains(&to) {
                forbidden.push(format!("{name} -> {to}"));
            }
        }
    }
    assert_eq!(forbidden, [""; 0]);
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let packages = packages();
    let mut large = 0;
    for package in &packages {
        let name = text(package, "name");
        // `file_of` takes an item that is called as its crate (`quote::quote`) for its own re-export,
        // so the crate of macros is left out.
        if WITH_CIRCLES.contains(&name) || EVERYWHERE.contains(&name) {
            continue;
        }
        let targets = package["targets"].as_array().unwrap();
        let is_library = |kind: &Value| kind != "test" && kind != "bin" && kind != "example";
        let library = |target: &&Value| target["kind"].as_array().unwrap().iter().all(is_library);
        let root = targets.iter().find(library).unwrap();
        let files = Files::of(Path::new(text(root, "src_path")));
        if files.sources.len() > 5 {
            large += 1;
            assert!(files.arrows().values().any(|to| to.len() > 3), "{name}: hardly any arrow");
        }
        assert_eq!(files.circles(), [""; 0], "{name}");
    }
    assert!(large >= 5, "only {large} crates had more than five files to read");
}

#[test]
fn a_circle_is_found_through_re_exports_and_tests_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::A;");
    write("a.rs", "use crate::b::{B, Other as _};\npub struct A(B);");
    write("b.rs", "pub struct B;\nfn f() { let _ = crate::A(B); }");
    write("c.rs", "use crate::{A, b};\nfn f() { b::g(); }\n#[cfg(test)]\nuse crate::c::d;");
    let root = dir.path().join("lib.rs");
    assert_eq!(Files::of(&root).circles(), ["a.rs -> b.rs, b.rs -> a.rs"]);
    assert_eq!(Files::of(&root).arrows()["c.rs"], ["a.rs", "b.rs"].map(String::from).into());
    write("b.rs", "pub struct B;\n#[cfg(test)]\nmod tests { fn f() { let _ = crate::A(B); } }");
    assert_eq!(Files::of(&root).circles(), [""; 0]);
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The path of a module: `["run", "store"]`. Empty for the crate's root.
type Module = Vec<String>;

/// A path in the source: the module that it is written in, and its segments.
#[derive(Debug, Clone)]
struct PathUse {
    scope: Module,
    segments: Vec<String>,
}

/// One source file.
#[derive(Debug, Default)]
struct Source {
    /// Paths that the file uses, re-exports left out.
    uses: Vec<PathUse>,
    /// Re-exports, by name.
    exports: Vec<(String, PathUse)>,
    /// Names that occur outside of `use` lines.
    names: BTreeSet<String>,
}

/// The source files of a crate, without tests.
#[derive(Debug, Default)]
struct Files {
    sources: BTreeMap<String, Source>,
    /// The file of each module.
    modules: BTreeMap<Module, String>,
    /// The path that a name in a module means, by `use`.
    bindings: BTreeMap<(Module, String), PathUse>,
}

impl Files {
    /// Reads the crate whose root is the file `root`.
    fn of(root: &Path) -> Self {
        let mut files = Files::default();
        files.read(root, root.parent().unwrap(), Module::new());
        files
    }

    fn read(&mut self, path: &Path, folder: &Path, module: Module) {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        let source = fs::read_to_string(path).unwrap();
        let tokens: TokenStream = source.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
        self.modules.insert(module.clone(), name.clone());
        self.sources.insert(name.clone(), Source::default());
        let mut children = Vec::new();
        self.walk(&name, tokens, &module, &mut children);
        let stem = path.file_stem().unwrap();
        let own = path.parent().unwrap();
        let below = match stem.to_str() {
            Some("lib" | "main" | "mod") => own.to_path_buf(),
            _ => own.join(stem),
        };
        for child in children {
            let candidates = [format!("{child}.rs"), format!("{child}/mod.rs")];
            let found: Option<PathBuf> =
                candidates.iter().map(|file| below.join(file)).find(|file| file.is_file());
            let path = found.unwrap_or_else(|| panic!("{name}: no file for `mod {child};`"));
            self.read(&path, folder, [&module[..], &[child]].concat());
        }
    }

    /// Notes the paths, names and child modules of the tokens of one file.
    fn walk(
        &mut self,
        file: &str,
        tokens: TokenStream,
        module: &Module,
        children: &mut Vec<String>,
    ) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut public = false;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(hash) if hash.as_char() == '#' && is_attribute(&tokens, at) => {
                    let test = tokens[at + 1].to_string().replace(' ', "") == "[cfg(test)]";
                    at = if test { after_item(&tokens, at) } else { after_attribute(&tokens, at) };
                    continue;
                }
                // `pub(crate)`
                TokenTree::Group(group)
                    if public && group.delimiter() == Delimiter::Parenthesis => {}
                TokenTree::Group(group) => self.walk(file, group.stream(), module, children),
                TokenTree::Ident(ident) => match ident.to_string().as_str() {
                    "pub" => public = true,
                    "mod" if matches!(tokens.get(at + 1), Some(TokenTree::Ident(_))) => {
                        let name = tokens[at + 1].to_string();
                        let inner = [&module[..], std::slice::from_ref(&name)].concat();
                        match tokens.get(at + 2) {
                            Some(TokenTree::Group(body)) => {
                                self.modules.insert(inner.clone(), file.to_string());
                                self.walk(file, body.stream(), &inner, children);
                            }
                            _ => {
                                self.modules.insert(inner, file.to_string());
                                children.push(name);
                            }
                        }
                        (at, public) = (at + 3, false);
                        continue;
                    }
                    "use" => {
                        let end = until(&tokens, at, |t| is_punct(t, ';'));
                        for (name, segments) in leaves(&tokens[at + 1..end], &[]) {
                            let path = PathUse { scope: module.clone(), segments };
                            let source = self.sources.get_mut(file).unwrap();
                            if public {
                                source.exports.push((name.clone(), path.clone()));
                            } else {
                                source.uses.push(path.clone());
                            }
                            self.bindings.insert((module.clone(), name), path);
                        }
                        (at, public) = (end + 1, false);
                        continue;
                    }
                    name => {
                        public = false;
                        let of_macro = at > 0 && is_punct(&tokens[at - 1], '$');
                        let segments = path_at(&tokens, at);
                        let source = self.sources.get_mut(file).unwrap();
                        source.names.insert(name.to_string());
                        let length = segments.len();
                        if length > 1 && !of_macro {
                            source.uses.push(PathUse { scope: module.clone(), segments });
                        }
                        // Each `::` is two tokens.
                        at += 3 * (length - 1);
                    }
                },
                _ => {}
            }
            at += 1;
        }
    }

    /// The file that defines the item `path`; `None` for a module and for another crate's item.
    fn file_of(&self, path: &PathUse, depth: usize) -> Option<&str> {
        assert!(depth < 20, "{path:?} leads to itself");
        let mut module = path.scope.clone();
        for (index, segment) in path.segments.iter().enumerate() {
            match segment.as_str() {
                "crate" => module.clear(),
                "self" => {}
                "super" => {
                    module.pop();
                }
                _ => {
                    let inner = [&module[..], std::slice::from_ref(segment)].concat();
                    if self.modules.contains_key(&inner) {
                        module = inner;
                        continue;
                    }
                    let binding = self.bindings.get(&(module.clone(), segment.clone()));
                    if let Some(PathUse { scope, segments }) = binding
                        && (scope, segments) != (&path.scope, &path.segments)
                    {
                        let segments = [segments, &path.segments[index + 1..]].concat();
                        return self
                            .file_of(&PathUse { scope: scope.clone(), segments }, depth + 1);
                    }
                    // The first segment of a path may be another crate or a local type.
                    return if index == 0 { None } else { Some(&self.modules[&module]) };
                }
            }
        }
        None
    }

    /// Each file and the files that it uses.
    fn arrows(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut arrows = BTreeMap::new();
        for (file, source) in &self.sources {
            // A re-export is a second name, and no use unless the file itself uses the name.
            let exports = source.exports.iter().filter(|(name, _)| source.names.contains(name));
            let paths = source.uses.iter().chain(exports.map(|(_, path)| path));
            let targets = paths.filter_map(|path| self.file_of(path, 0));
            let targets = targets.filter(|target| target != file).map(String::from);
            arrows.insert(file.clone(), targets.collect());
        }
        arrows
    }

    /// Each set of files that use each other, as its arrows.
    fn circles(&self) -> Vec<String> {
        let arrows = self.arrows();
        let reached = |from: &String| {
            let mut reached = BTreeSet::new();
            let mut open: Vec<&String> = arrows[from].iter().collect();
            while let Some(file) = open.pop() {
                if reached.insert(file.clone()) {
                    open.extend(&arrows[file]);
                }
            }
            reached
        };
        let reach: BTreeMap<&String, BTreeSet<String>> =
            arrows.keys().map(|file| (file, reached(file))).collect();
        let circles: BTreeSet<BTreeSet<&String>> = reach
            .iter()
            .filter(|(file, reached)| reached.contains(**file))
            .map(|(file, reached)| reached.iter().filter(|to| reach[to].contains(*file)).collect())
            .collect();
        let spell = |circle: BTreeSet<&String>| {
            let inner = circle.iter().flat_map(|from| {
                let to = arrows[*from].iter().filter(|to| circle.contains(to));
                to.map(move |to| format!("{from} -> {to}"))
            });
            inner.collect::<Vec<_>>().join(", ")
        };
        circles.into_iter().map(spell).collect()
    }
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

fn is_brace(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// The index of the first token from `at` on for which `stop` returns true, or the end.
fn until(tokens: &[TokenTree], at: usize, stop: impl Fn(&TokenTree) -> bool) -> usize {
    (at..tokens.len()).find(|index| stop(&tokens[*index])).unwrap_or(tokens.len())
}

/// Whether an attribute begins at `at`, rather than a `#` in a macro.
fn is_attribute(tokens: &[TokenTree], at: usize) -> bool {
    let bracket = |index: usize| {
        let token = tokens.get(index);
        matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket)
    };
    bracket(at + 1) || (tokens.get(at + 1).is_some_and(|t| is_punct(t, '!')) && bracket(at + 2))
}

fn after_attribute(tokens: &[TokenTree], at: usize) -> usize {
    if is_punct(&tokens[at + 1], '!') { at + 3 } else { at + 2 }
}

/// The end of the item whose attributes begin at `at`.
fn after_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while at < tokens.len() && is_punct(&tokens[at], '#') && is_attribute(tokens, at) {
        at = after_attribute(tokens, at);
    }
    let to_semicolon = ["use", "const", "static", "type"];
    let keyword = tokens[at..].iter().take(3).map(ToString::to_string);
    if keyword.into_iter().any(|keyword| to_semicolon.contains(&keyword.as_str())) {
        until(tokens, at, |t| is_punct(t, ';')) + 1
    } else {
        until(tokens, at, |t| is_punct(t, ';') || is_brace(t)) + 1
    }
}

/// The segments of the path that begins at `at`: `a::b::C`.
fn path_at(tokens: &[TokenTree], mut at: usize) -> Vec<String> {
    let mut segments = vec![tokens[at].to_string()];
    while let (Some(first), Some(second), Some(TokenTree::Ident(next))) =
        (tokens.get(at + 1), tokens.get(at + 2), tokens.get(at + 3))
        && is_punct(first, ':')
        && is_punct(second, ':')
    {
        segments.push(next.to_string());
        at += 3;
    }
    segments
}

/// The names that a `use` binds, each with its path. `prefix` is the path before `tokens`.
fn leaves(tokens: &[TokenTree], prefix: &[String]) -> Vec<(String, Vec<String>)> {
    let mut path = prefix.to_vec();
    let mut name = None;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let parts = inner.split(|token| is_punct(token, ','));
                return parts
                    .filter(|part| !part.is_empty())
                    .flat_map(|part| leaves(part, &path))
                    .collect();
            }
            TokenTree::Ident(ident) if *ident == "as" => {
                name = Some(tokens[at + 1].to_string());
                break;
            }
            TokenTree::Ident(ident) => {
                let ident = ident.to_string();
                // `a::{self}` means `a`; `self::a` begins with `self`.
                if ident != "self" || path.is_empty() {
                    path.push(ident);
                }
            }
            TokenTree::Punct(star) if star.as_char() == '*' => path.push("*".to_string()),
            _ => {}
        }
        at += 1;
    }
    let name = name.unwrap_or_else(|| path.last().cloned().unwrap_or_default());
    vec![(name, path)]
}
