//! The store: the credential in force, which can be replaced while requests are in flight.
//!
//! | module | purpose |
//! |---|---|
//! | `state` | decides when the source is asked: pure rules, with time as a parameter |
//! | `core` | holds the state behind its lock, and publishes changes to the shards |
//! | `shards` | the copies of the snapshot that requests read |
//! | `fetch` | runs fetches, and lets callers wait for them |
//! | `loader` | the first fetch, and polling |

mod core;
mod fetch;
mod loader;
#[cfg(test)]
mod models;
mod shards;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::credential::{Credential, CredentialId};
use crate::source::{CredentialSource, SourceError};

use self::core::Core;
pub(crate) use self::core::Snapshot;
pub use self::loader::Loader;

/// The outcome of a fetch, which all of its waiters share.
type Outcome = Result<Refreshed, SourceError>;

/// Holds the credential in force, which can be replaced while requests are in flight.
///
/// 1. Clones share the credential: keep one for [`rotate`](Self::rotate), and give one to
///    [`AnyreachAuthLayer::new`](crate::AnyreachAuthLayer::new). Use one store per origin, because
///    a store treats a 401 from any layer as its own.
/// 2. Credential and organization are replaced together. A request carries both from before a
///    rotation, or both from after it. Versions start at 1 and only grow.
/// 3. With a [`CredentialSource`], the store fetches a new credential at intervals
///    ([`Loader::refresh_every`]), when [`refresh`](Self::refresh) is called, and after a 401 to
///    the credential in force. The layer starts that fetch as soon as it receives the 401;
///    [`RefreshPolicy`](crate::retry::RefreshPolicy) and
///    [`Denial::renewed`](crate::Denial::renewed) wait for it.
/// 4. After each fetch that a 401 started, the source rests: for 1 second, then for 2, 4 and at
///    most 8 seconds while the 401s continue, each multiplied by a random factor from 0.5 to 1.
///    During a rest, a 401 to the credential in force starts no fetch. Polls and `refresh` are not
///    affected.
/// 5. If the source fails, hangs or panics, the store keeps the last good credential.
///
/// # Where a fetch runs
///
/// There is at most one fetch at a time. It is a task on the runtime of the caller that started it,
/// and all callers share its outcome. Cancelling a caller does not cancel the fetch. The exception
/// is the first fetch, which is part of the future of [`load`](Self::load).
///
/// - If that runtime ends, the remaining waiters start another fetch on their own runtimes. If
///   there are none, the fetch ends with its runtime. That happens with one runtime per call,
///   unless `RefreshPolicy` or `renewed` waits for the fetch.
/// - A runtime may be alive but not driven, such as a current-thread runtime between two `block_on`
///   calls. Its fetch is late 100 ms after the time limit, and the next caller then starts another
///   one.
/// - A source that blocks its thread is not asked again until it returns.
/// - On a runtime whose timer is not enabled, no fetch starts. Each 401 and each call of `refresh`
///   there causes a panic in tokio, which is printed and caught; with `panic = "abort"`, it ends
///   the process.
/// - A runtime with paused time has its own clock. A rest or time limit that it sets far ahead does
///   not apply to callers on other runtimes, and it may take their fetches for late.
///
/// A store without a source needs no runtime. When the last clone is dropped, polling ends and a
/// fetch in flight is aborted. Denials, futures and services' responses do not keep a store alive.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore};
///
/// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
/// let layer = AnyreachAuthLayer::new(store.clone());
///
/// // Every request from here on is sent with the new key.
/// assert_eq!(store.rotate(Credential::parse("ak_4712.bmV3")?), 2);
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
///
/// With a source:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_anyreach::SourceError> {
/// use tower_anyreach::{Credential, CredentialStore, Refreshed};
///
/// // In production, ask a secret manager or read a file (`source::FileSource`).
/// let store =
///     CredentialStore::load(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?)).await?;
/// assert_eq!(store.refresh().await?, Refreshed::Unchanged);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CredentialStore(Arc<Core>);

/// The result of [`CredentialStore::refresh`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refreshed {
    /// The source returned another credential, which is now in force.
    Rotated,
    /// The source returned the credential that is in force already, or there is no source.
    Unchanged,
    /// The source returned another credential, which was discarded. Either
    /// [`rotate`](CredentialStore::rotate) changed the credential during the fetch, or it is the
    /// credential that was replaced last, after a 401 or by `rotate`.
    Ignored,
}

impl CredentialStore {
    /// Creates a store without a source. Its credential stays in force until
    /// [`rotate`](Self::rotate) replaces it.
    pub fn new(credential: impl Into<Credential>) -> Self {
        Self(Core::new(credential.into(), None))
    }

