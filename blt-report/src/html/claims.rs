//! What the numbers say, in words: the summary and the notes. Nothing is claimed that an interval or
//! an adjusted p-value does not carry.

use super::facts::{Difference, Facts, Variant};
use super::text::{grouped, listed, mega};
use crate::results::{Control, SEEN, SPIKE};
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

    /// What the run can see, which is said before all else: what its controls cost, and which
    /// differences it resolves; if it sees no control, what would help.
    pub fn can_see(&self) -> Vec<String> {
        let Some(instrument) = &self.instrument else { return Vec::new() };
        let mut parts: Vec<String> =
            instrument.controls.iter().map(|(name, control)| cost(name, control)).collect();
        if let Some(resolves) = instrument.resolves {
            parts.push(format!("this run resolves differences of {resolves:.4}"));
        }
        let mut said = vec![format!("What this run can see: {}.", parts.join("; "))];
        if instrument.sees == Some(false) {
            let help = instrument.controls.iter().map(|(name, control)| self.help(name, control));
            said.push(format!(
                "Variants are listed and not ranked: no control is {SEEN} half-widths from its arm. {}",
                help.flatten().collect::<Vec<_>>().join(" ")
            ));
        }
        said
    }

    /// What would make a control that is not seen visible.
    fn help(&self, name: &str, control: &Control) -> Option<String> {
        let difference = Difference::of(control.difference.as_ref()?)?;
        Some(match (control.seeds_needed, control.half_widths) {
            (_, None) => format!(
                "{name}: {} clusters of documents make no interval; hold out at least {FEWEST_CLUSTERS}.",
                difference.clusters.unwrap_or_default()
            ),
            (Some(seeds), _) => {
                format!("{name}: by the spread seen, {seeds} seeds would show it (`seeds:`).")
            }
            (None, _) if self.seeds.len() < 2 => {
                format!("{name}: one seed shows no spread of seeds; set `seeds: [1, 2, 3]` first.")
            }
            (None, _) => format!(
                "{name}: more seeds alone do not suffice; train longer, so that what it takes away is worth more, or hold out more documents of more clusters."
            ),
        })
    }

    /// Variants whose patches are of another size than the baseline's.
    fn unequal_patches(&self) -> Option<String> {
        let base = self.baseline()?.bytes_per_patch?;
        let size = |(name, ratio): (&String, &f64)| {
            let more = if *ratio > 1.0 { "more" } else { "fewer" };
            format!("{name} has {:.2}, {:.0} % {more}", base * ratio, (ratio - 1.0).abs() * 100.0)
        };
        let sizes: Vec<String> = self.unequal_patches.iter().map(size).collect();
        (!sizes.is_empty()).then(|| {
            format!(
                "Warning: not the same patch size. The baseline has {base:.2} bytes a patch; {}. Smaller patches run more latent steps: compare such a variant with one of its own size, such as a stride.",
                sizes.join("; ")
            )
        })
    }

    /// How well the models predict whose entropies place patches, where the run has measured that
    /// and `report.references` has something to hold it against.
    fn entropy_models(&self) -> Vec<String> {
        let mut models: Vec<(&str, f64, Vec<&str>)> = Vec::new();
        for variant in &self.variants {
            let Some(model) = &variant.entropy_model else { continue };
            let goal = format!("{model}.loss");
            let own = variant.other_goals.iter().map(|(goal, bpb)| (goal, Some(*bpb)));
            let beside = self.references.iter().map(|of| (&of.goal, of.bpb));
            let measured = own.chain(beside).find(|(of, _)| **of == goal).and_then(|(_, bpb)| bpb);
            let Some(bpb) = measured else { continue };
            match models.iter_mut().find(|(of, at, _)| of == model && *at == bpb) {
                Some((.., variants)) => variants.push(&variant.name),
                None => models.push((model, bpb, vec![&variant.name])),
            }
        }
        let note = |(model, bpb, variants): (&str, f64, Vec<&str>)| {
            let goal = format!("{model}.loss");
            let others = self.references.iter().filter(|of| of.goal != goal);
            let others: Vec<(&str, f64)> =
                others.filter_map(|of| Some((of.name.as_str(), of.bpb?))).collect();
            if others.is_empty() {
                return None;
            }
            let better = others.iter().filter(|(_, other)| *other < bpb);
            let better: Vec<&str> = better.map(|(name, _)| *name).collect();
            let beside: Vec<String> =
                others.iter().map(|(name, bpb)| format!("{name}: {bpb:.4}")).collect();
            let what = format!(
                "Patches of {} are placed by entropies of `{model}`, which has {bpb:.4} bits per byte ({}).",
                listed(&variants),
                beside.join(", ")
            );
            Some(match better.as_slice() {
                [] => what,
                better => format!(
                    "Warning: an entropy model that predicts worse than {} places patches by what it has not learned. {what}",
                    listed(better)
                ),
            })
        };
        models.into_iter().filter_map(note).collect()
    }

    /// Notes for readers of the table: what is claimed against the baseline, which order is not
    /// certain, what intervals are made of, and why some variants are not ranked.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.unequal_patches().into_iter().collect();
        notes.extend(self.entropy_models());
        notes.extend(self.against_baseline());
        notes.extend(self.order_notes());
        notes.extend(self.interval_notes());
        if let Some(name) = &self.baseline
            && self.baseline().is_none()
        {
            notes.push(format!(
                "The baseline {name} was not evaluated, so there are no differences to it."
            ));
        }
        notes.extend(self.online_note());
        notes.extend(self.spikes());
        let apart: Vec<&str> =
            self.variants.iter().filter(|v| v.lookahead).map(|v| v.name.as_str()).collect();
        if !apart.is_empty() {
            notes.push(format!("Not ranked: {}. {LOOKAHEAD}", listed(&apart)));
        }
        notes
    }

    /// Variants whose training had loss spikes.
    fn spikes(&self) -> Option<String> {
        let of = self.variants.iter().filter(|v| v.spikes > 0);
        let of: Vec<String> = of.map(|v| format!("{} {}", v.name, v.spikes)).collect();
        (!of.is_empty()).then(|| {
            format!(
                "Warning: optimiser steps that were loss spikes ({SPIKE}): {}. `spikes` in metrics.jsonl lists them.",
                of.join(", ")
            )
        })
    }

    /// Differences to the baseline on batches of the training.
    fn online_note(&self) -> Option<String> {
        let online = |v: &Variant| {
            let (bpb, se) = v.online?;
            let se = se.map_or_else(String::new, |se| format!(" ± {se:.4}"));
            Some(format!("{} {bpb:+.4}{se}", v.name))
        };
        let online: Vec<String> = self.variants.iter().filter_map(online).collect();
        (!online.is_empty()).then(|| {
            format!(
                "On training batches that were new to the models, in the later half of the first pass, differences to the baseline and their standard errors are: {}.",
                online.join(", ")
            )
        })
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
            return (self.compared().len() > 1).then(|| text.to_owned()).into_iter().collect();
        };
        let n = first.clusters.unwrap_or_default();
        let clusters = match &self.cluster {
            Some(column) => format!("{n} clusters of documents (`{column}`)"),
            None => format!("{n} documents, each a cluster of its own"),
        };
        if first.half_width.is_none() {
            return vec![format!(
                "No intervals and no claims: the spread cannot be told from {clusters}: {FEWEST_CLUSTERS} are needed; hold out more."
            )];
        }
        let compared = self.compared().iter().filter(|v| v.difference.is_some()).count();
        let together = if compared > 1 { " for all compared variants together" } else { "" };
        let seeds = match self.seeds.len() {
            0 | 1 => "one seed".to_owned(),
            n => format!("{n} seeds"),
        };
        let mut notes = vec![format!(
            "Intervals hold with 95 %{together}, over {seeds} and {clusters}; p-values are Holm's."
        )];
        let mut by = self.variants.iter().flat_map(|v| &v.difference_by);
        if by.any(|(_, d)| d.half_width.is_none()) {
            notes.push(format!(
                "A group without an interval has fewer than {FEWEST_CLUSTERS} clusters."
            ));
        }
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
            if !self.sees() {
                return "No variant is ranked: this run cannot see what its controls take away."
                    .to_owned();
            }
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

/// What a control costs against its arm.
fn cost(name: &str, control: &Control) -> String {
    let what = match &control.what {
        Some(what) => format!("{what} ({name})"),
        None => name.to_owned(),
    };
    let arm = &control.arm;
    let Some(d) = control.difference.as_ref().and_then(Difference::of) else {
        return format!("{what} was not measured against {arm}");
    };
    let (costs, bits) = (if d.bpb < 0.0 { "saves" } else { "costs" }, d.bpb.abs());
    let Some(width) = d.half_width else {
        return format!("{what} {costs} {bits:.4} against {arm}, without an interval");
    };
    let sign = if d.bpb < 0.0 { -1.0 } else { 1.0 };
    let (low, high) = (d.bpb * sign - width, d.bpb * sign + width);
    let seen = control.half_widths.unwrap_or_default();
    format!(
        "{what} {costs} {bits:.4} bits per byte against {arm}, 95 % interval {low:.4} to {high:.4} ({seen:.1} half-widths)"
    )
}

/// Why variants with lookahead are not ranked.
pub const LOOKAHEAD: &str = "Patch borders that depend on later bytes give each prediction a hint of what follows. Such patches cannot generate text, and these bits per byte do not compare with the others'.";
