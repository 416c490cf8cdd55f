//! Fetching: a task that belongs to the store, and those who wait for it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::cell::{Cell, Outcome, Step};
use super::copies::Copies;
use super::{CredentialStore, Refreshed};
use crate::credential::Credential;
use crate::source::{CredentialSource, ErasedSource, SourceError, SourceErrorReason, fetch};
use crate::sync::{Mutex, lock};

/// What those who wait for a fetch wait on: its outcome, or its end without one.
type Waiting = watch::Receiver<Option<Outcome>>;

/// What all clones of a store share.
pub(crate) struct Inner {
    pub(super) cell: Cell<Waiting, Instant>,
    pub(super) copies: Copies,
    source: Option<Source>,
    /// The task of the last fetch, which ends with the store.
    flight: Mutex<Option<AbortHandle>>,
}

/// A source, and how long each fetch may take.
#[derive(Clone)]
pub(super) struct Source {
    source: Arc<dyn ErasedSource>,
    timeout: Duration,
}

impl Inner {
    pub(super) fn new(id: u64, credential: Credential, source: Option<Source>) -> Self {
        Self {
            cell: Cell::new(id, credential),
            copies: Copies::default(),
            source,
            flight: Mutex::new(None),
        }
    }

    pub(super) fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// What requests of before a rotation still hold is wiped as they end; all else is wiped here.
    pub(super) fn drop_old_copies(&self) {
        self.copies.clear_before(self.cell.version());
    }

    /// Brings the store up to date, since something newer than the version `refused` is wanted.
    pub(super) async fn refresh(self: &Arc<Self>, refused: u64) -> Outcome {
        let Some(source) = &self.source else {
            return Ok(Refreshed::Unchanged);
        };
        // Usually once. A flight may end without an outcome, if the runtime of the caller who began it is gone; and it
        // may have been for a version before the one that no longer serves.
        for _ in 0..3 {
            let mut waiting = match self.take_off_or_wait(source, refused) {
                Ok(waiting) => waiting,
                Err(outcome) => return outcome,
            };
            if let Ok(outcome) = waiting.wait_for(Option::is_some).await
                && let Some(outcome) = outcome.clone()
            {
                let was_for_another =
                    matches!(outcome, Ok(Refreshed::Rotated)) && self.cell.version() == refused;
                if !was_for_another {
                    return outcome;
                }
            }
        }
        Err(source.error(SourceErrorReason::NoRuntime))
    }

    /// Begins a fetch, unless one is under way or need not be, and waits for nothing.
    pub(super) fn begin_refresh(self: &Arc<Self>, refused: u64) {
        if let Some(source) = &self.source {
            drop(self.take_off_or_wait(source, refused));
        }
    }

