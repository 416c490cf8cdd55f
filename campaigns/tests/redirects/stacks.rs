//! The stacks, and the inner service that plays all servers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use support::runtime::drive;
use tower::{Layer, Service};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer, Error, Refusal};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::{Limited, Policy, PolicyExt, Standard};

use crate::draw::{Body, Case};

/// The follower around the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    NoFollower,
    /// tower-http's own policy.
    Standard,
    /// A policy that keeps every header and extension.
    KeepsAll,
    Policy,
    /// The same, with a second client for other hosts beside the layer, which does not see their answers.
    PolicyAndSecondClient,
    StandardAndPolicy,
    StandardOrPolicy,
    PolicyAndStandard,
    PolicyOrStandard,
    /// tower-http's own policy without extensions: the control.
    DropsExtensions,
}

impl Stack {
    pub(crate) const ALL: [(Self, &str); 10] = [
        (Self::NoFollower, "no follower"),
        (Self::Standard, "FollowRedirectLayer::new()"),
        (Self::KeepsAll, "Limited"),
        (Self::Policy, "RedirectPolicy"),
        (
            Self::PolicyAndSecondClient,
            "RedirectPolicy, a second client for other hosts",
        ),
        (Self::StandardAndPolicy, "Standard.and(RedirectPolicy)"),
        (Self::StandardOrPolicy, "Standard.or(RedirectPolicy)"),
        (Self::PolicyAndStandard, "RedirectPolicy.and(Standard)"),
        (Self::PolicyOrStandard, "RedirectPolicy.or(Standard)"),
        (Self::DropsExtensions, "preserve_extensions(false)"),
    ];

    pub(crate) fn follows(self) -> bool {
        self != Self::NoFollower
    }

    pub(crate) fn has_policy(self) -> bool {
        self.has_policy_last() || matches!(self, Self::PolicyAndStandard | Self::PolicyOrStandard)
    }

    pub(crate) fn has_policy_last(self) -> bool {
        matches!(
            self,
            Self::Policy
                | Self::PolicyAndSecondClient
                | Self::StandardAndPolicy
                | Self::StandardOrPolicy
        )
    }

    pub(crate) fn keeps_extensions(self) -> bool {
        self != Self::DropsExtensions
    }

    /// Returns how many redirects are followed at most: `RedirectPolicy` follows 10 and `Standard` 20, and under `or` one that
    /// follows is enough.
    pub(crate) fn limit(self) -> usize {
        if matches!(self, Self::StandardOrPolicy | Self::PolicyOrStandard) {
            20
        } else {
            10
        }
    }
}

/// A request that a server received.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) head: Parts,
    pub(crate) body_len: usize,
}

/// The result of a chain.
pub(crate) struct Outcome {
    pub(crate) arrived: Vec<Arrived>,
    pub(crate) answer: Result<StatusCode, Error>,
}

impl Outcome {
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.answer.as_ref().err()?.refusal()
    }
}

/// Plays all servers: gives the answers of a chain in order, and then 200.
#[derive(Clone)]
struct Servers<'a> {
    answers: &'a [(StatusCode, Vec<HeaderValue>)],
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Service<Request<Body>> for Servers<'_> {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut arrived = self.arrived.lock().unwrap();
        let mut response = Response::new(String::new());
        if let Some((status, locations)) = self.answers.get(arrived.len()) {
            *response.status_mut() = *status;
            for location in locations {
                response.headers_mut().append(LOCATION, location.clone());
            }
        }
        let (head, body) = request.into_parts();
        let body_len = body.size_hint().exact().unwrap();
        arrived.push(Arrived {
            head,
            body_len: body_len.try_into().unwrap(),
        });
        ready(Ok(response))
    }
}

/// Sends requests to the origin's host, in any case, through the layer, and all others past it.
#[derive(Clone)]
struct SecondClient<'a> {
    ours: AnyreachAuth<Servers<'a>>,
    others: Servers<'a>,
    host: &'static str,
}

impl Service<Request<Body>> for SecondClient<'_> {
    type Response = Response<String>;
    type Error = Error;
    type Future = Ready<Result<Self::Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let host = request.uri().host().map(|host| host.trim_end_matches('.'));
        let is_other = host.is_some_and(|host| !host.eq_ignore_ascii_case(self.host));
        ready(if is_other {
            let Ok(response) = drive(self.others.call(request));
            Ok(response)
        } else {
            drive(self.ours.call(request))
        })
    }
}

/// Sends a chain's request through a stack around the layer.
pub(crate) fn send(
    stack: Stack,
    case: &Case,
    layer: &AnyreachAuthLayer,
    request: Request<Body>,
) -> Outcome {
    let servers = Servers {
        answers: &case.answers,
        arrived: Arc::default(),
    };
    let service = layer.layer(servers.clone());
    let policy = RedirectPolicy::new(layer);
    let answer = if case.clones_bodies {
        let policy = policy.clone_body_with(|body: &Body| Some(body.clone()));
        answer(stack, policy, service, &servers, case, request)
    } else {
        answer(stack, policy, service, &servers, case, request)
    };
    let arrived = std::mem::take(&mut *servers.arrived.lock().unwrap());
    Outcome { arrived, answer }
}

fn answer<P>(
    stack: Stack,
    policy: P,
    service: AnyreachAuth<Servers<'_>>,
    servers: &Servers<'_>,
    case: &Case,
    request: Request<Body>,
) -> Result<StatusCode, Error>
where
    P: Policy<Body, Error> + Clone,
{
    let standard = Standard::default();
    match stack {
        Stack::NoFollower => respond(service, request),
        Stack::Standard => respond(FollowRedirectLayer::new().layer(service), request),
        Stack::KeepsAll => follow(Limited::new(20), service, request),
        Stack::Policy => follow(policy, service, request),
        Stack::PolicyAndSecondClient => {
            let service = SecondClient {
                ours: service,
                others: servers.clone(),
                host: case.target().host,
            };
            follow(policy, service, request)
        }
        Stack::StandardAndPolicy => {
            follow(standard.and::<_, Body, Error>(policy), service, request)
        }
        Stack::StandardOrPolicy => follow(standard.or::<_, Body, Error>(policy), service, request),
        Stack::PolicyAndStandard => {
            follow(policy.and::<_, Body, Error>(standard), service, request)
        }
        Stack::PolicyOrStandard => follow(policy.or::<_, Body, Error>(standard), service, request),
        Stack::DropsExtensions => {
            let layer = FollowRedirectLayer::new().preserve_extensions(false);
            respond(layer.layer(service), request)
        }
    }
}

fn follow<P, S>(policy: P, service: S, request: Request<Body>) -> Result<StatusCode, Error>
where
    P: Policy<Body, Error> + Clone,
    S: Service<Request<Body>, Response = Response<String>, Error = Error> + Clone,
{
    respond(
        FollowRedirectLayer::with_policy(policy).layer(service),
        request,
    )
}

fn respond<S>(mut service: S, request: Request<Body>) -> Result<StatusCode, Error>
where
    S: Service<Request<Body>, Response = Response<String>, Error = Error>,
{
    drive(service.call(request)).map(|response| response.status())
}
