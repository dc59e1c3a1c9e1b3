//! SplitMix64, by Steele, Lea and Flood (2014): a generator whose whole state is one number.

/// What the state grows by at each step.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number that a state gives.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number that is evenly spread over 0 (included) to 1 (excluded), of a number's upper 53 bits.
pub(crate) fn fraction(number: u64) -> f64 {
    (number >> 11) as f64 / (1u64 << 53) as f64
}
