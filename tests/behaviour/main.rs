//! The behaviour that a user of the crate sees, with a file for each subject.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod auto_traits;
#[cfg(feature = "retry")]
mod cancellation;
mod classify;
#[cfg(all(target_os = "linux", feature = "command", feature = "tracing"))]
mod commands;
mod composition;
mod denials;
mod destinations;
mod error_bodies;
mod errors;
#[cfg(feature = "tracing")]
mod events;
mod fake_anyreach;
mod fake_records;
#[cfg(feature = "retry")]
mod faults;
#[cfg(all(unix, feature = "file"))]
mod files;
mod mcp_client;
#[cfg(all(feature = "retry", feature = "follow-redirect"))]
mod not_replayed;
mod origins;
mod overrides;
mod prelude;
#[cfg(feature = "retry")]
mod quickstart;
mod readiness;
mod redaction;
#[cfg(feature = "follow-redirect")]
mod redirect_policy;
#[cfg(feature = "follow-redirect")]
mod redirects;
#[cfg(feature = "retry")]
mod replay;
#[cfg(all(unix, feature = "file", feature = "retry"))]
mod rotate_file;
mod runtimes;
#[cfg_attr(
    not(feature = "retry"),
    allow(dead_code, reason = "most of it is for replays")
)]
mod scripted;
mod shown;
mod sources;
#[cfg(all(feature = "retry", feature = "follow-redirect"))]
mod stack_order;
mod store;
#[cfg(all(feature = "retry", feature = "follow-redirect"))]
mod storms;
mod whoami;
mod without_tower;
#[cfg(feature = "retry")]
mod wrong_orders;
