//! Fetches, what they bring, and what else happens to the store.

use std::time::Duration;

use super::{Event, Fetch, GRACE, RECOVERY, Right, Runner, World, print};
use crate::source::{SourceError, SourceErrorReason};
use crate::store::models::simulation::plan::{Element, Fault, Hand, Key, ms};

impl World<'_> {
    pub(super) fn begin(&mut self, number: u64, runner: Runner, is_look: bool) {
        self.must(self.fetch.is_none(), "one fetch at a time");
        let fault = self.fault();
        let latency = self.plan.latency;
        let takes = latency - self.random.up_to(latency / 2);
        let (reads, ends) = match fault {
            Some(Fault::Hangs) => (self.plan.limit, self.plan.limit),
            Some(Fault::Blocks) => {
                let late = self.plan.limit + GRACE + self.random.up_to(ms(3_000));
                (late, late)
            }
            Some(Fault::Stalls) => {
                let late = self.random.one_of(&[ms(1_000), ms(60_000)]);
                (self.plan.limit + late, self.plan.limit + late)
            }
            _ => (
                self.random.one_of(&[Duration::ZERO, takes / 2, takes]),
                takes,
            ),
        };
        if is_look {
            self.note_look();
        }
        self.tally.fetches.push(self.now);
        self.fetch = Some(Fetch {
            number,
            runner,
            begun: self.now,
            version: self.state.version(),
            is_look,
            fault,
            read: None,
            look_at: None,
            is_called: false,
        });
        self.after(reads, Event::Read(number));
        self.after(ends, Event::End(number));
    }

    fn note_look(&mut self) {
        self.tally.looks += 1;
        let within =
            |from: Option<&Duration>, time| from.is_some_and(|from| self.now - *from < time);
        let ninth = self
            .looks
            .len()
            .checked_sub(9)
            .and_then(|ninth| self.looks.get(ninth));
        let is_two = within(self.looks.back(), ms(500));
        let is_ten = within(ninth, ms(8_000));
        self.must(!is_two, "no two looks begin within half a second");
        self.must(!is_ten, "no ten looks begin within 8 s");
        self.looks.push_back(self.now);
    }

    fn fault(&mut self) -> Option<Fault> {
        let fault = self.plan.elements.iter().find_map(|element| match element {
            Element::Fault { at, lasts, fault } if (*at..*at + *lasts).contains(&self.now) => {
                Some(*fault)
            }
            _ => None,
        });
        fault.filter(|fault| *fault != Fault::Flaps || self.random.percent(50))
    }

    pub(super) fn source_gives(&mut self, fault: Option<Fault>) -> Option<Key> {
        match fault {
            Some(Fault::Fails | Fault::Flaps | Fault::Hangs) => None,
            Some(Fault::Mints) => Some(self.dead_key()),
            // Of two replicas, one is one delivery behind.
            Some(Fault::Disagrees) if self.random.percent(50) => self.delivered().take(2).last(),
            _ => self.delivered().next(),
        }
    }

    pub(super) fn end(&mut self, number: u64) {
        let (now, version, jitter) = (self.instant(), self.state.version(), self.random.unit());
        let fetch = self.fetch.take_if(|fetch| fetch.number == number);
        let read = fetch.as_ref().and_then(|fetch| fetch.read);
        let failed = || SourceError::new("simulation", SourceErrorReason::Failed, None);
        let ended = self
            .state
            .ended(number, read.map(print).ok_or_else(failed), now, jitter);
        self.must(
            fetch.is_some() == ended.is_some(),
            "only the fetch in flight ends",
        );
        let (Some(fetch), Some(ended)) = (fetch, ended) else {
            return;
        };
        let is_outdated = fetch.version != version;
        if fetch.is_look && !is_outdated {
            self.look_ended = Some(self.now);
        }
        if ended.is_taken {
            self.must(!is_outdated, "what `rotate` put in force meanwhile stays");
            let is_back = read == self.replaced && self.refused.contains(&read.unwrap());
            self.must(
                fetch.is_look || !is_back,
                "polls and calls bring back no barred credential",
            );
            self.publish(read.unwrap(), version, false);
        }
        self.last_begun = fetch.begun;
        let is_look = fetch.look_at == Some(self.state.version());
        let is_due = is_look || fetch.is_called;
        self.must(
            is_due == ended.next.is_some(),
            "what is owed begins at once, and nothing else",
        );
        if let Some(next) = ended.next {
            self.begin(next, fetch.runner, is_look);
        }
        self.fetch_is_over(number);
    }

    fn publish(&mut self, key: Key, version: u64, is_rotated: bool) {
        self.must(self.state.version() == version + 1, "versions only grow");
        if !is_rotated && self.accepts(self.key) && !self.accepts(key) {
            self.tally.displaced += 1;
        }
        if is_rotated {
            self.refused.insert(self.key);
        }
        self.refused.remove(&key);
        self.replaced = Some(std::mem::replace(&mut self.key, key));
        let delivery = self.deliveries.iter().find(|delivery| delivery.1 == key);
        if let Some((at, _)) = delivery.filter(|_| key > self.newest) {
            self.newest = key;
            self.tally.slowest = self.tally.slowest.max(self.now.saturating_sub(*at));
        }
        let now = self.now;
        if let Some(right) = self
            .right
            .as_mut()
            .filter(|right| right.key == key && !right.is_recovered)
        {
            right.is_recovered = true;
            self.calm_from = Some(now);
            // One more rotation without overlap, as soon as the known limits allow.
            let at = now + self.plan.spacing() + self.random.up_to(ms(4_000));
            self.deliver(at, at, now);
        }
    }

    /// A fetch has ended or was lost.
    fn fetch_is_over(&mut self, number: u64) {
        let now = self.now;
        if let Some(right) = &mut self.right {
            if right
                .in_flight
                .take_if(|in_flight| *in_flight == number)
                .is_some()
            {
                right.recover_by = Some(now + RECOVERY);
            }
        }
        self.ring();
    }

    pub(super) fn give_up_late(&mut self) {
        let is_blocking = self
            .fetch
            .as_ref()
            .is_some_and(|fetch| fetch.fault == Some(Fault::Blocks));
        if !is_blocking {
            if let Some(late) = self.state.late(self.instant()) {
                self.lose(late);
            }
        }
    }

    fn lose(&mut self, number: u64) {
        let failures = self.state.failures();
        self.state.lost(number);
        self.must(
            self.state.failures() == failures,
            "a lost fetch is no failure",
        );
        self.losses += 1;
        let fetch = self.fetch.take_if(|fetch| fetch.number == number);
        if fetch.is_some_and(|fetch| fetch.is_look && Some(&fetch.begun) == self.looks.back()) {
            self.looks.pop_back();
        }
        self.fetch_is_over(number);
    }
}

