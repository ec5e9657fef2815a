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

/// Keeps all threads to one pool of memory, for a process that has little to do at once. By default glibc's allocator gives each a
/// pool of its own, whose end [`release`] does not give back. To be called before there are threads.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; the allocator locks itself.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
