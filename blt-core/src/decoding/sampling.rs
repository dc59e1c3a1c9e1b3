//! Drawing ids: what a model's logits become, seeded draws, and the acceptance rule of drafts.

use crate::bytes::{EOS, OFFSET};

/// How the next id is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely id.
    pub temperature: f64,
    /// Only so many of the most likely ids are drawn.
    pub top_k: Option<usize>,
    /// Only the most likely ids are drawn that together have at least this probability.
    pub top_p: f64,
    /// Ids that are neither a byte nor EOS are drawn too.
    pub all_ids: bool,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: None, top_p: 1.0, all_ids: false }
    }
}

/// A setting out of its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    #[error("a temperature of {0}; expected a number from 0 (the most likely id) on")]
    Temperature(f64),
    #[error("a top-k of 0; expected at least 1 id to draw from")]
    TopK,
    #[error("a top-p of {0}; expected a probability above 0 and at most 1")]
    TopP(f64),
}

impl Sampling {
    /// # Errors
    /// A setting out of its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(SamplingError::Temperature(self.temperature));
        }
        if self.top_k == Some(0) {
            return Err(SamplingError::TopK);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplingError::TopP(self.top_p));
        }
        Ok(())
    }

    fn drawn(&self, id: usize) -> bool {
        self.all_ids || id >= OFFSET as usize || id == EOS as usize
    }

    /// The distribution that the next id is drawn from, `[n]`. Its sum is 1. None if a logit is NaN
    /// or infinite.
    pub fn distribution(&self, logits: &[f32]) -> Option<Vec<f64>> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return None;
        }
        let ids = || (0..logits.len()).filter(|&id| self.drawn(id));
        // The first of equals, as argmax of other libraries.
        let best = ids().reduce(|a, b| if logits[b] > logits[a] { b } else { a })?;
        let mut p = vec![0.0; logits.len()];
        if self.temperature == 0.0 {
            p[best] = 1.0;
            return Some(p);
        }
        let top = logits[best] as f64;
        ids().for_each(|id| p[id] = ((logits[id] as f64 - top) / self.temperature).exp());
        let mut order: Vec<usize> = ids().collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        order.truncate(self.top_k.unwrap_or(usize::MAX));
        let whole: f64 = order.iter().map(|&id| p[id]).sum();
        let mut sum = 0.0;
        let kept = order.iter().take_while(|&&id| {
            let before = sum;
            sum += p[id];
            before < self.top_p * whole
        });
        let kept: Vec<usize> = kept.copied().collect();
        let sum: f64 = kept.iter().map(|&id| p[id]).sum();
        let mut drawn = vec![0.0; logits.len()];
        kept.into_iter().for_each(|id| drawn[id] = p[id] / sum);
        Some(drawn)
    }

    /// The probability that the model gives to ids that are neither a byte nor EOS.
    pub fn lost_mass(logits: &[f32]) -> f64 {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let exp: Vec<f64> = logits.iter().map(|&logit| (logit as f64 - top).exp()).collect();
        let bytes: f64 = exp[OFFSET as usize..].iter().sum();
        1.0 - (bytes + exp[EOS as usize]) / exp.iter().sum::<f64>()
    }
}

/// Numbers in [0, 1), the same for the same seed and document.
pub struct Draws(blake3::OutputReader);

impl Draws {
    pub fn new(seed: u64, document: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("blt 2026 draws of a document");
        hasher.update(&seed.to_le_bytes()).update(&document.to_le_bytes());
        Draws(hasher.finalize_xof())
    }

