//! YAML text to a JSON value, and the place of every key and value.
//!
//! serde's own way from YAML to structs loses places, so this module reads the text event by event.
//! It refuses merge keys, tags of unknown meaning, a second document, keys given twice, infinite
//! numbers, deep nesting, and aliases that expand to too much.
//!
//! saphyr's own tree (`MarkedYaml` in saphyr 0.3) was weighed and not taken. It keeps places,
//! limits aliases and refuses a key given twice, but it reports only one of the two keys, reads
//! `<<` as an ordinary key, limits no depth, and gives numbers a meaning of its own (`007` is
//! seven), so that most of this module would remain as a second walk over that tree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Diagnostics, Place, Source};
use crate::spec::Places;
use crate::spec::places::Loc;
use crate::spec::scalar::resolve;
use crate::spec::syntax;

crate::code! {
    /// The file cannot be read.
    ///
    /// There is no such file, it may not be opened, or it is not UTF-8 text.
    pub(crate) NOT_READ = "BLT0102"
}

crate::code! {
    /// This part of YAML has no meaning in a pipeline.
    ///
    /// A pipeline is one document of maps, lists and plain values. Tags other than YAML's own, merge
    /// keys (`<<`), a second document, keys that are lists or maps, and aliases that contain
    /// themselves or expand to very much are refused. An alias for a whole value is fine:
    /// `a: &patcher {node: SpacePatch, in: docs}` and `b: *patcher`.
    pub(crate) NOT_HERE = "BLT0103"
}

crate::code! {
    /// A key is given twice.
    ///
    /// Of two entries with one key in one map, only one could count. Rename or remove one of them.
    pub(crate) TWICE = "BLT0104"
}

crate::code! {
    /// A number is not finite.
    ///
    /// Infinity, not-a-number and numbers beyond 1.8e308 have no meaning for any parameter.
    pub(crate) NOT_FINITE = "BLT0105"
}

/// More levels than any pipeline has. Functions that walk the tree recurse, so a limit keeps them
/// from overflowing the stack.
const MAX_DEPTH: usize = 64;
/// The number of values that aliases may expand to. Without a limit, a few lines of nested aliases
/// could fill the memory.
const MAX_NODES: usize = 100_000;

/// Reads one YAML document.
pub(crate) fn parse(source: &Arc<Source>) -> Result<(Value, Places), Diagnostics> {
    let mut found = Vec::new();
    let read = parse_all(source, &mut found);
    read.filter(|_| found.is_empty()).ok_or(Diagnostics(found))
}

/// Reads one YAML document as far as can be, and adds what is wrong with it to `found`. `None` if
/// nothing could be read.
pub(crate) fn parse_all(
    source: &Arc<Source>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Value, Places)> {
    let mut text = Cow::Borrowed(source.text.as_str());
    loop {
        let mut builder = Builder::new(source);
        match builder.read(&text) {
            Ok(tree) => {
                found.append(&mut builder.found);
                let mut places = Places::default();
                let value = tree.value(&mut Vec::new(), None, source, &mut places);
                return Some((value, places));
            }
            Err(error) => {
                // YAML allows a tab wherever it allows a space but in indentation; the parser is
                // stricter. Both are one byte, so places stay.
                match error.place.as_ref().and_then(|place| spaced(&text, place.span.start)) {
                    Some(without) => text = Cow::Owned(without),
                    None => {
                        found.append(&mut builder.found);
                        found.push(*error);
                        return None;
                    }
                }
            }
        }
    }
}

/// `text` with spaces for the tabs that part key and value, or entries, in the line of byte `at`;
/// `None` if there are none.
fn spaced(text: &str, at: usize) -> Option<String> {
    let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
    let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
    let line = &text[start..end];
    let mut spaced = String::with_capacity(line.len());
    for c in line.chars() {
        let before = spaced.trim_end_matches(' ').chars().next_back();
        let parts = before.is_some_and(|before| ":,{[-".contains(before));
        spaced.push(if c == '\t' && parts { ' ' } else { c });
    }
    (spaced != line).then(|| [&text[..start], &spaced, &text[end..]].concat())
}

