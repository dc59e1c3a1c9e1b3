//! What the decoder does not tell of a Parquet footer: its Thrift is walked for that alone.

use std::collections::BTreeSet;

/// What was found in a footer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Footer {
    /// The columns with encrypted values.
    pub encrypted: BTreeSet<String>,
    /// The footer, with the lists that fastparquet writes without a type given one: they are empty,
    /// and the decoder asks for the type of their elements. None if there are none.
    pub mended: Option<Vec<u8>>,
}

const STOP: u8 = 0;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;
/// Footers nest no deeper.
const MAX_DEPTH: usize = 32;

/// A place in Thrift's compact protocol. Each read is None where the bytes end or make no sense.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// The next field of a struct, its number and type; `STOP` at the end. `last`: the number before.
    fn field(&mut self, last: &mut i64) -> Option<(i64, u8)> {
        let header = self.byte()?;
        if header == STOP {
            return Some((0, STOP));
        }
        *last = match header >> 4 {
            0 => {
                let number = self.varint()?;
                (number >> 1) as i64 ^ -((number & 1) as i64)
            }
            more => *last + i64::from(more),
        };
        Some((*last, header & 0xf))
    }

    /// The length of a list and the type of its elements.
    fn list(&mut self) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let length = if header >> 4 == 0xf { self.varint()? } else { u64::from(header >> 4) };
        Some((length, header & 0xf))
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(length)?;
        let bytes = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth == MAX_DEPTH {
            return None;
        }
        match kind {
            // Of a field, a boolean is its type.
            1 | 2 => Some(()),
            3 => self.byte().map(|_| ()),
            4..=6 => self.varint().map(|_| ()),
            7 => {
                self.at = self.at.checked_add(8)?;
                Some(())
            }
            BINARY => self.binary().map(|_| ()),
            LIST | 10 => {
                let (length, of) = self.list()?;
                (0..length).try_for_each(|_| self.skip_element(of, depth + 1))
            }
            STRUCT => {
                let mut last = 0;
                loop {
                    match self.field(&mut last)? {
                        (_, STOP) => return Some(()),
                        (_, kind) => self.skip(kind, depth + 1)?,
                    }
                }
            }
            _ => None,
        }
    }

    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => self.byte().map(|_| ()),
            kind => self.skip(kind, depth),
        }
    }

    /// The first of a list of names.
    fn path(&mut self) -> Option<String> {
        let (length, kind) = self.list()?;
        let mut first = None;
        for _ in 0..length {
            match kind {
                BINARY => {
                    let name = self.binary()?;
                    first.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
                }
                other => self.skip_element(other, 0)?,
            }
        }
        first
    }

    /// Goes through a struct; `f` reads or skips the value of each field.
    fn fields(&mut self, f: &mut dyn FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut last = 0;
        loop {
            match self.field(&mut last)? {
                (_, STOP) => return Some(()),
                (number, kind) => f(self, number, kind)?,
            }
        }
    }

    /// The name of a column chunk's column, if it is encrypted.
    fn column_chunk(&mut self) -> Option<Option<String>> {
        let (mut name, mut encrypted) = (None, false);
        self.fields(&mut |walk, number, kind| match (number, kind) {
            // ColumnMetaData.path_in_schema
            (3, STRUCT) => walk.fields(&mut |walk, number, kind| match (number, kind) {
                (3, LIST) => walk.path().map(|path| name = Some(path)),
                _ => walk.skip(kind, 0),
            }),
            // ColumnCryptoMetaData, a union; EncryptionWithColumnKey.path_in_schema
            (8, STRUCT) => {
                encrypted = true;
                walk.fields(&mut |walk, number, kind| match (number, kind) {
                    (2, STRUCT) => walk.fields(&mut |walk, number, kind| match (number, kind) {
                        (1, LIST) => walk.path().map(|path| name = Some(path)),
                        _ => walk.skip(kind, 0),
                    }),
                    _ => walk.skip(kind, 0),
                })
            }
            _ => walk.skip(kind, 0),
        })?;
        Some(name.filter(|_| encrypted))
    }
}

/// Walks a footer. None if its bytes make no sense.
pub(super) fn walk(footer: &[u8]) -> Option<Footer> {
    let mut found = Footer::default();
    let mut walk = Walk { bytes: footer, at: 0 };
    walk.fields(&mut |walk, number, kind| {
        if kind == LIST && walk.bytes.get(walk.at) == Some(&0) {
            // All lists of a footer are of structs.
            found.mended.get_or_insert_with(|| footer.to_vec())[walk.at] = STRUCT;
        }
        if (number, kind) != (4, LIST) {
            return walk.skip(kind, 0);
        }
        let (groups, _) = walk.list()?;
        (0..groups).try_for_each(|_| {
            walk.fields(&mut |walk, number, kind| {
                if (number, kind) != (1, LIST) {
                    return walk.skip(kind, 0);
                }
                let (columns, _) = walk.list()?;
                (0..columns).try_for_each(|_| {
                    found.encrypted.extend(walk.column_chunk()?);
                    Some(())
                })
            })
        })
    })?;
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_make_no_sense_end_the_walk() {
        assert_eq!(walk(&[]), None);
        assert_eq!(walk(&[0]), Some(Footer::default()));
        assert_eq!(walk(&[0x19, 0x00, 0x00]).unwrap().mended, Some(vec![0x19, 0x0c, 0x00]));
        // A list of 2^60 structs of nothing ends with the bytes; deep structs end early.
        assert_eq!(walk(&[0x49, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]), None);
        assert_eq!(walk(&[0x1c; 100]), None);
    }
}