    /// Fetches a first credential from a source, and creates a store that asks it again after a
    /// 401.
    ///
    /// Each fetch may take 10 seconds. [`loader`](Self::loader) has options for another limit, for
    /// polling and for a fallback.
    ///
    /// # Errors
    ///
    /// Returns [`SourceError`] if the first fetch fails, panics or times out, or if there is no
    /// current tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics on a tokio runtime whose timer is not enabled and, unless the source is ready at
    /// once, on one that has ended.
    pub async fn load(source: impl CredentialSource) -> Result<Self, SourceError> {
        Self::loader(source).load().await
    }

    /// Returns a builder for a store with a source.
    pub fn loader<C: CredentialSource>(source: C) -> Loader<C> {
        Loader::new(source)
    }

    /// Puts another credential in force for all later requests, and returns the version in force.
    ///
    /// Requests in flight keep the credential that they were sent with; its bytes are wiped when
    /// the last of them completes. The result of a fetch in flight is discarded, and requests that
    /// wait for that fetch are replayed at once. Rotating to the credential in force changes
    /// nothing: the version stays, and neither a fetch nor a rest ends.
    pub fn rotate(&self, credential: impl Into<Credential>) -> u64 {
        self.0.rotate(credential.into())
    }

    /// Returns the credential in force.
    #[must_use]
    pub fn credential(&self) -> Credential {
        self.snapshot().credential.clone()
    }

    /// Returns the version in force. It is 1 at first, and grows with each change of credential.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.state(|state, _| state.version())
    }

    /// Waits until the version in force is greater than `version`, and returns it.
    ///
    /// It returns at once if that is already so. A loop that passes the version it got last
    /// therefore misses no change, although it may see changes in quick succession as one. It needs
    /// no runtime, is cancel-safe, and keeps the store alive.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
    /// let watched = store.clone();
    /// let log = tokio::spawn(async move {
    ///     let version = watched.changed_since(1).await;
    ///     format!("version {version}: {}", watched.status().credential())
    /// });
    /// store.rotate(Credential::parse("ak_4712.bmV3")?);
    /// assert!(log.await?.starts_with("version 2: ak_4712"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn changed_since(&self, version: u64) -> u64 {
        let mut notified = self.0.notify.subscribe();
        loop {
            notified.borrow_and_update();
            let in_force = self.version();
            if in_force > version {
                return in_force;
            }
            // `self` is borrowed, so the sender exists and this cannot fail.
            drop(notified.changed().await);
        }
    }

    /// Asks the source, and puts the credential it returns in force if that differs from the
    /// current one.
    ///
    /// Only a fetch that begins after the call answers it. If one is already in flight, another
    /// follows it and answers all calls made in the meantime. The credential that was replaced
    /// last, after a 401 or by `rotate`, is [`Ignored`](Refreshed::Ignored). Without a source, the
    /// result is [`Unchanged`](Refreshed::Unchanged).
    ///
    /// Do not use this as a readiness probe: [`status`](Self::status) answers without asking the
    /// source.
    ///
    /// # Errors
    ///
    /// Returns [`SourceError`] if the source fails, panics or times out, or if there is no current
    /// tokio runtime with a timer, or that runtime has ended.
    pub async fn refresh(&self) -> Result<Refreshed, SourceError> {
        self.0.refresh().await
    }

    /// Returns the state of the credential in force and of its source, without asking the source.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
    /// let is_ready = store.status().last_denied().is_none();
    /// assert!(is_ready);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.0.status()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }
}

/// The state of a [`CredentialStore`] at one moment, returned by [`CredentialStore::status`].
#[derive(Debug, Clone)]
pub struct StoreStatus {
    version: u64,
    credential: CredentialId,
    last_denied: Option<Instant>,
    last_fetched: Option<Instant>,
    failures: u32,
    last_error: Option<SourceError>,
}

impl StoreStatus {
    /// Returns the version in force.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the id of the credential in force.
    #[must_use]
    pub fn credential(&self) -> &CredentialId {
        &self.credential
    }

    /// Returns the time of the last 401 to the credential in force, or `None` if there was none.
    #[must_use]
    pub fn last_denied(&self) -> Option<Instant> {
        self.last_denied
    }

    /// Returns the time at which the source last returned a credential, changed or not.
    ///
    /// Returns `None` without a source, or before its first credential. If the store polls, an old
    /// time shows that polling has ended with its runtime.
    #[must_use]
    pub fn last_fetched(&self) -> Option<Instant> {
        self.last_fetched
    }

    /// Returns the number of consecutive fetches that failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the error of the last fetch, or `None` if it returned a credential.
    #[must_use]
    pub fn last_error(&self) -> Option<&SourceError> {
        self.last_error.as_ref()
    }
}

impl<C: Into<Credential>> From<C> for CredentialStore {
    fn from(credential: C) -> Self {
        Self::new(credential)
    }
}

impl fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (snapshot, source) = (self.snapshot(), self.0.source.as_ref());
        f.debug_struct("CredentialStore")
            .field("version", &snapshot.version)
            .field("credential", &snapshot.credential)
            .field("source", &source.map(|source| source.source.type_name()))
            .finish()
    }
}
