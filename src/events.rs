//! The events for `tracing`. This is the only module that depends on that feature; without it, the
//! functions do nothing.
//!
//! Every event has the target `tower_anyreach`. Fields name a credential by its id. No event holds
//! a secret, or text that a server or a user's source wrote.
#![cfg_attr(
    not(feature = "tracing"),
    allow(
        unused_variables,
        unused_imports,
        clippy::if_same_then_else,
        reason = "without the feature an event expands to nothing"
    )
)]

use std::fmt;
#[cfg(feature = "file")]
use std::path::Path;

use crate::credential::Credential;
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

/// Anyreach denied a request. The first 401 of a version needs attention and is a `WARN`; later
/// ones of that version are consequences.
pub(crate) fn denied(denial: &Denial) {
    #[cfg(feature = "tracing")]
    macro_rules! denied {
        ($level:ident) => {
            event!(
                $level,
                status = denial.status().as_u16(),
                reason = denial.reason().as_str(),
                credential = denial.credential().map(tracing::field::display),
                organization = denial.organization().map(OrganizationId::as_str),
                version = denial.version(),
                replayed = denial.is_replayed(),
                "request denied"
            )
        };
    }
    #[cfg(feature = "tracing")]
    if denial.is_first_of_version() {
        denied!(warn);
    } else {
        denied!(debug);
    }
}

/// The layer refused a request. A replay that is answered with its first denial emits nothing,
/// because that denial already has.
pub(crate) fn not_sent(error: &Error) {
    if let Error::Refused(refusal) = error {
        refused(refusal);
    }
}

/// The layer refused a request or a redirect.
pub(crate) fn refused(refusal: &Refusal) {
    event!(
        warn,
        reason = refusal.reason().as_str(),
        credential = refusal.credential().map(tracing::field::display),
        organization = refusal.organization().map(OrganizationId::as_str),
        "request refused"
    );
}

/// `rotate` changed the credential.
pub(crate) fn rotated(before: &Credential, after: &Credential, version: u64) {
    event!(
        info,
        before = %before.id(),
        credential = %after.id(),
        organization = after.organization().map(OrganizationId::as_str),
        version,
        "credential rotated"
    );
}

/// A fetch changed the credential.
pub(crate) fn refreshed(before: &Credential, after: &Credential, version: u64) {
    event!(
        info,
        before = %before.id(),
        credential = %after.id(),
        organization = after.organization().map(OrganizationId::as_str),
        version,
        "credential refreshed"
    );
}

/// A source failed. The first, second, fourth, eighth and so on of consecutive failures are a
/// `WARN`.
pub(crate) fn source_failed(
    reason: &'static str,
    error: &dyn fmt::Display,
    kept: &Credential,
    version: u64,
    failures: u32,
) {
    #[cfg(feature = "tracing")]
    macro_rules! failed {
        ($level:ident) => {
            event!(
                $level,
                reason,
                error = %error,
                credential = %kept.id(),
                version,
                failures,
                "credential source failed"
            )
        };
    }
    #[cfg(feature = "tracing")]
    if failures.is_power_of_two() {
        failed!(warn);
    } else {
        failed!(debug);
    }
}

/// A source returned a credential after at least one failure.
pub(crate) fn source_recovered(kept: &Credential, version: u64, failures: u32) {
    event!(info, credential = %kept.id(), version, failures, "credential source recovered");
}

/// The environment names an organization beside an API key, which is bound to its own.
pub(crate) fn variable_not_read(name: &'static str) {
    event!(
        warn,
        variable = name,
        "organization not read: an organization API key is bound to its own"
    );
}

/// A file that holds a credential is world-readable.
#[cfg(feature = "file")]
pub(crate) fn world_readable(path: &Path) {
    event!(warn, path = %path.display(), "credential file is world-readable");
}
