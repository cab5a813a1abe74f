//! Looks at every block of memory that this thread gives back, Rust's and C's, for secrets that were not erased before.
//!
//! The symbols at the end take the place of the C library's in this binary; both worlds free through them.
#![allow(unreachable_pub, reason = "the linker must find these")]

use std::cell::Cell;
use std::ffi::c_void;

/// Bytes of a secret that are looked for.
const WINDOW: usize = 16;
/// Secrets that can be looked for at once.
const SECRETS_MAX: usize = 32;

thread_local! {
    // Without destructors and with constants: reaching them allocates nothing.
    static SECRETS: Cell<[[u8; WINDOW]; SECRETS_MAX]> = const { Cell::new([[0; WINDOW]; SECRETS_MAX]) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// One bit for each secret that was found in freed memory.
    static FOUND: Cell<u32> = const { Cell::new(0) };
}

/// From now on looks for the first bytes of `secret` in what this thread frees.
pub fn look_for(secret: &[u8]) {
    let (mut secrets, count) = (SECRETS.get(), COUNT.get());
    secrets[count].copy_from_slice(&secret[..WINDOW]);
    SECRETS.set(secrets);
    COUNT.set(count + 1);
}

/// Stops looking: the numbers of the secrets, in the order of [`look_for`], that were found in freed memory.
pub fn found() -> Vec<usize> {
    let (count, found) = (COUNT.replace(0), FOUND.replace(0));
    (0..count).filter(|number| found >> number & 1 == 1).collect()
}

fn look_at(block: &[u8]) {
    let secrets = SECRETS.get();
    for window in block.windows(WINDOW) {
        for (number, secret) in secrets[..COUNT.get()].iter().enumerate() {
            if window == secret {
                FOUND.set(FOUND.get() | 1 << number);
            }
        }
    }
}

// JUSTIFICATION: what is left in freed memory cannot be seen from safe Rust, and C's not even from Rust's allocator.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_free(pointer: *mut c_void);
    fn __libc_realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
    fn malloc_usable_size(pointer: *mut c_void) -> usize;
}

/// # Safety
/// As C's free: `pointer` is null or was allocated and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(pointer: *mut c_void) {
    if COUNT.get() > 0 && !pointer.is_null() {
        // SAFETY: the block is still allocated and this long; whatever was written there are bytes.
        look_at(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), malloc_usable_size(pointer)) });
    }
    // SAFETY: the caller's promise is the callee's.
    unsafe { __libc_free(pointer) }
}

/// # Safety
/// As C's realloc: `pointer` is null or was allocated and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
    if COUNT.get() == 0 || pointer.is_null() {
        // SAFETY: the caller's promise is the callee's.
        return unsafe { __libc_realloc(pointer, size) };
    }
    // A block that moves leaves its bytes behind: here it always moves, and what it leaves is looked at.
    // SAFETY: both blocks are at least as long as what is copied; the old one is freed once.
    unsafe {
        let moved = __libc_malloc(size);
        if !moved.is_null() {
            let bytes = malloc_usable_size(pointer).min(size);
            std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), moved.cast::<u8>(), bytes);
            free(pointer);
        }
        moved
    }
}