    pub fn uniform(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index, each as often as `weights` says: at least 0, their sum above 0.
    pub fn choose(&mut self, weights: &[f64]) -> u16 {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        let mut last = 0;
        for (i, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            last = i as u16;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// Whether a drafted id stands, or which id stands in its place: the id `x` was drawn from `q`, and
/// what stands is distributed as `p`, whatever q is (speculative sampling, arXiv 2211.17192,
/// theorem 1). An id stands with probability `min(1, p(x) / q(x))`; else one is drawn from
/// `max(0, p - q)`.
pub fn accept(p: &[f64], q: &[f64], x: u16, draws: &mut Draws) -> Result<(), u16> {
    let (of_p, of_q) = (p[x as usize], q[x as usize]);
    if draws.uniform() * of_q < of_p {
        return Ok(());
    }
    let rest: Vec<f64> = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0)).collect();
    // Where p and q differ by rounding alone, nothing may be left.
    let nothing_left = rest.iter().all(|&rest| rest == 0.0);
    Err(draws.choose(if nothing_left { p } else { &rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_choose_what_is_drawn() {
        let logits: Vec<f32> = (0..260).map(|id| if id < 8 { id as f32 } else { -50.0 }).collect();
        let support = |sampling: Sampling| -> Vec<usize> {
            let p = sampling.distribution(&logits).unwrap();
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            (0..260).filter(|&id| p[id] > 1e-9).collect()
        };
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(support(Sampling::default()), [7]);
        assert_eq!(support(warm), [2, 4, 5, 6, 7]);
        assert_eq!(support(Sampling { all_ids: true, ..warm }), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(support(Sampling { top_k: Some(2), ..warm }), [6, 7]);
        assert_eq!(support(Sampling { top_p: 0.5, ..warm }), [7]);
        assert_eq!(support(Sampling { top_p: 0.7, ..warm }), [6, 7]);
        assert_eq!(Sampling { temperature: 1.0, ..warm }.distribution(&[f32::NAN; 260]), None);
        let mut equal = vec![0.0; 260];
        equal[1] = 1.0;
        assert_eq!(Sampling::default().distribution(&equal).unwrap()[2], 1.0, "the first is EOS");
        let lost = Sampling::lost_mass(&equal);
        let want = (2.0 + 1f64.exp()) / (259.0 + 1f64.exp());
        assert!((lost - want).abs() < 1e-12, "{lost} {want}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let of = |temperature, top_k, top_p| {
            Sampling { temperature, top_k, top_p, all_ids: false }.check()
        };
        assert_eq!(of(0.0, Some(1), 1.0), Ok(()));
        assert_eq!(of(-1.0, None, 1.0), Err(SamplingError::Temperature(-1.0)));
        assert!(of(f64::NAN, None, 1.0).is_err());
        assert_eq!(of(1.0, Some(0), 1.0), Err(SamplingError::TopK));
        assert_eq!(of(1.0, None, 0.0), Err(SamplingError::TopP(0.0)));
        assert_eq!(of(1.0, None, 1.5), Err(SamplingError::TopP(1.5)));
    }

    /// Three ids of four symbols. The i-th depends on those before it.
    type Table = fn(&[u16]) -> [f64; 4];

    fn target(before: &[u16]) -> [f64; 4] {
        match before {
            [] => [0.1, 0.2, 0.3, 0.4],
            [.., 0] => [0.7, 0.1, 0.1, 0.1],
            [.., 1] => [0.25, 0.25, 0.25, 0.25],
            _ => [0.05, 0.5, 0.45, 0.0],
        }
    }

    fn draft(before: &[u16]) -> [f64; 4] {
        match before {
            [.., 3] => [0.0, 0.0, 0.0, 1.0],
            [.., 0] => [0.4, 0.4, 0.1, 0.1],
            _ => [0.4, 0.3, 0.2, 0.1],
        }
    }

    type Rule = fn(&[f64], &[f64], u16, &mut Draws) -> Result<(), u16>;

    /// Three ids as generation draws them: the first from the model, two drafts, an id of the model
    /// where a draft falls.
    fn three(rule: Rule, (p, q): (Table, Table), draws: &mut Draws) -> [u16; 3] {
        let mut ids = vec![draws.choose(&p(&[]))];
        while ids.len() < 3 {
            let of_q = q(&ids);
            let x = draws.choose(&of_q);
            ids.push(rule(&p(&ids), &of_q, x, draws).map_or_else(|other| other, |()| x));
        }
        [ids[0], ids[1], ids[2]]
    }

    /// Chi-squared of a million draws of three ids, by the number of degrees of freedom.
    fn chi_squared(rule: Rule) -> (f64, usize) {
        const DRAWS: usize = 1_000_000;
        let (mut draws, mut counts) = (Draws::new(5, 0), [0usize; 64]);
        for _ in 0..DRAWS {
            let [a, b, c] = three(rule, (target, draft), &mut draws);
            counts[(a * 16 + b * 4 + c) as usize] += 1;
        }
        let (mut sum, mut cells) = (0.0, 0);
        for (i, &count) in counts.iter().enumerate() {
            let (a, b, c) = (i as u16 / 16, i as u16 / 4 % 4, i as u16 % 4);
            let p =
                target(&[])[a as usize] * target(&[a])[b as usize] * target(&[a, b])[c as usize];
            let want = p * DRAWS as f64;
            if want == 0.0 {
                sum += if count > 0 { f64::INFINITY } else { 0.0 };
            } else {
                sum += (count as f64 - want).powi(2) / want;
                cells += 1;
            }
        }
        (sum, cells - 1)
    }

    /// The sum that a chi-squared variable is above with a probability of 1e-3 (Wilson and
    /// Hilferty).
    fn limit(degrees: usize) -> f64 {
        let k = degrees as f64;
        k * (1.0 - 2.0 / (9.0 * k) + 3.0902 * (2.0 / (9.0 * k)).sqrt()).powi(3)
    }

    #[test]
    fn accepted_drafts_have_the_models_distribution_and_wrong_rules_do_not() {
        let (sum, degrees) = chi_squared(accept);
        assert!(sum < limit(degrees), "{sum} of {degrees}");
        let always: Rule = |_, _, _, _| Ok(());
        let no_residual: Rule = |p, q, x, draws| match accept(p, q, x, draws) {
            Ok(()) => Ok(()),
            Err(_) => Err(draws.choose(p)),
        };
        for (name, wrong) in [("always", always), ("no residual", no_residual)] {
            let (sum, degrees) = chi_squared(wrong);
            assert!(sum > 10.0 * limit(degrees), "{name}: {sum} of {degrees}");
        }
    }
}
