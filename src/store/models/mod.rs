//! The store's rules under test by machines: a simulation of the pure rules in a world of clients,
//! servers and sources, and a model checker that walks through every interleaving of a few threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "how much was explored is the result")]

#[cfg(anyreach_loom)]
mod interleavings;
#[cfg(not(anyreach_loom))]
mod simulation;
