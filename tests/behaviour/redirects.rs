//! Redirects: what each hop carries and how the call ends, through five stacks.
//!
//! | A 3xx answers | and leads | `Plain` | `PolicyAlone`, `PolicyLast` | `PolicyFirst` | `NoFollower` |
//! |---|---|---|---|---|---|
//! | a request at the origin | to the origin | follows, overrides stay | the same | the same | the 3xx is the answer |
//! | the same, of a relative URI | to the origin | the 3xx is the answer | follows | follows | the 3xx is the answer |
//! | a request at the origin | elsewhere | refuses | refuses | refuses | the 3xx is the answer |
//! | an anonymous one at the origin | elsewhere | refuses, `Anonymous` is lost | follows | refuses | the 3xx is the answer |
//! | one without credentials, elsewhere | to the same host | follows | follows | follows | the 3xx is the answer |
//! | an anonymous one, elsewhere | to a third host | refuses, `Anonymous` is lost | follows | refuses | the 3xx is the answer |
//! | one without credentials, elsewhere | to the origin's host | refuses | refuses | refuses | refuses |

use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::{AnyreachAuth, AnyreachAuthLayer as Auth};
use tower_http::follow_redirect::FollowRedirect;
use tower_http::follow_redirect::policy::{Action, Policy, PolicyExt, Standard};

use crate::prelude::*;
use crate::scripted;

use Ended::{Denied, Refused, With};
use RefusalReason::{Authority, ForeignDestination, ForeignRedirect, Scheme, Userinfo};
use Stack::{NoFollower, Plain, PolicyAlone, PolicyFirst, PolicyLast};

type Req = Request<String>;
type Insert = fn(Req) -> Req;
type Answer<R> = Result<Response<R>, Error>;

/// What follows redirects outside of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    Plain,
    PolicyAlone,
    PolicyFirst,
    PolicyLast,
    NoFollower,
}

const STACKS: [Stack; 5] = [Plain, PolicyAlone, PolicyFirst, PolicyLast, NoFollower];
/// The stacks that keep `Anonymous` on a hop to another place, where tower-http's own policy drops all extensions.
const KEEPING: [Stack; 2] = [PolicyAlone, PolicyLast];
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Every stack with every redirect and method.
fn cases() -> impl Iterator<Item = (Stack, u16, Method)> {
    let methods = [Method::GET, Method::POST, Method::DELETE];
    let of = move |stack, status| methods.clone().map(|method| (stack, status, method));
    let of_stack = move |stack| REDIRECTS.map(|status| of(stack, status));
    STACKS.into_iter().flat_map(of_stack).flatten()
}

async fn follow<P, S, R>(client: S, policy: P, request: Req) -> Result<R, Error>
where
    FollowRedirect<S, P>: Service<Req, Response = R, Error = Error>,
    P: Clone,
{
    let client = FollowRedirect::with_policy(client, policy);
    client.oneshot(request).await
}

impl Stack {
    /// What is expected where all followers follow.
    fn follows(self, status: u16, hops: &[String; 2]) -> Outcome {
        match self {
            NoFollower => (With(status), hops[..1].to_vec()),
            _ => (With(200), hops.to_vec()),
        }
    }

    async fn send<C, S, R>(self, policy: RedirectPolicy<C>, client: S, request: Req) -> Answer<R>
    where
        RedirectPolicy<C>: Policy<String, Error> + Clone,
        S: Service<Req, Response = Response<R>, Error = Error> + Clone,
    {
        let own = Standard::default();
        match self {
            Plain => follow(client, own, request).await,
            PolicyAlone => follow(client, policy, request).await,
            PolicyFirst => follow(client, policy.and::<_, String, Error>(own), request).await,
            PolicyLast => follow(client, own.and::<_, String, Error>(policy), request).await,
            NoFollower => client.oneshot(request).await,
        }
    }

    /// Sends the request through this stack around the layer, and returns how the call ended.
    async fn call<S, R>(self, auth: &Auth, inner: S, request: Req) -> Ended
    where
        AnyreachAuth<S>: Service<Req, Response = Response<R>, Error = Error> + Clone,
    {
        let client = auth.layer(inner);
        ended(self.send(RedirectPolicy::new(auth), client, request).await)
    }
}

#[derive(Debug, PartialEq)]
enum Ended {
    With(u16),
    Refused(RefusalReason),
    Denied(u16),
}

