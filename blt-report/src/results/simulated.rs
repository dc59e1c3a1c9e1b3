//! The intervals and p-values on data whose variances and differences are known.
//!
//! Bits per byte of a run (a variant and a seed) on a document: what makes the document hard, the
//! same for all runs; the variant's effect; and random effects of (variant, cluster), run,
//! (run, cluster) and (run, document).

use super::compare::{Documents, neighbours, with_baseline};
use super::paired::DocumentLine;
use super::{Interval, Ordered, Results, VariantResults, paired};
use std::f64::consts::{LN_2, TAU};

/// Splitmix64, and normal deviates by Box and Muller.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self, deviation: f64) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        deviation * (-2.0 * u.ln()).sqrt() * (TAU * v).cos()
    }
}

/// Sizes, and standard deviations in bits per byte.
#[derive(Clone, Copy, Debug)]
struct World {
    clusters: usize,
    /// About as many documents in a cluster; 1 is 1.
    documents: f64,
    seeds: usize,
    of_cluster: f64,
    of_run: f64,
    of_run_and_cluster: f64,
    of_document: f64,
}

/// The corpus by source, three seeds; effects of the sizes that this repository's runs have.
const CORPUS: World = World {
    clusters: 29,
    documents: 4.0,
    seeds: 3,
    of_cluster: 0.006,
    of_run: 0.002,
    of_run_and_cluster: 0.003,
    of_document: 0.01,
};

impl World {
    /// (cluster, bytes) of each document. Clusters and documents are of unequal sizes.
    fn documents(&self, random: &mut Random) -> Vec<(usize, u64)> {
        let mut documents = Vec::new();
        for cluster in 0..self.clusters {
            let some = (self.documents - 1.0) * random.normal(0.6).exp();
            for _ in 0..=some as usize {
                documents.push((cluster, (3000.0 * random.normal(0.5).exp()) as u64 + 1));
            }
        }
        documents
    }

    /// The runs of a variant that has `effect` bits per byte more.
    fn runs(
        &self,
        documents: &[(usize, u64)],
        seeds: usize,
        effect: f64,
        random: &mut Random,
    ) -> Vec<Vec<DocumentLine>> {
        let mut effects =
            |deviation| (0..self.clusters).map(|_| random.normal(deviation)).collect::<Vec<_>>();
        let of_cluster = effects(self.of_cluster);
        let run = |_| {
            let own = effect + random.normal(self.of_run);
            let of_run: Vec<f64> =
                (0..self.clusters).map(|_| own + random.normal(self.of_run_and_cluster)).collect();
            let line = |(row, &(cluster, bytes)): (usize, &(usize, u64))| {
                let hard = 2.0 + (row % 7) as f64 * 0.1;
                let bpb = hard + of_cluster[cluster] + of_run[cluster];
                let bpb = bpb + random.normal(self.of_document);
                DocumentLine {
                    row: row as u64,
                    group: None,
                    cluster: Some(cluster.to_string()),
                    bytes,
                    nats: bpb * LN_2 * bytes as f64,
                    patches: 0,
                }
            };
            documents.iter().enumerate().map(line).collect()
        };
        (0..seeds).map(run).collect()
    }

    /// The paired difference of two variants that differ by `effect`.
    fn difference(&self, effect: f64, random: &mut Random) -> (f64, Interval) {
        let documents = self.documents(random);
        let base = self.runs(&documents, self.seeds, 0.0, random);
        let found = paired(&self.runs(&documents, self.seeds, effect, random), &base).unwrap();
        (found.difference.bpb, found.difference.interval)
    }
}

fn share(n: usize, mut holds: impl FnMut(usize) -> bool) -> f64 {
    (0..n).filter(|i| holds(*i)).count() as f64 / n as f64
}

#[test]
fn intervals_of_95_percent_hold_the_difference_in_93_to_97_of_100() {
    let worlds = [
        CORPUS,
        World { clusters: 12, seeds: 5, ..CORPUS },
        World { clusters: 8, ..CORPUS },
        World { clusters: 100, of_run: 0.004, ..CORPUS },
        World { clusters: 200, documents: 1.0, of_run: 0.001, ..CORPUS },
        World { seeds: 1, of_run: 0.0, of_run_and_cluster: 0.0, ..CORPUS },
        World { seeds: 5, of_run: 0.0, ..CORPUS },
    ];
    for world in worlds {
        let mut random = Random(18);
        let held = share(2000, |_| {
            let (bpb, interval) = world.difference(0.01, &mut random);
            (bpb - 0.01).abs() <= interval.half_width.unwrap()
        });
        assert!((0.93..=0.97).contains(&held), "{held} of {world:?}");
    }
}

