//! The property `error_body_streaming` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyreach_fuzz::error_body_streaming(bytes));