fn ended<R>(outcome: Result<Response<R>, Error>) -> Ended {
    match outcome {
        Ok(response) => With(response.status().as_u16()),
        Err(Error::Refused(refusal)) => Refused(refusal.reason()),
        Err(error) => Denied(error.denial().unwrap().status().as_u16()),
    }
}

/// How a call ended, and the requests that arrived, as [`hop`] writes them.
type Outcome = (Ended, Vec<String>);

/// Servers that give these answers in turn, and 200 after the last one, whatever is asked.
#[derive(Clone)]
struct Script {
    /// Statuses and `Location`s, of which `|` separates several.
    answers: Arc<Vec<(u16, String)>>,
    hops: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn new<L: AsRef<str>>(answers: impl IntoIterator<Item = (u16, L)>) -> Self {
        let owned = |(status, to): (u16, L)| (status, to.as_ref().to_owned());
        let answers = Arc::new(answers.into_iter().map(owned).collect());
        let hops = Arc::default();
        Self { answers, hops }
    }

    /// Returns a client to the servers.
    fn client(
        &self,
    ) -> impl Service<Req, Response = Response<String>, Error = Infallible> + Clone + use<> {
        let Self { answers, hops } = self.clone();
        service_fn(move |request: Req| {
            let text_of = |name| {
                let lines = request.headers().get_all(name);
                assert!(lines.iter().count() < 2, "{name}");
                let line = lines.iter().next();
                line.map_or("-", |line| line.to_str().unwrap())
            };
            let (token, organization) = (text_of("authorization"), text_of("x-anyreach-org"));
            let token = token.strip_prefix("Bearer ").unwrap_or(token);
            let uri = request.uri().to_string() + request.body();
            let mut hops = hops.lock().unwrap();
            let none = (200, String::new());
            let (status, locations) = answers.get(hops.len()).unwrap_or(&none);
            hops.push(hop(request.method(), &uri, (token, organization)));
            let locations = locations.split('|').filter(|_| !locations.is_empty());
            let locations: Vec<_> = locations.map(|to| ("location", to)).collect();
            ready(Ok(answer_with(*status, &locations, String::new())))
        })
    }

    /// Sends the request through this stack around the layer, with the script in the place of the client.
    async fn run(&self, stack: Stack, auth: &Auth, request: Req) -> Outcome {
        let end = stack.call(auth, self.client(), request).await;
        (end, self.hops())
    }

    /// Returns the requests that arrived since the last time; the script begins anew.
    fn hops(&self) -> Vec<String> {
        std::mem::take(&mut self.hops.lock().unwrap())
    }
}

/// What a hop carries: `Authorization` without `Bearer`, and `X-Anyreach-Org`; `-` for none.
type Carried = (&'static str, &'static str);
const NOTHING: Carried = ("-", "-");
const LAYERS: Carried = (KEY, "-");
const OWN: Carried = ("ak_0wn.c2VjcmV0LW93bg", "-");

fn hop(method: &Method, uri: &str, (token, organization): (&str, &str)) -> String {
    format!("{method} {uri} {token} {organization}")
}

const OURS: &str = "https://api.anyreach.ai/a";
const OURS_TOO: &str = "https://api.anyreach.ai/b";
const STORAGE: &str = "https://storage.example/a";
const STORAGE_TOO: &str = "https://storage.example/b";
const STORAGE_HTTP: &str = "http://storage.example/b";
const OTHER_STORAGE: &str = "https://other.example/";
const OTHER_PORT: &str = "https://api.anyreach.ai:8443/";
const PLAIN_HTTP: &str = "http://api.anyreach.ai/";

fn request(method: &Method, uri: &str) -> Req {
    let request = Request::builder().method(method).uri(uri);
    request.body(String::new()).unwrap()
}

fn with_own(request: Req) -> Req {
    with(credential(OWN.0), request)
}

/// The extensions that a caller may insert, and what a request at the origin then carries.
fn overrides() -> [(Insert, Carried); 5] {
    let with_store = |request| with(CredentialStore::new(credential(OWN.0)), request);
    let with_organization = |request| with(organization("org_own"), request);
    [
        (|request| request, (TOKEN, "org_layer")),
        (with_own, OWN),
        (with_store, OWN),
        (with_organization, (TOKEN, "org_own")),
        (|request| with(Anonymous, request), NOTHING),
    ]
}

/// The method after a redirect, as tower-http rewrites it.
fn rewritten(method: &Method, status: u16) -> Method {
    if status == 303 || (status < 303 && method == Method::POST) {
        return Method::GET;
    }
    method.clone()
}

