//! The parts that campaigns share.
//!
//! | Module | Contents |
//! |---|---|
//! | [`connection`] | one connection of hyper's client, without a pool |
//! | [`judge`] | decides by the `url` crate where a credential may go |
//! | [`random`] | numbers from a seed |
//! | [`server`] | an HTTP server on 127.0.0.1 |
//! | [`tally`] | counts by name, and the first violations |
#![allow(clippy::missing_panics_doc, reason = "a campaign fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a campaign fails by panicking")]

pub mod connection;
pub mod judge;
pub mod random;
pub mod server;
pub mod tally;

/// Returns the number in an environment variable, or the default if the variable is not set.
#[must_use]
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Returns a key that the servers of a campaign know by its generation.
#[must_use]
pub fn key(generation: u64) -> String {
    format!("ak_{generation}.c2VjcmV0c2VjcmV0")
}

/// Returns the generation of such a key.
#[must_use]
pub fn generation(text: &str) -> Option<u64> {
    let (generation, _) = text.strip_prefix("ak_")?.split_once('.')?;
    let generation = generation.parse().ok()?;
    (key(generation) == text).then_some(generation)
}
