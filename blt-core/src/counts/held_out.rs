//! Which counts a span is read from: all, or those of the folds that it was not fitted in.

/// Number of folds that counts remember.
pub const FOLDS: usize = 16;
/// A span's fold follows from a hash of its first 8 bytes, and from byte 64 on of its first 64.
/// What comes before the first 8 bytes is not counted, because its fold is not known yet.
pub const HEADS: [usize; 2] = [8, 64];
/// Bits of the set of fitted heads. The set does not grow: with many documents some unseen spans
/// count as fitted too, and are read from 15 of the 16 folds.
const SET_BITS: u64 = 1 << 23;

/// A span's bytes so far, for the hashes of its heads.
#[derive(Clone, Copy, Default)]
pub struct HeadHash {
    hash: u64,
    seen: usize,
}

impl HeadHash {
    /// Takes the next byte. Returns the hash of the head that ends with it, if one does.
    #[inline]
    pub fn push(&mut self, byte: u8) -> Option<u64> {
        if self.seen >= HEADS[1] {
            return None;
        }
        self.hash = (self.hash ^ (byte as u64 + 1)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.hash ^= self.hash >> 29;
        self.seen += 1;
        HEADS.contains(&self.seen).then_some(self.hash)
    }
}

/// The mask of the fold that a head belongs to.
pub fn fold(hash: u64) -> u16 {
    1 << ((hash >> 40) % FOLDS as u64)
}

/// The set of the heads of fitted spans. It never misses one.
#[derive(Clone, PartialEq)]
pub struct Heads {
    words: Vec<u64>,
}

/// The empty set.
impl Default for Heads {
    fn default() -> Self {
        Heads { words: vec![0; (SET_BITS / 64) as usize] }
    }
}

impl Heads {
    /// Adds a head.
    pub fn insert(&mut self, hash: u64) {
        self.set(hash % SET_BITS);
    }

    /// Whether a span with this head was fitted.
    pub fn contains(&self, hash: u64) -> bool {
        let bit = hash % SET_BITS;
        self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    /// The fold that a span with this head is read without, if it was fitted.
    pub fn left_out(&self, hash: u64) -> Option<u16> {
        self.contains(hash).then(|| fold(hash))
    }

    /// The set's bits, in ascending order.
    pub fn bits(&self) -> impl Iterator<Item = u64> {
        (0..SET_BITS).filter(|bit| self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    /// Adds a bit of [`bits`](Heads::bits); false if there is no such bit.
    pub fn set(&mut self, bit: u64) -> bool {
        match self.words.get_mut((bit / 64) as usize) {
            Some(word) => {
                *word |= 1 << (bit % 64);
                true
            }
            None => false,
        }
    }
}
