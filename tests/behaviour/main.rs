//! What the crate promises, a file per subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod auto_traits;
mod axum_gateway;
mod bodies;
#[cfg(feature = "retry")]
mod cancellation;
mod classify;
mod composition;
mod error_bodies;
#[cfg(feature = "tracing")]
mod events;
mod fake_anyreach;
#[cfg(feature = "retry")]
mod full_stack;
mod hyper_client;
#[cfg(feature = "retry")]
mod logical_request;
mod manifest;
mod mcp_client;
mod origins;
mod public_face;
mod quickstart;
mod readiness;
mod redaction;
#[cfg(feature = "retry")]
mod replay;
mod reqwest_client;
#[cfg(all(unix, feature = "file", feature = "retry"))]
mod rotate_file;
mod rotation;
mod scripted;
mod sources;
#[cfg(feature = "retry")]
mod stack_order;
#[cfg(feature = "retry")]
mod storms;
mod support;
#[cfg(feature = "tower-http")]
mod tower_http;
mod whoami;
