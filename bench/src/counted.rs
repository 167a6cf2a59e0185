//! The allocator of this program: the system's, which counts when it is wanted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

/// What is allocated, or was in between.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counted {
    /// Bytes that were asked for.
    pub(crate) bytes: i64,
    /// Bytes that glibc takes for that on a machine of 64 bits: 8 more, in steps of 16, and at least 32.
    pub(crate) chunks: i64,
    /// Allocations that are in use.
    pub(crate) live: i64,
    /// Allocations ever made.
    pub(crate) made: i64,
}

impl Counted {
    /// From now on it counts: elsewhere instructions are counted, which this would add to.
    pub(crate) fn begin() {
        COUNTS.store(true, Relaxed);
    }

    pub(crate) fn now() -> Self {
        let [bytes, chunks, live, made] =
            [&BYTES, &CHUNKS, &LIVE, &MADE].map(|counter| counter.load(Relaxed));
        Self { bytes, chunks, live, made }
    }
}

impl Sub for Counted {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            chunks: self.chunks - before.chunks,
            live: self.live - before.live,
            made: self.made - before.made,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicI64 = AtomicI64::new(0);
static CHUNKS: AtomicI64 = AtomicI64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static MADE: AtomicI64 = AtomicI64::new(0);

#[inline]
fn count(size: usize, sign: i64) {
    if !COUNTS.load(Relaxed) {
        return;
    }
    BYTES.fetch_add(sign * size as i64, Relaxed);
    CHUNKS.fetch_add(sign * ((size + 8 + 15) & !15).max(32) as i64, Relaxed);
    LIVE.fetch_add(sign, Relaxed);
    MADE.fetch_add(sign.max(0), Relaxed);
}

// SAFETY: everything is the system allocator's; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(size, 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}
