//! Overwrites the copies of a secret that a call leaves on the stack.
//!
//! Moving a value does not drop it in its old place, so the bytes there stay: those of a finished
//! hasher, or of a slice that was sorted. [`with_stack_wiped`] runs such code in a frame of its own
//! and then overwrites that part of the stack. The campaign `leaks` searches the writable memory of
//! a process for such copies; `tests/memory` searches freed heap memory.

use zeroize::Zeroize;

/// The number of words overwritten: 8 KiB, more than the callers need even without optimization.
const WORDS: usize = 1024;

/// Runs a closure that reads a secret, and overwrites the part of the stack that it used.
pub(crate) fn with_stack_wiped<T>(run: impl FnOnce() -> T) -> T {
    let result = run_in_own_frame(run);
    overwrite();
    result
}

// Neither function is inlined, so both frames start at the end of the caller's frame.
#[inline(never)]
fn run_in_own_frame<T>(run: impl FnOnce() -> T) -> T {
    run()
}

#[inline(never)]
fn overwrite() {
    [0_u64; WORDS].zeroize();
}
