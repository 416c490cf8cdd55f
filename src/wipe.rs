//! Overwrites what a call leaves on the stack, where no owner wipes it.
//!
//! A value that is moved out of a place is not dropped there, so its bytes stay: a hasher that is finished, a slice that is
//! sorted. [`with_stack_wiped`] runs such code in a frame of its own and then overwrites that part of the stack.

use zeroize::Zeroize;

/// 8 KiB, more than the callers need, also without optimization.
const WORDS: usize = 1024;

/// Runs a closure that sees a secret, and overwrites the part of the stack that it ran on.
pub(crate) fn with_stack_wiped<T>(run: impl FnOnce() -> T) -> T {
    let result = run_apart(run);
    overwrite();
    result
}

// Neither function is inlined, so that both frames begin where the caller's frame ends.
#[inline(never)]
fn run_apart<T>(run: impl FnOnce() -> T) -> T {
    run()
}

#[inline(never)]
fn overwrite() {
    [0_u64; WORDS].zeroize();
}
