//! What the allocator sees: what a request allocates, and what is freed unwiped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allocations;
mod wiping;

use support::alloc::WatchingAlloc;

#[global_allocator]
static ALLOC: WatchingAlloc = WatchingAlloc;
