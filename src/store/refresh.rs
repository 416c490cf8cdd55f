//! Fetching: a task that belongs to the store, and those who wait for it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::panic::catch_unwind;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::cell::{Cell, Fetch, Outcome, Step};
use super::{CredentialStore, Refreshed};
use crate::credential::Credential;
use crate::source::{CredentialSource, ErasedSource, SourceError, SourceErrorReason, fetch};
use crate::sync::{Mutex, lock};

/// What those who wait for a fetch wait on.
#[derive(Clone)]
pub(crate) struct Waiting {
    /// Its outcome, or its end without one.
    ended: watch::Receiver<Option<Outcome>>,
    overdue: Instant,
}

/// A fetch that is not back this long after its limit is on a runtime that nobody drives, or its source blocks.
const GRACE: Duration = Duration::from_secs(1);

/// What all clones of a store share.
pub(crate) struct Inner {
    pub(super) cell: Cell<Waiting, Instant>,
    source: Option<Source>,
    /// The last fetch and its task, which ends with the store.
    flight: Mutex<Option<(Fetch, AbortHandle)>>,
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
            source,
            flight: Mutex::new(None),
        }
    }

    pub(super) fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Brings the store up to date, since something newer than the version `refused` is wanted.
    pub(super) async fn refresh(self: &Arc<Self>, refused: u64) -> Outcome {
        let Some(source) = &self.source else {
            return Ok(Refreshed::Unchanged);
        };
        let mut reason = SourceErrorReason::NoRuntime;
        // Usually once. A flight may end without an outcome, if the runtime of the caller who began it is gone, or not
        // at all, if that runtime stands still; and it may have been for a version before the one that no longer
        // serves.
        for _ in 0..3 {
            let mut waiting = match self.take_off_or_wait(source, refused) {
                Ok(waiting) => waiting,
                Err(outcome) => return outcome,
            };
            if !has_timer() {
                return Err(source.error(SourceErrorReason::NoRuntime));
            }
            let ended = async { waiting.ended.wait_for(Option::is_some).await.ok()?.clone() };
            reason = match timeout_at(waiting.overdue, ended).await {
                Err(_elapsed) => SourceErrorReason::TimedOut,
                Ok(None) => SourceErrorReason::NoRuntime,
                Ok(Some(outcome)) => {
                    let was_for_another =
                        matches!(outcome, Ok(Refreshed::Rotated)) && self.cell.version() == refused;
                    if !was_for_another {
                        return outcome;
                    }
                    reason
                }
            };
        }
        Err(source.error(reason))
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
        let now = Instant::now();
        let (done, ended) = watch::channel(None);
        let waiting = Waiting {
            ended,
            overdue: source.overdue(now),
        };
        let step = self
            .cell
            .begin(refused, now, waiting.overdue, || waiting.clone());
        match step {
            Step::Done(outcome) => Err(outcome),
            Step::Wait(waiting) => Ok(waiting),
            Step::Fetch(fetch) => {
                let flight = Flight {
                    store: Arc::downgrade(self),
                    fetch,
                    done,
                    landed: false,
                };
                if !has_timer() {
                    // The flight is dropped right here, and with that abandoned.
                    return Err(Err(source.error(SourceErrorReason::NoRuntime)));
                }
                let task = tokio::spawn(flight.run(source.clone()));
                self.keep(fetch, task.abort_handle());
                Ok(waiting)
            }
        }
    }

    /// Keeps the task of the last fetch, and ends the one before, which is overdue if it is not over.
    fn keep(&self, fetch: Fetch, task: AbortHandle) {
        let mut last = lock(&self.flight);
        // Two that are begun one right after the other may come here in any order.
        if last
            .as_ref()
            .is_some_and(|(last, _)| last.number > fetch.number)
        {
            return;
        }
        if let Some((_, before)) = last.replace((fetch, task)) {
            before.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((_, flight)) = lock(&self.flight).take() {
            flight.abort();
        }
    }
}

impl Source {
    /// When a fetch that begins now is late beyond hope; in 34 years at the latest, which clocks can express.
    fn overdue(&self, now: Instant) -> Instant {
        const NEVER: Duration = Duration::from_secs(1 << 30);
        now + self.timeout.saturating_add(GRACE).min(NEVER)
    }

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
    fetch: Fetch,
    done: watch::Sender<Option<Outcome>>,
    landed: bool,
}

impl Flight {
    async fn run(mut self, source: Source) {
        let fetched = fetch(source.source.as_ref(), source.timeout).await;
        if let Some(store) = self.store.upgrade() {
            let outcome = store
                .cell
                .finish(self.fetch, fetched, Instant::now(), random());
            self.landed = true;
            self.done.send_replace(Some(outcome));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        if let Some(store) = self.store.upgrade() {
            store.cell.abandon(self.fetch);
        }
    }
}

/// Whether this is called on a tokio runtime with a timer, which cannot be asked in a way that does not panic.
fn has_timer() -> bool {
    Handle::try_current().is_ok() && catch_unwind(|| drop(sleep(Duration::ZERO))).is_ok()
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
    /// # Panics
    ///
    /// Panics on a tokio runtime whose timer is not enabled.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_last_fetch_is_kept_in_whichever_order_they_come() {
        let key = Credential::parse("ak_4711.c2VjcmV0").unwrap();
        for order in [[1, 2], [2, 1]] {
            let store = Inner::new(1, key.clone(), None);
            let tasks = order.map(|number| {
                let task = tokio::spawn(pending::<()>());
                store.keep(Fetch { number, version: 1 }, task.abort_handle());
                (number, task)
            });
            tokio::task::yield_now().await;
            for (number, task) in &tasks {
                // The one before the last is over, or else overdue.
                assert_eq!(task.is_finished(), *number == 1 && order == [1, 2]);
            }
            drop(store);
            let (_, last) = tasks.into_iter().find(|(number, _)| *number == 2).unwrap();
            assert!(last.await.unwrap_err().is_cancelled());
        }
    }
}
