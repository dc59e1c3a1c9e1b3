//! Resident memory of this process, and the memory of the machine, on Linux. On other systems
//! nothing is reported.
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

/// Bytes of memory that processes of this machine may have in all: the machine's, or the limit of
/// this process's control group where that is less.
pub fn machine() -> Option<u64> {
    let total = kib("/proc/meminfo", "MemTotal:")?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    Some(limits.into_iter().filter_map(limit).fold(total, u64::min))
}

fn field(name: &str) -> Option<u64> {
    kib("/proc/self/status", name)
}

fn kib(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
