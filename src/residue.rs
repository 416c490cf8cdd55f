//! Overwriting what a call has left on the stack, where no owner wipes it.

use zeroize::Zeroize;

/// 8 KiB, more than what is run here needs, without optimization too.
const WORDS: usize = 1024;

/// Runs a closure that sees a secret, and overwrites the part of the stack that it ran on.
///
/// What is moved out of a place is not dropped there, so not wiped either: a hasher that is finished, a slice that is
/// sorted.
pub(crate) fn leaving_no_trace<T>(run: impl FnOnce() -> T) -> T {
    let result = apart(run);
    overwrite();
    result
}

// Neither is inlined, so that both begin where the caller's own part of the stack ends.
#[inline(never)]
fn apart<T>(run: impl FnOnce() -> T) -> T {
    run()
}

#[inline(never)]
fn overwrite() {
    [0_u64; WORDS].zeroize();
}
