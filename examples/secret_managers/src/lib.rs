//! A client that loads its Anyreach credential from a secret manager. The credential rotates, and no request fails.
//!
//! | Module | Content |
//! |---|---|
//! | `client` | the workload of the program `client`, without code for secret managers |
//! | `manager` | starts a secret manager for one run: OpenBao, pass, or an emulator of AWS Secrets Manager |
//! | `rotation` | the operator: creates a key, tries it, delivers it, deletes the old one |
#![allow(clippy::print_stdout, reason = "an example prints its results")]
#![allow(clippy::missing_errors_doc, reason = "every error ends the example")]

pub mod client;
pub mod manager;
pub mod rotation;