#[tokio::test]
async fn overrides_stay_with_redirects_at_the_origin() {
    let auth = Auth::new(token_for("org_layer"));
    for (insert, carried) in overrides() {
        for (stack, status, method) in cases() {
            let script = Script::new([(status, "/b")]);
            let request = insert(request(&method, OURS));
            let actual = script.run(stack, &auth, request).await;
            let next = hop(&rewritten(&method, status), OURS_TOO, carried);
            let expected = stack.follows(status, &[hop(&method, OURS, carried), next]);
            assert_eq!(actual, expected, "{stack:?}");
        }
    }
}

#[tokio::test]
async fn a_tenant_that_a_follower_drops_is_not_replaced_where_the_layer_has_no_credential() {
    let script = Script::new([(307, "/b")]);
    let client = FollowRedirect::new(Auth::per_request().layer(script.client()));
    let client = client.preserve_extensions(false);
    let end = ended(client.oneshot(with_own(get(OURS))).await);
    assert_eq!(end, Refused(RefusalReason::MissingCredential));
    assert_eq!(script.hops(), [hop(&Method::GET, OURS, OWN)]);
}

#[tokio::test]
async fn other_spellings_of_the_origin_are_refused() {
    for (uri, reason) in [
        ("https://API.anyreach.ai/a", Authority),
        ("https://api.anyreach.ai./a", Authority),
        ("https://api.anyreach.ai:8443/a", Authority),
        ("http://api.anyreach.ai/a", Scheme),
        ("https://user@api.anyreach.ai/a", Userinfo),
    ] {
        for stack in STACKS {
            let script = Script::new([(307, uri)]);
            let actual = script.run(stack, &layer(), with_own(get(uri))).await;
            assert_eq!(actual, (Refused(reason), vec![]), "{stack:?} {uri}");
            let actual = script.run(stack, &layer(), with_own(get(OURS_TOO))).await;
            let hops = [OURS_TOO, OURS].map(|uri| hop(&Method::GET, uri, OWN));
            let expected = match stack {
                // tower-http writes the host of a redirect in lower case.
                _ if stack == NoFollower || uri.contains("API") => stack.follows(307, &hops),
                _ => (Refused(reason), hops[..1].to_vec()),
            };
            assert_eq!(actual, expected, "{stack:?} {uri}");
            // Below the layer it may be the origin, so a relative redirect by it is refused.
            let script = Script::new([(307, "/b")]);
            let (end, _) = script.run(stack, &layer(), with(Anonymous, get(uri))).await;
            assert_eq!(end, Refused(ForeignRedirect), "{stack:?} {uri}");
        }
    }
}

#[tokio::test]
async fn a_relative_first_uri_is_completed_before_the_follower_reads_it() {
    let auth = Auth::new(token_for("org_layer")).relative_uris(RelativeUris::Complete);
    let script = Script::new([(307, "/b")]);
    for stack in STACKS {
        for (insert, carried) in overrides() {
            let actual = script.run(stack, &auth, insert(get("/a"))).await;
            // Without the policy the URI is still relative there, so tower-http cannot resolve the `Location`.
            let follower = if stack == Plain { NoFollower } else { stack };
            let hops = [OURS, OURS_TOO].map(|uri| hop(&Method::GET, uri, carried));
            let expected = follower.follows(307, &hops);
            assert_eq!(actual, expected, "{stack:?}");
        }
    }
}

/// All chains that start at the origin or at a storage host and make up to three hops.
fn chains() -> Vec<Vec<&'static str>> {
    let places = [OURS, OURS_TOO, OTHER_PORT, PLAIN_HTTP].into_iter();
    let places = places.chain([STORAGE, STORAGE_TOO, OTHER_STORAGE]);
    let (mut all, mut at) = (vec![vec![OURS], vec![STORAGE]], 0);
    while all[at].len() < 4 {
        for place in places.clone() {
            all.push([&all[at][..], &[place]].concat());
        }
        at += 1;
    }
    all
}

