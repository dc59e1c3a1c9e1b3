//! Text files: a document is a file, or each line of it. Columns `text` (the bytes as they are) and
//! `path`.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, LargeBinaryBuilder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::file::{DataFile, Extent, Found, Group, Scan};
use super::{Format, FormatReader};
use crate::error::DataError;
use crate::source::Batches;

/// Lines are read and shuffled in pieces of about this size, in bytes.
const PIECE: u64 = 1 << 20;

pub(crate) struct Text {
    pub lines: bool,
}

impl Format for Text {
    fn fixed_schema(&self) -> Option<SchemaRef> {
        let fields = [
            Field::new("text", DataType::LargeBinary, false),
            Field::new("path", DataType::Utf8, false),
        ];
        Some(Arc::new(Schema::new(fields.to_vec())))
    }

    fn scan(&self, found: &Found) -> Result<Scan, DataError> {
        let whole =
            [Group { extent: Extent::Text(0..found.size), rows: 1, bytes: found.size }].to_vec();
        let groups = if self.lines { line_groups(found)? } else { whole };
        Ok(Scan {
            schema: self.fixed_schema().expect("it has one"),
            groups,
            dictionaries: Vec::new(),
            types: None,
            encrypted: Vec::new(),
        })
    }

    fn contents(&self, _: &Found) -> Result<Option<blake3::Hash>, DataError> {
        Ok(None)
    }

    fn reader(&self, columns: &[String]) -> Box<dyn FormatReader> {
        Box::new(TextReader { lines: self.lines, columns: columns.to_vec() })
    }
}

/// Finds where lines end, once through the file.
fn line_groups(found: &Found) -> Result<Vec<Group>, DataError> {
    let read = |e| DataError::read(&found.path, e);
    let mut file = found.open()?.reader(0)?;
    let mut buffer = vec![0; 1 << 18];
    let (mut groups, mut start, mut at, mut rows, mut last) = (Vec::new(), 0u64, 0u64, 0u64, b'\n');
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(read(e)),
        };
        for (i, _) in buffer[..n].iter().enumerate().filter(|&(_, &b)| b == b'\n') {
            let end = at + i as u64 + 1;
            rows += 1;
            if end - start >= PIECE {
                groups.push(Group { extent: Extent::Text(start..end), rows, bytes: end - start });
                (start, rows) = (end, 0);
            }
        }
        (at, last) = (at + n as u64, buffer[n - 1]);
    }
    // The last line needs no newline.
    rows += (last != b'\n') as u64;
    if rows > 0 {
        groups.push(Group { extent: Extent::Text(start..at), rows, bytes: at - start });
    }
    Ok(groups)
}

struct TextReader {
    lines: bool,
    columns: Vec<String>,
}

impl FormatReader for TextReader {
    fn open(
        &mut self,
        file: &DataFile,
        at: usize,
        ranges: &[Range<u64>],
    ) -> Result<Batches, DataError> {
        let found = &file.found;
        let Group { extent: Extent::Text(extent), rows, .. } = &file.scan.groups[at] else {
            unreachable!("a row group of a text file is a range of bytes");
        };
        let input = found.open()?;
        if input.size() != found.size {
            return Err(DataError::Changed { path: found.path.clone() });
        }
        let bytes = input.read_at(extent.clone())?;
        let mut lines: Vec<&[u8]> = vec![&bytes];
        if self.lines {
            let end = |line: &&[u8]| match line {
                [.., b'\r', b'\n'] => line.len() - 2,
                [.., b'\n'] => line.len() - 1,
                _ => line.len(),
            };
            let whole = bytes.split_inclusive(|&b| b == b'\n');
            lines = whole.map(|line| &line[..end(&line)]).collect();
        }
        if lines.len() as u64 != *rows {
            return Err(DataError::Changed { path: found.path.clone() });
        }
        let wanted: Vec<&[u8]> =
            ranges.iter().cloned().flatten().map(|row| lines[row as usize]).collect();
        let mut text =
            LargeBinaryBuilder::with_capacity(wanted.len(), wanted.iter().map(|l| l.len()).sum());
        wanted.iter().for_each(|line| text.append_value(line));
        let path = StringArray::from_iter_values(wanted.iter().map(|_| &found.name));
        let columns: Vec<ArrayRef> = vec![Arc::new(text.finish()), Arc::new(path)];
        let batch = RecordBatch::try_new(file.scan.schema.clone(), columns)
            .and_then(|b| b.project(&file.projection(&self.columns)));
        let batch = batch.map_err(|e| DataError::read(&found.path, e))?;
        Ok(Box::new(std::iter::once(Ok(batch))))
    }
}
