//! The measured services and the request they are measured with, shared by `benches/overhead.rs` and `benches/peers`.
//!
//! A *contender* is a service that attaches the two headers and passes the request on to [`Inner`]. A *case* is the
//! request that is sent, a *way* is how the service is called. Every figure is net of the contender `bare`, which is
//! `Inner` alone, and is compared with `by_hand`, which inserts two prebuilt values and checks nothing.

pub(crate) mod timing;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use http::header::{self, AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, Uri};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_anyreach::{AnyreachAuthLayer, OrganizationApiKey, OrganizationId, PersonalAccessToken};
use tower_http::auth::AddAuthorizationLayer;
use tower_http::set_header::SetRequestHeaderLayer;

pub(crate) const TOKEN: &str = "pat_4711c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
const KEY: &str = "ak_4711.c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
const ORGANIZATION: &str = "org_4711c2VjcmV0";
pub(crate) static X_ANYREACH_ORG: HeaderName = HeaderName::from_static("x-anyreach-org");

/// `String` rather than `()`, because a body is moved with its request.
pub(crate) type Body = String;

/// A request to measure with.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The last of the eight headers; the other seven are the same in every case.
    last: (HeaderName, HeaderValue),
}

/// `h8` has eight headers and no `Host`; in `host8`, one of the eight is `Host`.
pub(crate) static CASES: [Case; 2] = [
    Case {
        name: "h8",
        last: pair(header::ACCEPT_LANGUAGE, "en"),
    },
    Case {
        name: "host8",
        last: pair(header::HOST, "api.anyreach.ai"),
    },
];

static OTHER_HEADERS: [(HeaderName, HeaderValue); 7] = [
    pair(header::ACCEPT, "application/json"),
    pair(header::ACCEPT_ENCODING, "gzip"),
    pair(header::CONTENT_TYPE, "application/json"),
    pair(header::CONTENT_LENGTH, "2"),
    pair(header::USER_AGENT, "overhead/1"),
    pair(HeaderName::from_static("x-request-id"), "4711"),
    pair(HeaderName::from_static("traceparent"), TRACE),
];

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const fn pair(name: HeaderName, value: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(value))
}

static URI: LazyLock<Uri> =
    LazyLock::new(|| Uri::from_static("https://api.anyreach.ai/core/agents"));

impl Case {
    /// Builds a request afresh: reusing a header map would hide the cost of touching a new one.
    ///
    /// Uses `append`, and is not inlined, so that the compiler treats every contender's `insert` as it would without
    /// this function.
    #[inline(never)]
    pub(crate) fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::new());
        *request.uri_mut() = URI.clone();
        let headers = request.headers_mut();
        for (name, value) in OTHER_HEADERS.iter().chain([&self.last]) {
            headers.append(name.clone(), value.clone());
        }
        request
    }
}

/// How a service is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `ready` and `call` on one service.
    Held,
    /// `client.clone().oneshot(request)`, as handlers usually call a client that they share.
    Oneshot,
    /// No request: the service is cloned and the clone dropped.
    Clone,
}

impl Way {
    pub(crate) const CALLS: [Self; 2] = [Self::Held, Self::Oneshot];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Oneshot => "oneshot",
            Self::Clone => "clone",
        }
    }
}

/// The innermost service: always ready, answers at once, and returns the headers that it received.
///
/// It has a field, as every client has: around a zero-sized service, the compiler leaves out moves.
#[derive(Clone, Default)]
pub(crate) struct Inner(u64);

impl Service<Request<Body>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        black_box(self.0);
        let mut response = Response::new(body);
        *response.headers_mut() = black_box(head.headers);
        ready(Ok(response))
    }
}

/// A contender's service behind a dynamic call. The loop is inside, so that one dynamic call serves many requests.
pub(crate) trait Handle: Send {
    /// Does this many times what `way` says, and returns the headers of the last request as they arrived.
    ///
    /// callgrind counts what happens in functions of this name only.
    fn counted(&mut self, case: &Case, way: Way, times: u32) -> HeaderMap;
}

struct Wrapped<S>(S);

