//! What the crate promises, a file per subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake_anyreach;
