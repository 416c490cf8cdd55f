//! Chains of up to six redirects, with the layer inside of tower-http's `FollowRedirect` and outside of it.

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use tower::{Layer, Service};
use tower_anyreach::tower_http::KeepCredentialsAtOrigin;
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, Credential, Error, ForeignRequests, Origin};
use tower_http::follow_redirect::policy::{And, Limited, PolicyExt};
use tower_http::follow_redirect::{FollowRedirect, FollowRedirectLayer};

use crate::direct::{FOREIGN, credentials};
use crate::ingredients::{Target, request};
use crate::plan::{Digits, Plan};
use crate::wire::{Wire, drive};
use campaigns::judge::{Carried, Judge, carried};
use campaigns::random::Random;
use campaigns::tally::Tally;

const SHARE_OF_LOCATIONS: u64 = 8_000;
const SHARE_OF_DRAWN: u64 = 12_000;
/// The longest chain.
const HOPS: usize = 6;
/// How many chains are drawn in full.
const DRAWN: u64 = 2_000_000;

const STATUSES: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];

/// Where a chain may turn next; `Location`s, as far as a header can hold them.
fn letters(target: &Target) -> [String; 8] {
    let (scheme, authority) = target.origin.split_once("://").unwrap();
    let (host, _) = authority.split_once(':').unwrap_or((authority, ""));
    [
        format!("{}/core", target.origin),
        "/core/agents/".to_owned(),
        format!("//{authority}/core"),
        "https://evil.example/".to_owned(),
        format!("http://{authority}/core/"),
        format!("{scheme}://{host}:8444/"),
        format!("{scheme}://user@{authority}/"),
        format!("{scheme}://{host}.evil.example/"),
    ]
}

/// `Location`s that are no absolute URIs, or not quite.
const REFERENCES: [&str; 24] = [
    "",
    "/",
    "?page=2",
    "#fragment",
    "core",
    "../..",
    ".",
    "//evil.example/",
    "//evil.example\\@api.anyreach.ai/",
    "///evil.example/",
    "\\\\evil.example/",
    "/\\evil.example/",
    "\\/evil.example/",
    "https:evil.example/",
    "https:/evil.example/",
    "https:///evil.example/",
    "https:\\\\evil.example/",
    "http:core",
    "https:core",
    "HTTPS://EVIL.EXAMPLE/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "/\tcore",
    "//api.anyreach.ai@evil.example/",
];

/// Where the layer stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    /// Inside of `FollowRedirect`: each hop is judged anew.
    Inside,
    /// The same with `per_request`, and the credential in an extension of the request.
    Gateway,
    /// Outside of it, with our policy.
    Outside,
}

type Inside = FollowRedirect<AnyreachAuth<Wire>>;
type Outside = AnyreachAuth<FollowRedirect<Wire, And<Limited, KeepCredentialsAtOrigin>>>;

enum Client {
    Inside(Inside),
    Outside(Outside),
}

struct Stack {
    order: Order,
    foreign: ForeignRequests,
    credential: Credential,
    client: Client,
    wire: Wire,
}

impl Stack {
    fn call(&mut self, method: &Method, uri: &Uri, hosts: &[HeaderValue]) -> Result<(), Error> {
        let mut request = request(method, uri, hosts);
        if self.order == Order::Gateway {
            request.extensions_mut().insert(self.credential.clone());
        }
        match &mut self.client {
            Client::Inside(client) => drive(client.call(request)).map(drop),
            Client::Outside(client) => drive(client.call(request)).map(drop),
        }
    }
}

fn stacks(target: &Target) -> Vec<Stack> {
    let origin: Origin = target.origin.parse().unwrap();
    let mut stacks = Vec::new();
    for credential in credentials() {
        for order in [Order::Inside, Order::Gateway, Order::Outside] {
            for foreign in FOREIGN {
                let layer = match order {
                    Order::Gateway => AnyreachAuthLayer::per_request(),
                    Order::Inside | Order::Outside => AnyreachAuthLayer::new(credential.clone()),
                }
                .origin(origin.clone())
                .foreign_requests(foreign);
                let wire = Wire::default();
                let client = match order {
                    Order::Inside | Order::Gateway => {
                        Client::Inside(FollowRedirectLayer::new().layer(layer.layer(wire.clone())))
                    }
                    Order::Outside => {
                        let policy = KeepCredentialsAtOrigin::new(origin.clone());
                        let policy = Limited::new(2 * HOPS).and::<_, String, Error>(policy);
                        let redirects = FollowRedirectLayer::with_policy(policy);
                        Client::Outside(layer.layer(redirects.layer(wire.clone())))
                    }
                };
                stacks.push(Stack {
                    order,
                    foreign,
                    credential: credential.clone(),
                    client,
                    wire,
                });
            }
        }
    }
    stacks
}

