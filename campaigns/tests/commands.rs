//! The memory that a hostile command may cost. This process only runs the command, and measures its own heap.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a campaign")]

use std::time::Duration;

use support::alloc::{WatchingAlloc, peak_of_process};
use support::runtime::current_thread;
use tower_anyreach::CredentialSource as _;
use tower_anyreach::source::CommandSource;

#[global_allocator]
static ALLOC: WatchingAlloc = WatchingAlloc;

const HEAP: u64 = 64 * 1024;

#[test]
fn a_command_costs_at_most_64_kib_of_heap_whatever_it_prints() {
    let runtime = current_thread();
    for (script, gives) in [
        ("echo ak_4711.c2VjcmV0", true),
        ("head -c 8180 /dev/zero | tr '\\0' ' '; echo ak_1.s", true),
        ("head -c 1073741824 /dev/zero | tr '\\0' a", false),
        ("exec yes", false),
        ("yes >&2", false),
        ("exec sleep 1000", false),
        ("echo ak_4711.c2VjcmV0; exit 1", false),
    ] {
        let source = CommandSource::new("sh").args(["-c", script]);
        let source = source.timeout(Duration::from_millis(500));
        let (fetched, peak) = peak_of_process(|| runtime.block_on(source.fetch()).is_ok());
        println!("{peak:6} bytes  {script}");
        assert_eq!(fetched, gives, "{script}");
        // The output takes 8 KiB, and what the thread before holds may be freed meanwhile.
        assert!((4 * 1024..=HEAP).contains(&peak), "{script}: {peak} bytes");
    }
}
