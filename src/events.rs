//! What is told to `tracing`, and nothing where that feature is off: the one room that knows of it.
//!
//! Every event has the target `tower_anyreach`. Fields name a credential by its id; none holds a secret, nor a text
//! that a server or a foreign source wrote, but for where a redirect led, as `Destination` shows it.
#![cfg_attr(
    not(feature = "tracing"),
    allow(
        unused_variables,
        unused_imports,
        clippy::if_same_then_else,
        reason = "what is told is dropped"
    )
)]

#[cfg(feature = "file")]
use std::path::Path;

use crate::credential::{Credential, CredentialId};
use crate::denial::Denial;
use crate::error::Error;
use crate::organization::OrganizationId;
use crate::source::SourceError;

#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $($event:tt)+) => {
        tracing::$level!(target: "tower_anyreach", $($event)+)
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($event:tt)+) => {
        ()
    };
}

/// Anyreach said no.
pub(crate) fn denied(denial: &Denial) {
    event!(
        debug,
        status = denial.status().as_u16(),
        reason = ?denial.reason(),
        credential = denial.credential().map(tracing::field::display),
        organization = denial.organization().map(OrganizationId::as_str),
        version = denial.provenance().map(|provenance| provenance.version),
        replayed = denial.is_replayed(),
        "request denied"
    );
}

/// We said no, and nothing was sent.
pub(crate) fn refused(error: &Error) {
    match error {
        // The answer to the first attempt, which was told then.
        Error::Unauthorized(denial) => {
            event!(
                debug,
                credential = denial.credential().map(tracing::field::display),
                organization = denial.organization().map(OrganizationId::as_str),
                "replay withheld, since the refused credential is still in force"
            );
        }
        error => event!(warn, reason = %error, "request refused"),
    }
}

/// A credential was put in force by hand.
pub(crate) fn rotated(credential: &Credential, version: u64) {
    event!(
        debug,
        credential = %credential.id(),
        organization = credential.organization().map(OrganizationId::as_str),
        version,
        "credential rotated"
    );
}

/// A source gave another credential, which is in force now.
pub(crate) fn refreshed(credential: &Credential, version: u64) {
    event!(
        debug,
        credential = %credential.id(),
        organization = credential.organization().map(OrganizationId::as_str),
        version,
        "credential refreshed"
    );
}

/// A source failed: the first time in a row needs somebody, the others say that it goes on.
pub(crate) fn source_failed(error: &SourceError, kept: &CredentialId, version: u64, failures: u32) {
    if failures == 1 {
        event!(warn, reason = %error, credential = %kept, version, "credential source failed");
    } else {
        event!(debug, reason = %error, credential = %kept, version, failures, "credential source still fails");
    }
}

/// A source that failed gave a credential again.
pub(crate) fn source_recovered(credential: &CredentialId, version: u64, failures: u32) {
    event!(info, credential = %credential, version, failures, "credential source recovered");
}

/// Replays were refused as well, so often that there will be none for now.
#[cfg(feature = "retry")]
pub(crate) fn replays_stopped(version: u64) {
    event!(
        warn,
        version,
        "replays stopped: what the source gives is refused"
    );
}

/// A file that holds a credential may be read by anybody on the machine.
#[cfg(feature = "file")]
pub(crate) fn world_readable(path: &Path) {
    event!(warn, path = %path.display(), "credential file is readable by anybody; use `chmod o-r`");
}
