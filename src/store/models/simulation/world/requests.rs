//! Requests, as the layer and `RefreshPolicy` handle them.

use std::time::Duration;

use super::{Event, LONGEST_REST, Reported, Request, Runner, Who, World, print};
use crate::store::state::{Asked, End, Verdict};

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
        let reported = self.denied(request, client.has_runtime);
        if client.replays {
            let body = self.random.up_to(client.body);
            self.after(body, Event::Decide(request, reported));
        }
    }

    /// Reports a 401, and holds the verdict against what is known of the fetch in flight.
    fn denied(&mut self, request: Request, can_begin: bool) -> Reported {
        self.give_up_late();
        let (sent, now) = (print(request.sent), self.instant());
        self.refused.insert(request.sent);
        let verdict = self.state.denied(sent, can_begin, now);
        let version = self.state.version();
        let replays = matches!(verdict, Verdict::Replay);
        let is_other = request.sent != self.key;
        self.must(is_other == replays, "another credential means a replay");
        match verdict {
            Verdict::Replay => Reported::Nothing,
            Verdict::Deny => {
                let ended = self.look_ended;
                let rests = ended.is_some_and(|ended| self.now <= ended + LONGEST_REST);
                self.must(rests, "a 401 is denied at once only within 8 s of a look");
                Reported::Nothing
            }
            Verdict::NotBegun => Reported::NotBegun,
            Verdict::Wait(Asked {
                ticket,
                is_begun: true,
            }) => {
                self.begin(ticket.clone(), Runner::Request(request.id), true);
                Reported::Fetch(ticket)
            }
            Verdict::Wait(Asked { ticket, .. }) => {
                if let Some(fetch) = &mut self.fetch {
                    let is_joined = fetch.ticket.is(&ticket);
                    let may_join = fetch.is_look && fetch.version == version;
                    if !is_joined {
                        fetch.look_at = Some(version);
                    }
                    self.must(is_joined == may_join, "a 401 joins the look of its version");
                }
                Reported::Fetch(ticket)
            }
        }
    }

    /// As `Denied::renewal`, and then `Denied::wait`.
    pub(super) fn decide(&mut self, request: Request, reported: Reported) {
        if self.gone.contains(&request.id) {
            return;
        }
        let is_over = match &reported {
            Reported::Nothing => true,
            Reported::NotBegun => false,
            Reported::Fetch(ticket) => matches!(ticket.end(), Some(End::Outcome(_))),
        };
        if is_over || request.sent != self.key {
            self.finish(request);
            return;
        }
        let (since, losses) = (self.now, self.losses);
        match reported {
            Reported::Fetch(ticket) => {
                self.wait(Who::Request(request), ticket, false, since, losses);
            }
            Reported::Nothing | Reported::NotBegun => self.ask_again(request, since, losses),
        }
    }

    /// There is no fetch to wait for, because a runtime ended or was missing. Policies have a runtime.
    pub(super) fn ask_again(&mut self, request: Request, since: Duration, losses: u32) {
        match self.denied(request, true) {
            Reported::Fetch(ticket) => {
                let is_begun = self.fetch.as_ref().is_some_and(|fetch| {
                    fetch.ticket.is(&ticket) && fetch.runner == Runner::Request(request.id)
                });
                self.wait(Who::Request(request), ticket, is_begun, since, losses);
            }
            Reported::Nothing | Reported::NotBegun => self.finish(request),
        }
    }

    /// Sends a request again if another credential is in force and it is no replay; otherwise it ends in its 401.
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
