//! The lanes of x86-64: AVX-512 in one register, AVX2 in two.

use super::lanes::{LANES, LEAST_POWER, Scalar, Simd, exp2_fraction};
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
                let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
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
