//! Runs fetches, and lets callers wait for them.
//!
//! A fetch is a tokio task on the runtime of the caller that starts it. The same task runs the
//! fetches that are owed after it. Cancelling a caller therefore cancels no fetch, and callers on
//! any runtime wait for the same task.
//!
//! # Waiting
//!
//! 1. [`Core::ask`] calls the state under the lock. If that begins a fetch, it spawns the task
//!    after the lock is released.
//! 2. [`wait`] subscribes to `notify` before it reads the state, so no wake-up is lost. It returns
//!    when the awaited fetch has ended, when the credential in force differs from the one that was
//!    denied, or at the deadline.
//! 3. When a fetch ends, [`Fetching`] stores the outcome in the state and wakes all waiters. If
//!    tokio drops the task because its runtime ends, the destructor reports the fetch as lost
//!    instead.
//! 4. The waiters of a lost fetch ask again, each on its own runtime. A caller whose own task was
//!    lost gets `NoRuntime`, because its runtime cannot run another one either; so a call starts at
//!    most one task on the same runtime.
//!
//! # Races
//!
//! - A fetch ends before its caller waits for it. The state keeps the number and the outcome of the
//!   latest fetch that ended, so the caller still gets it.
//! - A late fetch ends after the next one began. The state ignores a number that is not in flight,
//!   so the result is discarded.
//! - `rotate` changes the credential during a fetch. Waiters for a 401 return at once, because the
//!   credential differs from the denied one, and the result of the fetch is discarded.
//! - A runtime ends before the task is first polled. tokio drops the task, and the fetch is
//!   reported as lost.
//! - The last clone of the store is dropped during a fetch. The task and the waiters hold weak
//!   references; dropping the store aborts the task, and the waiters end.
//!
//! The models in `models` explore the interleavings of state, shards and numbers with loom, and the
//! behaviour tests `runtimes::` and `cancellation::` cover the tasks. ASSURANCE.md has the commands
//! and the results; waking 100,000 waiters of one fetch is measured there too.
//!
//! # Time limits
//!
//! No wait for one fetch is longer than its time limit and [`GRACE`]. A fetch that has not ended by
//! then is late: the next caller that asks aborts it and starts another one. The exception is a
//! late fetch that is being polled at that moment. Its source blocks the thread, and each further
//! fetch could block another one.
//!
//! # Locks
//!
//! User-provided values (the source's future, its errors and its panic payloads) are polled and
//! dropped outside the locks. Nothing is spawned or aborted under a lock either, because a runtime
//! that has ended drops the task immediately, and the destructor takes the lock.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::core::{Core, Guarded, Snapshot};
use super::state::{Fingerprint, Progress, State};
use super::{Outcome, Refreshed};
use crate::denial::{Renewal, Report};
use crate::source::{ErasedSource, SourceError, SourceErrorReason, discard, fetch};
use crate::sync::lock;

/// The time after its limit at which a fetch is late.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// A source, with the time limit of each fetch.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) source: Arc<dyn ErasedSource>,
    pub(super) limit: Duration,
}

impl Source {
    pub(super) fn error(&self, reason: SourceErrorReason) -> SourceError {
        SourceError::new(self.source.type_name(), reason, None)
    }
}

/// The task that runs fetches.
#[derive(Default)]
pub(super) struct Task {
    abort: OnceLock<AbortHandle>,
    is_polled: AtomicBool,
}

impl Task {
    pub(super) fn is_polled(&self) -> bool {
        self.is_polled.load(Ordering::Acquire)
    }

    pub(super) fn abort(&self) {
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
    }
}

impl Core {
    /// Calls the state, and spawns the fetch that it begins, if any. Returns the state's answer and
    /// whether a fetch began.
    ///
    /// A late fetch is aborted first, unless it is being polled: then its source blocks its thread,
    /// and another fetch could block a second one.
    pub(super) fn ask<A>(
        self: &Arc<Self>,
        runtime: Option<Handle>,
        ask: impl FnOnce(&mut State, Instant) -> A,
    ) -> (A, bool) {
        let mut guarded = lock(&self.guarded);
        let Guarded { state, task } = &mut *guarded;
        let now = Instant::now();
        let late = state.late(now).filter(|_| !task.is_polled());
        let late = late.map(|late| {
            state.lost(late);
            mem::take(task)
        });
        let begun_before = state.begun();
        let answer = ask(state, now);
        let number = state.begun();
        let begun = (number > begun_before).then(Arc::<Task>::default);
        let ended = begun.clone().map(|begun| mem::replace(task, begun));
        drop(guarded);
        if let Some(late) = &late {
            late.abort();
            self.notify.send_replace(());
        }
        let is_begun = begun.is_some();
        if let (Some(task), Some(runtime), Some(source)) = (begun, runtime, &self.source) {
            let store = Arc::downgrade(self);
            let run = Fetching { store, number }.run(source.clone(), Arc::clone(&task));
            drop(task.abort.set(runtime.spawn(run).abort_handle()));
        }
        // These may hold the last reference to a runtime that has ended, and so to its hooks, whose
        // destructors may call the store or panic.
        discard((late, ended));
        (answer, is_begun)
    }

