//! Sixteen f32 lanes on whatever the machine has: AVX-512, AVX2 with FMA, or plain code.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for each instruction set by
//! [`kernel!`]; [`Level::best`] is chosen at run time. A [`Simd`] value is a token: it exists only
//! where its instructions do, so its methods are safe. All levels compute the same formulas in the
//! same order; AVX-512 and AVX2 agree to the bit on finite numbers, plain code rounds products
//! before it adds them.

use std::sync::OnceLock;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best level of this machine, or a lower one that the environment asks for:
    /// `BLT_SIMD=scalar` or `avx2`.
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let most = std::env::var("BLT_SIMD").unwrap_or_default();
            let mut levels = Self::available();
            levels.retain(|level| match most.as_str() {
                "scalar" => *level == Level::Scalar,
                #[cfg(target_arch = "x86_64")]
                "avx2" => *level <= Level::Avx2,
                _ => true,
            });
            levels.pop().unwrap_or(Level::Scalar)
        })
    }

    /// As `BLT_SIMD` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    /// Levels of this machine, ascending.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Level::Scalar];
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            levels.push(Level::Avx2);
            // All but the first Xeon Phi have these together; the loops of `loops` use them.
            let avx512 = [
                std::is_x86_feature_detected!("avx512f"),
                std::is_x86_feature_detected!("avx512bw"),
                std::is_x86_feature_detected!("avx512dq"),
                std::is_x86_feature_detected!("avx512vl"),
            ];
            if avx512 == [true; 4] {
                levels.push(Level::Avx512);
            }
        }
        levels
    }
}

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
fn exp2_fraction<S: Simd>(s: S, f: S::V) -> S::V {
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

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, LEAST_POWER, Scalar, Simd, exp2_fraction};
    use std::arch::x86_64::*;

    /// Proof that AVX-512F is there.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(());

    /// Proof that AVX2 and FMA are there.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx512 {
        /// # Safety
        /// The CPU has AVX-512F.
        #[inline(always)]
        pub unsafe fn new_unchecked() -> Self {
            Self(())
        }
    }

    impl Avx2 {
        /// # Safety
        /// The CPU has AVX2 and FMA.
        #[inline(always)]
        pub unsafe fn new_unchecked() -> Self {
            Self(())
        }
    }

    // SAFETY of every block in the two impls: `self` exists, so the CPU has the instructions; loads
    // and stores are unaligned ones of sixteen floats behind a reference to sixteen floats.
    impl Simd for Avx512 {
        type V = __m512;
        const WIDE: bool = true;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> __m512 {
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn fetch(self, line: &[f32; LANES]) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES], v: __m512) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn max(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn round(self, v: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
        }
        #[inline(always)]
        fn scale_by_power(self, v: __m512, n: __m512) -> __m512 {
            unsafe { _mm512_scalef_ps(v, n) }
        }
        #[inline(always)]
        fn swap_pairs(self, v: __m512) -> __m512 {
            unsafe { _mm512_permute_ps::<0b10_11_00_01>(v) }
        }
        #[inline(always)]
        fn zero_where_less(self, x: __m512, least: __m512, v: __m512) -> __m512 {
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, least), v) }
        }
        #[inline(always)]
        fn exp2_or_zero(self, x: __m512) -> __m512 {
            // The scaling takes any n, and does nothing in lanes that become zero.
            let n = self.round(x);
            let fraction = exp2_fraction(self, self.sub(x, n));
            unsafe {
                let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LEAST_POWER));
                _mm512_maskz_scalef_ps(kept, fraction, n)
            }
        }
        #[inline(always)]
        fn transpose(self, rows: [__m512; LANES]) -> [__m512; LANES] {
            unsafe {
                let (lo, hi) = (
                    |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(a, b)),
                    |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(a, b)),
                );
                let (lo2, hi2) = (
                    |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                    |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
                );
                let mut columns = [_mm512_setzero_ps(); LANES];
                // Four rows at a time: element j of each group of four lanes, the group's rows side
                // by side.
                let mut fours = [[_mm512_setzero_ps(); 4]; 4];
                for (g, four) in fours.iter_mut().enumerate() {
                    let [a, b, c, d] =
                        [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
                    *four = [
                        lo2(lo(a, b), lo(c, d)),
                        hi2(lo(a, b), lo(c, d)),
                        lo2(hi(a, b), hi(c, d)),
                        hi2(hi(a, b), hi(c, d)),
                    ];
                }
                for j in 0..4 {
                    let even = |a, b| _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                    let odd = |a, b| _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
                    let (evens, odds) = (
                        [even(fours[0][j], fours[1][j]), even(fours[2][j], fours[3][j])],
                        [odd(fours[0][j], fours[1][j]), odd(fours[2][j], fours[3][j])],
                    );
                    columns[j] = even(evens[0], evens[1]);
                    columns[4 + j] = even(odds[0], odds[1]);
                    columns[8 + j] = odd(evens[0], evens[1]);
                    columns[12 + j] = odd(odds[0], odds[1]);
                }
                columns
            }
        }
        #[inline(always)]
        fn select(self, mask: u16, v: __m512, other: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(mask, other, v) }
        }
    }

    impl Simd for Avx2 {
        type V = [__m256; 2];
        const WIDE: bool = false;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::V {
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn fetch(self, line: &[f32; LANES]) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES], v: Self::V) {
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
            }
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn min(self, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        fn round(self, v: Self::V) -> Self::V {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            unsafe { [_mm256_round_ps::<NEAREST>(v[0]), _mm256_round_ps::<NEAREST>(v[1])] }
        }
        #[inline(always)]
        fn scale_by_power(self, v: Self::V, n: Self::V) -> Self::V {
            // 2^n is out of range as one factor; the first of two halves is exact, so this rounds
            // once.
            #[inline(always)]
            unsafe fn half(v: __m256, n: __m256) -> __m256 {
                unsafe {
                    let n = _mm256_cvtps_epi32(n);
                    let first = _mm256_srai_epi32::<1>(n);
                    let power = |n| {
                        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
                            n,
                            _mm256_set1_epi32(127),
                        )))
                    };
                    _mm256_mul_ps(_mm256_mul_ps(v, power(first)), power(_mm256_sub_epi32(n, first)))
                }
            }
            unsafe { [half(v[0], n[0]), half(v[1], n[1])] }
        }
        #[inline(always)]
        fn swap_pairs(self, v: Self::V) -> Self::V {
            unsafe {
                [_mm256_permute_ps::<0b10_11_00_01>(v[0]), _mm256_permute_ps::<0b10_11_00_01>(v[1])]
            }
        }
        #[inline(always)]
        fn zero_where_less(self, x: Self::V, least: Self::V, v: Self::V) -> Self::V {
            unsafe {
                let kept = |x, least, v| _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, least), v);
                [kept(x[0], least[0], v[0]), kept(x[1], least[1], v[1])]
            }
        }
        #[inline(always)]
        fn select(self, mask: u16, v: Self::V, other: Self::V) -> Self::V {
            let picked = Scalar.select(mask, self.to_array(v), self.to_array(other));
            self.load(&picked)
        }
    }
}