/// Each URI of the matrix and each reference as the one `Location`, with every status.
pub(crate) fn every_location(target: &Target, plan: &Plan) -> Tally {
    let mut run = Run::new(target);
    let locations = target.uris() + REFERENCES.len() as u64;
    let each = (run.stacks.len() * STATUSES.len()) as u64;
    for index in plan.indices(locations * each, SHARE_OF_LOCATIONS) {
        let mut digits = Digits(index);
        let stack = digits.below(run.stacks.len());
        let status = *digits.pick(&STATUSES);
        let location = location(target, digits.0);
        run.chain(stack, &Method::GET, &[], &[(status, location)]);
    }
    run.tally
}

/// Chains of anything, with any status, from any request that is ours.
pub(crate) fn drawn(target: &Target, plan: &Plan) -> Tally {
    let letters = letters(target);
    let mut run = Run::new(target);
    let hosts: Vec<Vec<HeaderValue>> = target.host_headers[..3]
        .iter()
        .map(|(lines, _)| lines.iter().map(|line| line.parse().unwrap()).collect())
        .collect();
    for index in plan.indices(DRAWN, SHARE_OF_DRAWN) {
        let mut draw = Random(plan.seed ^ (index << 20));
        let stack = Digits(draw.next()).below(run.stacks.len());
        let method = draw.pick(&[Method::GET, Method::POST, Method::PUT, Method::HEAD]);
        let host = draw.pick(&hosts);
        let chain: Vec<_> = (0..=draw.next() % HOPS as u64)
            .map(|_| {
                // Letters, among which is the way home, keep a chain from ending at once.
                let to = match draw.next() % 3 {
                    0 => location(target, draw.next() % target.uris()),
                    1 => draw.pick(&REFERENCES).to_owned(),
                    _ => draw.pick(&letters),
                };
                (draw.pick(&STATUSES), to)
            })
            .collect();
        run.chain(stack, &method, &host, &chain);
    }
    run.tally
}

/// One of all `Location`s.
pub(crate) fn location(target: &Target, index: u64) -> String {
    match index.checked_sub(target.uris()) {
        None => target.uri(index).0,
        Some(index) => (*Digits(index).pick(&REFERENCES)).to_owned(),
    }
}

struct Run {
    home: Uri,
    judge: Judge,
    stacks: Vec<Stack>,
    tally: Tally,
}

impl Run {
    fn new(target: &Target) -> Self {
        Self {
            home: target.home.parse().unwrap(),
            judge: Judge::new(target.origin),
            stacks: stacks(target),
            tally: Tally::default(),
        }
    }

    /// Begins at the origin and follows the chain.
    fn chain(
        &mut self,
        stack: usize,
        method: &Method,
        hosts: &[HeaderValue],
        chain: &[(StatusCode, String)],
    ) {
        let mut script = Vec::with_capacity(chain.len());
        for (status, location) in chain {
            let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) else {
                self.tally.add("unbuildable", 1);
                return;
            };
            script.push((*status, location));
        }
        self.tally.add("cases", 1);
        let stack = &mut self.stacks[stack];
        stack.wire.redirect(script);
        let outcome = stack.call(method, &self.home, hosts);
        let arrived = stack.wire.take();

        let tally = &mut self.tally;
        tally.add("redirect hops", (arrived.len() as u64).saturating_sub(1));
        let mut has_left = false;
        let mut is_sound = !arrived.is_empty();
        for head in &arrived {
            is_sound &= is_sound_hop(&self.judge, stack.order, head, &mut has_left, tally);
        }
        if let Err(error) = &outcome {
            tally.add("refused", 1);
            is_sound &= match error {
                Error::UntrustedDestination(_) => stack.order != Order::Outside,
                // The redirect layer has dropped the credential on the way.
                Error::MissingCredential => stack.order == Order::Gateway,
                _ => false,
            };
        }
        if !is_sound {
            tally.violation(|| {
                let sent: Vec<_> = arrived
                    .iter()
                    .map(|head| (head.uri.to_string(), carried(&head.headers)))
                    .collect();
                format!(
                    "{:?}, {:?}, {method} {chain:?}: {outcome:?} {sent:?}",
                    stack.order, stack.foreign
                )
            });
        }
    }
}

/// A credential, if and only if it may be and has not been taken away before.
fn is_sound_hop(
    judge: &Judge,
    order: Order,
    head: &Parts,
    has_left: &mut bool,
    tally: &mut Tally,
) -> bool {
    let is_ours = judge.is_ours(head);
    *has_left |= !is_ours;
    match carried(&head.headers) {
        Carried::Ours => {
            tally.add("attached", 1);
            is_ours && (order == Order::Inside || !*has_left)
        }
        Carried::Nothing => {
            tally.add("forwarded", 1);
            match order {
                // Every hop is a request of its own: to us with a credential, or not at all.
                Order::Inside | Order::Gateway => !is_ours && !judge.leads_to_our_host(&head.uri),
                Order::Outside => *has_left,
            }
        }
        Carried::Unsound => false,
    }
}