#[derive(Clone)]
struct Tree {
    span: Range<usize>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

/// A key of a map, its place, and its value.
type Entry = (String, Range<usize>, Tree);

impl Tree {
    fn value(
        self,
        path: &mut Vec<String>,
        key: Option<Range<usize>>,
        source: &Arc<Source>,
        places: &mut Places,
    ) -> Value {
        let place = |span: Range<usize>| Place { source: source.clone(), span };
        let scalar = matches!(self.kind, Kind::Scalar(_));
        places.0.insert(path.clone(), Loc { key: key.map(place), value: place(self.span), scalar });
        match self.kind {
            Kind::Scalar(value) => value,
            Kind::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    path.push(index.to_string());
                    list.push(item.value(path, None, source, places));
                    path.pop();
                }
                Value::Array(list)
            }
            Kind::Map(entries) => {
                let mut map = Map::new();
                for (key, span, child) in entries {
                    path.push(key.clone());
                    let value = child.value(path, Some(span), source, places);
                    path.pop();
                    map.insert(key, value);
                }
                Value::Object(map)
            }
        }
    }
}

/// A list or map that is being read.
struct Open {
    start: usize,
    anchor: usize,
    items: Vec<Tree>,
    /// `None` for a list.
    map: Option<OpenMap>,
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<Entry>,
    /// The key that was read last and its place, until its value is read.
    waiting: Option<(String, Range<usize>)>,
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    /// The byte offset of each character, and of the end.
    bytes: Vec<usize>,
    open: Vec<Open>,
    anchors: HashMap<usize, Tree>,
    nodes: usize,
    root: Option<Tree>,
    /// Errors after which reading goes on.
    found: Vec<Diagnostic>,
}

/// An error after which nothing more can be read.
type Stops = Box<Diagnostic>;

impl<'a> Builder<'a> {
    fn new(source: &'a Arc<Source>) -> Self {
        let bytes =
            source.text.char_indices().map(|(at, _)| at).chain([source.text.len()]).collect();
        Builder {
            source,
            bytes,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            root: None,
            found: Vec::new(),
        }
    }

    fn byte(&self, index: usize) -> usize {
        self.bytes.get(index).copied().unwrap_or(self.source.text.len())
    }

    fn range(&self, span: Span) -> Range<usize> {
        let start = self.byte(span.start.index());
        let end = self.byte(span.end.index()).max(start);
        let text = &self.source.text[start..end];
        start..start + text.trim_end().len()
    }

    fn error(
        &self,
        code: &'static Code,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Diagnostic {
        code.error(message).at(Some(Place { source: self.source.clone(), span }))
    }

    /// The tree of `text`, which is the source's but for tabs.
    fn read(&mut self, text: &str) -> Result<Tree, Stops> {
        let mut parser = Parser::new_from_str(text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| {
                let at = self.byte(error.marker().index());
                let open = self.open.last().map(|open| open.start);
                Box::new(syntax::explain(&error, at, open, text, |span, message| {
                    self.error(&syntax::NOT_YAML, span, message)
                }))
            })?;
            let range = self.range(span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Box::new(
                            self.error(&NOT_HERE, range, "a second YAML document begins here").help(
                                Some("a pipeline is one document; put the other into a file of its own"),
                            ),
                        ));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.scalar(text, style, anchor, tag.as_deref(), range)?
                }
                Event::SequenceStart(anchor, tag) => {
                    self.no_tag(tag.as_deref(), "seq", &range);
                    self.push(
                        Open { start: range.start, anchor, items: Vec::new(), map: None },
                        &range,
                    )?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.no_tag(tag.as_deref(), "map", &range);
                    let map = Some(OpenMap::default());
                    self.push(Open { start: range.start, anchor, items: Vec::new(), map }, &range)?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(open) = self.open.pop() else { continue };
                    let end = range.end.max(open.start);
                    let length = self.source.text[open.start..end].trim_end().len();
                    let kind = match open.map {
                        Some(map) => Kind::Map(map.entries),
                        None => Kind::List(open.items),
                    };
                    self.complete(
                        Tree { span: open.start..open.start + length, kind },
                        open.anchor,
                    )?;
                }
                Event::Alias(id) => {
                    let Some(tree) = self.anchors.get(&id).cloned() else {
                        let message = "this alias stands for something that contains it";
                        return Err(Box::new(self.error(&NOT_HERE, range, message)));
                    };
                    self.nodes += count(&tree);
                    if self.nodes > MAX_NODES {
                        let message = format!("aliases expand to more than {MAX_NODES} values");
                        return Err(Box::new(self.error(&NOT_HERE, range, message)));
                    }
                    self.complete_at(tree, &range)?;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        match self.root.take() {
            Some(tree) => Ok(tree),
            None => Err(Box::new(self.error(&syntax::NOT_YAML, 0..0, "the document is empty"))),
        }
    }

