//! The property `file_bytes` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyreach_fuzz::file_bytes(bytes));