/// How a chain ends by the table above, and for each place that it reaches whether the request is anonymous there.
fn fate(stack: Stack, chain: &[&str], forwards: bool, anonymous: bool) -> (Ended, Vec<bool>) {
    let is_ours = |place| [OURS, OURS_TOO].contains(&place);
    let home = |place| is_ours(place) || [OTHER_PORT, PLAIN_HTTP].contains(&place);
    let is_storage = |place| [STORAGE, STORAGE_TOO].contains(&place);
    let is_same = |a, b| a == b || (is_ours(a) && is_ours(b)) || (is_storage(a) && is_storage(b));
    let (mut anonymous, mut reached) = (anonymous, Vec::new());
    for (at, place) in chain.iter().enumerate() {
        anonymous &= at == 0 || KEEPING.contains(&stack) || is_same(chain[at - 1], place);
        match *place {
            _ if anonymous || is_ours(place) => {}
            OTHER_PORT => return (Refused(Authority), reached),
            PLAIN_HTTP => return (Refused(Scheme), reached),
            _ if !forwards => return (Refused(ForeignDestination), reached),
            _ => {}
        }
        reached.push(anonymous);
        match chain.get(at + 1) {
            Some(to) if !is_ours(place) && home(to) => return (Refused(ForeignRedirect), reached),
            Some(_) if stack == NoFollower => return (With(307), reached),
            _ => {}
        }
    }
    (With(200), reached)
}

#[tokio::test]
async fn no_chain_takes_credentials_away_from_the_origin_or_back_to_it() {
    let with_overrides = |chain| overrides().map(|own| (chain, own));
    let chains = chains();
    assert_eq!(chains.len(), 2 * (1 + 7 + 49 + 343));
    let auth = Auth::new(token_for("org_layer"));
    let forwarding = auth.clone().foreign_requests(FORWARD);
    for (auth, forwards) in [(auth, false), (forwarding, true)] {
        for stack in STACKS {
            for (chain, (insert, carried)) in chains.iter().flat_map(with_overrides) {
                let script = Script::new(chain[1..].iter().map(|place| (307, place)));
                let actual = script.run(stack, &auth, insert(get(chain[0]))).await;
                let (end, reached) = fate(stack, chain, forwards, carried == NOTHING);
                let hops = reached.iter().zip(chain).map(|(is_anonymous, place)| {
                    let is_ours = !is_anonymous && [OURS, OURS_TOO].contains(place);
                    hop(&Method::GET, place, if is_ours { carried } else { NOTHING })
                });
                assert_eq!(actual, (end, hops.collect()), "{stack:?} {chain:?}");
            }
        }
    }
}

/// Two requests that leave without credentials, with their layers: an anonymous upload and a forwarded request.
fn without_credentials(method: &Method, uri: &str) -> [(Auth, Req); 2] {
    let request = request(method, uri);
    let anonymous = with(Anonymous, request.clone());
    let forwarding = layer().foreign_requests(FORWARD);
    [(layer(), anonymous), (forwarding, request)]
}

#[tokio::test]
async fn a_storage_host_cannot_choose_a_request_at_the_origin() {
    let locations = r"https://api.anyreach.ai/a http://api.anyreach.ai/ https://api.anyreach.ai:8443/
        //api.anyreach.ai/a HTTPS://API.ANYREACH.AI/a https:api.anyreach.ai/a \\api.anyreach.ai/a
        https:\\api.anyreach.ai\a https://user@api.anyreach.ai/a https://api.anyreach.ai./a
        https://api%2eanyreach.ai/a https://api.anyreach.ai。/a https://api。anyreach.ai/a
        https://xn--api-.anyreach.ai/a https://api.XN--anyreach-.ai./a https://api.anyreach.ai.xn--/
        /b|https://api.anyreach.ai/a https://api.anyreach.ai/a|/b";
    for (stack, status, method) in cases() {
        for location in locations.split_whitespace() {
            for (auth, request) in without_credentials(&method, STORAGE) {
                let script = Script::new([(status, location)]);
                let (end, hops) = script.run(stack, &auth, request).await;
                assert_eq!(end, Refused(ForeignRedirect), "{stack:?} {location}");
                assert_eq!(hops, [hop(&method, STORAGE, NOTHING)]);
            }
        }
    }
}

#[tokio::test]
async fn other_answers_of_a_storage_host_pass_whatever_their_location() {
    let answers = [200, 201, 300, 304, 305, 401, 403, 503].map(|status| (status, OURS));
    let without_location = REDIRECTS.map(|status| (status, ""));
    for answer in answers.into_iter().chain(without_location) {
        for stack in STACKS {
            for (auth, request) in without_credentials(&Method::GET, STORAGE) {
                let script = Script::new([answer]);
                let (end, _) = script.run(stack, &auth, request).await;
                assert_eq!(end, With(answer.0), "{stack:?}");
            }
        }
    }
}

