//! Large tables in large pages.

use std::ops::Range;

/// Asks the system to hold this memory in huge pages, now and while it lasts. A table of hundreds of megabytes that is looked up
/// in a random order otherwise misses the processor's cache of page addresses at every lookup, which costs more than the lookup
/// itself. What is below two megabytes stays as it is, and so does everything on a system without such pages: it is a wish.
pub fn prefer_huge_pages(memory: Range<*const u8>) {
    let begin = memory.start.addr().next_multiple_of(HUGE_PAGE_BYTES);
    let end = memory.end.addr() / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if begin >= end {
        return;
    }
    let bytes = end - begin;
    let begin = memory.start.with_addr(begin).cast_mut().cast();
    // The second moves at once what was touched before (Linux 6.1); an older system does so in time.
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
        // SAFETY: neither advice changes what is in the memory, or whether it can be accessed; at an address that is not mapped
        // the call fails.
        let _refused = unsafe { libc::madvise(begin, bytes, advice) };
    }
}

/// On x86-64, and on others with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_memory_stays() {
        let memory: Vec<u32> = (0..3 << 20).collect();
        let range = memory.as_ptr_range();
        prefer_huge_pages(range.start.cast()..range.end.cast());
        assert!(memory.iter().zip(0..).all(|(found, expected)| *found == expected));
        prefer_huge_pages(range.start.cast()..range.start.cast());
    }
}
