//! The property `credential_text` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| anyreach_fuzz::credential_text(bytes));
