//! A global allocator for tests: it counts what a closure allocates, and searches each block that is freed meanwhile for bytes
//! that should have been wiped.
//!
//! Both are kept per thread, except for [`peak_of_process`], so a test is not disturbed by other threads.
//!
//! ```
//! use support::alloc::{Needle, WatchingAlloc, count, hits};
//!
//! #[global_allocator]
//! static ALLOC: WatchingAlloc = WatchingAlloc;
//!
//! static NEEDLE: Needle<6> = Needle::masked(b"s3cr3t");
//!
//! let (text, counts) = count(|| NEEDLE.reveal());
//! assert_eq!((counts.allocations, counts.bytes, counts.peak), (1, 6, 6));
//! assert_eq!(hits(&NEEDLE, || drop(text)).1, 1);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

const MASK: u8 = 0xa5;

/// The system's allocator, watched. Install it with `#[global_allocator]`.
///
/// New blocks are zeroed, so that what an earlier owner left in a block is not found. Reallocating is allocating, copying and
/// freeing, so that the old block is searched like any other.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchingAlloc;

/// What a closure allocated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many blocks were allocated; one more for each reallocation.
    pub allocations: u64,
    /// How many blocks were freed; one more for each reallocation.
    pub deallocations: u64,
    /// How many bytes were allocated, all in all.
    pub bytes: u64,
    /// By how many bytes the heap was ever greater than at the start. Both places of a block that is reallocated count.
    pub peak: u64,
}

/// Bytes to look for, kept masked, so that the search does not find itself.
#[derive(Debug, Clone, Copy)]
pub struct Needle<const N: usize>([u8; N]);

impl<const N: usize> Needle<N> {
    /// Masks the bytes; in a `const` or a `static`, at compile time.
    #[must_use]
    pub const fn masked(plain: &[u8; N]) -> Self {
        let mut masked = *plain;
        let mut at = 0;
        while at < N {
            masked[at] ^= MASK;
            at += 1;
        }
        Self(masked)
    }

    /// The bytes as a text, in one block of exactly its size, which is not wiped.
    ///
    /// # Panics
    ///
    /// Panics if the bytes are not ASCII.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut text = String::with_capacity(N);
        for masked in self.0 {
            let byte = masked ^ MASK;
            assert!(byte.is_ascii(), "the needle is not ASCII");
            text.push(char::from(byte));
        }
        text
    }
}

#[derive(Clone, Copy)]
struct State {
    counts: Counts,
    /// Bytes allocated less bytes freed since the count began, which is negative if this thread frees what was there before.
    live: i64,
    needle: Option<&'static [u8]>,
    hits: u64,
}

thread_local! {
    // Needs neither lazy initialization nor a destructor, so that the allocator may use it at any time.
    static STATE: Cell<State> = const {
        let counts = Counts { allocations: 0, deallocations: 0, bytes: 0, peak: 0 };
        Cell::new(State { counts, live: 0, needle: None, hits: 0 })
    };
}

fn update<T>(change: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|cell| {
        let mut state = cell.get();
        let result = change(&mut state);
        cell.set(state);
        result
    })
}

/// Runs a closure, and counts what this thread allocates meanwhile. Not to be nested.
///
/// # Panics
///
/// If the closure panics.
pub fn count<T>(run: impl FnOnce() -> T) -> (T, Counts) {
    update(|state| (state.counts, state.live) = (Counts::default(), 0));
    let result = run();
    (result, update(|state| state.counts))
}

/// Bytes that all threads have on the heap, and the most that they had since the last [`peak_of_process`] began.
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

/// Runs a closure, and returns by how many bytes the heap of the whole process was ever greater meanwhile.
pub fn peak_of_process<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = run();
    let peak = PEAK.load(Relaxed) - before;
    (result, u64::try_from(peak).unwrap_or(0))
}

/// Runs a closure, and counts the blocks that this thread frees meanwhile with the needle in them. Not to be nested.
///
/// # Panics
///
/// If the closure panics; the watch goes on then.
pub fn hits<const N: usize, T>(needle: &'static Needle<N>, run: impl FnOnce() -> T) -> (T, u64) {
    update(|state| (state.needle, state.hits) = (Some(needle.0.as_slice()), 0));
    let result = run();
    update(|state| state.needle = None);
    (result, update(|state| state.hits))
}

fn size_of(layout: Layout) -> i64 {
    i64::try_from(layout.size()).unwrap_or(i64::MAX)
}

fn note_allocated(layout: Layout) {
    let live = LIVE.fetch_add(size_of(layout), Relaxed) + size_of(layout);
    PEAK.fetch_max(live, Relaxed);
    update(|state| {
        state.counts.allocations += 1;
        state.counts.bytes += layout.size() as u64;
        state.live += size_of(layout);
        let above = u64::try_from(state.live).unwrap_or(0);
        state.counts.peak = state.counts.peak.max(above);
    });
}

fn note_freed(block: *const u8, layout: Layout) {
    LIVE.fetch_sub(size_of(layout), Relaxed);
    let needle = update(|state| {
        state.counts.deallocations += 1;
        state.live -= size_of(layout);
        state.needle
    });
    if needle.is_some_and(|needle| holds(block, layout.size(), needle)) {
        update(|state| state.hits += 1);
    }
}

/// Whether a block that is still allocated holds the bytes that `masked` masks.
fn holds(block: *const u8, len: usize, masked: &[u8]) -> bool {
    let byte_at = |at: usize| {
        // SAFETY: callers ask for bytes below `len` only, which is the size of the block.
        let byte = unsafe { block.add(at) };
        // SAFETY: the byte is within a block that is allocated until `dealloc` returns, and was zeroed when it was
        // allocated. The read is volatile, since the owner may have left padding or moved-from bytes there.
        unsafe { byte.read_volatile() }
    };
    let starts = (len + 1).saturating_sub(masked.len().max(1));
    (0..starts).any(|start| {
        masked
            .iter()
            .enumerate()
            .all(|(at, masked)| byte_at(start + at) ^ MASK == *masked)
    })
}

// SAFETY: all blocks are the system allocator's, unchanged; nothing here allocates or unwinds.
unsafe impl GlobalAlloc for WatchingAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note_allocated(layout);
        // SAFETY: the caller keeps the promises of `alloc`, which are those of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the promises are the same; `alloc` zeroes.
        unsafe { self.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note_freed(block, layout);
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
