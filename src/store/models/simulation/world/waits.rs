//! Waits, as in `fetch::wait`, and the callers that wait: policies, callers of `refresh()`, and
//! pollers.

use std::time::Duration;

use super::{Caller, Event, GRACE, Poller, Runner, Waited, Waiter, World};
use crate::denial::MAX_WAIT;
use crate::store::loader::pause;
use crate::store::state::Progress;

impl World<'_> {
    pub(super) fn wait(
        &mut self,
        caller: Caller,
        fetch: u64,
        is_begun: bool,
        since: Duration,
        losses: u32,
    ) {
        self.numbers += 1;
        let waiter = Waiter {
            caller,
            fetch,
            is_begun,
            since,
            losses_before: losses,
            until: None,
        };
        let id = self.numbers;
        if matches!(waiter.caller, Caller::Request(_)) {
            self.after(MAX_WAIT.saturating_sub(self.now - since), Event::Timer(id));
        }
        self.waiters.insert(id, waiter);
        self.check(id);
    }

    pub(super) fn ring(&mut self) {
        let waiters: Vec<u64> = self.waiters.keys().copied().collect();
        for waiter in waiters {
            self.check(waiter);
        }
    }

    pub(super) fn check(&mut self, id: u64) {
        let Some(mut waiter) = self.waiters.remove(&id) else {
            return;
        };
        let before = waiter.until;
        let Some(end) = self.end_of(&mut waiter) else {
            if let Some(until) = waiter.until.filter(|until| before != Some(*until)) {
                self.after(until - self.now, Event::Timer(id));
            }
            self.waiters.insert(id, waiter);
            return;
        };
        let lasted = self.now - waiter.since;
        let losses = self.losses - waiter.losses_before;
        let bound = match waiter.caller {
            Caller::Request(_) => MAX_WAIT,
            Caller::Refresh | Caller::Poller(_) => (self.plan.limit + GRACE) * 2 * (1 + losses),
        };
        self.must(lasted <= bound, "no wait is above its bound");
        self.wait_is_over(&waiter, &end);
    }

    fn end_of(&self, waiter: &mut Waiter) -> Option<Waited> {
        let is_cut = match &waiter.caller {
            Caller::Request(request) => {
                request.sent != self.key || self.now >= waiter.since + MAX_WAIT
            }
            Caller::Refresh | Caller::Poller(_) => false,
        };
        let is_late = |waiter: &Waiter| waiter.until.is_some_and(|until| self.now >= until);
        match self.state.progress(waiter.fetch, self.instant()) {
            _ if is_cut => return Some(Waited::Over),
            Progress::Ended(_) => return Some(Waited::Ended),
            _ if is_late(waiter) => return Some(Waited::Over),
            Progress::Lost => return Some(Waited::Lost),
            Progress::InFlight(until) => waiter.until = Some(until - self.start),
        }
        is_late(waiter).then_some(Waited::Over)
    }

    fn wait_is_over(&mut self, waiter: &Waiter, end: &Waited) {
        let Waiter {
            since,
            losses_before,
            is_begun,
            ..
        } = *waiter;
        let asks_again = matches!(end, Waited::Lost) && !is_begun;
        match waiter.caller {
            Caller::Request(request) if self.gone.contains(&request.id) => {}
            Caller::Request(request) if asks_again => self.ask_again(request, since, losses_before),
            Caller::Request(request) => self.finish(request),
            Caller::Refresh if asks_again => self.call(since, losses_before),
            Caller::Refresh => {
                let is_news = !matches!(end, Waited::Ended) || self.last_begun >= since;
                self.must(
                    is_news,
                    "`refresh()` is answered by a fetch that began after the call",
                );
            }
            Caller::Poller(poller) => self.poll_later(poller),
        }
    }

    pub(super) fn call(&mut self, since: Duration, losses: u32) {
        self.give_up_late();
        let begun = self.state.begun();
        let number = self.state.call(self.instant());
        let is_begun = self.state.begun() > begun;
        self.must(
            number == begun + 1,
            "`refresh()` is answered by the next fetch",
        );
        if is_begun {
            self.begin(number, Runner::Caller, false);
        } else if let Some(fetch) = &mut self.fetch {
            fetch.is_called = true;
        }
        self.wait(Caller::Refresh, number, is_begun, since, losses);
    }

    pub(super) fn poll(&mut self, poller: Poller) {
        self.give_up_late();
        let is_idle = self.fetch.is_none();
        let fetch = self.state.poll(self.instant());
        self.must(
            is_idle == fetch.is_some(),
            "a poll asks whenever no fetch is in flight",
        );
        match fetch {
            Some(number) => {
                self.begin(number, Runner::Poller, false);
                self.wait(Caller::Poller(poller), number, true, self.now, self.losses);
            }
            None => self.poll_later(poller),
        }
    }

    /// As `loader::poll`.
    pub(super) fn poll_later(&mut self, poller: Poller) {
        if !self.is_sending() {
            return;
        }
        let (interval, failures) = (poller.interval, self.state.failures());
        let wait = pause(interval, failures, poller.is_spread, self.random.unit());
        let is_spread = failures > 0;
        self.after(
            wait,
            Event::Poll(Poller {
                interval,
                is_spread,
            }),
        );
    }
}
