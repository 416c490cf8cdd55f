//! The contenders: all wrap the same ready service.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::header::{self, AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, CredentialStore, OrganizationApiKey, OrganizationId,
    PersonalAccessToken,
};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tower_http::set_header::SetRequestHeaderLayer;

pub(crate) const TOKEN: &str = "pat_4711c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
pub(crate) const KEY: &str = "ak_4711.c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
pub(crate) const ORGANIZATION: &str = "org_4711c2VjcmV0";
/// What Anyreach says with a 401.
const DETAIL: &str = r#"{"detail":"Invalid or expired token"}"#;
pub(crate) static X_ANYREACH_ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

pub(crate) type Body = String;

/// What all contenders wrap.
pub(crate) trait Inner:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Inner for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// What wraps it.
pub(crate) trait Contender: Service<Request<Body>> + Clone + Send + Sync + 'static {}

impl<S: Service<Request<Body>> + Clone + Send + Sync + 'static> Contender for S {}

thread_local! {
    /// A header map that was used before: what its memory costs to get is the allocator's mood of the day.
    static SPARE: Cell<HeaderMap> = Cell::default();
}

pub(crate) fn put_back(mut headers: HeaderMap) {
    headers.clear();
    SPARE.set(headers);
}

/// A map with those headers and room for more, as a request builder leaves one; or a new and empty one.
pub(crate) fn filled(headers: &HeaderMap) -> HeaderMap {
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

/// Answers at once, with the status of the case. Aligned as a client is, so that sizes can be subtracted.
#[derive(Clone)]
#[repr(align(8))]
pub(crate) struct Answering(StatusCode);

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        put_back(black_box(head.headers));
        let mut response = Response::new(body);
        if self.0 != StatusCode::OK {
            *response.status_mut() = self.0;
            response.body_mut().push_str(DETAIL);
        }
        ready(Ok(response))
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

    // Or copies of the request would be counted that no hand wrote.
    #[inline]
    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(&X_ANYREACH_ORG, self.organization.clone());
        self.inner.call(request)
    }
}

fn by_hand<I: Inner>(inner: I) -> impl Contender {
    ByHand {
        inner,
        authorization: authorization(),
        organization: organization(),
    }
}

/// As a service has it that reads its token from its configuration.
pub(crate) fn authorization() -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("a token is ASCII");
    value.set_sensitive(true);
    value
}

/// Read from the configuration too: a static value would cost nothing to clone.
pub(crate) fn organization() -> HeaderValue {
    HeaderValue::try_from(ORGANIZATION.to_owned()).expect("visible ASCII")
}

fn tower_http<I: Inner>(inner: I) -> impl Contender {
    ServiceBuilder::new()
        .layer(AddAuthorizationLayer::bearer(TOKEN))
        .layer(SetRequestHeaderLayer::overriding(
            X_ANYREACH_ORG.clone(),
            organization(),
        ))
        .service(inner)
}

fn tower_http_classified<I: Inner>(inner: I) -> impl Contender {
    ServiceBuilder::new()
        .layer(AddAuthorizationLayer::bearer(TOKEN))
        .layer(SetRequestHeaderLayer::overriding(
            X_ANYREACH_ORG.clone(),
            organization(),
        ))
        .layer(SetSensitiveRequestHeadersLayer::new([AUTHORIZATION]))
        .service(inner)
        .map_err(BoxError::from)
        .and_then(|response: Response<Body>| {
            ready(match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(BoxError::from("denied")),
                _ => Ok(response),
            })
        })
}

pub(crate) fn token() -> PersonalAccessToken {
    PersonalAccessToken::new(TOKEN)
        .expect("a valid token")
        .for_organization(OrganizationId::try_from(ORGANIZATION).expect("a valid id"))
}

fn key() -> OrganizationApiKey {
    OrganizationApiKey::new(KEY).expect("a valid key")
}

pub(crate) fn anyreach<I>(inner: I, store: impl Into<CredentialStore>) -> AnyreachAuth<I> {
    AnyreachAuthLayer::new(store).layer(inner)
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

/// What is asked and what is answered. All in it is static, so that threads that share it count no references.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) status: StatusCode,
    uri: Uri,
}

pub(crate) fn cases() -> [Case; 2] {
    let case = |name, headers| Case {
        name,
        headers,
        status: StatusCode::OK,
        uri: Uri::from_static("https://api.anyreach.ai/core/agents"),
    };
    [
        case("no_headers", HeaderMap::new()),
        case("eight_headers", eight_headers()),
    ]
}

impl Case {
    pub(crate) fn inner(&self) -> Answering {
        Answering(self.status)
    }

    /// Makes one request and sees it answered.
    #[inline]
    pub(crate) fn call(&self, service: &mut impl Service<Request<Body>>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut request = Request::new(Body::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = filled(&self.headers);
        assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
        let response = pin!(service.call(request)).poll(&mut cx);
        assert!(response.is_ready());
    }
}

/// What is done with each contender.
pub(crate) trait Judge<I> {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    );
}

/// Gives the judge every contender that needs no more than tower and tower-http, as what wraps the inner service.
pub(crate) fn judge_all<I: Inner>(inner: &I, judge: &mut impl Judge<I>) {
    judge.judge("bare", inner, |inner| inner);
    judge.judge("by_hand", inner, by_hand);
    judge.judge("anyreach_pat", inner, |inner| anyreach(inner, token()));
    judge.judge("anyreach_ak", inner, |inner| anyreach(inner, key()));
    judge.judge("tower_http", inner, tower_http);
    judge.judge("tower_http_classified", inner, tower_http_classified);
}