#[tokio::test]
async fn redirects_within_a_storage_host_and_to_another_one_pass() {
    for (location, reached, is_same_host) in [
        ("/b", STORAGE_TOO, true),
        ("|", STORAGE, true),
        ("https://storage.example:443/b", STORAGE_TOO, true),
        (STORAGE_HTTP, STORAGE_HTTP, false),
    ] {
        for stack in STACKS {
            let script = Script::new([(308, location)]);
            let upload = with(Anonymous, request(&Method::PUT, STORAGE));
            let actual = script.run(stack, &layer(), upload).await;
            let hops = [STORAGE, reached].map(|uri| hop(&Method::PUT, uri, NOTHING));
            let expected = if is_same_host || KEEPING.contains(&stack) || stack == NoFollower {
                stack.follows(308, &hops)
            } else {
                (Refused(ForeignDestination), hops[..1].to_vec())
            };
            assert_eq!(actual, expected, "{stack:?} {location}");
        }
    }
}

#[tokio::test]
async fn the_policy_follows_ten_redirects_and_the_next_one_is_the_answer() {
    for (stack, requests) in STACKS.into_iter().zip([21, 11, 11, 11, 1]) {
        let script = Script::new((0..30).map(|at| (307, format!("/{at}"))));
        let (end, hops) = script.run(stack, &layer(), get(OURS)).await;
        assert_eq!((end, hops.len()), (With(307), requests), "{stack:?}");
    }
}

#[tokio::test]
async fn the_policy_combined_with_or_has_no_limit_and_keeps_overrides() {
    let (auth, script) = (layer(), Script::new((0..12).map(|_| (307, "/b"))));
    let policy = Action::Follow.or::<_, String, Error>(RedirectPolicy::new(&auth));
    let client = FollowRedirect::with_policy(auth.layer(script.client()), policy);
    let client = client.preserve_extensions(false);
    assert_eq!(ended(client.oneshot(with_own(get(OURS))).await), With(200));
    let is_own = |hop: &String| hop.contains(OWN.0);
    assert_eq!(script.hops().into_iter().filter(is_own).count(), 13);
}

#[tokio::test]
async fn a_redirect_that_repeats_a_body_takes_a_clone_of_it_and_is_the_answer_without() {
    for (stack, status, method) in cases() {
        for clones in [true, false] {
            let (auth, script) = (layer(), Script::new([(status, "/b")]));
            let request = request(&method, OURS).map(|_| "#body".to_owned());
            let (client, policy) = (auth.layer(script.client()), RedirectPolicy::new(&auth));
            let outcome = if clones {
                let policy = policy.clone_body_with(|body: &String| Some(body.clone()));
                stack.send(policy, client, request).await
            } else {
                stack.send(policy, client, request).await
            };
            // What becomes a GET loses its body.
            let next = rewritten(&method, status);
            let repeats = status != 303 && next == method;
            let body = if repeats { "#body" } else { "" };
            let hops = [
                hop(&method, &format!("{OURS}#body"), LAYERS),
                hop(&next, &format!("{OURS_TOO}{body}"), LAYERS),
            ];
            let is_followed = !repeats || (clones && stack != Plain);
            let follower = if is_followed { stack } else { NoFollower };
            let actual = (ended(outcome), script.hops());
            assert_eq!(actual, follower.follows(status, &hops), "{stack:?}");
        }
    }
}

#[tokio::test]
async fn a_denial_by_another_host_that_a_follower_inside_reached_is_not_ours() {
    let source = scripted::Script::new(Fetch::Gives("v1"));
    let auth = Auth::new(source.store().await);
    let end = async |stack: Stack, to, status| {
        let script = Script::new([(307, to), (status, "")]);
        let inside = FollowRedirect::new(script.client());
        stack.call(&auth, inside, get(OURS)).await
    };
    let foreign = [STORAGE, PLAIN_HTTP, OTHER_PORT];
    for (stack, to) in STACKS.map(|stack| foreign.map(|to| (stack, to))).concat() {
        assert_eq!(end(stack, to, 401).await, With(401), "{stack:?} {to}");
        assert_eq!(end(stack, to, 403).await, With(403), "{stack:?} {to}");
    }
    settle().await;
    assert_eq!(source.fetches(), 0);
    for stack in STACKS {
        assert_eq!(end(stack, OURS_TOO, 401).await, Denied(401), "{stack:?}");
        assert_eq!(end(stack, OURS_TOO, 403).await, Denied(403), "{stack:?}");
    }
}
