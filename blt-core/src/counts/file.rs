//! Counts as bytes: entries in order, each as its difference from the one before.

use super::config::{CountsError, MAX_ORDER};
use super::entries::Entry;
use super::held_out::{FOLDS, Heads};

const MAGIC: &[u8; 8] = b"bltcnts1";
const DIGEST: usize = 32;

/// Entries that stand sorted.
pub fn encode(entries: &[Entry], heads: &Heads, order: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 * entries.len());
    out.extend_from_slice(MAGIC);
    out.push(order as u8);
    number(&mut out, entries.len() as u64);
    let mut before = 0;
    for e in entries {
        let context = shift(e.context, order, |context, by| context >> by);
        number(&mut out, context - before);
        before = context;
        out.push(e.byte);
        if e.count == 1 && e.depth as usize == order {
            out.push(e.folds.trailing_zeros() as u8);
        } else {
            out.push(FOLDS as u8 + e.depth);
            number(&mut out, e.count as u64);
            out.extend_from_slice(&e.folds.to_le_bytes());
        }
    }
    number(&mut out, heads.bits().count() as u64);
    let mut before = 0;
    for bit in heads.bits() {
        number(&mut out, bit - before);
        before = bit;
    }
    let digest = blake3::hash(&out);
    out.extend_from_slice(digest.as_bytes());
    out
}

fn shift(context: u64, order: usize, by: fn(u64, u32) -> u64) -> u64 {
    by(context, 64 - 8 * order as u32)
}

/// Seven bits a byte, the lowest first; the last byte is below 128.
fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Entries, heads and order.
pub fn decode(bytes: &[u8]) -> Result<(Vec<Entry>, Heads, usize), CountsError> {
    let damaged = |what| Err(CountsError::Damaged(what));
    let Some((body, digest)) = bytes.split_last_chunk::<DIGEST>() else {
        return damaged("it is too short");
    };
    if !body.starts_with(MAGIC) {
        return damaged("it does not begin as one");
    }
    if blake3::hash(body) != *digest {
        return damaged("its digest is another; it was cut off or changed");
    }
    let mut cursor = Cursor(&body[MAGIC.len()..]);
    let order = cursor.byte()? as usize;
    if !(1..=MAX_ORDER).contains(&order) {
        return damaged("its order is out of range");
    }
    let mut entries = Vec::new();
    let mut context = 0u64;
    for _ in 0..cursor.number()? {
        context = context.wrapping_add(cursor.number()?);
        let byte = cursor.byte()?;
        let (depth, count, folds) = match cursor.byte()? as usize {
            fold if fold < FOLDS => (order, 1, 1 << fold),
            depth => {
                let count = cursor.number()?;
                let folds = u16::from_le_bytes([cursor.byte()?, cursor.byte()?]);
                (depth - FOLDS, count.min(u32::MAX as u64) as u32, folds)
            }
        };
        if depth > order || count == 0 || folds == 0 {
            return damaged("a count is out of range");
        }
        let context = shift(context, order, |context, by| context << by);
        entries.push(Entry { context, count, folds, byte, depth: depth as u8 });
    }
    if entries.is_empty() || !entries.is_sorted_by_key(Entry::key) {
        return damaged("its counts are not in order");
    }
    let mut heads = Heads::default();
    let mut bit = 0u64;
    for _ in 0..cursor.number()? {
        bit = bit.wrapping_add(cursor.number()?);
        if !heads.set(bit) {
            return damaged("a fold is out of range");
        }
    }
    Ok((entries, heads, order))
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, CountsError> {
        let (&byte, rest) = self.0.split_first().ok_or(CountsError::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, CountsError> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.byte()?;
            value |= ((byte & 127) as u64).checked_shl(shift).unwrap_or(0);
            if byte < 128 {
                return Ok(value);
            }
            shift += 7;
        }
    }
}
