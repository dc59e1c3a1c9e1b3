//! A difference of two variants, over clusters of documents and over seeds.

use super::{mean, standard_error};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// With fewer clusters there is no interval: a spread that few values estimate says little.
pub const FEWEST_CLUSTERS: usize = 6;

/// A mean difference per byte, and its variance.
///
/// The model: the difference of seed s in cluster g is, per byte, `mean + a_g + b_s + e_gs`, where
/// a, b and e are independent with mean 0. The estimate is a ratio, all differences over all bytes.
/// What each cluster differs from it, `r_g = sum of g's differences - estimate * bytes of g`, gives
/// the variance over clusters by CR2 (Bell and McCaffrey 2002, with the independence of documents
/// as the working model): `V_g = sum of r_g^2 / (1 - p_g) / bytes^2`, where p_g is g's share of the
/// bytes. Its degrees of freedom are Satterthwaite's for these shares, n - 1 if all are equal. The
/// variance over seeds, V_s, is that of the mean of the seeds' estimates. Both hold the variance of
/// e, so it is taken off once: `V = V_g + V_s - V_e`, V_e by CR2 from what is left of r_gs when the
/// mean over seeds is taken off. Where V_s is below V_e, seeds add nothing, and V is V_g. V's
/// degrees of freedom are Satterthwaite's for the sum: few seeds that carry the variance leave few.
/// With one seed V is V_g, and holds nothing of what another seed would change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoWay {
    /// The difference per byte.
    pub mean: f64,
    /// Clusters that have bytes.
    pub clusters: usize,
    pub seeds: usize,
    /// V_g.
    over_clusters: f64,
    /// V_s; 0 with one seed.
    over_seeds: f64,
    /// V_e; 0 with one seed.
    left: f64,
    /// Degrees of freedom of V_g.
    df_clusters: f64,
}

impl TwoWay {
    /// `bytes`: of each cluster. `differences`: of each seed, its cluster's sums.
    pub fn of(bytes: &[f64], differences: &[Vec<f64>]) -> Self {
        let total: f64 = bytes.iter().sum();
        let by_seed: Vec<f64> =
            differences.iter().map(|of_seed| of_seed.iter().sum::<f64>() / total).collect();
        let seeds = by_seed.len();
        // CR2's sum of squares, and the sums of Satterthwaite's degrees of freedom:
        // 1 / (sum of p^2 + sum over two different clusters of c_g p_g^2 c_h p_h^2), c = 1 / (1-p).
        let (mut over_clusters, mut left) = (0.0, 0.0);
        let (mut squares, mut cross, mut own) = (0.0, 0.0, 0.0);
        for (g, bytes) in bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0.0) {
            let p = bytes / total;
            let rest = |(of_seed, estimate): (&Vec<f64>, &f64)| of_seed[g] - estimate * bytes;
            let rests: Vec<f64> = differences.iter().zip(&by_seed).map(rest).collect();
            let over_seeds = mean(&rests);
            let weight = 1.0 / (1.0 - p);
            over_clusters += weight * (over_seeds / total).powi(2);
            left += weight * standard_error(&rests).map_or(0.0, |e| (e / total).powi(2));
            squares += p * p;
            cross += weight * p * p;
            own += (weight * p * p).powi(2);
        }
        TwoWay {
            mean: mean(&by_seed),
            clusters: bytes.iter().filter(|bytes| **bytes > 0.0).count(),
            seeds,
            over_clusters,
            over_seeds: standard_error(&by_seed).map_or(0.0, |e| e * e),
            left,
            df_clusters: 1.0 / (squares + cross * cross - own),
        }
    }

    /// The standard error over clusters alone; not a number for one cluster.
    pub fn se_clusters(&self) -> f64 {
        self.over_clusters.sqrt()
    }

    /// The variance and its degrees of freedom, for as many seeds as were seen.
    fn variance(&self) -> (f64, f64) {
        self.variance_with(self.seeds)
    }

    /// The variance and its degrees of freedom that `seeds` would have, by the spread seen.
    fn variance_with(&self, seeds: usize) -> (f64, f64) {
        let fewer = self.seeds as f64 / seeds as f64;
        let (left, over_seeds) = (self.left * fewer, self.over_seeds * fewer);
        // Of V_g only the seeds' part shrinks with more of them.
        let over_clusters = (self.over_clusters - self.left).max(0.0) + left;
        let over_clusters = if fewer == 1.0 { self.over_clusters } else { over_clusters };
        if over_seeds <= left {
            return (over_clusters, self.df_clusters);
        }
        let df_seeds = seeds as f64 - 1.0;
        let v = over_clusters + over_seeds - left;
        let over = over_clusters.powi(2) / self.df_clusters
            + over_seeds.powi(2) / df_seeds
            + left.powi(2) / (self.df_clusters * df_seeds);
        (v, v * v / over)
    }

    /// Degrees of freedom; None under [`FEWEST_CLUSTERS`].
    pub fn df(&self) -> Option<f64> {
        (self.clusters >= FEWEST_CLUSTERS).then(|| self.variance().1).filter(|df| df.is_finite())
    }

    /// Half the width of the interval of a confidence; None under [`FEWEST_CLUSTERS`].
    pub fn half_width(&self, confidence: f64) -> Option<f64> {
        self.df()?;
        self.half_width_with(self.seeds, confidence)
    }

    /// The half-width that `seeds` would have, by the spread seen.
    pub fn half_width_with(&self, seeds: usize, confidence: f64) -> Option<f64> {
        let (variance, df) = self.variance_with(seeds);
        Some(student(df)?.inverse_cdf(0.5 + confidence / 2.0) * variance.sqrt())
    }

    /// The fewest seeds, up to 64, with which the mean would be so many half-widths of its 95 %
    /// interval from 0, by the spread seen. None where more seeds do not suffice, or one seed shows
    /// no spread.
    pub fn seeds_for(&self, half_widths: f64) -> Option<usize> {
        let enough = |seeds: &usize| {
            let width = self.half_width_with(*seeds, 0.95);
            width.is_some_and(|width| self.mean.abs() >= half_widths * width)
        };
        self.df().filter(|_| self.seeds > 1)?;
        (2..=64).find(enough)
    }

    /// The p-value of a mean of 0; None under [`FEWEST_CLUSTERS`].
    pub fn p(&self) -> Option<f64> {
        let t = student(self.df()?)?;
        let (variance, _) = self.variance();
        Some(match variance > 0.0 {
            true => 2.0 * t.sf(self.mean.abs() / variance.sqrt()),
            false => f64::from(u8::from(self.mean == 0.0)),
        })
    }
}

