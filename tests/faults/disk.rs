//! A disk that fails once: `tests/it/faults.rs` compiles this file and preloads it into a program,
//! whose n-th write to a file, flush or rename then fails. It stands before the functions of the
//! system's library, so that the program under test is the one that is shipped.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

const WRITE: c_long = 1;
const CLOSE: c_long = 3;
const FSTAT: c_long = 5;
const PWRITE: c_long = 18;
const FSYNC: c_long = 74;
const FDATASYNC: c_long = 75;
const RENAME: c_long = 82;
const OPENAT: c_long = 257;
const NO_SPACE: c_int = 28;
const BROKEN: c_int = 5;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const c_char) -> *const c_char;
    fn __errno_location() -> *mut c_int;
}

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The number in the environment's `BLT_FAULT_AT`; 0 if there is none.
fn wanted() -> u64 {
    // SAFETY: the name ends in a zero; the value, if there is one, does too.
    unsafe {
        let mut at = getenv(c"BLT_FAULT_AT".as_ptr());
        let mut number = 0u64;
        while !at.is_null() && (*at as u8).is_ascii_digit() {
            number = number * 10 + u64::from(*at as u8 - b'0');
            at = at.add(1);
        }
        number
    }
}

/// Counts an operation. Where it is the one that is to fail, leaves the mark and returns true.
fn fails(error: c_int) -> bool {
    if COUNT.fetch_add(1, Ordering::SeqCst) + 1 != wanted() {
        return false;
    }
    // SAFETY: as above; -100 is the working directory, 0o101 creates a file to write to.
    unsafe {
        let mark = getenv(c"BLT_FAULT_MARK".as_ptr());
        if !mark.is_null() {
            let file = syscall(OPENAT, -100 as c_long, mark, 0o101 as c_long, 0o644 as c_long);
            syscall(CLOSE, file);
        }
        *__errno_location() = error;
    }
    true
}

fn is_file(fd: c_int) -> bool {
    let mut stat = [0u8; 256];
    // SAFETY: the system writes 144 bytes, of which those from 24 on are the mode.
    let known = unsafe { syscall(FSTAT, fd as c_long, stat.as_mut_ptr()) } == 0;
    known && u32::from_le_bytes([stat[24], stat[25], stat[26], stat[27]]) & 0o170000 == 0o100000
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    if is_file(fd) && fails(NO_SPACE) {
        return -1;
    }
    // SAFETY: the caller's arguments, passed on.
    unsafe { syscall(WRITE, fd as c_long, bytes, count) as isize }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    if is_file(fd) && fails(NO_SPACE) {
        return -1;
    }
    // SAFETY: the caller's arguments, passed on.
    unsafe { syscall(PWRITE, fd as c_long, bytes, count, at) as isize }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: the caller's argument, passed on.
    if fails(BROKEN) { -1 } else { unsafe { syscall(FSYNC, fd as c_long) as c_int } }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: the caller's argument, passed on.
    if fails(BROKEN) { -1 } else { unsafe { syscall(FDATASYNC, fd as c_long) as c_int } }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    if fails(BROKEN) { -1 } else { unsafe { syscall(RENAME, from, to) as c_int } }
}
