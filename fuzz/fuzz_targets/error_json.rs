//! The property `error_json` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyreach_fuzz::error_json(bytes));
