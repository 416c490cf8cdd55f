//! With tower, tower-http, axum and hyper around and below: what is said here comes through there.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tower::buffer::Buffer;
use tower::load_shed::error::Overloaded;
use tower::retry::Policy;
use tower::timeout::error::Elapsed;
use tower::util::{BoxCloneSyncService, BoxService};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::{
    Anonymous, AnyreachAuth, AnyreachAuthLayer, BoxError, Credential, DenialReason,
    DestinationReason, Error, ForeignRequests, OrganizationApiKey, OrganizationId,
    PersonalAccessToken,
};
use tower_http::decompression::DecompressionLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::trace::TraceLayer;

const URI: &str = "https://api.anyreach.ai/core/agents";
const KEY: &str = "ak_4711.c2VjcmV0LW9mLWtleQ";
const TOKEN: &str = "pat_c2VjcmV0LW9mLXVzZXI";
const NOPE: &str = r#"{"detail": "Nope"}"#;

type Text = Full<Bytes>;

fn layer() -> AnyreachAuthLayer {
    AnyreachAuthLayer::new(OrganizationApiKey::new(KEY).unwrap())
}

fn get<B: Default>(uri: &str) -> Request<B> {
    Request::get(uri).body(B::default()).unwrap()
}

fn denied() -> Response<Text> {
    Response::builder().status(401).body(NOPE.into()).unwrap()
}

/// A client that is denied everything.
async fn deny(request: Request<Text>) -> Result<Response<Text>, io::Error> {
    assert_eq!(request.headers()[AUTHORIZATION], format!("Bearer {KEY}"));
    Ok(denied())
}

async fn hang(_: Request<Text>) -> Result<Response<Text>, io::Error> {
    pending().await
}