/// Compiles a body, generic over [`Simd`] and `#[inline(always)]`, for each level:
/// `kernel!(fn name(args) = body)` defines `name(level, args)`.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(level: $crate::fused::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function runs only where the CPU has AVX-512F.
                $body(unsafe { $crate::fused::simd::Avx512::new_unchecked() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function runs only where the CPU has AVX2 and FMA.
                $body(unsafe { $crate::fused::simd::Avx2::new_unchecked() }, $($arg),*)
            }
            match level {
                $crate::fused::simd::Level::Scalar => $body($crate::fused::simd::Scalar, $($arg),*),
                // SAFETY: `Level` values other than Scalar come from `Level::available`, which asked the CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::fused::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::fused::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn exp2_body<S: Simd>(s: S, x: &mut [f32]) {
        for x in x.as_chunks_mut().0 {
            let y = s.exp2(s.load(x));
            s.store(x, y);
        }
    }
    kernel!(fn exp2_of(x: &mut [f32]) = exp2_body);

    #[test]
    fn exp2_is_accurate_at_every_level() {
        let xs: Vec<f32> = (0..16 * 4000).map(|i| -125.0 + i as f32 * (250.0 / 64000.0)).collect();
        for level in Level::available() {
            let mut ys = xs.clone();
            exp2_of(level, &mut ys);
            for (x, y) in xs.iter().zip(&ys) {
                let want = (*x as f64).exp2();
                assert!((*y as f64 / want - 1.0).abs() < 2e-7, "{level:?}: 2^{x} = {y}");
            }
            let mut edges = [
                0.0,
                -0.0,
                -1e30,
                f32::NEG_INFINITY,
                1e30,
                f32::INFINITY,
                f32::NAN,
                -140.0,
                127.0,
                128.0,
                -126.0,
                1.0,
                -1.0,
                0.5,
                10.0,
                -149.0,
            ];
            exp2_of(level, &mut edges);
            assert_eq!(edges[..6], [1.0, 1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY], "{level:?}");
            assert!(edges[6].is_nan(), "{level:?}");
            assert_eq!(
                edges[7..],
                [
                    (-140f32).exp2(),
                    127f32.exp2(),
                    f32::INFINITY,
                    (-126f32).exp2(),
                    2.0,
                    0.5,
                    0.5f32.exp2(),
                    1024.0,
                    (-149f32).exp2()
                ]
            );
        }
    }

    #[inline(always)]
    fn lanes_body<S: Simd>(s: S, x: &[f32; LANES], out: &mut Vec<f32>) {
        let v = s.load(x);
        out.extend(s.to_array(s.select(0b1010_0000_0000_0110, v, s.splat(9.0))));
        out.extend(s.to_array(s.round(v)));
        out.extend(s.to_array(s.swap_pairs(v)));
        out.extend(s.to_array(s.max(v, s.splat(0.25))));
        out.extend(s.to_array(s.min(v, s.splat(0.25))));
        out.extend(s.to_array(s.div(s.sub(v, s.splat(1.0)), s.add(v, s.splat(40.0)))));
        for x in [0.0, -1.0, -63.75, -64.25, -130.5, -1e30] {
            out.extend(s.to_array(s.exp2_or_zero(s.splat(x))));
        }
        let kept = s.exp2_or_zero(s.splat(f32::NAN));
        out.push(f32::from(s.to_array(kept).iter().all(|x| x.is_nan())));
        let mut rows = [v; LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = s.add(v, s.splat(100.0 * i as f32));
        }
        for column in s.transpose(rows) {
            out.extend(s.to_array(column));
        }
        out.push(s.sum(v));
    }
    kernel!(fn lanes_of(x: &[f32; LANES], out: &mut Vec<f32>) = lanes_body);

    #[test]
    fn levels_agree() {
        let x: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.0) * 1.5);
        let mut want = Vec::new();
        lanes_of(Level::Scalar, &x, &mut want);
        assert_eq!(want[..4], [9.0, -9.0, -7.5, 9.0]);
        let powers = [1.0, 0.5, (-63.75f32).exp2(), 0.0, 0.0, 0.0];
        let found: Vec<f32> = want[6 * LANES..].iter().step_by(LANES).copied().take(6).collect();
        assert!(found.iter().zip(powers).all(|(a, b)| (a - b).abs() <= 2e-7 * b), "{found:?}");
        assert_eq!(want[12 * LANES], 1.0);
        assert_eq!(want[want.len() - 1], 12.0);
        assert_eq!(want[want.len() - 257 + 16..][..3], [x[1], x[1] + 100.0, x[1] + 200.0]);
        for level in Level::available() {
            let mut got = Vec::new();
            lanes_of(level, &x, &mut got);
            assert!(
                got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()),
                "{level:?}: {got:?}"
            );
        }
    }
}
