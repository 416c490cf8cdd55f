//! The stacks, and the inner service that plays all servers.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Mutex;

use http::header::LOCATION;
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use support::runtime::drive;
use tower::{Layer, Service, service_fn};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::{AnyreachAuthLayer, Error, RefusalReason};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::{Limited, Policy, PolicyExt, Standard};

use crate::draw::{Body, Case};

/// The follower around the layer.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    pub(crate) const ALL: [Self; 10] = [
        Self::NoFollower,
        Self::Standard,
        Self::KeepsAll,
        Self::Policy,
        Self::PolicyAndSecondClient,
        Self::StandardAndPolicy,
        Self::StandardOrPolicy,
        Self::PolicyAndStandard,
        Self::PolicyOrStandard,
        Self::DropsExtensions,
    ];

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

    /// Returns how many redirects are followed at most: `RedirectPolicy` follows 10 and `Standard` 20, and under `or` one that
    /// follows is enough.
    pub(crate) fn limit(self) -> usize {
        match self {
            Self::StandardOrPolicy | Self::PolicyOrStandard => 20,
            _ => 10,
        }
    }
}

/// A request that a server received.
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
    pub(crate) fn refusal(&self) -> Option<RefusalReason> {
        let refusal = self.answer.as_ref().err()?.refusal();
        refusal.map(tower_anyreach::Refusal::reason)
    }
}

/// Sends a chain's request through a stack around the layer.
pub(crate) fn send(
    stack: Stack,
    case: &Case,
    layer: &AnyreachAuthLayer,
    request: Request<Body>,
) -> Outcome {
    let arrived = Mutex::new(Vec::new());
    // Plays all servers: gives the answers of the chain in order, and then 200.
    let servers = service_fn(|request: Request<Body>| {
        let mut arrived = arrived.lock().unwrap();
        let mut response = Response::new(String::new());
        if let Some((status, locations)) = case.answers.get(arrived.len()) {
            *response.status_mut() = *status;
            for location in locations {
                response.headers_mut().append(LOCATION, location.clone());
            }
        }
        let (head, body) = request.into_parts();
        let body_len = body.size_hint().exact().unwrap();
        let body_len = usize::try_from(body_len).unwrap();
        arrived.push(Arrived { head, body_len });
        ready(Ok::<_, Infallible>(response))
    });
    let policy = RedirectPolicy::new(layer);
    let answer = if case.clones_bodies {
        let policy = policy.clone_body_with(|body: &Body| Some(body.clone()));
        answer(stack, policy, layer, &servers, case.origin, request)
    } else {
        answer(stack, policy, layer, &servers, case.origin, request)
    };
    let arrived = arrived.into_inner().unwrap();
    Outcome { arrived, answer }
}

fn answer<P, S>(
    stack: Stack,
    policy: P,
    layer: &AnyreachAuthLayer,
    servers: &S,
    origin: &'static str,
    request: Request<Body>,
) -> Result<StatusCode, Error>
where
    P: Policy<Body, Error> + Clone,
    S: Service<Request<Body>, Response = Response<String>, Error = Infallible> + Clone,
{
    let service = layer.layer(servers.clone());
    let standard = Standard::default();
    match stack {
        Stack::NoFollower => respond(service, request),
        Stack::Standard => respond(FollowRedirectLayer::new().layer(service), request),
        Stack::KeepsAll => follow(Limited::new(20), service, request),
        Stack::Policy => follow(policy, service, request),
        Stack::PolicyAndSecondClient => {
            // The layer's client gets the requests to the origin's host, in any case.
            let origin = Uri::from_static(origin);
            let both = service_fn(|request: Request<Body>| {
                let host = request.uri().host().map(|host| host.trim_end_matches('.'));
                let is_other = |host: &str| !host.eq_ignore_ascii_case(origin.host().unwrap());
                ready(if host.is_some_and(is_other) {
                    let Ok(response) = drive(servers.clone().call(request));
                    Ok(response)
                } else {
                    drive(service.clone().call(request))
                })
            });
            follow(policy, both, request)
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
    let follower = FollowRedirectLayer::with_policy(policy);
    respond(follower.layer(service), request)
}

fn respond<S>(mut service: S, request: Request<Body>) -> Result<StatusCode, Error>
where
    S: Service<Request<Body>, Response = Response<String>, Error = Error>,
{
    drive(service.call(request)).map(|response| response.status())
}