/// What happens to the store from outside.
impl World<'_> {
    pub(super) fn hand(&mut self, hand: Hand) {
        let key = match hand {
            Hand::Newest => self.delivered().next().unwrap_or_default(),
            Hand::Next => self.delivered().next().unwrap_or_default() + 1,
            Hand::Wrong => self.dead_key(),
            Hand::Same { .. } => self.key,
        };
        let (now, version) = (self.instant(), self.state.version());
        let is_changed = self.state.rotate(print(key), now);
        self.must(
            is_changed == (key != self.key),
            "only another credential is a rotation",
        );
        if is_changed {
            self.looks.clear();
            self.look_ended = None;
            self.publish(key, version, true);
            self.ring();
        }
        if let Hand::Same { every } = hand {
            if self.is_sending() {
                let at = self.now + every;
                self.after(every, Event::Happen(Element::Hand { at, hand }));
            }
        }
    }

    /// A look on a runtime whose clock is ahead, as a paused one's is. It ends at once, or never.
    pub(super) fn other_clock(&mut self, ahead: Duration, ends: bool) {
        if self.fetch.is_some() {
            return;
        }
        let (now, version) = (self.instant() + ahead, self.state.version());
        self.refused.insert(self.key);
        let (_, Some(number)) = self.state.denied(print(self.key), true, now) else {
            return;
        };
        if ends {
            self.looks.clear();
            self.look_ended = None;
            let gives = self.delivered().next().unwrap_or_default();
            let ended = self
                .state
                .ended(number, Ok(print(gives)), now, 1.0)
                .unwrap();
            if ended.is_taken {
                self.publish(gives, version, false);
            }
            self.ring();
        }
    }

    pub(super) fn runtime_ends(&mut self) {
        let fetch = self
            .fetch
            .as_ref()
            .filter(|fetch| fetch.runner != Runner::Poller);
        let Some((number, runner)) = fetch.map(|fetch| (fetch.number, fetch.runner)) else {
            return;
        };
        if let Runner::Request(request) = runner {
            self.gone.insert(request);
        }
        self.lose(number);
    }

    pub(super) fn be_right(&mut self) {
        let key = self.deliver(self.now, self.now, self.now);
        let fetch = self.fetch.as_ref();
        let in_flight = fetch.map(|fetch| fetch.number);
        // A fetch that is late gives way, unless it blocks its thread.
        let ends = match fetch {
            Some(fetch) if fetch.fault == Some(Fault::Blocks) => None,
            Some(fetch) => Some(fetch.begun + self.plan.limit + GRACE),
            None => Some(self.now),
        };
        let recover_by = ends.map(|ends| ends.max(self.now) + RECOVERY);
        self.right = Some(Right {
            key,
            in_flight,
            recover_by,
            is_recovered: false,
        });
    }
}
