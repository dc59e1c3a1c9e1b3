//! Sixteen f32 lanes: what a kernel can do with them, and the version in plain code.

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Powers of two with exponents below this are taken for 0 where they are weights beside others
/// that are 1 or near it, of which they take no part that f32 could hold. Their products would be
/// denormal numbers, for which an Intel processor takes some fifteen times as long: with them a
/// model that was trained for 800 steps was evaluated at three quarters of its rate.
pub(crate) const LEAST_POWER: f32 = -64.0;

/// Operations on sixteen lanes.
pub(crate) trait Simd: Copy {
    type V: Copy;
    /// Whether 32 registers hold a vector each, so that a tile of 24 accumulators stays in
    /// registers.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, to: &mut [f32; LANES], v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The greater of each pair; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The nearest integer, ties to even; for magnitudes below 2^22.
    fn round(self, v: Self::V) -> Self::V;
    /// `v * 2^n` for whole n in [-252, 252], rounded once.
    fn scale_by_power(self, v: Self::V, n: Self::V) -> Self::V;
    /// Each pair of lanes (2i, 2i + 1) exchanged.
    fn swap_pairs(self, v: Self::V) -> Self::V;
    /// Zero where x is less than `least`, and v elsewhere (where x is NaN, too).
    fn zero_where_less(self, x: Self::V, least: Self::V, v: Self::V) -> Self::V;
    /// Lanes whose bit in `mask` is set from v, the others from `other`.
    fn select(self, mask: u16, v: Self::V, other: Self::V) -> Self::V;

    /// Asks for these to be brought to the cache beside the core.
    #[inline(always)]
    fn fetch(self, _line: &[f32; LANES]) {}

    /// Up to sixteen elements, zeros after them.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        match from.first_chunk() {
            Some(from) => self.load(from),
            None => {
                let mut lanes = [0.0; LANES];
                lanes[..from.len()].copy_from_slice(from);
                self.load(&lanes)
            }
        }
    }

    /// Stores the first elements: up to sixteen.
    #[inline(always)]
    fn store_part(self, to: &mut [f32], v: Self::V) {
        match to.first_chunk_mut() {
            Some(to) => self.store(to, v),
            None => {
                let len = to.len();
                to.copy_from_slice(&self.to_array(v)[..len]);
            }
        }
    }

    /// Sixteen rows of sixteen to sixteen columns.
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let rows = rows.map(|row| self.to_array(row));
        let mut columns = [self.splat(0.0); LANES];
        for (i, column) in columns.iter_mut().enumerate() {
            *column = self.load(&lanes(|j| rows[j][i]));
        }
        columns
    }

    /// [`Simd::exp2`] of numbers below 252 (finite ones, or NaN), and 0 below [`LEAST_POWER`].
    #[inline(always)]
    fn exp2_or_zero(self, x: Self::V) -> Self::V {
        let least = self.splat(LEAST_POWER);
        self.zero_where_less(x, least, self.exp2(self.max(least, x)))
    }

    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, v);
        lanes
    }

    /// The sum of the lanes, pairwise in a fixed order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let l = self.to_array(v);
        let quarter = |i: usize| (l[i] + l[i + 8]) + (l[i + 4] + l[i + 12]);
        (quarter(0) + quarter(2)) + (quarter(1) + quarter(3))
    }

    /// `2^x`, relative error below 2e-7; 0 below -252, infinite above 252, NaN for NaN.
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        let x = self.min(self.splat(252.0), self.max(self.splat(-252.0), x));
        let n = self.round(x);
        self.scale_by_power(exp2_fraction(self, self.sub(x, n)), n)
    }
}

/// `2^f` for f in [-1/2, 1/2].
#[inline(always)]
pub(super) fn exp2_fraction<S: Simd>(s: S, f: S::V) -> S::V {
    // (2^f - 1) / f, interpolated at Chebyshev's nodes: error 9e-9.
    const C: [f32; 6] = [
        std::f32::consts::LN_2,
        0.240_226_5,
        0.055_503_57,
        0.009_618_083,
        0.001_339_086_3,
        0.000_154_531_63,
    ];
    let mut p = s.splat(C[5]);
    for c in [C[4], C[3], C[2], C[1], C[0], 1.0] {
        p = s.mul_add(p, f, s.splat(c));
    }
    p
}

/// Plain code.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (i, x) in out.iter_mut().enumerate() {
        *x = f(i);
    }
    out
}

impl Simd for Scalar {
    type V = [f32; LANES];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        *to = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no bits for a fraction.
        const MAGIC: f32 = 12_582_912.0;
        lanes(|i| (v[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn scale_by_power(self, v: Self::V, n: Self::V) -> Self::V {
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        lanes(|i| {
            let n = n[i] as i32;
            (v[i] * power(n >> 1)) * power(n - (n >> 1))
        })
    }
    #[inline(always)]
    fn swap_pairs(self, v: Self::V) -> Self::V {
        lanes(|i| v[i ^ 1])
    }
    #[inline(always)]
    fn zero_where_less(self, x: Self::V, least: Self::V, v: Self::V) -> Self::V {
        lanes(|i| if x[i] < least[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn select(self, mask: u16, v: Self::V, other: Self::V) -> Self::V {
        lanes(|i| if mask >> i & 1 == 1 { v[i] } else { other[i] })
    }
}
