//! Loads a store from a source, and polls that source.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::CredentialStore;
use super::core::Core;
use super::fetch::{Source, random, wait};
use super::state::State;
use crate::credential::Credential;
use crate::events;
use crate::source::{CredentialSource, SourceError, SourceErrorReason, fetch};

/// Builds a [`CredentialStore`] with a source. Created by [`CredentialStore::loader`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_anyreach::{Credential, CredentialStore};
///
/// let store =
///     CredentialStore::loader(async || Ok(Credential::parse("ak_4711.c2VjcmV0")?))
///         .timeout(Duration::from_secs(3))
///         .refresh_every(Duration::from_secs(60))
///         .load()
///         .await?;
/// assert_eq!(store.version(), 1);
/// # Ok(())
/// # }
/// ```
#[must_use = "a loader does nothing until `load` is awaited"]
pub struct Loader<C> {
    source: C,
    timeout: Duration,
    interval: Option<Duration>,
    fallback: Option<Credential>,
}

impl<C: CredentialSource> Loader<C> {
    pub(super) fn new(source: C) -> Self {
        Self {
            source,
            timeout: Duration::from_secs(10),
            interval: None,
            fallback: None,
        }
    }

    /// Sets the time limit of each fetch, the first one included.
    ///
    /// If the source may hang, set it to at most half of
    /// [`RefreshPolicy::max_wait`](crate::retry::RefreshPolicy::max_wait): a request that is denied
    /// while a poll hangs waits for that poll to end and then for one more fetch.
    ///
    /// Default: 10 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Polls the source at this interval while a clone of the store exists.
    ///
    /// Polling runs on the runtime that loads the store, and ends with it.
    /// [`CredentialStore::refresh`] and the fetches that 401s start keep working after that.
    ///
    /// 1. Each wait is the interval, less a random part of up to one tenth.
    /// 2. The first wait, and the first one after a recovery, is a random part of the interval, so
    ///    that the clients of a fleet do not poll at the same time.
    /// 3. After a failure, the wait is the shorter of the interval and a back-off, which is a
    ///    random part of 1 second, doubling with each consecutive failure up to 30 seconds.
    /// 4. An interval below 10 milliseconds counts as 10 milliseconds.
    ///
    /// Default: no polling.
    pub fn refresh_every(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Starts with this credential if the first fetch fails.
    ///
    /// The store's [`status`](CredentialStore::status) then holds the failure, and polling starts
    /// with a back-off.
    ///
    /// Default: none; [`load`](Self::load) returns the error.
    pub fn or_start_with(mut self, credential: impl Into<Credential>) -> Self {
        self.fallback = Some(credential.into());
        self
    }

    /// Fetches a first credential and creates the store.
    ///
    /// # Errors
    ///
    /// Returns [`SourceError`] if the first fetch fails, panics or times out and
    /// [`or_start_with`](Self::or_start_with) was not called, or if there is no current tokio
    /// runtime.
    ///
    /// # Panics
    ///
    /// Panics on a tokio runtime whose timer is not enabled and, unless the source is ready at
    /// once, on one that has ended.
    pub async fn load(self) -> Result<CredentialStore, SourceError> {
        let source = Source {
            source: Arc::new(self.source),
            limit: self.timeout,
        };
        let Ok(runtime) = Handle::try_current() else {
            return Err(source.error(SourceErrorReason::NoRuntime));
        };
        let fetched = fetch(source.source.as_ref(), source.limit).await;
        let (credential, failure) = match (fetched, self.fallback) {
            (Ok(credential), _) => (credential, None),
            (Err(error), Some(credential)) => {
                events::source_failed(error.reason().as_str(), &error, &credential, 1, 1);
                (credential, Some(error))
            }
            (Err(error), None) => return Err(error),
        };
        let store = Core::new(credential, Some(source));
        store.state(|state, now| state.loaded(failure, now));
        if let Some(interval) = self.interval {
            let polling = runtime.spawn(poll(Arc::downgrade(&store), interval));
            drop(store.polling.set(polling.abort_handle()));
        }
        Ok(CredentialStore(store))
    }
}

impl<C> fmt::Debug for Loader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("source", &std::any::type_name::<C>())
            .field("timeout", &self.timeout)
            .field("refresh_every", &self.interval)
            .field("or_start_with", &self.fallback)
            .finish()
    }
}

/// The shortest interval, and the shortest wait after a failure.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// Polls until the store is dropped. Neither the waits nor the fetches keep it alive.
async fn poll(store: Weak<Core>, interval: Duration) -> Option<()> {
    let mut is_spread = true;
    loop {
        let failures = store.upgrade()?.state(|state, _| state.failures());
        sleep(pause(interval, failures, is_spread, random())).await;
        is_spread = failures > 0;
        let runtime = Some(Handle::current());
        let (fetch, _) = store.upgrade()?.ask(runtime, State::poll);
        if let Some(number) = fetch {
            drop(wait(&store, number, None, None).await);
        }
    }
}

/// Returns how long to wait before the next poll.
///
/// `is_spread` says that it is the first poll, or the first one after a recovery. `jitter` is a
/// random number from 0 to 1.
pub(super) fn pause(interval: Duration, failures: u32, is_spread: bool, jitter: f64) -> Duration {
    let pause = if failures > 0 {
        let back_off = Duration::from_secs(1) * (1 << (failures - 1).min(5));
        let back_off = back_off.min(MAX_BACK_OFF).mul_f64(jitter);
        interval.min(back_off)
    } else if is_spread {
        interval.mul_f64(jitter)
    } else {
        interval.saturating_sub((interval / 10).mul_f64(jitter))
    };
    pause.max(MIN_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_spread_later_ones_are_just_below_the_interval_and_failures_back_off() {
        let minute = Duration::from_secs(60);
        let millis =
            |failures, is_spread, jitter| pause(minute, failures, is_spread, jitter).as_millis();
        assert_eq!(
            [0.0, 0.5, 1.0].map(|jitter| millis(0, true, jitter)),
            [10, 30_000, 60_000]
        );
        assert_eq!(
            [0.0, 0.5, 1.0].map(|jitter| millis(0, false, jitter)),
            [60_000, 57_000, 54_000]
        );
        let longest: Vec<_> = [1, 2, 3, 4, 5, 6, u32::MAX]
            .map(|failures| millis(failures, true, 1.0))
            .into();
        assert_eq!(
            longest,
            [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
        );
        assert_eq!(millis(3, false, 0.0), 10);
        assert_eq!(
            pause(Duration::from_millis(300), 9, false, 1.0).as_millis(),
            300
        );
        assert_eq!(pause(Duration::ZERO, 0, false, 1.0), MIN_PAUSE);
    }
}