/// What the clusters are for: taken for independent, documents of a cluster promise too much.
#[test]
fn documents_of_a_cluster_are_not_independent() {
    let mut random = Random(18);
    let world = World { of_run: 0.0, of_run_and_cluster: 0.0, seeds: 1, ..CORPUS };
    let held = share(2000, |_| {
        let documents = world.documents(&mut random);
        let runs = |random: &mut Random| {
            let mut runs = world.runs(&documents, 1, 0.0, random);
            runs.iter_mut().flatten().for_each(|line| line.cluster = None);
            runs
        };
        let found = paired(&runs(&mut random), &runs(&mut random)).unwrap().difference;
        found.bpb.abs() <= found.interval.half_width.unwrap()
    });
    assert!(held < 0.9, "{held}");
}

/// Runs of one variant, labelled as two at random.
#[test]
fn permuted_labels_are_rejected_in_at_most_65_of_1000() {
    let mut random = Random(19);
    let (sets, permutations) = (50, 20);
    let mut rejected = 0;
    for _ in 0..sets {
        let documents = CORPUS.documents(&mut random);
        let mut runs = CORPUS.runs(&documents, 10, 0.0, &mut random);
        for _ in 0..permutations {
            for i in (1..runs.len()).rev() {
                runs.swap(i, (random.uniform() * (i + 1) as f64) as usize);
            }
            let p = paired(&runs[..5], &runs[5..]).unwrap().difference.interval.p.unwrap();
            rejected += usize::from(p < 0.05);
        }
    }
    assert!((1..=65).contains(&rejected), "{rejected} of 1000");
}

/// Five variants, of which only the last differs, by `effect`.
fn five(effect: f64, random: &mut Random) -> (Ordered<VariantResults>, Documents) {
    let documents = CORPUS.documents(random);
    let mut of = Documents::new();
    for (name, effect) in NAMES.iter().zip([0.0, 0.0, 0.0, 0.0, effect]) {
        of.insert((*name).to_owned(), CORPUS.runs(&documents, CORPUS.seeds, effect, random));
    }
    let empty = NAMES.iter().map(|name| ((*name).to_owned(), VariantResults::default()));
    let mut results = Results { variants: empty.collect(), ..Results::default() };
    with_baseline(&mut results, &of, "a", &NAMES);
    (results.variants, of)
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn intervals(variants: &Ordered<VariantResults>) -> Vec<&Interval> {
    variants.iter().filter_map(|(_, v)| Some(&v.difference.as_ref()?.interval)).collect()
}

/// A/A: five times the same variant, under seeds of its own. One false claim or more among the four
/// differences to the baseline, or among the neighbours of the ranking.
#[test]
fn variants_that_are_the_same_are_told_apart_in_at_most_65_of_1000() {
    let mut random = Random(20);
    let (mut to_baseline, mut of_order) = (0, 0);
    for _ in 0..1000 {
        let (variants, documents) = five(0.0, &mut random);
        let claimed = |i: &Interval| i.p_holm.unwrap() < 0.05;
        to_baseline += usize::from(intervals(&variants).into_iter().any(claimed));
        let bits = |name: &&str| {
            let lines = documents[*name].iter().flatten();
            lines.map(|line| line.nats).sum::<f64>()
        };
        let mut ranked = NAMES;
        ranked.sort_by(|a, b| bits(a).total_cmp(&bits(b)));
        let order = neighbours(&documents, &ranked);
        of_order += usize::from(order.iter().any(|n| claimed(&n.difference.interval)));
    }
    assert!((1..=65).contains(&to_baseline), "{to_baseline} to the baseline of 1000");
    assert!(of_order <= 65, "{of_order} of the order of 1000");
}

/// Twice the resolution that a first run claims is found by a second.
#[test]
fn a_difference_of_twice_the_resolution_is_found_in_8_of_10() {
    let mut random = Random(21);
    let found = share(500, |_| {
        let (variants, _) = five(0.0, &mut random);
        let widths = intervals(&variants).into_iter().map(|i| i.half_width_simultaneous.unwrap());
        let resolution = widths.fold(0.0, f64::max);
        let (variants, _) = five(2.0 * resolution, &mut random);
        intervals(&variants)[3].p_holm.unwrap() < 0.05
    });
    assert!(found >= 0.8, "{found}");
}
