//! Redirects that tower-http's `FollowRedirect` follows outside of the layer: what each hop carries.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::header::LOCATION;
use http::{HeaderMap, Request, Response, StatusCode};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, Credential, DestinationReason, Error, ForeignRequests,
    OrganizationId,
};
use tower_http::follow_redirect::FollowRedirectLayer;

use support::{KEY, TOKEN, credential, get, layer, token_for};

/// One hop as it arrived below the layer: where it went, and the two headers.
type Hop = (String, Option<String>, Option<String>);

/// A server, or many, that redirect along a chain and write down what reaches them.
#[derive(Clone)]
struct Chain {
    places: Arc<[&'static str]>,
    hops: Arc<Mutex<Vec<Hop>>>,
}

impl Chain {
    fn new(places: &[&'static str]) -> Self {
        Self {
            places: places.into(),
            hops: Arc::default(),
        }
    }

    fn taken(&self) -> Vec<Hop> {
        self.hops.lock().unwrap().clone()
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    assert!(headers.get_all(name).iter().count() <= 1, "{name} twice");
    headers
        .get(name)
        .map(|value| value.to_str().unwrap().to_owned())
}

impl Service<Request<String>> for Chain {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let mut hops = self.hops.lock().unwrap();
        let headers = request.headers();
        hops.push((
            request.uri().to_string(),
            text_of(headers, "authorization"),
            text_of(headers, "x-anyreach-org"),
        ));
        let mut response = Response::new(String::new());
        if let Some(next) = self.places.get(hops.len()) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response
                .headers_mut()
                .insert(LOCATION, next.parse().unwrap());
        }
        ready(Ok(response))
    }
}

const OURS: &str = "https://api.anyreach.ai/a";
const OURS_TOO: &str = "https://api.anyreach.ai/b";
const OTHER_HOST: &str = "https://other.example/";
const OTHER_PORT: &str = "https://api.anyreach.ai:8443/";
const PLAIN_HTTP: &str = "http://api.anyreach.ai/";
const PLACES: [&str; 5] = [OURS, OURS_TOO, OTHER_HOST, OTHER_PORT, PLAIN_HTTP];

/// All chains that start at the origin and make up to four hops.
fn chains() -> Vec<Vec<&'static str>> {
    let mut all = vec![vec![OURS]];
    let mut from = 0;
    for _ in 0..4 {
        let to = all.len();
        for at in from..to {
            for place in PLACES {
                let mut longer = all[at].clone();
                longer.push(place);
                all.push(longer);
            }
        }
        from = to;
    }
    all
}

/// What the rules say about a place, told from the list above and not by looking at the URI.
fn reason_to_refuse(place: &str, foreign_requests: ForeignRequests) -> Option<DestinationReason> {
    match place {
        OTHER_HOST if foreign_requests == ForeignRequests::Reject => {
            Some(DestinationReason::Foreign)
        }
        OTHER_PORT => Some(DestinationReason::Authority),
        PLAIN_HTTP => Some(DestinationReason::Scheme),
        _ => None,
    }
}

const FOREIGN_REQUESTS: [ForeignRequests; 2] = [
    ForeignRequests::Reject,
    ForeignRequests::ForwardWithoutCredentials,
];