/// The error of an outcome whose answer need not be `Debug`.
#[track_caller]
fn failure<T, E>(outcome: Result<T, E>) -> E {
    match outcome {
        Ok(_) => panic!("a denied answer passed through"),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_denial_within(error: &(dyn std::error::Error + 'static)) {
    let found = Error::find(error).unwrap_or_else(|| panic!("no error of ours in {error:?}"));
    assert_eq!(found.denial().unwrap().detail(), Some("Nope"));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_lets_a_denial_through_and_cuts_what_hangs() {
    let service = || {
        ServiceBuilder::new()
            .timeout(Duration::from_secs(5))
            .layer(layer())
    };
    let error = service()
        .service_fn(deny)
        .oneshot(get(URI))
        .await
        .unwrap_err();
    assert_denial_within(error.as_ref());
    let refused = service()
        .service_fn(deny)
        .oneshot(get("http://api.anyreach.ai/"))
        .await
        .unwrap_err();
    assert!(matches!(
        Error::find(refused.as_ref()),
        Some(Error::UntrustedDestination(_))
    ));
    let error = service()
        .service_fn(hang)
        .oneshot(get(URI))
        .await
        .unwrap_err();
    assert!(error.is::<Elapsed>() && Error::find(error.as_ref()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_comes_out_as_the_services_own_failure() {
    let service = || {
        ServiceBuilder::new()
            .layer(layer())
            .timeout(Duration::from_secs(5))
    };
    let error = service()
        .service_fn(deny)
        .oneshot(get(URI))
        .await
        .unwrap_err();
    assert_denial_within(&error);
    let error = service()
        .service_fn(hang)
        .oneshot(get(URI))
        .await
        .unwrap_err();
    let Error::Service(inner) = &error else {
        panic!("{error:?}")
    };
    assert!(inner.is::<Elapsed>());
    assert!(Error::find(&error).is_none(), "a mere wrapper");
}

/// Sends once more what the service below could not complete, and what was answered with a 401.
#[derive(Clone)]
struct Once(bool);

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for Once {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Ready<()>> {
        let error = result.as_ref().err()?;
        (matches!(error, Error::Service(_)) || error.is_unauthorized())
            .then(|| std::mem::take(&mut self.0))
            .filter(|again| *again)
            .map(|_| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn every_attempt_of_a_retry_is_authenticated_anew_and_once() {
    for fail_first in [false, true] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let service = || {
            let attempts = Arc::clone(&attempts);
            ServiceBuilder::new()
                .retry(Once(true))
                .layer(layer())
                .service_fn(move |request: Request<Text>| {
                    assert_eq!(request.headers().get_all(AUTHORIZATION).iter().count(), 1);
                    let attempt = attempts.fetch_add(1, Ordering::SeqCst);
                    ready(match attempt {
                        0 if fail_first => Err(io::Error::other("connection reset")),
                        0 => Ok(denied()),
                        _ => Ok(Response::new("fine".into())),
                    })
                })
        };
        let response = service().oneshot(get(URI)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
        let refused = service().oneshot(get("https://other.example/")).await;
        assert!(matches!(refused, Err(Error::UntrustedDestination(_))));
        assert_eq!(
            attempts.load(Ordering::SeqCst),
            2,
            "a refused request is not sent, however often it is tried"
        );
    }
}

#[tokio::test]
async fn a_buffer_outside_survives_refusals_and_denials() {
    let service = Buffer::new(layer().layer(service_fn(deny)), 2);
    for _ in 0..5 {
        let error = service.clone().oneshot(get(URI)).await.unwrap_err();
        assert_denial_within(error.as_ref());
        let refused = service.clone().oneshot(get("/relative")).await.unwrap_err();
        assert!(matches!(
            Error::find(refused.as_ref()),
            Some(Error::UntrustedDestination(_))
        ));
    }
}

#[tokio::test]
async fn a_buffer_inside_gives_what_is_below_it() {
    let answers = service_fn(|_: Request<Text>| ready(Ok::<_, Infallible>(denied())));
    let mut service = layer().layer(Buffer::new(answers, 2));
    for _ in 0..3 {
        assert_denial_within(
            &service
                .ready()
                .await
                .unwrap()
                .call(get(URI))
                .await
                .unwrap_err(),
        );
    }
}

#[tokio::test]
async fn a_denial_releases_the_permits_of_limits_outside_and_inside() {
    let mut service = ServiceBuilder::new()
        .concurrency_limit(1)
        .layer(layer())
        .concurrency_limit(1)
        .service_fn(deny);
    for _ in 0..3 {
        assert_denial_within(
            &service
                .ready()
                .await
                .unwrap()
                .call(get(URI))
                .await
                .unwrap_err(),
        );
        let refused = service
            .ready()
            .await
            .unwrap()
            .call(get("/"))
            .await
            .unwrap_err();
        assert!(!refused.was_sent());
    }
}

#[tokio::test]
async fn load_shedding_outside_and_inside_keeps_its_error_and_ours() {
    let mut outside = ServiceBuilder::new()
        .load_shed()
        .layer(layer())
        .service_fn(deny);
    let error = outside
        .ready()
        .await
        .unwrap()
        .call(get(URI))
        .await
        .unwrap_err();
    assert_denial_within(error.as_ref());

    let mut inside = ServiceBuilder::new()
        .layer(layer())
        .load_shed()
        .concurrency_limit(1)
        .service_fn(hang);
    let held = inside.ready().await.unwrap().call(get(URI));
    let error = inside
        .ready()
        .await
        .unwrap()
        .call(get(URI))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Service(inner) if inner.is::<Overloaded>()),
        "{error:?}"
    );
    drop(held);
}

#[tokio::test]
async fn tracing_outside_and_inside_changes_nothing() {
    let mut service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(layer())
        .layer(TraceLayer::new_for_http())
        .service_fn(async |request: Request<Text>| match request.uri().path() {
            "/fine" => Ok(Response::new(Text::from("fine"))),
            _ => deny(request).await,
        });
    let outcome = service.ready().await.unwrap().call(get(URI)).await;
    assert_denial_within(&failure(outcome));
    let response = service
        .ready()
        .await
        .unwrap()
        .call(get("https://api.anyreach.ai/fine"))
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "fine"
    );
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn gzipped(
    data: &'static [u8],
) -> impl Service<Request<Text>, Response = Response<Text>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |_: Request<Text>| {
        ready(Ok(Response::builder()
            .status(401)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(gzip(data).into())
            .unwrap()))
    })
}

#[tokio::test]
async fn decompression_inside_gives_a_compressed_denial_its_detail() {
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(DecompressionLayer::new())
        .service(gzipped(NOPE.as_bytes()));
    let error = failure(service.oneshot(get(URI)).await);
    assert_denial_within(&error);
    assert_eq!(error.denial().unwrap().body(), NOPE);
}

#[tokio::test]
async fn decompression_outside_hides_the_detail_and_not_the_denial() {
    let service = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .layer(layer())
        .service(gzipped(NOPE.as_bytes()));
    let error = failure(service.oneshot(get(URI)).await);
    let denial = Error::find(&error).unwrap().denial().unwrap();
    assert_eq!(
        (denial.reason(), denial.detail()),
        (DenialReason::InvalidCredential, None)
    );
}

#[tokio::test]
async fn a_decompression_bomb_goes_off_at_the_limit() {
    static BOMB: [u8; 16 << 20] = [b' '; 16 << 20];
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(DecompressionLayer::new())
        .service(gzipped(&BOMB));
    let error = failure(service.oneshot(get(URI)).await);
    let denial = error.denial().unwrap();
    assert_eq!(denial.body().len(), 8 * 1024);
    assert!(denial.is_body_truncated());
}

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

impl Service<Request<Text>> for Chain {
    type Response = Response<Text>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Text>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let mut hops = self.hops.lock().unwrap();
        let headers = request.headers();
        hops.push((
            request.uri().to_string(),
            text_of(headers, "authorization"),
            text_of(headers, "x-anyreach-org"),
        ));
        let mut response = Response::new(Text::default());
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
    let organization = OrganizationId::try_from("org_4711").unwrap();
    let credentials = [
        (
            Credential::parse(KEY).unwrap(),
            Some(format!("Bearer {KEY}")),
            None,
        ),
        (
            PersonalAccessToken::new(TOKEN)
                .unwrap()
                .for_organization(organization)
                .into(),
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

#[tokio::test]
async fn an_axum_router_is_an_inner_service() {
    let router = Router::new()
        .route(
            "/denied",
            axum::routing::get(async || {
                (
                    StatusCode::FORBIDDEN,
                    axum::Json(serde_json::json!({"detail": "Nope"})),
                )
            }),
        )
        .route(
            "/echo",
            axum::routing::get(async |headers: HeaderMap| {
                text_of(&headers, "authorization").unwrap()
            }),
        );
    let service: AnyreachAuth<Router> = layer().layer(router);

    let request: Request<axum::body::Body> = get("https://api.anyreach.ai/denied");
    let error = service.clone().oneshot(request).await.unwrap_err();
    assert!(error.is_forbidden());
    assert_denial_within(&error);

    let request: Request<axum::body::Body> = get("https://api.anyreach.ai/echo");
    let response: Response<axum::body::Body> = service.clone().oneshot(request).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        format!("Bearer {KEY}")
    );
}

fn assert_client<S, B>(_: &S)
where
    S: Service<Request<B>, Error = Error, Future: Send> + Clone + Send + Sync + 'static,
{
}

#[tokio::test]
async fn a_hyper_client_is_an_inner_service() {
    let client: Client<HttpConnector, Text> = Client::builder(TokioExecutor::new()).build_http();
    let service = layer().layer(client);
    assert_client::<_, Text>(&service);
    // Plain http to our host is refused before the client looks for it.
    let refused = service
        .clone()
        .oneshot(get("http://api.anyreach.ai/"))
        .await;
    assert!(matches!(refused, Err(Error::UntrustedDestination(_))));
    // The client's own failure: this connector knows no https.
    let failed = service.oneshot(get(URI)).await.unwrap_err();
    let Error::Service(inner) = failed else {
        panic!("{failed:?}")
    };
    assert!(inner.is::<hyper_util::client::legacy::Error>());
}

#[tokio::test]
async fn an_incoming_body_of_hyper_is_read() {
    let (client_io, server_io) = tokio::io::duplex(64 << 10);
    let server = hyper::server::conn::http1::Builder::new().serve_connection(
        TokioIo::new(server_io),
        hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
            let is_ours = request
                .headers()
                .get(AUTHORIZATION)
                .is_some_and(|value| value == &format!("Bearer {KEY}"));
            Ok::<_, Infallible>(if is_ours {
                denied()
            } else {
                Response::new(Text::default())
            })
        }),
    );
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client_io))
        .await
        .unwrap();
    tokio::spawn(server);
    tokio::spawn(connection);

    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let mut service = layer().layer(service_fn(move |request: Request<Text>| {
        let sender = Arc::clone(&sender);
        async move { sender.lock().await.send_request(request).await }
    }));
    // The second goes over the same connection: the first body was read to its end.
    for _ in 0..2 {
        let outcome: Result<Response<hyper::body::Incoming>, Error> =
            service.ready().await.unwrap().call(get(URI)).await;
        assert_denial_within(&outcome.unwrap_err());
    }
}

#[tokio::test]
async fn boxed_services_keep_the_error() {
    let service = layer().layer(service_fn(deny));
    let cloneable: BoxCloneSyncService<Request<Text>, Response<Text>, Error> =
        BoxCloneSyncService::new(service.clone());
    assert_denial_within(&cloneable.clone().oneshot(get(URI)).await.unwrap_err());
    let boxed: BoxService<Request<Text>, Response<Text>, Error> = BoxService::new(service);
    assert_denial_within(&boxed.oneshot(get(URI)).await.unwrap_err());
    let inside: BoxService<Request<Text>, Response<Text>, io::Error> =
        BoxService::new(service_fn(deny));
    assert_denial_within(&layer().layer(inside).oneshot(get(URI)).await.unwrap_err());
}

async fn error_of<S>(service: S) -> BoxError
where
    S: Service<Request<Text>, Error: Into<BoxError>>,
{
    failure(service.oneshot(get(URI)).await).into()
}

#[tokio::test]
async fn find_sees_through_every_wrapper() {
    let auth = || layer().layer(service_fn(deny));
    let ours = || async { auth().oneshot(get(URI)).await.unwrap_err() };
    let plain = || async { error_of(auth()).await };
    let in_io = || async { io::Error::other(plain().await) };

    for (name, error) in [
        ("nothing", plain().await),
        (
            "timeout",
            error_of(
                ServiceBuilder::new()
                    .timeout(Duration::from_secs(1))
                    .service(auth()),
            )
            .await,
        ),
        ("buffer", error_of(Buffer::new(auth(), 1)).await),
        (
            "load shed",
            error_of(ServiceBuilder::new().load_shed().service(auth())).await,
        ),
        (
            "buffer, timeout, load shed",
            error_of(
                ServiceBuilder::new()
                    .buffer(1)
                    .timeout(Duration::from_secs(1))
                    .load_shed()
                    .service(auth()),
            )
            .await,
        ),
        (
            "anyhow",
            anyhow::Error::new(ours().await)
                .context("listing agents")
                .context("at start")
                .into(),
        ),
        (
            "eyre",
            eyre::Report::new(ours().await)
                .wrap_err("listing agents")
                .wrap_err("at start")
                .into(),
        ),
        ("io", in_io().await.into()),
        ("io in io", io::Error::other(in_io().await).into()),
        (
            "io in anyhow",
            anyhow::Error::new(in_io().await)
                .context("listing agents")
                .into(),
        ),
        (
            "anyhow in io",
            io::Error::other(anyhow::Error::new(ours().await).context("x")).into(),
        ),
        ("service", Error::Service(plain().await).into()),
        (
            "service in service",
            Error::Service(Error::Service(plain().await).into()).into(),
        ),
        ("auth around auth", error_of(outer().layer(auth())).await),
        (
            "auth around timeout around auth",
            error_of(
                ServiceBuilder::new()
                    .layer(outer())
                    .timeout(Duration::from_secs(1))
                    .service(auth()),
            )
            .await,
        ),
        ("axum", axum::Error::new(plain().await).into()),
    ] {
        let found = Error::find(error.as_ref()).unwrap_or_else(|| panic!("{name}: {error:?}"));
        assert_eq!(found.denial().unwrap().detail(), Some("Nope"), "{name}");
    }
}

#[tokio::test]
async fn a_chain_of_errors_reads_as_one_sentence_after_the_other() {
    let denied = || async { error_of(layer().layer(service_fn(deny))).await };
    let failed = || async { Error::Service(io::Error::other("connection reset by peer").into()) };
    let id = Credential::parse(KEY).unwrap().id().to_string();
    let sentence = format!(
        "listing agents: Anyreach answered 401: the credential is invalid, expired or deleted; rotate it (credential {id})"
    );

    let any = anyhow::Error::from_boxed(denied().await).context("listing agents");
    assert_eq!(format!("{any:#}"), sentence);
    let report = eyre::Report::new(Error::Service(denied().await)).wrap_err("listing agents");
    assert_eq!(
        format!("{report:#}"),
        sentence.replace("Anyreach", "the request could not be completed: Anyreach")
    );

    // What failed on the way is told once.
    let on_the_way = "listing agents: the request could not be completed: connection reset by peer";
    let any = anyhow::Error::new(failed().await).context("listing agents");
    assert_eq!(format!("{any:#}"), on_the_way);
    let report = eyre::Report::new(failed().await).wrap_err("listing agents");
    assert_eq!(format!("{report:#}"), on_the_way);
}

/// A layer that can stand around another one: what it attaches, the inner one would refuse; so it goes elsewhere.
fn outer() -> AnyreachAuthLayer {
    layer()
        .origin("https://other.example".parse().unwrap())
        .foreign_requests(ForeignRequests::ForwardWithoutCredentials)
}

#[tokio::test]
async fn find_gives_the_innermost_that_is_more_than_a_wrapper() {
    // A readiness error kills a buffer, and comes out of it as the source of another.
    let broken = BoxService::new(Unready);
    let error = error_of(Buffer::new(broken, 1)).await;
    assert!(
        matches!(
            Error::find(error.as_ref()),
            Some(Error::MissingOrganization)
        ),
        "{error:?}"
    );

    for foreign in [
        BoxError::from("connection refused"),
        Error::Service("connection refused".into()).into(),
        io::Error::other(Error::Service(
            io::Error::other("connection refused").into(),
        ))
        .into(),
        io::Error::from(io::ErrorKind::TimedOut).into(),
        anyhow::Error::msg("connection refused").context("x").into(),
    ] {
        assert!(Error::find(foreign.as_ref()).is_none(), "{foreign:?}");
    }
}

struct Unready;

impl Service<Request<Text>> for Unready {
    type Response = Response<Text>;
    type Error = Error;
    type Future = Ready<Result<Response<Text>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Err(Error::Service(Error::MissingOrganization.into())))
    }

    fn call(&mut self, _: Request<Text>) -> Self::Future {
        unreachable!("it is never ready")
    }
}

/// Neither `Send` nor `Clone`, and its body is not `Send` either.
struct Local(Rc<Cell<u32>>);

impl Service<Request<Rc<str>>> for Local {
    type Response = Response<LocalBody>;
    type Error = Infallible;
    type Future = Ready<Result<Response<LocalBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Rc<str>>) -> Self::Future {
        self.0.set(self.0.get() + 1);
        let mut response = Response::new(LocalBody(Rc::new(NOPE.into())));
        if &**request.body() == "deny" {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        ready(Ok(response))
    }
}

#[derive(Debug)]
struct LocalBody(Rc<Text>);

impl http_body::Body for LocalBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::pin::Pin::new(Rc::get_mut(&mut self.0).unwrap()).poll_frame(cx)
    }
}

