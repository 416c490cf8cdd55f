//! The contenders: all wrap the same ready service.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::header::{self, AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, OrganizationId, PersonalAccessToken};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetRequestHeaderLayer;

const TOKEN: &str = "pat_4711c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
const KEY: &str = "ak_4711.c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
const ORGANIZATION: &str = "org_4711c2VjcmV0";
static X_ANYREACH_ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

type Body = String;

thread_local! {
    /// A header map that was used before: what its memory costs to get is the allocator's mood of the day.
    static SPARE: Cell<HeaderMap> = Cell::default();
}

fn put_back(mut headers: HeaderMap) {
    headers.clear();
    SPARE.set(headers);
}

/// A map with those headers and room for more, as a request builder leaves one; or a new and empty one.
fn filled(headers: &HeaderMap) -> HeaderMap {
    if headers.is_empty() {
        return HeaderMap::new();
    }
    let mut filled = SPARE.take();
    filled.reserve(12);
    filled.extend(
        headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    filled
}

/// Answers at once; what all contenders wrap.
#[derive(Clone)]
struct Inner;

impl Service<Request<Body>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        put_back(black_box(head.headers));
        ready(Ok(Response::new(body)))
    }
}

/// What one would write by hand and nothing more: two inserts of prebuilt, sensitive values.
#[derive(Clone)]
struct ByHand<S> {
    inner: S,
    authorization: HeaderValue,
    organization: HeaderValue,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for ByHand<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(&X_ANYREACH_ORG, self.organization.clone());
        self.inner.call(request)
    }
}

fn by_hand() -> ByHand<Inner> {
    let mut authorization =
        HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("a token is ASCII");
    authorization.set_sensitive(true);
    ByHand {
        inner: Inner,
        authorization,
        organization: run_time_value(ORGANIZATION),
    }
}

/// As a service has it that reads it from its configuration.
fn run_time_value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text.to_owned()).expect("visible ASCII")
}

fn tower_http() -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible> {
    ServiceBuilder::new()
        .layer(AddAuthorizationLayer::bearer(TOKEN))
        .layer(SetRequestHeaderLayer::overriding(
            X_ANYREACH_ORG.clone(),
            run_time_value(ORGANIZATION),
        ))
        .service(Inner)
}

fn tower_http_classified()
-> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError> {
    ServiceBuilder::new()
        .layer(AddAuthorizationLayer::bearer(TOKEN))
        .layer(SetRequestHeaderLayer::overriding(
            X_ANYREACH_ORG.clone(),
            run_time_value(ORGANIZATION),
        ))
        .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION]))
        .service(Inner)
        .map_err(BoxError::from)
        .and_then(|response: Response<Body>| {
            ready(match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err("denied".into()),
                _ => Ok(response),
            })
        })
}

fn eight_headers() -> HeaderMap {
    [
        (header::ACCEPT, "application/json"),
        (header::ACCEPT_LANGUAGE, "en"),
        (header::ACCEPT_ENCODING, "gzip"),
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_LENGTH, "2"),
        (header::USER_AGENT, "overhead/1"),
        (HeaderName::from_static("x-request-id"), "4711"),
        (
            HeaderName::from_static("traceparent"),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .collect()
}

/// The request's headers, by the name of the case.
pub(crate) fn cases() -> [(&'static str, HeaderMap); 2] {
    [
        ("no_headers", HeaderMap::new()),
        ("eight_headers", eight_headers()),
    ]
}

/// What is done with each contender.
pub(crate) trait Judge {
    fn judge(&mut self, name: &'static str, call: impl FnMut());
}

/// Gives the judge every contender, as a closure that makes one request and sees it answered.
pub(crate) fn judge_all(headers: &HeaderMap, judge: &mut impl Judge) {
    let key = OrganizationApiKey::new(KEY).expect("a valid key");
    let token = PersonalAccessToken::new(TOKEN)
        .expect("a valid token")
        .for_organization(OrganizationId::try_from(ORGANIZATION).expect("a valid id"));
    judge.judge("bare", calls(headers, Inner));
    judge.judge("by_hand", calls(headers, by_hand()));
    judge.judge(
        "anyreach_pat",
        calls(headers, AnyreachAuthLayer::new(token).layer(Inner)),
    );
    judge.judge(
        "anyreach_ak",
        calls(headers, AnyreachAuthLayer::new(key).layer(Inner)),
    );
    judge.judge("tower_http", calls(headers, tower_http()));
    judge.judge(
        "tower_http_sensitive_classified",
        calls(headers, tower_http_classified()),
    );
}

fn calls<S>(headers: &HeaderMap, mut service: S) -> impl FnMut()
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let headers = headers.clone();
    let prototype = Request::get("https://api.anyreach.ai/core/agents")
        .body(())
        .expect("a valid request");
    move || {
        let mut cx = Context::from_waker(Waker::noop());
        let mut request = Request::new(Body::new());
        *request.uri_mut() = prototype.uri().clone();
        *request.headers_mut() = filled(&headers);
        assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
        let response = pin!(service.call(request)).poll(&mut cx);
        assert!(matches!(response, Poll::Ready(Ok(_))));
    }
}
