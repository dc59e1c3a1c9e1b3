//! Orders of reading, and the generator that they are drawn with.

use serde::{Deserialize, Serialize};

use crate::splitmix::{STEP, mix};

/// The order in which documents are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The order of the files and their rows.
    Sequential,
    /// Row groups in an order drawn from seed and epoch; then a buffer of `buffer` documents, from
    /// which one is drawn at a time. The buffer also counts as full at 256 MiB of text.
    Shuffled { seed: u64, buffer: usize },
}

/// SplitMix64, whose whole state is one number that a checkpoint can hold.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    /// The generator for one purpose in one epoch.
    pub(crate) fn new(seed: u64, epoch: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes()).update(purpose.as_bytes());
        let hash = hasher.finalize();
        Rng(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes")))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number in `0..n`, by the high half of a 128-bit product (its bias is below n / 2^64).
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.next() as u128 * n as u128) >> 64) as usize
    }
}

/// The order of `n` row groups in an epoch.
pub(crate) fn group_order(order: &Order, epoch: u64, n: usize) -> Vec<u32> {
    let mut groups: Vec<u32> = (0..n as u32).collect();
    if let Order::Shuffled { seed, .. } = *order {
        let mut rng = Rng::new(seed, epoch, "units");
        for i in (1..n).rev() {
            groups.swap(i, rng.below(i + 1));
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_that_differ_by_seed_and_epoch() {
        let order = |seed| Order::Shuffled { seed, buffer: 1 };
        let a = group_order(&order(1), 0, 50);
        let mut sorted = a.clone();
        sorted.sort();
        assert_eq!(sorted, group_order(&Order::Sequential, 3, 50));
        assert_eq!(a, group_order(&order(1), 0, 50));
        assert_ne!(a, group_order(&order(1), 1, 50));
        assert_ne!(a, group_order(&order(2), 0, 50));
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
