//! A fleet of processes follows one Anyreach credential in etcd, through rotations and an outage of etcd.
//!
//! Needs etcd, and `protoc` for building etcd's client: `apt-get install etcd-server protobuf-compiler`. Then
//! `cargo run -p rotate_etcd` starts everything by itself: an etcd of its own on loopback, a fake Anyreach, three followers,
//! and a process that rotates.
//!
//! ```text
//! cargo run -p rotate_etcd                                    the demonstration: 6 rotations, an outage in the middle
//! cargo run -p rotate_etcd -- demo ROTATIONS
//! cargo run -p rotate_etcd -- follow ETCD_ENDPOINT ORIGIN     one follower, until its standard input ends
//! ```
#![allow(
    clippy::print_stdout,
    reason = "an example shows what it does on the terminal"
)]

mod demo;
mod etcd;
mod follower;

use anyhow::{Context, bail};

/// Under this key the credential stands in etcd, as it is, without a newline or quotes.
const KEY: &str = "secrets/anyreach/token";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => Box::pin(demo::run(6)).await,
        ["demo", rotations] => {
            let rotations = rotations.parse().context("how many rotations?")?;
            Box::pin(demo::run(rotations)).await
        }
        ["follow", etcd, origin] => follower::run(etcd, origin).await,
        _ => bail!("usage: rotate_etcd [demo ROTATIONS | follow ETCD_ENDPOINT ORIGIN]"),
    }
}
