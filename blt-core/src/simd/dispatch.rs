//! Which instruction set a kernel runs on, chosen once at run time; and the two macros that compile
//! a kernel for each of them.
//!
//! [`multiversion!`] takes a plain loop and leaves the vectors to the compiler. [`kernel!`] takes a
//! body that is written with [`Simd`](super::Simd).

use std::sync::OnceLock;

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
            // All but the first Xeon Phi have these together; `multiversion!` uses them.
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

/// Compiles a function's body for AVX-512, for AVX2 and for the build's own target, and calls the
/// widest that the machine has. The bodies are plain loops without fused multiply-add, so all
/// versions yield the same bits.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::simd::Level::best() {
                    // SAFETY: a level is the best only of a machine that has its instructions.
                    $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Scalar => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Compiles a body, generic over [`Simd`] and `#[inline(always)]`, for each level:
/// `kernel!(fn name(args) = body)` defines `name(level, args)`.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(level: $crate::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function runs only where the CPU has AVX-512F.
                $body(unsafe { $crate::simd::Avx512::new_unchecked() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function runs only where the CPU has AVX2 and FMA.
                $body(unsafe { $crate::simd::Avx2::new_unchecked() }, $($arg),*)
            }
            match level {
                $crate::simd::Level::Scalar => $body($crate::simd::Scalar, $($arg),*),
                // SAFETY: `Level` values other than Scalar come from `Level::available`, which asked the CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use kernel;
