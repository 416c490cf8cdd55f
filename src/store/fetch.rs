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

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::core::{Begun, Core, Snapshot};
use super::state::{Asked, End, Fingerprint, State, Ticket, Verdict};
use super::{Outcome, Refreshed};
use crate::credential::Credential;
use crate::denial::{Renewal, Report};
use crate::events;
use crate::source::{ErasedSource, SourceError, SourceErrorReason, fetch};

/// How long after its limit a fetch is late.
const GRACE: Duration = Duration::from_millis(100);
/// Limits beyond this, 34 years, are cut to it: clocks cannot express all that a `Duration` can.
const LONGEST_LIMIT: Duration = Duration::from_secs(1 << 30);

/// What all clones of a store share.
pub(crate) struct Inner {
    pub(super) core: Core,
    source: Option<Source>,
    polling: OnceLock<AbortHandle>,
}

/// A source, and how long each fetch may take.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) source: Arc<dyn ErasedSource>,
    pub(super) timeout: Duration,
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

impl Inner {
    pub(super) fn new(credential: Credential, source: Option<Source>) -> Arc<Self> {
        let limit = source
            .as_ref()
            .map_or(Duration::ZERO, |source| source.timeout);
        let patience = limit.min(LONGEST_LIMIT) + GRACE;
        Arc::new_cyclic(|store| Self {
            core: Core::new(credential, patience, Weak::clone(store)),
            source,
            polling: OnceLock::new(),
        })
    }

    pub(super) fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    pub(super) fn loaded(&self, failure: Option<SourceError>) {
        self.core.loaded(failure);
    }

    pub(super) fn failures(&self) -> u32 {
        self.core.state(State::failures)
    }

    pub(super) fn ends_with(&self, polling: AbortHandle) {
        drop(self.polling.set(polling));
    }

    pub(super) fn rotate(&self, credential: Credential) -> u64 {
        let (version, change) = self.core.rotate(credential);
        if let Some(change) = change {
            events::rotated(&change.before.credential, &change.after.credential, version);
        }
        version
    }

    pub(super) async fn refresh(self: &Arc<Self>) -> Outcome {
        let Some(source) = &self.source else {
            return Ok(Refreshed::Unchanged);
        };
        let store = Arc::downgrade(self);
        let mut bell = self.core.bell.subscribe();
        loop {
            let Some(runtime) = runtime() else {
                return Err(source.error(SourceErrorReason::NoRuntime));
            };
            let (asked, begun) = self.core.call();
            self.run(begun, &runtime);
            match wait(&store, &mut bell, &asked.ticket, None).await {
                Waited::Ended(outcome) => return outcome,
                Waited::Lost if asked.is_begun => {
                    return Err(source.error(SourceErrorReason::NoRuntime));
                }
                Waited::Lost | Waited::Changed => {}
                Waited::TimedOut => return Err(source.error(SourceErrorReason::TimedOut)),
            }
        }
    }

    /// Begins a fetch because a poll is due, unless one is in flight.
    pub(super) fn poll(self: &Arc<Self>, runtime: &Handle) -> Option<Ticket> {
        let begun = self.core.poll();
        let ticket = begun.as_ref().map(|begun| begun.ticket.clone());
        self.run(begun, runtime);
        ticket
    }

    /// Reports a 401 to a request that carried `sent`, and says whether it is the first one of the version in force.
    fn denied(self: &Arc<Self>, sent: Fingerprint) -> (bool, Verdict) {
        let runtime = self.source.as_ref().and_then(|_| runtime());
        let (answer, begun) = self.core.denied(sent, runtime.is_some());
        if let Some(runtime) = runtime {
            self.run(begun, &runtime);
        }
        answer
    }

    fn run(self: &Arc<Self>, begun: Option<Begun>, runtime: &Handle) {
        let (Some(Begun { ticket, task }), Some(source)) = (begun, &self.source) else {
            return;
        };
        let fetching = Fetching {
            store: Arc::downgrade(self),
            ticket,
        };
        let run = fetching.run(source.clone(), Arc::clone(&task));
        drop(task.abort.set(runtime.spawn(run).abort_handle()));
    }

    fn ended(&self, ticket: &Ticket, fetched: &Result<Credential, SourceError>) -> Option<Ticket> {
        let (ended, change) = self.core.ended(ticket, fetched, random())?;
        drop(ended.error_before);
        let in_force = self.core.snapshot();
        let failures_before = ended.failures_before;
        match &ended.outcome {
            Err(error) => {
                let failures = failures_before.saturating_add(1);
                let (reason, credential) = (error.reason().as_str(), &in_force.credential);
                events::source_failed(reason, error, credential, in_force.version, failures);
            }
            Ok(_) if failures_before > 0 => {
                events::source_recovered(&in_force.credential, in_force.version, failures_before);
            }
            Ok(_) => {}
        }
        if let Some(change) = change {
            let (before, after) = (&change.before.credential, &change.after.credential);
            events::refreshed(before, after, change.after.version);
        }
        ended.next
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(polling) = self.polling.get() {
            polling.abort();
        }
        if let Some(task) = self.core.take_task() {
            task.abort();
        }
    }
}

