//! The curves: what there may be many of, and a client that is called with so many of them.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::mem;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{Extensions, HeaderMap, Request, Response, Uri};
use tower::{Layer, Service};
use tower_anyreach::{
    AnyreachAuth, AnyreachAuthLayer, Credential, CredentialStore, OrganizationId,
    PersonalAccessToken,
};

/// What a request costs against how many there are of one thing.
pub(crate) struct Curve {
    pub(crate) case: &'static str,
    pub(crate) contender: &'static str,
    pub(crate) xs: &'static [u32],
    /// How many calls are measured.
    pub(crate) calls: fn(u32) -> u32,
    pub(crate) set_up: fn(u32, Part) -> Subject,
}

pub(crate) const CURVES: [Curve; 6] = [
    Curve {
        case: "organizations",
        contender: "anyreach_pat",
        xs: &[1, 10, 100, 1_000, 10_000, 100_000],
        calls: |x| CALLS.max(x),
        set_up: organizations,
    },
    Curve {
        case: "credentials",
        contender: "anyreach_ak",
        xs: &[1, 10, 100, 1_000, 10_000],
        calls: |_| CALLS,
        set_up: credentials,
    },
    // At 100,000 requests per second of one core, a fraction of what it makes here. A core's first request after a
    // rotation copies the snapshot, which costs it about as much again as a request: with a rotation for every tenth
    // request the curve would rise by a fifth.
    Curve {
        case: "rotations_per_second",
        contender: "anyreach_pat",
        xs: &[0, 1, 10, 100, 1_000],
        calls: |_| 10 * CALLS,
        set_up: rotations,
    },
    Curve {
        case: "clones",
        contender: "anyreach_pat",
        xs: &[1, 10, 100, 1_000, 10_000],
        calls: |_| CALLS,
        set_up: clones,
    },
    Curve {
        case: "clones_first_call",
        contender: "anyreach_pat",
        xs: &[100, 1_000, 10_000],
        calls: |x| x,
        set_up: new_clones,
    },
    Curve {
        case: "requests_so_far",
        contender: "anyreach_pat",
        xs: &[1_000, 10_000, 100_000, 1_000_000],
        calls: |_| CALLS,
        set_up: requests_so_far,
    },
];

const CALLS: u32 = 10_000;

/// Before the first call that is measured, so that none pays for what happens once in a process.
const WARM_UP: u32 = 100;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Requests without the layer.
    Bare,
    /// Requests with it.
    Layer,
    /// The rotations between them.
    Rotation,
}

/// One point of a curve, ready to be called.
pub(crate) struct Subject {
    call: Box<dyn FnMut()>,
    rotate: Box<dyn FnMut()>,
    rotations: u32,
}

impl Subject {
    fn new(call: impl FnMut() + 'static) -> Self {
        Self {
            call: Box::new(call),
            rotate: Box::new(|| {}),
            rotations: 0,
        }
    }

    /// Makes so many calls, with the rotations spread over them, and has one part measured.
    pub(crate) fn measure(
        mut self,
        part: Part,
        calls: u32,
        mut measured: impl FnMut(u32, &mut dyn FnMut()),
    ) {
        let spells = self.rotations.max(1);
        for _ in 0..spells {
            let calls = calls / spells;
            if part == Part::Rotation {
                measured(1, &mut self.rotate);
                (0..calls).for_each(|_| (self.call)());
            } else {
                (self.rotate)();
                measured(calls, &mut self.call);
            }
        }
    }
}

/// Organizations of one token, each an extension of its requests.
fn organizations(x: u32, part: Part) -> Subject {
    let client = Client::new(part, &AnyreachAuthLayer::new(token(0)));
    with_extensions(client, x, organization)
}

/// Credentials, each an extension of its requests, as in a gateway.
fn credentials(x: u32, part: Part) -> Subject {
    let client = Client::new(part, &AnyreachAuthLayer::per_request());
    with_extensions(client, x, key)
}

fn with_extensions<T>(mut client: Client, x: u32, extension: fn(u32) -> T) -> Subject
where
    T: Clone + Send + Sync + 'static,
{
    let extensions: Vec<T> = (1..=x).map(extension).collect();
    let mut caller = Caller::new();
    // With one that is none of them, so that the first call with each counts.
    let other = extension(0);
    (0..WARM_UP).for_each(|_| caller.call_with(&mut client, &other));
    let mut round = Round::new(extensions.len());
    let call = move || caller.call_with(&mut client, &extensions[round.next()]);
    Subject::new(call)
}

