//! Orders of reading, and the small generator behind them.

use serde::{Deserialize, Serialize};

/// In which order documents come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they stand in the files.
    Sequential,
    /// Row groups (record batches, text files) in an order drawn from (seed, epoch), then a buffer
    /// of `buffer` documents from which one is drawn at a time. The buffer also counts as full
    /// at 256 MiB of text.
    Shuffled { seed: u64, buffer: usize },
}

/// SplitMix64: its whole state is one number, which a checkpoint can hold.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    /// The generator of one purpose in one epoch.
    pub(crate) fn new(seed: u64, epoch: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes()).update(purpose.as_bytes());
        let hash = hasher.finalize();
        Rng(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes")))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`, by the high half of a 128-bit product (its bias is below n / 2^64).
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.next() as u128 * n as u128) >> 64) as usize
    }
}

/// The order of `n` units in an epoch.
pub(crate) fn unit_order(order: &Order, epoch: u64, n: usize) -> Vec<u32> {
    let mut units: Vec<u32> = (0..n as u32).collect();
    if let Order::Shuffled { seed, .. } = *order {
        let mut rng = Rng::new(seed, epoch, "units");
        for i in (1..n).rev() {
            units.swap(i, rng.below(i + 1));
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_that_differ_by_seed_and_epoch() {
        let order = |seed| Order::Shuffled { seed, buffer: 1 };
        let a = unit_order(&order(1), 0, 50);
        let mut sorted = a.clone();
        sorted.sort();
        assert_eq!(sorted, unit_order(&Order::Sequential, 3, 50));
        assert_eq!(a, unit_order(&order(1), 0, 50));
        assert_ne!(a, unit_order(&order(1), 1, 50));
        assert_ne!(a, unit_order(&order(2), 0, 50));
    }

    #[test]
    fn draws_are_even() {
        let mut rng = Rng::new(7, 0, "test");
        let mut seen = [0u32; 5];
        (0..50_000).for_each(|_| seen[rng.below(5)] += 1);
        // Standard deviation: 89.
        assert!(seen.iter().all(|&n| (9_600..10_400).contains(&n)), "{seen:?}");
    }
}
