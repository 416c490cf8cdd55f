//! The property `origin_uri` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyreach_fuzz::origin_uri(bytes));
