//! What the allocator keeps goes back to the system.

/// Gives back what was taken and is free now, also where it lies between what is still in use. Takes milliseconds where there
/// is much: not for a thread that others wait for. Other allocators than glibc's are left alone.
pub fn release() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
