//! The credential in force: an immutable snapshot, swapped while requests are in flight.
//!
//! | module | purpose |
//! |---|---|
//! | `state` | when the source is asked: pure rules, with time as a parameter |
//! | `core` | what is in force: the state behind its lock, published to the shards |
//! | `shards` | where requests read it |
//! | `fetch` | where a fetch runs, and how callers wait for it |
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

/// What a fetch comes to, for all who wait for it.
type Outcome = Result<Refreshed, SourceError>;

/// Holds the credential in force, and lets it be replaced while requests are in flight.
///
/// 1. Clones share it: keep one for rotating, and give one to
///    [`AnyreachAuthLayer::new`](crate::AnyreachAuthLayer::new). Layers with different origins need stores of their own.
/// 2. Credential and organization are replaced together: a request leaves with both from before a rotation, or both from after
///    it. Versions start at 1 and only grow.
/// 3. With a [`CredentialSource`], the store fetches a new credential at intervals
///    ([`Loader::refresh_every`]), when [`refresh`](Self::refresh) is called, and after a 401 to the credential in force: the layer
///    starts that fetch as soon as it sees the 401. [`RefreshPolicy`](crate::retry::RefreshPolicy) and
///    [`Denial::renewed`](crate::Denial::renewed) wait for it.
/// 4. After a fetch that a 401 caused, the source rests: 1 second, then 2, 4 and 8 seconds while the 401s go on, of which between
///    half and all is taken. Meanwhile a 401 to the credential in force causes no fetch. Polls and `refresh` are not affected.
/// 5. A source that fails, hangs or panics never displaces the last good credential.
///
/// # Where a fetch runs
///
/// There is one fetch at a time, in a task on the runtime of the caller who began it. All share its outcome, and cancelling a
/// caller cancels nothing. If that runtime ends, the callers that still wait begin again on their own; where none waits, as with a
/// runtime for each call and neither `RefreshPolicy` nor `renewed`, the fetch ends with it. A runtime that is alive and not
/// driven, such as a current-thread runtime between two `block_on` calls, holds up its fetch for the time limit at most: then it
/// gives way to the next caller's. A source that blocks its thread is never asked a second time meanwhile. On a runtime whose timer
/// is not enabled no fetch begins, and each 401 there makes tokio panic, which is printed and caught; with `panic = "abort"` it ends
/// the process. A paused runtime beside a running one has a clock
/// of its own; a rest or time limit that it sets far ahead does not hold for the other.
///
/// A store without a source needs no runtime. When the last clone is dropped, polling ends and a fetch in flight is aborted.
/// Denials, futures and services' responses keep no store alive.
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
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_anyreach::SourceError> {
/// use tower_anyreach::{Credential, CredentialStore, Refreshed};
///
/// // In real life: ask a vault, run a command, read a file (`source::FileSource`).
/// let store = CredentialStore::load(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?)).await?;
/// assert_eq!(store.refresh().await?, Refreshed::Unchanged);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CredentialStore(Arc<Core>);

/// What a call of [`CredentialStore::refresh`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refreshed {
    /// The source gave another credential, which is in force now.
    Rotated,
    /// The source gave the credential that is in force already, or there is no source.
    Unchanged,
    /// The source gave another credential, which was not taken: [`rotate`](CredentialStore::rotate) changed the credential
    /// meanwhile, or it is the one that was replaced last, and that was refused or rotated out.
    Ignored,
}

impl CredentialStore {
    /// Creates a store without a source: its credential stays in force until it is [rotated](Self::rotate).
    pub fn new(credential: impl Into<Credential>) -> Self {
        Self(Core::new(credential.into(), None))
    }

    /// Fetches a first credential from a source, and creates a store that asks it again after a 401.
    ///
    /// Each fetch may take 10 seconds. [`loader`](Self::loader) has options: another limit, polling, a fall-back.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: the first fetch failed, panicked or timed out; or this was not called on a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics on a tokio runtime whose timer is not enabled.
    pub async fn load(source: impl CredentialSource) -> Result<Self, SourceError> {
        Self::loader(source).load().await
    }

    /// Returns a builder for a store with a source.
    pub fn loader<C: CredentialSource>(source: C) -> Loader<C> {
        Loader::new(source)
    }

    /// Puts another credential in force, for every request that is made from here on, and returns the version in force.
    ///
    /// Requests in flight keep the credential that they left with, whose bytes are wiped when the last of them completes. The
    /// result of a fetch in flight is discarded, and requests that wait for that fetch are replayed at once. Rotating to the
    /// credential in force changes nothing: the version stays, and no fetch or rest ends.
    pub fn rotate(&self, credential: impl Into<Credential>) -> u64 {
        self.0.rotate(credential.into())
    }

    /// Returns the credential in force.
    #[must_use]
    pub fn credential(&self) -> Credential {
        self.snapshot().credential.clone()
    }

    /// Returns the version in force: 1 at first, and greater after each change of credential.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.state(|state, _| state.version())
    }

    /// Waits until the version in force is greater than this one, and returns it.
    ///
    /// It returns at once if it is greater already, so a loop that passes the version it was last given misses no change, though
    /// changes in quick succession may be seen as one. It needs no runtime, is cancel-safe, and keeps the store alive.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    /// # Ok(()) }
    /// ```
    pub async fn changed_since(&self, version: u64) -> u64 {
        let mut bell = self.0.bell.subscribe();
        loop {
            bell.borrow_and_update();
            let in_force = self.version();
            if in_force > version {
                return in_force;
            }
            // The store is borrowed, so the bell is not closed.
            drop(bell.changed().await);
        }
    }

    /// Asks the source again, and puts what it gives in force if that differs from what is.
    ///
    /// It is answered by a fetch that begins after the call: where one is in flight, a further one follows for all who called
    /// meanwhile. A credential that the store has replaced because it was refused, or that was rotated out, is
    /// [`Ignored`](Refreshed::Ignored). Without a source, the answer is [`Unchanged`](Refreshed::Unchanged).
    ///
    /// A readiness probe does not need this: [`status`](Self::status) does not ask the source.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: the source failed, panicked or timed out; or this was not called on a tokio runtime with its timer enabled.
    pub async fn refresh(&self) -> Result<Refreshed, SourceError> {
        self.0.refresh().await
    }

    /// Returns what is known of the credential in force and its source, without asking it.
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

/// What [`CredentialStore::status`] returns: a view of one moment.
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

    /// Returns the time of the last 401 to the credential in force; `None` if it has met none.
    #[must_use]
    pub fn last_denied(&self) -> Option<Instant> {
        self.last_denied
    }

    /// Returns the time at which the source last gave a credential, changed or not; `None` without a source, or if it never has.
    ///
    /// Beside polling, a time long ago shows that polling has ended with its runtime.
    #[must_use]
    pub fn last_fetched(&self) -> Option<Instant> {
        self.last_fetched
    }

    /// Returns how many fetches have failed in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the error of the last fetch; `None` if that gave a credential.
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
