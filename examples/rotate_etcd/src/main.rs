//! A fleet of processes that follow one Anyreach credential in etcd, through rotations and an outage of etcd.
//!
//! Needs etcd, and `protoc` to build etcd's client: `apt-get install etcd-server protobuf-compiler`. `cargo run -p rotate_etcd`
//! starts an etcd on loopback, a fake Anyreach and three followers, and rotates the credential.
//!
//! | Module | Content |
//! |---|---|
//! | `demo` | the operator: starts the fleet, rotates, ends and restarts etcd, and checks every follower |
//! | `etcd` | an etcd of this program, and its client |
//! | `follower` | one process of the fleet, which needs etcd only to learn of a new credential |
//!
//! ```text
//! cargo run -p rotate_etcd                                    the demonstration: 6 rotations, with an outage after the second
//! cargo run -p rotate_etcd -- demo ROTATIONS
//! cargo run -p rotate_etcd -- follow ETCD_ENDPOINT ORIGIN     one follower, which exits when its standard input ends
//! ```
#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod demo;
mod etcd;
mod follower;

use anyhow::{Context, bail};

/// The key of the credential in etcd. Its value is the credential alone, without a newline or quotes.
const KEY: &str = "secrets/anyreach/token";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => Box::pin(demo::run(6)).await,
        ["demo", rotations] => {
            let rotations = rotations
                .parse()
                .context("the number of rotations is not a number")?;
            Box::pin(demo::run(rotations)).await
        }
        ["follow", etcd, origin] => follower::run(etcd, origin).await,
        _ => bail!("usage: rotate_etcd [demo ROTATIONS | follow ETCD_ENDPOINT ORIGIN]"),
    }
}