    pub(super) async fn refresh(self: &Arc<Self>) -> Outcome {
        let Some(source) = &self.source else {
            return Ok(Refreshed::Unchanged);
        };
        let no_runtime = || source.error(SourceErrorReason::NoRuntime);
        loop {
            let runtime = runtime().ok_or_else(no_runtime)?;
            let (number, is_begun) = self.ask(Some(runtime), State::call);
            match wait(&Arc::downgrade(self), number, None, None).await {
                Some(outcome) => return outcome,
                None if is_begun => return Err(no_runtime()),
                None => {}
            }
        }
    }

    fn failed(&self, reason: SourceErrorReason) -> Option<Outcome> {
        self.source.as_ref().map(|source| Err(source.error(reason)))
    }

    /// Reports a 401 to a request that carried `sent`.
    ///
    /// Returns whether it is the first one to the credential in force, the fetch to wait for, if
    /// there is one, and whether that fetch began here.
    fn denied(self: &Arc<Self>, sent: Fingerprint) -> (bool, Option<u64>, bool) {
        let runtime = self.source.as_ref().and_then(|_| runtime());
        let can_begin = runtime.is_some();
        let ((is_first, fetch), is_begun) =
            self.ask(runtime, |state, now| state.denied(sent, can_begin, now));
        let fetch = fetch.filter(|_| self.source.is_some());
        (is_first, fetch, is_begun)
    }
}

/// The fetch that a task is running. Dropping it before the fetch ends reports the fetch as lost.
struct Fetching {
    store: Weak<Core>,
    number: u64,
}

impl Fetching {
    async fn run(mut self, source: Source, task: Arc<Task>) {
        loop {
            let mut fetching = pin!(fetch(source.source.as_ref(), source.limit));
            let fetched = poll_fn(|cx| {
                task.is_polled.store(true, Ordering::Release);
                let polled = fetching.as_mut().poll(cx);
                task.is_polled.store(false, Ordering::Release);
                polled
            })
            .await;
            let Some(store) = self.store.upgrade() else {
                return;
            };
            match store.ended(self.number, &fetched, random()) {
                Some(next) => self.number = next,
                None => return,
            }
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.lost(self.number);
        }
    }
}

/// Waits until a fetch ends or the credential in force differs from `sent`, but not beyond
/// `give_up`.
///
/// Returns `None` if the fetch was lost or the store has been dropped. Waiting does not keep the
/// store alive.
pub(super) async fn wait(
    store: &Weak<Core>,
    number: u64,
    sent: Option<Fingerprint>,
    give_up: Option<Instant>,
) -> Option<Outcome> {
    let mut notified = store.upgrade()?.notify.subscribe();
    let mut until: Option<Instant> = None;
    loop {
        notified.borrow_and_update();
        let core = store.upgrade()?;
        let (now, in_force, progress) =
            core.state(|state, now| (now, state.in_force(), state.progress(number, now)));
        let end = match progress {
            _ if sent.is_some_and(|sent| sent != in_force) => return Some(Ok(Refreshed::Rotated)),
            Progress::Ended(outcome) => return Some(outcome),
            _ if until.is_some_and(|until| now >= until) => {
                return core.failed(SourceErrorReason::TimedOut);
            }
            Progress::Lost => return None,
            // A fetch that is owed gets a later deadline once the one before it has ended.
            Progress::InFlight(deadline) => {
                give_up.map_or(deadline, |give_up| give_up.min(deadline))
            }
        };
        until = Some(end);
        drop(core);
        // The next iteration finds out why this returned.
        let change = async { drop(timeout_at(end, notified.changed()).await) };
        if !has_waited(change).await {
            return store.upgrade()?.failed(SourceErrorReason::NoRuntime);
        }
    }
}

/// Waits for a future with a timer. Returns `false` if tokio's timer panics, because there is no
/// runtime any more or it has ended.
async fn has_waited(wait: impl Future) -> bool {
    let mut wait = pin!(wait);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| wait.as_mut().poll(cx).is_ready()));
        match polled {
            Ok(true) => Poll::Ready(true),
            Ok(false) => Poll::Pending,
            Err(_) => Poll::Ready(false),
        }
    })
    .await
}

impl Snapshot {
    /// Reports a 401 to a request that carried this snapshot. Returns whether it is the first one
    /// to the credential in force, and the report, unless the store has been dropped.
    pub(crate) fn report_denied(&self) -> (bool, Option<Arc<dyn Report>>) {
        let Some(store) = self.store.upgrade() else {
            return (false, None);
        };
        let (is_first, fetch, _) = store.denied(self.fingerprint);
        let report = Denied {
            store: Weak::clone(&self.store),
            sent: self.fingerprint,
            fetch,
        };
        (is_first, Some(Arc::new(report)))
    }
}

