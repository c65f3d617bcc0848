//! Memory that loading leaves behind: freed, but kept by the C library for later.

/// Gives it back to the system, where the C library can.
#[expect(unsafe_code, reason = "a call of the C library")]
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time, by any thread (its manual: MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}
