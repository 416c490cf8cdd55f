//! The credential in force: one immutable snapshot, swapped while requests are in flight.

mod cell;
#[cfg(all(test, any(anyreach_loom, anyreach_shuttle)))]
mod models;
mod refresh;
mod replays;
mod shards;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::credential::{Credential, OrganizationApiKey, PersonalAccessToken};
use crate::source::{CredentialSource, SourceError};

pub(crate) use self::cell::Snapshot;
pub use self::refresh::{Loader, RefreshGuard};

/// Holds the credential in force, and lets it be replaced while requests are in flight.
///
/// 1. Clones share it: keep one for rotating, and give one to
///    [`AnyreachAuthLayer::new`](crate::AnyreachAuthLayer::new).
/// 2. Credential and organization are replaced together: a request leaves with both from before a rotation, or
///    both from after it. Versions start at 1 and only grow.
/// 3. With a [`CredentialSource`] it can fetch a new credential itself: when [`refresh`](Self::refresh) is called,
///    at intervals ([`refresh_every`](Self::refresh_every)), or after a 401
///    ([`RefreshPolicy`](crate::retry::RefreshPolicy)).
/// 4. A source that fails, hangs or panics never displaces the last good credential.
///
/// A store without a source needs no runtime. Creating a store never spawns anything.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore};
///
/// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
/// let layer = AnyreachAuthLayer::new(store.clone());
/// assert_eq!(store.version(), 1);
///
/// // Every request from here on is sent with the new key.
/// store.rotate(Credential::parse("ak_4712.bmV3")?);
/// assert_eq!(store.version(), 2);
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
pub struct CredentialStore(pub(crate) Arc<refresh::Inner>);

/// What a refresh has come to.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use tower_anyreach::{Credential, CredentialStore, Refreshed};
///
/// // A source that has a new key each time it is asked.
/// static ASKED: AtomicU32 = AtomicU32::new(0);
/// let store = CredentialStore::load(async || {
///     let key = format!("ak_{}.c2VjcmV0", ASKED.fetch_add(1, Ordering::Relaxed));
///     Ok(Credential::parse(key)?)
/// })
/// .await?;
/// assert_eq!(store.refresh().await?, Refreshed::Rotated);
/// assert_eq!(CredentialStore::new(store.credential()).refresh().await?, Refreshed::Unchanged);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refreshed {
    /// Another credential is in force than when the refresh was asked for.
    Rotated,
    /// The source gave the credential that is in force already, or there is no source.
    Unchanged,
}

