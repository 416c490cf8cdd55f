//! What the crate promises, a file per subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod auto_traits;
mod bodies;
mod classify;
mod composition;
mod error_bodies;
mod fake_anyreach;
#[cfg(feature = "retry")]
mod logical_request;
mod origins;
mod public_face;
mod quickstart;
mod readiness;
mod redaction;
mod support;
