//! Resident memory of this process, as Linux tells it; elsewhere nothing is known and nothing is
//! reported.

use std::sync::OnceLock;

/// Bytes that were resident when this was first asked.
pub fn begin() -> Option<u64> {
    static BEGIN: OnceLock<Option<u64>> = OnceLock::new();
    *BEGIN.get_or_init(|| field("VmRSS:"))
}

/// The most bytes resident since [`reset_peak`], or since the process began.
pub fn peak() -> Option<u64> {
    field("VmHWM:")
}

/// Starts [`peak`] anew from what is resident now. False where the system cannot.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn field(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