    fn push(&mut self, open: Open, range: &Range<usize>) -> Result<(), Stops> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(Box::new(self.error(&NOT_HERE, range.clone(), message)));
        }
        if self.awaits_key() {
            let message = "a key must be a plain word, not a list or a map";
            return Err(Box::new(self.error(&NOT_HERE, range.clone(), message)));
        }
        self.open.push(open);
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { map: Some(OpenMap { waiting: None, .. }), .. }))
    }

    fn no_tag(&mut self, tag: Option<&Tag>, core: &str, range: &Range<usize>) {
        if let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == core)) {
            self.tag_means_nothing(tag, range.clone());
        }
    }

    fn tag_means_nothing(&mut self, tag: &Tag, range: Range<usize>) {
        let message = format!("the tag `{tag}` means nothing here");
        self.found.push(self.error(&NOT_HERE, range, message));
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        range: Range<usize>,
    ) -> Result<(), Stops> {
        let plain = style == ScalarStyle::Plain;
        if self.awaits_key() {
            if plain && text == "<<" {
                let message = "merge keys (`<<`) are not supported";
                return Err(Box::new(
                    self.error(&NOT_HERE, range, message)
                        .help(Some("write the keys out, or use an alias for a whole value")),
                ));
            }
            if text.is_empty() {
                let message = "a key is missing before this `:`";
                return Err(Box::new(self.error(&syntax::NOT_YAML, range, message)));
            }
            let Some(Open { map: Some(OpenMap { entries, waiting }), .. }) = self.open.last_mut()
            else {
                return Ok(());
            };
            let first =
                entries.iter().find(|(key, ..)| *key == text).map(|(_, first, _)| first.clone());
            *waiting = Some((text.clone().into_owned(), range.clone()));
            if let Some(first) = first {
                let first = Place { source: self.source.clone(), span: first };
                let again = self
                    .error(&TWICE, range, format!("`{text}` is given twice"))
                    .label("again here")
                    .also(Some(first), "first here");
                self.found.push(again);
            }
            return Ok(());
        }
        let string = match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
            Some(tag)
                if tag.is_yaml_core_schema()
                    && matches!(&*tag.suffix, "int" | "float" | "bool" | "null") =>
            {
                false
            }
            Some(tag) => {
                self.tag_means_nothing(tag, range.clone());
                !plain
            }
            None => !plain,
        };
        let value = if string {
            Value::String(text.into_owned())
        } else {
            resolve(&text).unwrap_or_else(|message| {
                self.found.push(self.error(&NOT_FINITE, range.clone(), message));
                Value::Null
            })
        };
        self.complete(Tree { span: range, kind: Kind::Scalar(value) }, anchor)
    }

    fn complete(&mut self, tree: Tree, anchor: usize) -> Result<(), Stops> {
        self.nodes += 1;
        if anchor > 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        let span = tree.span.clone();
        self.complete_at(tree, &span)
    }

    fn complete_at(&mut self, tree: Tree, range: &Range<usize>) -> Result<(), Stops> {
        match self.open.last_mut() {
            None => self.root = Some(tree),
            Some(Open { map: Some(OpenMap { entries, waiting }), .. }) => match waiting.take() {
                // Of a key that is given twice, the first counts.
                Some((key, ..)) if entries.iter().any(|(other, ..)| *other == key) => {}
                Some((key, span)) => entries.push((key, span, tree)),
                None => {
                    let message = "a key must be a plain word";
                    return Err(Box::new(self.error(&NOT_HERE, range.clone(), message)));
                }
            },
            Some(open) => open.items.push(tree),
        }
        Ok(())
    }
}

fn count(tree: &Tree) -> usize {
    1 + match &tree.kind {
        Kind::Scalar(_) => 0,
        Kind::List(items) => items.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|(.., child)| count(child)).sum(),
    }
}

impl Source {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is not UTF-8 text.
    pub fn read(path: &Path) -> Result<Arc<Self>, Diagnostics> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            NOT_READ
                .error(format!("cannot read `{name}`: {error}"))
                .help(Some("give the path of a pipeline's YAML file"))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
                + 1;
            NOT_READ.error(format!("`{name}` is not UTF-8 text (line {line})"))
        })?;
        Ok(Arc::new(Source { name, text }))
    }
}
