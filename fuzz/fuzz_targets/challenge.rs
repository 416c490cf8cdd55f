//! The property `challenge` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyreach_fuzz::challenge(bytes));