/// A 401 that was reported, with the fetch that it started or joined, if any.
struct Denied {
    store: Weak<Core>,
    sent: Fingerprint,
    fetch: Option<u64>,
}

impl Report for Denied {
    fn renewal(&self) -> Renewal {
        let Some(store) = self.store.upgrade() else {
            return Renewal::No;
        };
        store.state(|state, now| {
            let progress = self.fetch.map(|fetch| state.progress(fetch, now));
            match progress {
                _ if state.in_force() != self.sent => Renewal::Yes,
                None | Some(Progress::Ended(_)) => Renewal::No,
                Some(Progress::InFlight(..) | Progress::Lost) => Renewal::Pending,
            }
        })
    }

    /// Waits for the fetch. Begins another one only if that fetch was lost or could not be started.
    fn wait(&self, at_most: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        let (store, sent, mut fetch) = (Weak::clone(&self.store), self.sent, self.fetch);
        Box::pin(async move {
            let mut is_begun = false;
            let give_up = Instant::now().checked_add(at_most);
            while let Some(number) = fetch.filter(|_| runtime().is_some()) {
                let outcome = wait(&store, number, Some(sent), give_up).await;
                let Some(store) = store.upgrade().filter(|_| outcome.is_none() && !is_begun) else {
                    return;
                };
                (_, fetch, is_begun) = store.denied(sent);
            }
        })
    }
}

/// Returns the current runtime if its timer is enabled.
///
/// tokio has no query for that, so a panic is caught where the timer is missing.
pub(super) fn runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    let has_timer = catch_unwind(|| drop(sleep(Duration::ZERO))).is_ok();
    has_timer.then_some(runtime)
}

/// Returns a number from 0 to 1 that differs between processes and between calls.
pub(super) fn random() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
#[cfg(not(anyreach_loom))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use tokio::runtime::Builder;

    use super::*;
    use crate::{BoxError, Credential, CredentialStore};

    /// A store whose source hangs once `hangs` is set.
    fn store(hangs: &Arc<AtomicBool>) -> CredentialStore {
        let hangs = Arc::clone(hangs);
        let source = move || {
            let hangs = hangs.load(Ordering::Relaxed);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<_, BoxError>(Credential::parse("ak_k.s")?)
            }
        };
        let runtime = support::runtime::current_thread();
        let loaded = runtime.block_on(CredentialStore::load(source));
        loaded.expect("the source gives a key")
    }

    #[test]
    fn a_wait_for_a_fetch_elsewhere_ends_with_its_own_runtime() {
        let hangs = Arc::default();
        let store = store(&hangs);
        hangs.store(true, Ordering::Relaxed);
        let elsewhere = support::runtime::current_thread();
        let waits = async {
            let refresh = tokio::time::timeout(Duration::from_millis(10), store.refresh());
            assert!(refresh.await.is_err());
        };
        elsewhere.block_on(waits);
        let ended = support::runtime::current_thread().handle().clone();
        let outcome = ended.block_on(store.refresh());
        assert!(outcome.is_err_and(|error| error.reason() == SourceErrorReason::NoRuntime));

        let mut refresh = pin!(store.refresh());
        support::runtime::current_thread().block_on(poll_fn(|cx| {
            assert!(refresh.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        }));
        store.rotate(Credential::parse("ak_k.t").expect("a key"));
        let outcome = support::runtime::without_runtime(refresh);
        assert!(outcome.is_err_and(|error| error.reason() == SourceErrorReason::NoRuntime));
    }

    /// Calls the store and panics when it is dropped, as a value in a runtime's hook may do.
    struct CallsOnDrop(CredentialStore);

    impl Drop for CallsOnDrop {
        fn drop(&mut self) {
            assert_eq!(self.0.status().version(), 1);
            std::panic::resume_unwind(Box::new(()));
        }
    }

    #[test]
    fn the_last_reference_to_a_runtime_is_dropped_after_the_next_fetch_has_begun() {
        let store = store(&Arc::default());
        let hook = CallsOnDrop(store.clone());
        let first = {
            let mut builder = Builder::new_current_thread();
            builder.on_thread_park(move || assert_eq!(hook.0.version(), 1));
            builder.enable_all().build().expect("a runtime")
        };
        assert!(first.block_on(store.refresh()).is_ok());
        drop(first);
        let (sender, refreshed) = mpsc::channel();
        thread::spawn(move || {
            let runtime = support::runtime::current_thread();
            sender.send(runtime.block_on(store.refresh()).is_ok())
        });
        assert_eq!(refreshed.recv_timeout(Duration::from_secs(5)), Ok(true));
    }
}
