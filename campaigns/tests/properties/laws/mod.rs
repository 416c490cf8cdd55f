//! Laws for every input: plain functions of bytes that assert, for property tests and for a fuzzer.
#![allow(clippy::unwrap_used, reason = "a law fails by panicking")]

mod bodies;
mod credentials;
mod denials;
mod files;
mod organizations;
mod origins;
mod script;

pub(crate) use self::bodies::error_body_streaming;
pub(crate) use self::credentials::credential_text;
pub(crate) use self::denials::{challenge, error_json};
pub(crate) use self::files::file_bytes;
pub(crate) use self::organizations::organization_text;
pub(crate) use self::origins::origin_uri;
