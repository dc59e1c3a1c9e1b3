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

use crate::diagnostic::{Diagnostic, Diagnostics, Place, Source};
use crate::spec::Places;
use crate::spec::places::Loc;
use crate::spec::scalar::resolve;

/// More levels than any pipeline has. Functions that walk the tree recurse, so a limit keeps them
/// from overflowing the stack.
const MAX_DEPTH: usize = 64;
/// The number of values that aliases may expand to. Without a limit, a few lines of nested aliases
/// could fill the memory.
const MAX_NODES: usize = 100_000;

/// Reads one YAML document.
pub(crate) fn parse(source: &Arc<Source>) -> Result<(Value, Places), Diagnostics> {
    let tree = Builder::new(source).read()?;
    let mut places = Places::default();
    let value = tree.value(&mut Vec::new(), None, source, &mut places)?;
    Ok((value, places))
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
    ) -> Result<Value, Diagnostics> {
        let place = |span: Range<usize>| Place { source: source.clone(), span };
        let scalar = matches!(self.kind, Kind::Scalar(_));
        places.0.insert(path.clone(), Loc { key: key.map(place), value: place(self.span), scalar });
        Ok(match self.kind {
            Kind::Scalar(value) => value,
            Kind::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    path.push(index.to_string());
                    list.push(item.value(path, None, source, places)?);
                    path.pop();
                }
                Value::Array(list)
            }
            Kind::Map(entries) => {
                let mut map = Map::new();
                for (key, span, child) in entries {
                    path.push(key.clone());
                    let value = child.value(path, Some(span), source, places)?;
                    path.pop();
                    map.insert(key, value);
                }
                Value::Object(map)
            }
        })
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
}

impl<'a> Builder<'a> {
    fn new(source: &'a Arc<Source>) -> Self {
        let bytes =
            source.text.char_indices().map(|(at, _)| at).chain([source.text.len()]).collect();
        Builder { source, bytes, open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None }
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

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).at(Some(Place { source: self.source.clone(), span }))
    }

    fn read(mut self) -> Result<Tree, Diagnostics> {
        let mut parser = Parser::new_from_str(&self.source.text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| {
                let at = self.byte(error.marker().index());
                let diagnostic = self.error(at..at, format!("not valid YAML: {}", error.info()));
                let tab = error.info().contains("tab");
                let open = self.open.last().filter(|_| error.info().contains("flow")).map(|open| {
                    Place { source: self.source.clone(), span: open.start..open.start + 1 }
                });
                diagnostic
                    .also(open, "opened here, and not closed")
                    .help(tab.then_some("indent with spaces; YAML allows no tabs there"))
            })?;
            let range = self.range(span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self
                            .error(range, "a second YAML document begins here")
                            .help(Some(
                                "a pipeline is one document; put the other into a file of its own",
                            ))
                            .into());
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.scalar(text, style, anchor, tag.as_deref(), range)?
                }
                Event::SequenceStart(anchor, tag) => {
                    self.no_tag(tag.as_deref(), "seq", &range)?;
                    self.push(
                        Open { start: range.start, anchor, items: Vec::new(), map: None },
                        &range,
                    )?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.no_tag(tag.as_deref(), "map", &range)?;
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
                        return Err(self
                            .error(range, "this alias stands for something that contains it")
                            .into());
                    };
                    self.nodes += count(&tree);
                    if self.nodes > MAX_NODES {
                        return Err(self
                            .error(range, format!("aliases expand to more than {MAX_NODES} values"))
                            .into());
                    }
                    self.complete_at(tree, &range)?;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        match self.root.take() {
            Some(tree) => Ok(tree),
            None => Err(self.error(0..0, "the document is empty").into()),
        }
    }

    fn push(&mut self, open: Open, range: &Range<usize>) -> Result<(), Diagnostics> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self
                .error(range.clone(), format!("nested deeper than {MAX_DEPTH} levels"))
                .into());
        }
        if self.awaits_key() {
            return Err(self
                .error(range.clone(), "a key must be a plain word, not a list or a map")
                .into());
        }
        self.open.push(open);
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { map: Some(OpenMap { waiting: None, .. }), .. }))
    }

    fn no_tag(
        &self,
        tag: Option<&Tag>,
        core: &str,
        range: &Range<usize>,
    ) -> Result<(), Diagnostics> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == core) => {
                Err(self.error(range.clone(), format!("the tag `{tag}` means nothing here")).into())
            }
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        range: Range<usize>,
    ) -> Result<(), Diagnostics> {
        let plain = style == ScalarStyle::Plain;
        if self.awaits_key() {
            if plain && text == "<<" {
                return Err(self
                    .error(range, "merge keys (`<<`) are not supported")
                    .help(Some("write the keys out, or use an alias for a whole value"))
                    .into());
            }
            if text.is_empty() {
                return Err(self.error(range, "a key is missing before this `:`").into());
            }
            let Some(Open { map: Some(OpenMap { entries, waiting }), .. }) = self.open.last_mut()
            else {
                return Ok(());
            };
            if let Some((_, first, _)) = entries.iter().find(|(key, ..)| *key == text) {
                let first = Place { source: self.source.clone(), span: first.clone() };
                return Err(self
                    .error(range, format!("`{text}` is given twice"))
                    .label("again here")
                    .also(Some(first), "first here")
                    .into());
            }
            *waiting = Some((text.into_owned(), range));
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
                return Err(self
                    .error(range, format!("the tag `{tag}` means nothing here"))
                    .into());
            }
            None => !plain,
        };
        let value = if string {
            Value::String(text.into_owned())
        } else {
            resolve(&text).map_err(|message| self.error(range.clone(), message))?
        };
        self.complete(Tree { span: range, kind: Kind::Scalar(value) }, anchor)
    }

    fn complete(&mut self, tree: Tree, anchor: usize) -> Result<(), Diagnostics> {
        self.nodes += 1;
        if anchor > 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        let span = tree.span.clone();
        self.complete_at(tree, &span)
    }

    fn complete_at(&mut self, tree: Tree, range: &Range<usize>) -> Result<(), Diagnostics> {
        match self.open.last_mut() {
            None => self.root = Some(tree),
            Some(Open { map: Some(OpenMap { entries, waiting }), .. }) => match waiting.take() {
                Some((key, span)) => entries.push((key, span, tree)),
                None => return Err(self.error(range.clone(), "a key must be a plain word").into()),
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

/// Reads the file at `path` as a [`Source`].
pub(crate) fn read(path: &Path) -> Result<Arc<Source>, Diagnostics> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        Diagnostic::error(format!("cannot read `{name}`: {error}"))
            .help(Some("give the path of a pipeline's YAML file"))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Diagnostic::error(format!("`{name}` is not UTF-8 text (line {line})"))
    })?;
    Ok(Arc::new(Source { name, text }))
}