/// Rotations of the store, spread over the requests of one second.
fn rotations(x: u32, part: Part) -> Subject {
    let store = CredentialStore::new(token(0));
    let mut client = Client::new(part, &AnyreachAuthLayer::new(store.clone()));
    let mut caller = Caller::new();
    (0..WARM_UP).for_each(|_| caller.call(&mut client));
    let mut successors: Vec<_> = (1..=x).map(token).collect();
    let rotate = move || {
        if let Some(successor) = successors.pop() {
            store.rotate(successor);
        }
    };
    Subject {
        rotate: Box::new(rotate),
        rotations: x,
        ..Subject::new(move || caller.call(&mut client))
    }
}

/// Clones of one service that have all been called before.
fn clones(x: u32, part: Part) -> Subject {
    let mut subject = new_clones(x, part);
    (0..x.max(WARM_UP)).for_each(|_| (subject.call)());
    subject
}

/// Clones of one service, none of which has been called before.
fn new_clones(x: u32, part: Part) -> Subject {
    let mut original = Client::new(part, &AnyreachAuthLayer::new(token(0)));
    let mut caller = Caller::new();
    (0..WARM_UP).for_each(|_| caller.call(&mut original));
    let mut clones: Vec<_> = (0..x).map(|_| original.clone()).collect();
    let mut round = Round::new(clones.len());
    Subject::new(move || caller.call(&mut clones[round.next()]))
}

/// Requests that one service has served before.
fn requests_so_far(x: u32, part: Part) -> Subject {
    let mut client = Client::new(part, &AnyreachAuthLayer::new(token(0)));
    let mut caller = Caller::new();
    (0..x).for_each(|_| caller.call(&mut client));
    Subject::new(move || caller.call(&mut client))
}

fn token(number: u32) -> PersonalAccessToken {
    PersonalAccessToken::new(format!("pat_{number:08}c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"))
        .expect("a valid token")
        .for_organization(organization(number))
}

fn key(number: u32) -> Credential {
    Credential::parse(format!("ak_{number:08}.c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"))
        .expect("a valid key")
}

fn organization(number: u32) -> OrganizationId {
    OrganizationId::try_from(format!("org_{number:08}c2VjcmV0")).expect("a valid id")
}

/// The inner service, with the layer or without.
#[derive(Clone)]
enum Client {
    Bare(Inner),
    Layer(AnyreachAuth<Inner>),
}

impl Client {
    fn new(part: Part, layer: &AnyreachAuthLayer) -> Self {
        match part {
            Part::Bare => Self::Bare(Inner),
            Part::Layer | Part::Rotation => Self::Layer(layer.layer(Inner)),
        }
    }

    fn call(&mut self, request: Request<String>) -> Response<String> {
        match self {
            Self::Bare(service) => answer(service, request),
            Self::Layer(service) => answer(service, request),
        }
    }
}

fn answer<S>(service: &mut S, request: Request<String>) -> Response<String>
where
    S: Service<Request<String>, Response = Response<String>>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        _ => panic!("the inner service answers at once"),
    }
}

/// Makes requests of one head, used again and again: what memory costs to get is the allocator's mood of the day.
struct Caller {
    uri: Uri,
    headers: HeaderMap,
    extensions: Extensions,
}

impl Caller {
    fn new() -> Self {
        Self {
            uri: Uri::from_static("https://api.anyreach.ai/core/agents"),
            headers: HeaderMap::with_capacity(12),
            extensions: Extensions::new(),
        }
    }

    fn call(&mut self, client: &mut Client) {
        let mut request = Request::new(String::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = mem::take(&mut self.headers);
        *request.extensions_mut() = mem::take(&mut self.extensions);

        let (head, _) = client.call(request).into_parts();
        self.headers = head.headers;
        self.headers.clear();
        self.extensions = head.extensions;
    }

    fn call_with<T: Clone + Send + Sync + 'static>(&mut self, client: &mut Client, extension: &T) {
        self.extensions.insert(extension.clone());
        self.call(client);
    }
}

/// Goes round a number of things, in steps so wide that no cache line is read ahead.
struct Round {
    next: usize,
    len: usize,
}

impl Round {
    /// A prime, so that no power of ten leaves one out.
    const STEP: usize = 7919;

    fn new(len: usize) -> Self {
        Self { next: 0, len }
    }

    fn next(&mut self) -> usize {
        self.next = (self.next + Self::STEP) % self.len;
        self.next
    }
}

/// Answers at once, and gives back what a request's head has allocated.
#[derive(Clone)]
struct Inner;

impl Service<Request<String>> for Inner {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (head, body) = request.into_parts();
        let mut response = Response::new(body);
        *response.headers_mut() = black_box(head.headers);
        *response.extensions_mut() = head.extensions;
        ready(Ok(response))
    }
}