    fn take_off_or_wait(
        self: &Arc<Self>,
        source: &Source,
        refused: u64,
    ) -> Result<Waiting, Outcome> {
        let (done, waiting) = watch::channel(None);
        match self.cell.begin(refused, Instant::now(), || waiting.clone()) {
            Step::Done(outcome) => Err(outcome),
            Step::Wait(waiting) => Ok(waiting),
            Step::Fetch { version } => {
                let flight = Flight {
                    store: Arc::downgrade(self),
                    version,
                    done,
                    landed: false,
                };
                // Without a runtime the flight is dropped right here, and with that abandoned.
                let runtime = Handle::try_current()
                    .map_err(|_| Err(source.error(SourceErrorReason::NoRuntime)))?;
                let task = runtime.spawn(flight.run(source.clone()));
                *lock(&self.flight) = Some(task.abort_handle());
                Ok(waiting)
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(flight) = lock(&self.flight).take() {
            flight.abort();
        }
    }
}

impl Source {
    fn error(&self, reason: SourceErrorReason) -> SourceError {
        SourceError::new(self.source.type_name(), reason, None)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("type", &self.source.type_name())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// A fetch that is under way. However it ends, nobody is left waiting.
struct Flight {
    store: Weak<Inner>,
    version: u64,
    done: watch::Sender<Option<Outcome>>,
    landed: bool,
}

impl Flight {
    async fn run(mut self, source: Source) {
        let fetched = fetch(source.source.as_ref(), source.timeout).await;
        if let Some(store) = self.store.upgrade() {
            let outcome = store
                .cell
                .finish(self.version, fetched, Instant::now(), random());
            store.drop_old_copies();
            self.landed = true;
            self.done.send_replace(Some(outcome));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed
            && let Some(store) = self.store.upgrade()
        {
            store.cell.abandon();
        }
    }
}

/// A number from 0 to 1 that differs from process to process and from call to call.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}

/// Builds a [`CredentialStore`] with a source; made by [`CredentialStore::loader`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_anyreach::{Credential, CredentialStore};
///
/// let store = CredentialStore::loader(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?))
///     .timeout(Duration::from_secs(3))
///     .load()
///     .await?;
/// assert_eq!(store.version(), 1);
/// # Ok(()) }
/// ```
#[must_use = "a loader does nothing until `load` is awaited"]
pub struct Loader<C> {
    source: C,
    timeout: Duration,
}

impl<C: CredentialSource> Loader<C> {
    pub(super) fn new(source: C) -> Self {
        Self {
            source,
            timeout: Duration::from_secs(10),
        }
    }

    /// Sets how long each fetch may take, the first one and all later ones.
    ///
    /// Default: 10 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_anyreach::{CredentialStore, SourceErrorReason};
    ///
    /// let hangs = async || std::future::pending().await;
    /// let error = CredentialStore::loader(hangs).timeout(Duration::from_millis(20)).load().await.unwrap_err();
    /// assert_eq!(error.reason(), SourceErrorReason::TimedOut);
    /// # Ok(()) }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Fetches a first credential and creates the store.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: the first fetch failed, panicked or took too long; or this was not called on a tokio
    /// runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_anyreach::{CredentialStore, SourceErrorReason};
    ///
    /// let fails = async || Err("no such lease".into());
    /// let error = CredentialStore::loader(fails).load().await.unwrap_err();
    /// assert_eq!(error.reason(), SourceErrorReason::Failed);
    /// # Ok(()) }
    /// ```
    pub async fn load(self) -> Result<CredentialStore, SourceError> {
        let source = Source {
            source: Arc::new(self.source),
            timeout: self.timeout,
        };
        if Handle::try_current().is_err() {
            return Err(source.error(SourceErrorReason::NoRuntime));
        }
        let credential = fetch(source.source.as_ref(), source.timeout).await?;
        Ok(CredentialStore::with_source(credential, Some(source)))
    }
}

impl<C> fmt::Debug for Loader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("source", &std::any::type_name::<C>())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Keeps [`CredentialStore::refresh_every`] going; dropping it stops the background work.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore, RefreshGuard};
///
/// /// A client that refreshes for as long as it lives.
/// struct Client {
///     layer: AnyreachAuthLayer,
///     _refreshing: RefreshGuard,
/// }
///
/// let store = CredentialStore::load(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?)).await?;
/// let client = Client {
///     _refreshing: store.refresh_every(Duration::from_secs(60)),
///     layer: AnyreachAuthLayer::new(store),
/// };
/// # drop(client.layer);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping the guard stops the refreshing"]
pub struct RefreshGuard(AbortHandle);

impl RefreshGuard {
    pub(super) fn spawn(store: &Arc<Inner>, interval: Duration) -> Self {
        // Held weakly: the task must not keep a store alive that nobody else has.
        let store = Arc::downgrade(store);
        let task = tokio::spawn(async move {
            loop {
                let wait = interval.saturating_sub((interval / 10).mul_f64(random()));
                sleep(wait.max(Duration::from_millis(1))).await;
                let Some(store) = store.upgrade() else {
                    return;
                };
                // Whoever asks shares a failure, and the source's back-off holds here too. Nobody waits here, who would
                // keep the store for as long.
                store.begin_refresh(store.cell.version());
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for RefreshGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
