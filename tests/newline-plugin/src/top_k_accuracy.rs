use blt::prelude::*;

/// How often the next byte is among the k most probable.
#[params]
pub struct TopKAccuracy {
    /// How many guesses count.
    k: usize,
}

#[node(example = "k: 5")]
impl Metric for TopKAccuracy {
    fn check(&self) -> Result<(), NodeError> {
        match self.k {
            0 => Err(NodeError::param("k", "at least one guess counts, k: 1")),
            _ => Ok(()),
        }
    }

    fn measure(&self, logits: &[&[f32]], targets: &[usize]) -> MetricValue {
        let better = |row: &[f32], target: usize| row.iter().filter(|&&l| l > row[target]).count();
        let hits = logits.iter().zip(targets).filter(|&(row, &t)| better(row, t) < self.k).count();
        MetricValue::share(format!("top_{}_accuracy", self.k), hits, targets.len())
    }
}

#[test]
fn all_guesses_count_or_few() {
    let share =
        |k| blt::testing::check(TopKAccuracy { k }, b"some bytes").get::<port::Metric>("metric");
    assert_eq!(share(VOCAB), MetricValue::share("top_260_accuracy", 10, 10));
    assert!(share(1).sums["top_1_accuracy"].0 < 10.0);
}