impl CredentialStore {
    /// Creates a store without a source: its credential stays in force until it is [rotated](Self::rotate).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{CredentialStore, OrganizationApiKey};
    ///
    /// let store = CredentialStore::new(OrganizationApiKey::new("ak_4711.c2VjcmV0")?);
    /// assert_eq!(store.version(), 1);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn new(credential: impl Into<Credential>) -> Self {
        Self::with_source(credential.into(), None)
    }

    /// Creates a store whose credential comes from a source, once that has given a first one.
    ///
    /// Each fetch, this one included, may take 10 seconds; [`loader`](Self::loader) changes that.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: the first fetch failed, panicked or took too long; or this was not called on a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics on a tokio runtime whose timer is not enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::load(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?)).await?;
    /// assert_eq!(store.version(), 1);
    ///
    /// // What fails at first fails here, and not with the first request.
    /// let error = CredentialStore::load(async || Ok(Credential::parse("c2VjcmV0")?)).await.unwrap_err();
    /// assert!(error.to_string().ends_with("it starts with neither `ak_` nor `pat_`"));
    /// # Ok(()) }
    /// ```
    pub async fn load(source: impl CredentialSource) -> Result<Self, SourceError> {
        Self::loader(source).load().await
    }

    /// Returns a builder for a store with a source and a time limit of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::time::Duration;
    /// use tower_anyreach::{CredentialStore, SourceErrorReason};
    ///
    /// let hangs = async || std::future::pending().await;
    /// let error = CredentialStore::loader(hangs).timeout(Duration::from_millis(20)).load().await.unwrap_err();
    /// assert_eq!(error.reason(), SourceErrorReason::TimedOut);
    /// # }
    /// ```
    pub fn loader<C: CredentialSource>(source: C) -> Loader<C> {
        Loader::new(source)
    }

    /// Puts another credential in force, for every request that is made from here on.
    ///
    /// Requests in flight keep what they left with. The bytes of the old credential are wiped when the last of
    /// them is done. A fetch in flight is outdone: what it brings is not put in force.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
    /// store.rotate(Credential::parse("ak_4712.bmV3")?);
    /// assert!(store.credential().id().to_string().starts_with("ak_4712"));
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    pub fn rotate(&self, credential: impl Into<Credential>) {
        self.0.cell.rotate(credential.into());
    }

    /// Returns the credential in force.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::new(Credential::parse("pat_c2VjcmV0")?);
    /// println!("authenticating with {}", store.credential().id());
    /// # assert_eq!(store.credential().id(), Credential::parse("pat_c2VjcmV0")?.id());
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn credential(&self) -> Credential {
        self.snapshot().credential.clone()
    }

    /// Returns the version in force: 1 at first, and greater after every rotation.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
    /// let before = store.version();
    /// store.rotate(Credential::parse("ak_4712.bmV3")?);
    /// assert!(store.version() > before);
    /// # Ok::<(), tower_anyreach::InvalidCredential>(())
    /// ```
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.cell.version()
    }

    /// Asks the source for the credential again, and puts it in force if it is another one.
    ///
    /// 1. There is one fetch at a time. Whoever calls while it is in flight waits for it and gets what it comes to,
    ///    success or failure.
    /// 2. The fetch runs in a task of its own, on the runtime of the caller that began it: a caller that goes away
    ///    harms nobody, nor does the end of that runtime. It may also stand still, as a current-thread runtime does
    ///    between two `block_on`: a fetch that is not back 1 second after its time limit is given up, and who waits
    ///    begins another.
    /// 3. After a failure the source is left alone for a while (250 ms, doubling up to 30 s, with full jitter), and
    ///    callers get the same error at once. After [`Unchanged`](Refreshed::Unchanged) it rests for 1 second.
    /// 4. A credential that was [rotated](Self::rotate) in meanwhile stays in force.
    ///
    /// Without a source it is [`Unchanged`](Refreshed::Unchanged).
    ///
    /// # Errors
    ///
    /// [`SourceError`]: the source failed, panicked or took too long, now or within the last back-off; or this was
    /// not called on a tokio runtime with its timer enabled, as `tokio::main` has.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use tower_anyreach::{BoxError, Credential, CredentialStore, Refreshed};
    ///
    /// static VAULT_IS_DOWN: AtomicBool = AtomicBool::new(false);
    /// let store = CredentialStore::load(async || match VAULT_IS_DOWN.load(Ordering::Relaxed) {
    ///     false => Ok(Credential::parse("ak_4711.c2VjcmV0")?),
    ///     true => Err(BoxError::from("503")),
    /// })
    /// .await?;
    /// VAULT_IS_DOWN.store(true, Ordering::Relaxed);
    ///
    /// // The last good credential stays in force.
    /// assert!(store.refresh().await.is_err());
    /// assert!(store.credential().id().to_string().starts_with("ak_4711"));
    /// # Ok(()) }
    /// ```
    pub async fn refresh(&self) -> Result<Refreshed, SourceError> {
        self.0.refresh(self.version()).await
    }

    /// Calls [`refresh`](Self::refresh) again and again in a task of its own, until the returned guard is dropped or
    /// no store is left.
    ///
    /// Each wait is the interval less up to a tenth, at random, so that a fleet does not ask in step; an interval
    /// under 1 second is shorter than the source's rest and makes no difference while nothing changes. Failures
    /// are kept for whoever calls `refresh`, and do not end the task.
    ///
    /// # Panics
    ///
    /// Panics if it is not called on a tokio runtime. Its timer must be enabled, as it is with `tokio::main`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_anyreach::SourceError> {
    /// use std::time::Duration;
    /// use tower_anyreach::{Credential, CredentialStore};
    ///
    /// let store = CredentialStore::load(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?)).await?;
    /// let guard = store.refresh_every(Duration::from_secs(60));
    /// // ... as long as the client lives ...
    /// drop(guard);
    /// # Ok(()) }
    /// ```
    pub fn refresh_every(&self, interval: Duration) -> RefreshGuard {
        RefreshGuard::spawn(&self.0, interval)
    }

    fn with_source(credential: Credential, source: Option<refresh::Source>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);

        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(refresh::Inner::new(id, credential, source)))
    }

    /// As [`refresh`](Self::refresh), because this version was refused: a later one is left alone.
    #[cfg(feature = "retry")]
    pub(crate) async fn refresh_after(&self, refused: u64) -> Result<Refreshed, SourceError> {
        self.0.refresh(refused).await
    }

    /// Has the source asked as [`refresh_after`](Self::refresh_after) does, and leaves it to the store.
    #[cfg(feature = "retry")]
    pub(crate) fn begin_refresh_after(&self, refused: u64) {
        self.0.begin_refresh(refused);
    }

    #[cfg(feature = "retry")]
    pub(crate) fn replays(&self) -> Arc<replays::Replays> {
        Arc::clone(&self.snapshot().replays)
    }

    #[cfg(feature = "retry")]
    pub(crate) fn id(&self) -> u64 {
        self.0.cell.id()
    }

    #[inline]
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.cell.snapshot()
    }
}

impl From<Credential> for CredentialStore {
    fn from(credential: Credential) -> Self {
        Self::new(credential)
    }
}

impl From<OrganizationApiKey> for CredentialStore {
    fn from(key: OrganizationApiKey) -> Self {
        Self::new(key)
    }
}

impl From<PersonalAccessToken> for CredentialStore {
    fn from(token: PersonalAccessToken) -> Self {
        Self::new(token)
    }
}

impl fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("CredentialStore")
            .field("version", &snapshot.provenance.version)
            .field("credential", &snapshot.credential)
            .field("source", &self.0.source())
            .finish()
    }
}
