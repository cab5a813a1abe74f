//! Counts every allocation of a thread: Rust's, and those of C under it (aws-lc), which Rust's global allocator never sees.
//!
//! The symbols at the end take the place of the C library's in this binary; both worlds allocate through them.
#![allow(unreachable_pub, reason = "the linker must find these")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_int, c_void};

/// What was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocations {
    /// By Rust code.
    pub rust: u64,
    /// By C code.
    pub c: u64,
}

/// Allocations of this thread while `work` runs. Growing something counts as one.
pub fn allocations(work: impl FnOnce()) -> Allocations {
    let (all, rust) = (ALL.get(), RUST.get());
    work();
    let (all, rust) = (ALL.get() - all, RUST.get() - rust);
    Allocations { rust, c: all - rust }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

// JUSTIFICATION: without it Rust's share of the count could not be told from C's.
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        RUST.set(RUST.get() + 1);
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        RUST.set(RUST.get() + 1);
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        RUST.set(RUST.get() + 1);
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

thread_local! {
    // Without a destructor and with a constant: reaching it allocates nothing.
    static ALL: Cell<u64> = const { Cell::new(0) };
    static RUST: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALL.set(ALL.get() + 1);
}

// JUSTIFICATION: a count that leaves out what aws-lc allocates for each message would prove little.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(members: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: any size may be asked for; this is what the C library's malloc does.
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
pub extern "C" fn calloc(members: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_calloc(members, size) }
}

/// # Safety
/// As C's realloc: `pointer` is null or was given by one of these functions and is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller's promise is the callee's.
    unsafe { __libc_realloc(pointer, size) }
}

#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: any size and alignment may be asked for.
    unsafe { __libc_memalign(alignment, size) }
}

/// # Safety
/// As C's: `out` points to a pointer that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    let pointer = aligned_alloc(alignment, size);
    if pointer.is_null() {
        return 12; // ENOMEM
    }
    // SAFETY: the caller's promise.
    unsafe { *out = pointer };
    0
}
