//! Numbers drawn from a seed.

/// Random numbers of one purpose.
pub struct Draws(blake3::OutputReader);

impl Draws {
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(purpose.as_bytes());
        Draws(hasher.finalize_xof())
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        ((u64::from_le_bytes(bytes) as u128 * n as u128) >> 64) as usize
    }

    pub fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}
