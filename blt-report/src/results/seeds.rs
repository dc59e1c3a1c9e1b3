//! What several seeds measured, as one.

use super::Number;
use super::file::{Evaluated, StepRecord, VariantResults};
use crate::stats::mean;
use blt_graph::StepError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Numbers averaged leaf by leaf; what is no number must be the same everywhere and is taken from
/// the first.
fn average(values: &[&Value]) -> Value {
    match values[0] {
        Value::Number(_) if values.iter().all(|v| v.is_u64() && *v == values[0]) => {
            values[0].clone()
        }
        Value::Number(_) => {
            let numbers: Vec<f64> = values.iter().filter_map(|v| v.as_f64()).collect();
            json!(mean(&numbers))
        }
        Value::Object(map) => {
            let averaged = map.keys().map(|key| {
                let of_key: Vec<&Value> = values.iter().filter_map(|v| v.get(key)).collect();
                (key.clone(), average(&of_key))
            });
            Value::Object(averaged.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// The mean of what several seeds measured, and what is no number from the first.
fn mean_of<T: Serialize + DeserializeOwned>(seeds: &[&T]) -> Result<T, StepError> {
    let values = seeds.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::from_value(average(&values.iter().collect::<Vec<_>>()))?)
}

/// The means of each step's numbers. Of one seed, or where one ran other steps, those of the first.
fn mean_steps(seeds: &[&[StepRecord]]) -> Result<Vec<StepRecord>, StepError> {
    let names = |steps: &[StepRecord]| steps.iter().map(|s| s.step.clone()).collect::<Vec<_>>();
    if seeds.len() == 1 || seeds.iter().any(|steps| names(steps) != names(seeds[0])) {
        return Ok(seeds[0].to_vec());
    }
    let mean = |i: usize| {
        let values = seeds.iter().map(|steps| serde_json::to_value(&steps[i]));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let counts = average_steps(&values.iter().collect::<Vec<_>>());
        Ok(serde_json::from_value(counts)?)
    };
    (0..seeds[0].len()).map(mean).collect()
}

/// As [`average`], but a count stays whole, as the types of steps have it, and a count that a seed
/// lacks (failures of one kind, a bin of a histogram) is 0 there.
fn average_steps(values: &[&Value]) -> Value {
    if values.iter().all(|value| *value == values[0]) {
        return values[0].clone();
    }
    let Value::Object(first) = values[0] else {
        let whole: Option<Vec<u64>> = values.iter().map(|value| value.as_u64()).collect();
        return match whole {
            Some(whole) => {
                json!((whole.iter().sum::<u64>() as f64 / whole.len() as f64).round() as u64)
            }
            None => average(values),
        };
    };
    let mut averaged = Map::new();
    let others = values[1..].iter().filter_map(|value| value.as_object());
    for key in first.keys().chain(others.flat_map(Map::keys)) {
        let of_key: Vec<&Value> = values.iter().filter_map(|value| value.get(key)).collect();
        let none = json!(0);
        let padded = values.iter().map(|value| value.get(key).unwrap_or(&none)).collect();
        let counts = of_key.iter().all(|value| value.is_u64());
        averaged.insert(key.clone(), average_steps(&if counts { padded } else { of_key }));
    }
    averaged.into()
}

/// Counts by length, averaged: a length that a seed does not have counts 0 there.
fn average_counts(seeds: &[&Evaluated]) -> Option<BTreeMap<u64, Number>> {
    seeds[0].result.patch_lengths.as_ref()?;
    let mut sums = BTreeMap::<u64, f64>::new();
    for counts in seeds.iter().filter_map(|seed| seed.result.patch_lengths.as_ref()) {
        for (length, count) in counts {
            *sums.entry(*length).or_default() += count.finite().unwrap_or_default();
        }
    }
    let mean = |(length, sum)| (length, Number::Real(sum / seeds.len() as f64));
    Some(sums.into_iter().map(mean).collect())
}

/// One variant: the means of its seeds.
pub fn over_seeds(seeds: &[(String, VariantResults)]) -> Result<VariantResults, StepError> {
    let (_, first) = &seeds[0];
    let each = || seeds.iter().map(|(_, results)| results);
    let evaluated: Vec<&Evaluated> = each().filter_map(|of| of.evaluated.as_ref()).collect();
    let rates: Vec<f64> = each().filter_map(|of| of.train_bytes_per_second).collect();
    let mut results = first.clone();
    results.steps = mean_steps(&each().map(|of| of.steps.as_slice()).collect::<Vec<_>>())?;
    results.evaluations = mean_steps(&each().map(|of| &of.evaluations[..]).collect::<Vec<_>>())?;
    results.train_bytes_per_second = first.train_bytes_per_second.map(|_| mean(&rates));
    if first.evaluated.is_some() {
        let mut averaged = mean_of(&evaluated)?;
        averaged.result.patch_lengths = average_counts(&evaluated);
        results.evaluated = Some(averaged);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_means_and_counts_stay_whole() {
        let seeds = [
            json!({"bytes": 10, "bpb": 2.0, "failed": {"empty": 4}, "goal": "loss", "parts": [1]}),
            json!({"bytes": 13, "bpb": 3.0, "failed": {"null": 1}, "goal": "loss", "parts": [2]}),
        ];
        let mean = average_steps(&seeds.iter().collect::<Vec<_>>());
        let expected = json!({
            "bytes": 12, "bpb": 2.5, "failed": {"empty": 2, "null": 1}, "goal": "loss", "parts": [1],
        });
        assert_eq!(mean, expected);
    }
}