impl<S, B> Handle for Wrapped<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
{
    #[inline(never)]
    fn counted(&mut self, case: &Case, way: Way, times: u32) -> HeaderMap {
        let mut cx = Context::from_waker(Waker::noop());
        let mut arrived = HeaderMap::new();
        for _ in 0..times {
            let answer = match way {
                Way::Held => {
                    let request = case.request();
                    assert!(matches!(self.0.poll_ready(&mut cx), Poll::Ready(Ok(()))));
                    pin!(self.0.call(request)).poll(&mut cx)
                }
                Way::Oneshot => pin!(self.0.clone().oneshot(case.request())).poll(&mut cx),
                Way::Clone => {
                    drop(black_box(black_box(&self.0).clone()));
                    continue;
                }
            };
            let Poll::Ready(Ok(response)) = answer else {
                panic!("the inner service answers at once");
            };
            arrived = response.into_parts().0.headers;
        }
        arrived
    }
}

/// The credential and the organization that a contender has to attach.
pub(crate) type Attached = (Option<&'static str>, Option<&'static str>);

pub(crate) const BOTH: Attached = (Some(TOKEN), Some(ORGANIZATION));

/// A way of attaching the headers, and what is expected of it.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    attached: Attached,
    build: Box<dyn Fn(usize) -> Vec<Box<dyn Handle>>>,
}

impl Contender {
    pub(crate) fn new<S, B>(name: &'static str, attached: Attached, wrap: fn() -> S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    {
        let build = move |count| {
            let service = wrap();
            let handle = |_| Box::new(Wrapped(service.clone())) as Box<dyn Handle>;
            (0..count).map(handle).collect()
        };
        Self {
            name,
            attached,
            build: Box::new(build),
        }
    }

    /// Builds one service and returns this many clones of it.
    pub(crate) fn build(&self, count: usize) -> Vec<Box<dyn Handle>> {
        (self.build)(count)
    }

    /// Panics unless exactly the expected headers arrive: a contender that does less would be measured as fast.
    pub(crate) fn check(&self) {
        for case in &CASES {
            let (credential, organization) = self.attached;
            let mut expected = case.request().into_parts().0.headers;
            expected.extend(credential.map(|text| (AUTHORIZATION, bearer(text))));
            expected.extend(organization.map(|_| (X_ANYREACH_ORG.clone(), self::organization())));
            for way in Way::CALLS {
                let arrived = self.build(1)[0].counted(case, way, 3);
                let (name, case, way) = (self.name, case.name, way.name());
                assert!(arrived == expected, "{name} {case} {way}: sent {arrived:?}");
            }
        }
    }
}

/// Returns the contenders that need no more than tower, tower-http and this crate; `bare` and `by_hand` come first.
pub(crate) fn contenders() -> Vec<Contender> {
    vec![
        Contender::new("bare", (None, None), Inner::default),
        Contender::new("by_hand", BOTH, by_hand),
        Contender::new("anyreach_pat", BOTH, || {
            let organization = OrganizationId::try_from(ORGANIZATION).expect("a valid id");
            let token = PersonalAccessToken::new(TOKEN).expect("a valid token");
            AnyreachAuthLayer::new(token.for_organization(organization)).layer(Inner::default())
        }),
        Contender::new("anyreach_ak", (Some(KEY), None), || {
            AnyreachAuthLayer::new(OrganizationApiKey::new(KEY).expect("a valid key"))
                .layer(Inner::default())
        }),
        Contender::new("tower_http", BOTH, || {
            ServiceBuilder::new()
                .layer(AddAuthorizationLayer::bearer(TOKEN))
                .layer(SetRequestHeaderLayer::overriding(
                    X_ANYREACH_ORG.clone(),
                    organization(),
                ))
                .service(Inner::default())
        }),
    ]
}

/// Two inserts of prebuilt values, and no check of any kind.
#[derive(Clone)]
struct ByHand {
    inner: Inner,
    authorization: HeaderValue,
    organization: HeaderValue,
}

impl Service<Request<Body>> for ByHand {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    // Without this, the baseline would pay for copies of the request that its source does not contain.
    #[inline]
    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(&X_ANYREACH_ORG, self.organization.clone());
        self.inner.call(request)
    }
}

fn by_hand() -> ByHand {
    ByHand {
        inner: Inner::default(),
        authorization: bearer(TOKEN),
        organization: organization(),
    }
}

/// Returns a sensitive header value that owns its bytes, as one read from a configuration does.
pub(crate) fn bearer(credential: &str) -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("Bearer {credential}")).expect("visible ASCII");
    value.set_sensitive(true);
    value
}

/// Returns a value that owns its bytes: cloning a static one would be cheaper.
pub(crate) fn organization() -> HeaderValue {
    HeaderValue::try_from(ORGANIZATION.to_owned()).expect("visible ASCII")
}
