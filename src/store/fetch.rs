//! Where a fetch runs, and how callers wait for it.
//!
//! A fetch is a task on the runtime of the caller who begins it. The same task runs what is owed after it. Cancelling a caller
//! therefore cancels nothing, and callers on any runtime wait for the same task. When its runtime ends, tokio drops the task:
//! [`Fetching`] then tells the state that the fetch is lost, and each caller that still waits asks again, on its own runtime.
//! A caller whose own task was lost gets `NoRuntime` instead, because nothing can run there any more.
//!
//! No wait for one fetch is longer than its limit and [`GRACE`]. A fetch that is late by then gives way to the next caller's,
//! except while it is being polled: a source that blocks its thread would block another one with each attempt.
//!
//! Everything foreign (the source's future, its errors and panics) is polled and dropped outside of locks. Nothing is spawned or
//! aborted under a lock either, because a runtime that has ended drops the task right there.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::core::{Core, Guarded, Snapshot};
use super::state::{Fingerprint, Progress, State};
use super::{Outcome, Refreshed};
use crate::denial::{Renewal, Report};
use crate::source::{ErasedSource, SourceError, SourceErrorReason, fetch};
use crate::sync::lock;

/// How long after its limit a fetch is late.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// A source, and how long each fetch may take.
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

/// A task that runs fetches.
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
    /// Asks the state for a fetch, and runs the one that begins with that on this runtime. Says whether one does.
    ///
    /// A fetch that is late gives way first, unless it is being polled: then it blocks its thread, and another one would block one
    /// more.
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
            std::mem::take(task)
        });
        let begun_before = state.begun();
        let answer = ask(state, now);
        let number = state.begun();
        let begun = (number > begun_before).then(Arc::<Task>::default);
        if let Some(begun) = &begun {
            *task = Arc::clone(begun);
        }
        drop(guarded);
        if let Some(late) = late {
            late.abort();
            self.bell.send_replace(());
        }
        let is_begun = begun.is_some();
        if let (Some(task), Some(runtime), Some(source)) = (begun, runtime, &self.source) {
            let store = Arc::downgrade(self);
            let run = Fetching { store, number }.run(source.clone(), Arc::clone(&task));
            drop(task.abort.set(runtime.spawn(run).abort_handle()));
        }
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

    /// Reports a 401 to a request that carried `sent`. Returns whether it is the first one to the credential in force; the fetch to
    /// wait for, if there is one; and whether that began here.
    fn denied(self: &Arc<Self>, sent: Fingerprint) -> (bool, Option<u64>, bool) {
        let runtime = self.source.as_ref().and_then(|_| runtime());
        let can_begin = runtime.is_some();
        let ((is_first, fetch), is_begun) =
            self.ask(runtime, |state, now| state.denied(sent, can_begin, now));
        let fetch = fetch.filter(|_| self.source.is_some());
        (is_first, fetch, is_begun)
    }
}

/// The fetch that a task is running. Dropped before its end, it is lost.
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

/// Waits for a fetch to end, or until what is in force differs from `sent`, but not beyond `give_up`. `None`: it was lost, or the
/// store is gone, which waiting does not keep alive.
pub(super) async fn wait(
    store: &Weak<Core>,
    number: u64,
    sent: Option<Fingerprint>,
    give_up: Option<Instant>,
) -> Option<Outcome> {
    let mut bell = store.upgrade()?.bell.subscribe();
    let mut until: Option<Instant> = None;
    loop {
        bell.borrow_and_update();
        let store = store.upgrade()?;
        let (now, in_force, progress) =
            store.state(|state, now| (now, state.in_force(), state.progress(number, now)));
        let end = match progress {
            _ if sent.is_some_and(|sent| sent != in_force) => return Some(Ok(Refreshed::Rotated)),
            Progress::Ended(outcome) => return Some(outcome),
            _ if until.is_some_and(|until| now >= until) => {
                let source = store.source.as_ref()?;
                return Some(Err(source.error(SourceErrorReason::TimedOut)));
            }
            Progress::Lost => return None,
            // For one that is owed, this is later once the one before it has ended.
            Progress::InFlight(deadline) => {
                give_up.map_or(deadline, |give_up| give_up.min(deadline))
            }
        };
        until = Some(end);
        drop(store);
        // Why this returns is seen above.
        drop(timeout_at(end, bell.changed()).await);
    }
}

impl Snapshot {
    /// Reports a 401 to a request that carried this.
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

/// A 401 as it was reported, with the fetch that it led to, if any.
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

    /// Begins a fetch only where there is none because a runtime ended or was missing.
    fn wait(&self, at_most: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
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

/// The runtime of the caller, if its timer is enabled. Only a panic tells, so where the timer is missing one is caught.
pub(super) fn runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    let has_timer = catch_unwind(|| drop(sleep(Duration::ZERO))).is_ok();
    has_timer.then_some(runtime)
}

/// A number from 0 to 1 that differs from process to process and from call to call.
pub(super) fn random() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}