impl Source {
    pub(super) fn error(&self, reason: SourceErrorReason) -> SourceError {
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

/// The fetch that a task is running. Dropped before its end, it is lost.
struct Fetching {
    store: Weak<Inner>,
    ticket: Ticket,
}

impl Fetching {
    async fn run(mut self, source: Source, task: Arc<Task>) {
        loop {
            let mut fetching = pin!(fetch(source.source.as_ref(), source.timeout));
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
            match store.ended(&self.ticket, &fetched) {
                Some(next) => self.ticket = next,
                None => return,
            }
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.core.lost(&self.ticket);
        }
    }
}

/// How waiting for a fetch ended.
pub(super) enum Waited {
    Ended(Outcome),
    /// It ended without an outcome, or the store is gone.
    Lost,
    TimedOut,
    /// Another credential is in force than the one that was asked about.
    Changed,
}

/// Waits for a fetch, or until what is in force differs from `sent`. It does not keep the store alive.
pub(super) async fn wait(
    store: &Weak<Inner>,
    bell: &mut watch::Receiver<()>,
    ticket: &Ticket,
    sent: Option<Fingerprint>,
) -> Waited {
    let mut awaited: Option<(Ticket, Instant)> = None;
    loop {
        bell.borrow_and_update();
        let Some(inner) = store.upgrade() else {
            return Waited::Lost;
        };
        // In this order: what a fetch brought is in force before its ticket is settled.
        let end = ticket.end();
        if sent.is_some_and(|sent| inner.core.snapshot().fingerprint != sent) {
            return Waited::Changed;
        }
        let now = Instant::now();
        let is_over = |(_, deadline): &(_, Instant)| now >= *deadline;
        match end {
            Some(End::Outcome(outcome)) => return Waited::Ended(outcome),
            // Late, and another caller has begun the next one.
            Some(End::Lost) if awaited.as_ref().is_some_and(is_over) => return Waited::TimedOut,
            Some(End::Lost) => return Waited::Lost,
            None => {}
        }
        // One that is owed waits for the one in flight first; then the time begins anew.
        let in_flight = inner.core.state(|state| state.in_flight(now));
        drop(inner);
        awaited = match (awaited, in_flight) {
            (Some(before), Some(after)) if before.0.is(&after.0) => Some(before),
            (before, after) => after.or(before),
        };
        let Some((_, deadline)) = &awaited else {
            continue;
        };
        match timeout_at(*deadline, bell.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Waited::Lost,
            Err(_elapsed) => return Waited::TimedOut,
        }
    }
}

impl Snapshot {
    /// Reports a 401 to a request that carried this.
    pub(crate) fn report_denied(&self) -> (bool, Option<Arc<dyn Report>>) {
        let Some(store) = self.store.upgrade() else {
            return (false, None);
        };
        let (is_first, verdict) = store.denied(self.fingerprint);
        let fetch = match verdict {
            Verdict::Replay | Verdict::Deny => Reported::Nothing,
            Verdict::Wait(Asked { ticket, .. }) => Reported::Fetch(ticket),
            Verdict::NotBegun if store.source.is_none() => Reported::Nothing,
            Verdict::NotBegun => Reported::NotBegun,
        };
        let report = Denied {
            store: Weak::clone(&self.store),
            sent: self.fingerprint,
            fetch,
        };
        (is_first, Some(Arc::new(report)))
    }
}

/// A 401 as it was reported.
struct Denied {
    store: Weak<Inner>,
    sent: Fingerprint,
    fetch: Reported,
}

/// What a 401 led to.
#[derive(Clone)]
enum Reported {
    Nothing,
    NotBegun,
    Fetch(Ticket),
}

impl Report for Denied {
    fn renewal(&self) -> Renewal {
        let Some(store) = self.store.upgrade() else {
            return Renewal::No;
        };
        // In this order, as in `wait`.
        let is_over = match &self.fetch {
            Reported::Nothing => true,
            Reported::NotBegun => false,
            Reported::Fetch(ticket) => matches!(ticket.end(), Some(End::Outcome(_))),
        };
        if store.core.snapshot().fingerprint != self.sent {
            Renewal::Yes
        } else if is_over {
            Renewal::No
        } else {
            Renewal::Pending
        }
    }

    fn wait(&self, at_most: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (store, sent, fetch) = (Weak::clone(&self.store), self.sent, self.fetch.clone());
        Box::pin(async move {
            if runtime().is_some() {
                drop(timeout(at_most, end_of(store, sent, fetch)).await);
            }
        })
    }
}

/// Waits for the fetch that a 401 led to, and begins one only where there is none because a runtime ended or was missing.
async fn end_of(store: Weak<Inner>, sent: Fingerprint, fetch: Reported) {
    let Some(mut bell) = store.upgrade().map(|store| store.core.bell.subscribe()) else {
        return;
    };
    let mut asked = match fetch {
        Reported::Fetch(ticket) => Some(Asked {
            ticket,
            is_begun: false,
        }),
        Reported::Nothing | Reported::NotBegun => None,
    };
    loop {
        if asked.is_none() {
            asked = match store.upgrade().map(|store| store.denied(sent).1) {
                Some(Verdict::Wait(asked)) => Some(asked),
                _ => return,
            };
        }
        let Some(Asked { ticket, is_begun }) = asked.take() else {
            return;
        };
        match wait(&store, &mut bell, &ticket, Some(sent)).await {
            Waited::Lost if !is_begun => {}
            _ => return,
        }
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
