//! What the numbers say, in words: the summary and the notes. Nothing is claimed that an interval or
//! an adjusted p-value does not carry.

use super::facts::{Difference, Facts, Variant};
use super::text::{grouped, listed, mega};
use crate::stats::FEWEST_CLUSTERS;

impl Facts {
    /// The difference of `next` to `variant`, which is ranked right before it.
    fn to_next(&self, variant: &Variant, next: &Variant) -> Option<Difference> {
        let found = self.order.iter().find(|(a, b, _)| (a, b) == (&variant.name, &next.name));
        found.map(|(.., difference)| *difference)
    }

    /// Whether the first of two that are ranked next to each other is ahead, at 5 % over all pairs;
    /// None where no interval is known.
    pub fn order_is_certain(&self, variant: &Variant, next: &Variant) -> Option<bool> {
        self.to_next(variant, next)?.is_certain()
    }

    /// Notes for readers of the table: what is claimed against the baseline, which order is not
    /// certain, what intervals are made of, and why some variants are not ranked.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.against_baseline().into_iter().collect();
        notes.extend(self.order_notes());
        notes.extend(self.interval_notes());
        if let Some(name) = &self.baseline
            && self.baseline().is_none()
        {
            notes.push(format!(
                "The baseline {name} was not evaluated, so there are no differences to it."
            ));
        }
        let apart: Vec<&str> =
            self.variants.iter().filter(|v| v.lookahead).map(|v| v.name.as_str()).collect();
        if !apart.is_empty() {
            notes.push(format!("Not ranked: {}. {LOOKAHEAD}", listed(&apart)));
        }
        notes
    }

    /// Which ranked variants differ from the baseline, at 5 % for all together.
    fn against_baseline(&self) -> Option<String> {
        let baseline = self.baseline()?;
        let ranked = self.ranked();
        let claim = |holds: fn(&Difference) -> bool| -> Vec<&str> {
            let holds = |v: &&&Variant| v.difference.is_some_and(|d| d.p.is_some() && holds(&d));
            ranked.iter().filter(holds).map(|v| v.name.as_str()).collect()
        };
        let fewer = claim(|d| d.is_certain() == Some(true) && d.bpb < 0.0);
        let more = claim(|d| d.is_certain() == Some(true) && d.bpb > 0.0);
        let open = claim(|d| d.is_certain() == Some(false));
        let parts = [("fewer bits", fewer), ("more bits", more), ("not told apart", open)];
        let said = parts.iter().filter(|(_, names)| !names.is_empty());
        let said: Vec<String> =
            said.map(|(what, names)| format!("{what}: {}", listed(names))).collect();
        (!said.is_empty())
            .then(|| format!("Against the baseline, {} – {}.", baseline.name, said.join("; ")))
    }

    /// Runs of neighbours of which none is certainly ahead of the next.
    fn order_notes(&self) -> Vec<String> {
        let ranked = self.ranked();
        let (mut notes, mut first) = (Vec::new(), 0);
        for i in 1..=ranked.len() {
            let certain = (i < ranked.len())
                .then(|| self.order_is_certain(ranked[i - 1], ranked[i]))
                .flatten();
            if certain == Some(false) {
                continue;
            }
            match &ranked[first..i] {
                [a, b] => {
                    let Some(d) = self.to_next(a, b) else { continue };
                    notes.push(format!(
                        "The order of {} and {} is not certain: they are {:.4} ± {:.4} bits per byte apart.",
                        a.name,
                        b.name,
                        d.bpb,
                        d.half_width.unwrap_or(f64::NAN)
                    ));
                }
                [best, .., worst] => notes.push(format!(
                    "The order of ranks {} to {i}, {} to {}, is not certain: each may be equal to the next.",
                    first + 1,
                    best.name,
                    worst.name
                )),
                _ => {}
            }
            first = i;
        }
        notes
    }

    /// What the intervals are made of, or why there are none.
    fn interval_notes(&self) -> Vec<String> {
        let known = self.variants.iter().filter_map(|v| v.difference.as_ref());
        let known: Vec<&Difference> = known.chain(self.order.iter().map(|(.., d)| d)).collect();
        let Some(first) = known.iter().find(|d| d.clusters.is_some()) else {
            let text = "How certain the order is cannot be said: no two variants read the same documents, or an earlier version wrote these results.";
            return (self.ranked().len() > 1).then(|| text.to_owned()).into_iter().collect();
        };
        let n = first.clusters.unwrap_or_default();
        let clusters = match &self.cluster {
            Some(column) => format!("{n} clusters of documents (`{column}`)"),
            None => format!("{n} documents, each a cluster of its own"),
        };
        if first.half_width.is_none() {
            return vec![format!(
                "No intervals and no claims: the spread over {clusters}, cannot be told from so few. {FEWEST_CLUSTERS} are needed; hold out more."
            )];
        }
        let compared = self.ranked().iter().filter(|v| v.difference.is_some()).count();
        let together = if compared > 1 { ", for all ranked variants together" } else { "" };
        let seeds = match self.seeds.len() {
            0 | 1 => "one seed".to_owned(),
            n => format!("{n} seeds"),
        };
        let mut notes = vec![format!(
            "Intervals are of 95 %{together}, over {clusters}, and {seeds}; p-values are Holm's."
        )];
        if self.seeds.len() < 2 {
            notes.push(
                "With one seed they hold nothing of what another seed would change, which may be more: `seeds: [1, 2, 3]`."
                    .to_owned(),
            );
        }
        notes
    }

    /// The result in a few plain sentences.
    pub fn summary(&self) -> String {
        let ranked = self.ranked();
        let Some(best) = ranked.first() else {
            return match self.looking_ahead().first() {
                Some(best) => format!(
                    "No variant can be ranked: the borders of all that were evaluated look ahead. The fewest bits per byte are those of {}: {:.4}.",
                    best.name,
                    best.bpb.unwrap_or(f64::NAN)
                ),
                None => {
                    "No variant was evaluated, so there are no bits per byte to compare.".to_owned()
                }
            };
        };
        let bpb = best.bpb.unwrap_or(f64::NAN);
        let mut read = String::new();
        if let (Some(bytes), Some(documents)) = (best.bytes, best.documents) {
            let noun = if documents == 1.0 { "document" } else { "documents" };
            read = format!(" on {} bytes of {} {noun}", grouped(bytes), grouped(documents));
        }
        let mut said = match ranked.len() {
            1 => format!("{} reaches {bpb:.4} bits per byte{read}.", best.name),
            n => format!(
                "Of {n} ranked variants, {} has the fewest bits per byte: {bpb:.4}{read}.",
                best.name
            ),
        };
        let difference = |v: &Variant| {
            let d = v.difference?;
            let width = d.half_width.map_or_else(String::new, |w| format!(" ± {w:.4} (95 %)"));
            Some(format!(
                "{:.4}{width} bits per byte {}",
                d.bpb.abs(),
                if d.bpb > 0.0 { "more" } else { "fewer" }
            ))
        };
        if self.is_baseline(best) {
            said += " It is the baseline";
            said += &match ranked.get(1).and_then(|next| Some((next, difference(next)?))) {
                Some((next, difference)) => format!("; the next, {}, has {difference}.", next.name),
                None => ".".to_owned(),
            };
        } else if let (Some(baseline), Some(difference)) = (self.baseline(), difference(best)) {
            said += &format!(" That is {difference} than the baseline, {}.", baseline.name);
        }
        if let Some(next) = ranked.get(1)
            && self.order_is_certain(best, next) == Some(false)
        {
            said += &format!(
                " Its lead over {} is not certain: the two may be equal (95 %).",
                next.name
            );
        }
        if let Some(flops) = best.flops {
            said += &format!(" A byte costs it {} MFLOP forward", mega(flops));
            if let Some(entropy) = best.entropy_flops.filter(|&e| e > 0.0) {
                said += &format!(", {} of them in the entropy model", mega(entropy));
            }
            said += ".";
        }
        let frontier = self.frontier();
        if ranked.len() > 1 && !frontier.is_empty() {
            let names: Vec<&str> = frontier.iter().map(|v| v.name.as_str()).collect();
            said += &match names.len() {
                1 => format!(
                    " No other ranked variant has fewer bits, or fewer FLOPs, than {}.",
                    names[0]
                ),
                _ => format!(
                    " For the compute, from the cheapest up, {} are not beaten: no ranked variant has fewer bits for as few FLOPs.",
                    listed(&names)
                ),
            };
        }
        said
    }
}

/// Why variants with lookahead are not ranked.
pub const LOOKAHEAD: &str = "Patch borders that depend on later bytes give each prediction a hint of what follows. Such patches cannot generate text, and these bits per byte do not compare with the others'.";
