//! What latents are worth, in all and by the column's values.

use super::facts::{Facts, Variant};
use super::show::named;
use super::table::worth;
use crate::results::LatentsWorth;
use minijinja::{Value, context};

/// A row for all documents of a variant, and one for each group.
pub fn rows(results: &Facts) -> Vec<Value> {
    let bpb = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.4}"));
    let row = |variant: &Variant, group: &str, of: &LatentsWorth| {
        let measured = [of.bpb, of.mean_bpb, of.other_bpb, of.zero_bpb].map(bpb);
        let worth = worth(of).unwrap_or_else(|| "–".to_owned());
        context! {
            variant => named(variant),
            group => group,
            cells => std::iter::once(worth).chain(measured).collect::<Vec<_>>(),
        }
    };
    let of_variant = |variant: &Variant| {
        let probe = variant.latents.iter();
        let groups = probe.clone().flat_map(|probe| &probe.by);
        let all = probe.map(|probe| row(variant, "all", &probe.all));
        all.chain(groups.map(|(group, of)| row(variant, group, of))).collect::<Vec<_>>()
    };
    results.variants.iter().flat_map(of_variant).collect()
}
