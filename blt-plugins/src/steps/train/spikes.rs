//! [`Spikes`]: optimiser steps whose loss leaps.

use serde::{Deserialize, Serialize};

/// Steps that a step is compared with.
const BEFORE: usize = 32;
/// How many times their median a spike's loss is.
const TIMES: f64 = 1.5;

/// Finds loss spikes: steps whose loss is more than 1.5 times the median of the 32 steps before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spikes {
    /// Nats per byte of the last steps, the newest last.
    recent: Vec<f64>,
    /// Spikes since the last line of metrics.jsonl.
    new: Vec<u64>,
    count: u64,
}

impl Spikes {
    /// Takes in the loss of a step, in nats per byte.
    pub fn see(&mut self, step: u64, loss: f64) {
        if self.recent.len() == BEFORE {
            let mut sorted = self.recent.clone();
            sorted.sort_by(f64::total_cmp);
            if loss > TIMES * sorted[BEFORE / 2] {
                self.new.push(step);
                self.count += 1;
            }
            self.recent.remove(0);
        }
        self.recent.push(loss);
    }

    /// The spikes since this was last asked; None if there are none.
    pub fn take_new(&mut self) -> Option<Vec<u64>> {
        Some(std::mem::take(&mut self.new)).filter(|new| !new.is_empty())
    }

    /// How many there were; None if none.
    pub fn count(&self) -> Option<u64> {
        Some(self.count).filter(|&count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_is_a_spike_and_a_fall_is_none() {
        let mut spikes = Spikes::default();
        // Before there are 32 steps, nothing is known of what is usual.
        spikes.see(1, 9.0);
        (2..=40).for_each(|step| spikes.see(step, 4.0 - step as f64 / 20.0));
        assert_eq!((spikes.count(), spikes.take_new()), (None, None));
        spikes.see(41, 4.2);
        spikes.see(42, 2.0);
        assert_eq!((spikes.take_new(), spikes.count()), (Some(vec![41]), Some(1)));
        assert_eq!(spikes.take_new(), None);
    }
}
