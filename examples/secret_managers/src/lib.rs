//! A client takes its Anyreach credential from a secret manager, and rotates without a failed request.
//!
//! | module | purpose |
//! |---|---|
//! | `client` | the workload: a client that knows nothing of secret managers, the program `client` |
//! | `manager` | secret managers of their own for a run: OpenBao, pass, and an emulator of AWS Secrets Manager |
//! | `rotation` | the other side: makes a key, tries it, delivers it, deletes the old one |
#![allow(
    clippy::print_stdout,
    reason = "an example shows what it does on the terminal"
)]
#![allow(
    clippy::missing_errors_doc,
    reason = "whatever goes wrong ends the example"
)]

pub mod client;
pub mod manager;
pub mod rotation;
