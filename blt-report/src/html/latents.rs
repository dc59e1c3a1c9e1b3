//! What latents are worth, in all and by the column's values.

use super::facts::{Facts, Variant};
use super::show::named;
use super::table::worth;
use super::text::significant;
use crate::results::LatentsWorth;
use minijinja::{Value, context};

/// A row for all documents of a variant, and one for each group.
pub fn rows(results: &Facts) -> Vec<Value> {
    let bpb = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.4}"));
    let row = |variant: &Variant, group: &str, of: &LatentsWorth, within: [String; 2]| {
        let measured = [of.bpb, of.mean_bpb, of.other_bpb, of.zero_bpb].map(bpb);
        let worth = worth(of).unwrap_or_else(|| "–".to_owned());
        context! {
            variant => named(variant),
            group => group,
            cells => std::iter::once(worth).chain(measured).chain(within).collect::<Vec<_>>(),
        }
    };
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| significant(v, 3));
    let of_variant = |variant: &Variant| {
        let probe = variant.latents.iter();
        let groups = probe.clone().flat_map(|probe| &probe.by);
        let all = probe.map(|probe| {
            let within = [probe.rank, probe.cross_attention].map(number);
            row(variant, "all", &probe.all, within)
        });
        all.chain(groups.map(|(group, of)| row(variant, group, of, Default::default())))
            .collect::<Vec<_>>()
    };
    results.variants.iter().flat_map(of_variant).collect()
}
