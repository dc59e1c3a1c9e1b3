//! Pipelines in the text of a Markdown page.

use std::sync::Arc;

use crate::diagnostic::Source;

impl Source {
    /// The pipelines in the text: itself, or, of a Markdown file (`.md`), each fenced block of YAML
    /// that has a line `graph:`. Places in them are places in the file.
    pub fn pipelines(self: &Arc<Self>) -> Vec<Arc<Source>> {
        if !self.name.ends_with(".md") {
            return vec![self.clone()];
        }
        let mut pipelines = Vec::new();
        let mut start = 0;
        // Where the block began that is open, and whether it is YAML.
        let mut block: Option<(usize, bool)> = None;
        for line in self.text.split_inclusive('\n') {
            let end = start + line.len();
            if let Some(info) = line.trim_start().strip_prefix("```") {
                block = match block {
                    None => Some((end, matches!(info.trim(), "yaml" | "yml"))),
                    Some((from, yaml)) => {
                        let text = &self.text[from..start];
                        if yaml && text.lines().any(|line| line.trim() == "graph:") {
                            pipelines.push(self.alone(from, start));
                        }
                        None
                    }
                };
            }
            start = end;
        }
        pipelines
    }

    /// The text from byte `from` to `to`, with spaces for all else, so that places stay.
    fn alone(&self, from: usize, to: usize) -> Arc<Source> {
        let blank = |text: &str| -> String {
            let space = |byte: u8| if byte == b'\n' { '\n' } else { ' ' };
            text.bytes().map(space).collect()
        };
        let text = format!("{}{}", blank(&self.text[..from]), &self.text[from..to]);
        Arc::new(Source { name: self.name.clone(), text })
    }
}