fn student(df: f64) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, df).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's t, and between their rows.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (df, p, t) in [
            (1.0, 0.975, 12.7062),
            (2.0, 0.975, 4.30265),
            (5.0, 0.995, 4.03214),
            (28.0, 0.975, 2.04841),
            (120.0, 0.9995, 3.37345),
            (1000.0, 0.975, 1.96234),
        ] {
            let of_table = student(df).unwrap();
            let found = of_table.inverse_cdf(p);
            assert!((found - t).abs() < 2e-5 * t, "{df} {p}: {found}");
            assert!((of_table.sf(t) - (1.0 - p)).abs() < 1e-6, "{df} {p}");
        }
    }

    /// Three equal clusters and two seeds by hand; then what more seeds would give.
    #[test]
    fn variances_add_up_and_the_rest_counts_once() {
        let of = TwoWay::of(&[1.0; 3], &[vec![1.0, 2.0, 3.0], vec![3.0, 6.0, 3.0]]);
        // Seeds' means 2 and 4; clusters' means 2, 4, 3 about 3; what is left: +-0, +-1, -+1.
        assert_eq!((of.mean, of.clusters, of.seeds), (3.0, 3, 2));
        assert!((of.over_clusters - 1.0 / 3.0).abs() < 1e-12);
        assert!((of.over_seeds - 1.0).abs() < 1e-12);
        assert!((of.left - 1.0 / 3.0).abs() < 1e-12);
        assert!((of.df_clusters - 2.0).abs() < 1e-12);
        let (variance, df) = of.variance();
        assert!((variance - 1.0).abs() < 1e-12);
        assert!((df - 1.0 / (1.0 / 18.0 + 1.0 + 1.0 / 18.0)).abs() < 1e-12);
        assert_eq!((of.df(), of.half_width(0.95), of.p()), (None, None, None));
        // Clusters' own variance is 0 here, so all of it shrinks with the seeds.
        let (more, df) = of.variance_with(8);
        assert!((more - 0.25).abs() < 1e-12 && df > 4.0, "{more} {df}");
        // 8 clusters, two seeds that disagree: 1 +- 0.2. The deviation of seeds is 0.283.
        let of = TwoWay::of(&[1.0; 8], &[vec![1.2; 8], vec![0.8; 8]]);
        let seeds = of.seeds_for(3.0).unwrap();
        let width = |n| of.half_width_with(n, 0.95).unwrap();
        assert!(3.0 * width(seeds) <= 1.0 && 3.0 * width(seeds - 1) > 1.0, "{seeds}");
        // Seeds do not help against the spread of clusters, and one seed shows none of its own.
        let apart: Vec<f64> = (0..8).map(|i| f64::from(i) - 3.0).collect();
        assert_eq!(TwoWay::of(&[1.0; 8], &[apart.clone(), apart.clone()]).seeds_for(3.0), None);
        assert_eq!(TwoWay::of(&[1.0; 8], &[vec![1.0; 8]]).seeds_for(3.0), None);
    }

    /// A cluster of half the bytes counts for more than its residual says, and leaves few degrees
    /// of freedom.
    #[test]
    fn a_large_cluster_leaves_few_degrees_of_freedom() {
        let mut bytes = vec![1.0; 20];
        bytes.push(20.0);
        let of = TwoWay::of(&bytes, &[bytes.clone()]);
        assert!(of.df_clusters > 1.0 && of.df_clusters < 4.0, "{}", of.df_clusters);
        let equal = TwoWay::of(&[1.0; 21], &[vec![1.0; 21]]);
        assert!((equal.df_clusters - 20.0).abs() < 1e-9);
    }
}
