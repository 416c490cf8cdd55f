//! Requests, as the layer and `RefreshPolicy` handle them.

use std::time::Duration;

use super::{Caller, Event, LONGEST_REST, Request, Runner, World, print};
use crate::store::state::Progress;

impl World<'_> {
    pub(super) fn send_first(&mut self, client: usize) {
        if !self.is_sending() {
            return;
        }
        let gap = self.clients[client].gap;
        let wait = gap - self.random.up_to(gap / 2);
        self.after(wait, Event::Send(client));
        self.numbers += 1;
        self.tally.requests += 1;
        let (id, first_sent) = (self.numbers, self.now);
        self.send(Request {
            id,
            client,
            first_sent,
            sent: self.key,
            is_replay: false,
        });
    }

    fn send(&mut self, request: Request) {
        self.tally.attempts += 1;
        let way = self.random.way(self.clients[request.client].trip);
        self.after(way, Event::Arrive(request));
    }

    pub(super) fn answered(&mut self, request: Request, status: u16) {
        if status != 401 {
            return;
        }
        let client = self.clients[request.client];
        let look = self.denied(request, client.has_runtime);
        if client.replays {
            let body = self.random.up_to(client.body);
            self.after(body, Event::Decide(request, look));
        }
    }

    /// Reports a 401, and holds the answer against what is known of the fetch in flight. Returns
    /// the fetch to wait for.
    fn denied(&mut self, request: Request, can_begin: bool) -> Option<u64> {
        self.give_up_late();
        let (begun, version) = (self.state.begun(), self.state.version());
        self.refused.insert(request.sent);
        let (sent, now) = (print(request.sent), self.instant());
        let (_, look) = self.state.denied(sent, can_begin, now);
        let is_other = request.sent != self.key;
        let Some(look) = look else {
            let ended = self.look_ended;
            let rests = ended.is_some_and(|ended| self.now <= ended + LONGEST_REST);
            let rule = "a 401 is denied at once only within 8 s of a look";
            self.must(is_other || rests, rule);
            return None;
        };
        self.must(!is_other, "a 401 to another credential asks nothing");
        if self.state.begun() > begun {
            self.must(look == begun + 1, "a 401 waits for the look that it begins");
            self.begin(look, Runner::Request(request.id), true);
        } else if let Some(fetch) = &mut self.fetch {
            let is_joined = fetch.number == look;
            let may_join = fetch.is_look && fetch.version == version;
            if !is_joined {
                fetch.look_at = Some(version);
            }
            self.must(is_joined == may_join, "a 401 joins the look of its version");
        }
        Some(look)
    }

    /// As `Denied::renewal`, and then `Denied::wait`.
    pub(super) fn decide(&mut self, request: Request, look: Option<u64>) {
        if self.gone.contains(&request.id) {
            return;
        }
        let progress = look.map(|look| self.state.progress(look, self.instant()));
        let is_over = matches!(progress, None | Some(Progress::Ended(_)));
        match look {
            Some(look) if !is_over && request.sent == self.key => {
                self.wait(Caller::Request(request), look, false, self.now, self.losses);
            }
            _ => self.finish(request),
        }
    }

    /// There is no fetch to wait for, because a runtime ended or was missing. Policies have a
    /// runtime.
    pub(super) fn ask_again(&mut self, request: Request, since: Duration, losses: u32) {
        let begun = self.state.begun();
        match self.denied(request, true) {
            Some(look) => {
                let is_begun = self.state.begun() > begun;
                self.wait(Caller::Request(request), look, is_begun, since, losses);
            }
            None => self.finish(request),
        }
    }

    /// Sends a request again if another credential is in force and it is no replay; otherwise it
    /// ends in its 401.
    pub(super) fn finish(&mut self, request: Request) {
        if request.sent != self.key && !request.is_replay {
            let (sent, is_replay) = (self.key, true);
            self.send(Request {
                sent,
                is_replay,
                ..request
            });
            return;
        }
        self.tally.surfaced += 1;
        let is_calm = self
            .calm_from
            .is_some_and(|from| request.first_sent >= from);
        self.must(!is_calm, "no 401 surfaces while all is calm");
    }
}