#[tokio::test]
async fn no_hop_of_a_redirect_takes_credentials_away_from_the_origin() {
    let credentials = [
        (credential(KEY), Some(format!("Bearer {KEY}")), None),
        (
            token_for("org_4711"),
            Some(format!("Bearer {TOKEN}")),
            Some("org_4711".to_owned()),
        ),
    ];
    let chains = chains();
    assert_eq!(chains.len(), 1 + 5 + 25 + 125 + 625);
    for places in &chains {
        for foreign_requests in FOREIGN_REQUESTS {
            for (credential, authorization, organization) in &credentials {
                let chain = Chain::new(places);
                let outcome = ServiceBuilder::new()
                    .layer(FollowRedirectLayer::new())
                    .layer(
                        AnyreachAuthLayer::new(credential.clone())
                            .foreign_requests(foreign_requests),
                    )
                    .service(chain.clone())
                    .oneshot(get(places[0]))
                    .await;

                let refused = places
                    .iter()
                    .find_map(|place| reason_to_refuse(place, foreign_requests));
                let reached = places
                    .iter()
                    .take_while(|place| reason_to_refuse(place, foreign_requests).is_none());
                let expected: Vec<Hop> = reached
                    .map(|place| match *place {
                        OURS | OURS_TOO => (
                            (*place).to_owned(),
                            authorization.clone(),
                            organization.clone(),
                        ),
                        _ => ((*place).to_owned(), None, None),
                    })
                    .collect();
                assert_eq!(chain.taken(), expected, "{places:?}");
                match (refused, outcome) {
                    (None, Ok(response)) => assert_eq!(response.status(), 200),
                    (Some(reason), Err(Error::UntrustedDestination(to))) => {
                        assert_eq!(to.reason(), reason, "{places:?}");
                    }
                    (refused, outcome) => panic!("{places:?}: {refused:?} {outcome:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_tenants_chain_never_carries_another_tenants_key() {
    let tenants = [
        ("ak_one.c2VjcmV0LW9uZQ", None),
        ("ak_two.c2VjcmV0LXR3bw", None),
        ("pat_c2VjcmV0LXRocmVl", Some("org_three")),
    ];
    let mut came_back = 0;
    for places in &chains() {
        for foreign_requests in FOREIGN_REQUESTS {
            let gateway = AnyreachAuthLayer::per_request().foreign_requests(foreign_requests);
            for (key, organization) in tenants {
                let chain = Chain::new(places);
                let mut request = get(places[0]);
                request
                    .extensions_mut()
                    .insert(Credential::parse(key).unwrap());
                if let Some(organization) = organization {
                    request
                        .extensions_mut()
                        .insert(OrganizationId::try_from(organization).unwrap());
                }
                let outcome = ServiceBuilder::new()
                    .layer(FollowRedirectLayer::new())
                    .layer(gateway.clone())
                    .service(chain.clone())
                    .oneshot(request)
                    .await;

                for (at, hop) in chain.taken().iter().enumerate() {
                    let expected = match places[at] {
                        OURS | OURS_TOO => (
                            Some(format!("Bearer {key}")),
                            organization.map(ToOwned::to_owned),
                        ),
                        _ => (None, None),
                    };
                    assert_eq!(
                        hop,
                        &(places[at].to_owned(), expected.0, expected.1),
                        "{places:?}"
                    );
                }
                // Who has left has lost the tenant, and is refused on coming back.
                let left = places.iter().position(|place| *place == OTHER_HOST);
                let back = left.and_then(|left| {
                    let after = &places[left..];
                    after
                        .iter()
                        .position(|place| *place != OTHER_HOST)
                        .map(|at| left + at)
                });
                if let (ForeignRequests::ForwardWithoutCredentials, Some(back)) =
                    (foreign_requests, back)
                    && [OURS, OURS_TOO].contains(&places[back])
                    && places[..back]
                        .iter()
                        .all(|place| reason_to_refuse(place, foreign_requests).is_none())
                {
                    came_back += 1;
                    assert!(
                        matches!(outcome, Err(Error::MissingCredential)),
                        "{places:?}: {outcome:?}"
                    );
                    assert_eq!(chain.taken().len(), back);
                }
            }
        }
    }
    assert!(came_back > 100, "{came_back}");
}

#[tokio::test]
async fn an_anonymous_chain_carries_nothing_anywhere() {
    for places in [
        [OURS, OURS_TOO].as_slice(),
        &[OTHER_HOST, OTHER_HOST],
        &[PLAIN_HTTP, PLAIN_HTTP],
    ] {
        let chain = Chain::new(places);
        let mut request = get(places[0]);
        request.extensions_mut().insert(Anonymous);
        let service = ServiceBuilder::new()
            .layer(FollowRedirectLayer::new())
            .layer(layer())
            .service(chain.clone());
        assert!(service.oneshot(request).await.is_ok(), "{places:?}");
        assert_eq!(chain.taken().len(), 2);
        assert!(
            chain
                .taken()
                .iter()
                .all(|(_, authorization, organization)| authorization.is_none()
                    && organization.is_none())
        );
    }
}
