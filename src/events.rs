//! The events for `tracing`, and nothing where that feature is off: the only module that knows of the feature.
//!
//! Every event has the target `tower_anyreach`. Fields name a credential by its id; none holds a secret, or a text that a
//! server or a foreign source wrote.
#![cfg_attr(
    not(feature = "tracing"),
    allow(
        unused_variables,
        unused_imports,
        clippy::if_same_then_else,
        reason = "without the feature an event is nothing"
    )
)]

use std::fmt;
#[cfg(feature = "file")]
use std::path::Path;

use crate::credential::{Credential, CredentialId};
use crate::denial::Denial;
use crate::error::Error;
use crate::organization::OrganizationId;
use crate::refusal::Refusal;

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

/// A request was refused, or is a replay that would have been sent with what was denied.
pub(crate) fn not_sent(error: &Error) {
    match error {
        Error::Refused(refusal) => refused(refusal),
        Error::Unauthorized(denial) => {
            event!(
                debug,
                credential = denial.credential().map(tracing::field::display),
                organization = denial.organization().map(OrganizationId::as_str),
                "replay withheld, since the refused credential is still in force"
            );
        }
        Error::Forbidden(_) | Error::Service(_) => {}
    }
}

/// A request, or a redirect, was refused.
pub(crate) fn refused(refusal: &Refusal) {
    event!(
        warn,
        reason = refusal.reason().as_str(),
        credential = refusal.credential().map(tracing::field::display),
        organization = refusal.organization().map(OrganizationId::as_str),
        "request refused"
    );
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
pub(crate) fn source_failed(
    error: &dyn fmt::Display,
    kept: &CredentialId,
    version: u64,
    failures: u32,
) {
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
