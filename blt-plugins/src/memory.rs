//! Resident memory of this process, from Linux's `/proc`. On other systems nothing is reported.

use std::sync::OnceLock;

/// Resident bytes at the first call.
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