#[tokio::test]
async fn services_bodies_and_requests_that_are_neither_send_nor_clone_are_served() {
    let calls = Rc::new(Cell::new(0));
    let mut service = layer().layer(Local(Rc::clone(&calls)));
    let request = |body: &str| Request::get(URI).body(Rc::from(body)).unwrap();
    let response = service
        .ready()
        .await
        .unwrap()
        .call(request("fine"))
        .await
        .unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        NOPE
    );
    let error = service
        .ready()
        .await
        .unwrap()
        .call(request("deny"))
        .await
        .unwrap_err();
    assert_denial_within(&error);
    assert_eq!(calls.get(), 2);
}

async fn denied_with<B>(body: B)
where
    B: http_body::Body,
{
    let mut body = Some(body);
    let service = layer().layer(service_fn(move |_: Request<()>| {
        let response = Response::builder().status(401).body(body.take().unwrap());
        ready(Ok::<_, Infallible>(response.unwrap()))
    }));
    assert_denial_within(&failure(service.oneshot(get(URI)).await));
}

#[tokio::test]
async fn bodies_of_every_kind_are_read() {
    denied_with(Text::from(NOPE)).await;
    denied_with(NOPE.to_owned()).await;
    denied_with(axum::body::Body::from(NOPE)).await;
    denied_with(Box::new(NOPE.to_owned())).await;
    denied_with(Text::from(NOPE).boxed()).await;
    denied_with(Text::from(NOPE).boxed_unsync()).await;
    denied_with(Text::from(NOPE).map_err(|never| match never {})).await;
    denied_with(Full::new(io::Cursor::new(NOPE))).await;
}

#[tokio::test]
async fn the_future_can_be_spawned_and_outlives_the_service() {
    let mut service = layer().layer(service_fn(deny));
    let call: AssertSend<_> = AssertSend(service.ready().await.unwrap().call(get(URI)));
    drop(service);
    let outcome = tokio::spawn(call.0).await.unwrap();
    assert_denial_within(&outcome.unwrap_err());
}

struct AssertSend<F: Future + Send + 'static>(F);
