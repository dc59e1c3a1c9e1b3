//! Resident memory of this process on Linux. On other systems nothing is reported.
//!
//! We read `/proc` ourselves, because a peak is what is reported: the crate `memory-stats` has none,
//! and `procfs` brings parsers of all of `/proc` for two lines of one file, and no reset.

use std::sync::OnceLock;

/// Bytes that were resident when this was first called.
pub fn begin() -> Option<u64> {
    static BEGIN: OnceLock<Option<u64>> = OnceLock::new();
    *BEGIN.get_or_init(|| field("VmRSS:"))
}

/// Most resident bytes since [`reset_peak`], or since the process began.
pub fn peak() -> Option<u64> {
    field("VmHWM:")
}

/// Resets [`peak`] to the bytes that are resident now. Returns false if the system cannot.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn field(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
