//! The order of layers: the harm of each wrong one, and what `check_stack` finds. The documented order has no finding.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use tokio::sync::OnceCell;
use tokio_test::task;
use tower::limit::ConcurrencyLimitLayer;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::test_util::{FakeAnyreach, StackFinding, StackProbe, check_stack};
use tower_anyreach::{
    Anonymous, AnyreachAuthLayer, Credential, CredentialStore, Error, ForeignRequests,
    OrganizationId, RefusalReason,
};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::FilterCredentials;

use support::{ORG, OnceMore, Recorder, get, get_agents, organization, token_for, with};

use StackFinding::{
    CalledUnready, DenialLost, LeftOrigin, LeftSchemeOrPort, NotAnswered, NotAuthenticated,
    NotReplayed, OverrideLost, RefusedSentAgain, TenantsMixed,
};

/// The findings for the documented order, with these layers outside and inside of it.
macro_rules! check {
    ([$($outside:tt)*] [$($inside:tt)*]) => {
        check_stack::<_, String, _>(|store, probe| {
            ServiceBuilder::new()
                $($outside)*
                .retry(RefreshPolicy::new())
                .layer(AnyreachAuthLayer::new(store))
                $($inside)*
                .service(probe)
        })
        .await
    };
}

#[tokio::test]
async fn outside_of_a_retry_the_denied_credential_is_sent_again() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .layer(AnyreachAuthLayer::new(store))
            .retry(OnceMore::default())
            .service(probe)
    })
    .await;
    assert_eq!(findings, [RefusedSentAgain, NotReplayed]);
}

#[tokio::test]
async fn outside_of_a_refresh_policy_nothing_is_replayed() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .layer(AnyreachAuthLayer::new(store.clone()))
            .retry(RefreshPolicy::new())
            .map_err(BoxError::from)
            .service(probe)
    })
    .await;
    assert_eq!(findings, [NotReplayed]);
}

#[tokio::test]
async fn outside_of_redirects_the_organization_leaves() {
    let findings = check!([] [.layer(FollowRedirectLayer::new())]);
    assert_eq!(findings, [LeftOrigin]);
}

#[tokio::test]
async fn outside_of_limits_a_refused_request_leaves_its_permit_with_the_handle() {
    let (layer, limit) = (support::layer(), ConcurrencyLimitLayer::new(1));
    let mut first = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(limit.clone())
        .service(Recorder::default());
    let mut second = first.clone();
    refuse(&mut first).await;
    assert!(
        task::spawn(second.ready()).poll().is_pending(),
        "the only permit is still with the first handle"
    );
    drop(first);
    assert!(task::spawn(second.ready()).poll().is_ready());

    let mut first = ServiceBuilder::new()
        .layer(limit)
        .layer(layer)
        .service(Recorder::default());
    let mut second = first.clone();
    refuse(&mut first).await;
    assert!(task::spawn(second.ready()).poll().is_ready());
    second.call(get_agents()).await.unwrap();
}

/// Sends a request that the layer refuses.
async fn refuse<S>(client: &mut S)
where
    S: Service<Request<String>, Response = Response<String>, Error = Error>,
{
    let request = get("https://evil.example/");
    let outcome = client.ready().await.unwrap().call(request).await;
    let error = outcome.unwrap_err();
    let reason = error.refusal().unwrap().reason();
    assert_eq!(reason, RefusalReason::ForeignDestination);
}

// Redirects at the origin.

/// A stack with this follower of redirects outside of the documented rest.
async fn check_follower<P>(
    follower: impl FnOnce(&AnyreachAuthLayer) -> FollowRedirectLayer<P>,
) -> Vec<StackFinding>
where
    P: tower_http::follow_redirect::policy::Policy<String, Error> + Clone,
{
    check_stack::<_, String, _>(|store, probe| {
        let auth = AnyreachAuthLayer::new(store.clone());
        ServiceBuilder::new()
            .layer(follower(&auth))
            .retry(RefreshPolicy::new())
            .layer(auth)
            .service(probe)
    })
    .await
}

#[tokio::test]
async fn a_follower_that_drops_extensions_loses_overrides() {
    // So does tower-http 0.6, which has no such option.
    let findings = check_follower(|_| FollowRedirectLayer::new().preserve_extensions(false)).await;
    assert_eq!(findings, [OverrideLost]);
    // The policy restores what this follower drops.
    let findings = check_follower(|auth| {
        FollowRedirectLayer::with_policy(RedirectPolicy::new(auth)).preserve_extensions(false)
    });
    assert_eq!(findings.await, []);
}

#[tokio::test]
async fn each_kind_of_override_is_looked_for() {
    for dropped in 0..=4 {
        let mut filter = FilterCredentials::new().block_any();
        if dropped != 0 {
            filter = filter.allow_extension::<Anonymous>();
        }
        if dropped != 1 {
            filter = filter.allow_extension::<Credential>();
        }
        if dropped != 2 {
            filter = filter.allow_extension::<CredentialStore>();
        }
        if dropped != 3 {
            filter = filter.allow_extension::<OrganizationId>();
        }
        let findings = check_follower(|_| FollowRedirectLayer::with_policy(filter)).await;
        let lost = [OverrideLost];
        assert_eq!(findings, lost[usize::from(dropped == 4)..], "{dropped}");
    }
}

#[tokio::test]
async fn a_layer_outside_that_drops_extensions_loses_overrides() {
    let clear = |mut request: Request<String>| {
        request.extensions_mut().clear();
        request
    };
    assert_eq!(check!([.map_request(clear)] []), [OverrideLost]);
}

/// Follows one redirect, and removes credentials from it if the host has another name, whatever its scheme and port.
#[derive(Clone)]
struct ByHostName<S>(S);

impl<S, R> Service<Request<String>> for ByHostName<S>
where
    S: Service<Request<String>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    R: Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let mut next = request.clone();
        let inner = self.0.clone();
        let response = self.0.call(request);
        Box::pin(async move {
            let response = response.await?;
            let location = response.headers().get(LOCATION);
            let Some(uri) = location.and_then(|to| to.to_str().ok()?.parse::<Uri>().ok()) else {
                return Ok(response);
            };
            if uri.host().is_none() {
                return Ok(response);
            }
            if uri.host() != next.uri().host() {
                next.headers_mut().remove(AUTHORIZATION);
                next.headers_mut().remove(&ORG);
            }
            *next.uri_mut() = uri;
            inner.oneshot(next).await
        })
    }
}

#[tokio::test]
async fn a_follower_that_compares_host_names_is_sound_outside_and_sends_credentials_by_plain_http_inside()
 {
    assert_eq!(check!([.layer_fn(ByHostName)] []), []);
    let inside = check!([] [.layer_fn(ByHostName)]);
    assert_eq!(inside, [LeftSchemeOrPort]);
}

// Two tenants and one URI.

type Answer = Response<Full<Bytes>>;

/// What a cache and a coalescing layer take for the same request.
fn key(request: &Request<String>) -> String {
    // `Debug` of the map would hide the sensitive ones.
    let values = request.headers().values().map(HeaderValue::as_bytes);
    format!("{} {:?}", request.uri(), values.collect::<Vec<_>>())
}

/// Answers a request as it answered an equal one before; or only while that one is in flight.
#[derive(Clone)]
struct Sharing<S> {
    inner: S,
    coalesces: bool,
    key: fn(&Request<String>) -> String,
    is_stored: fn(&Answer) -> bool,
    answers: Arc<Mutex<HashMap<String, Arc<OnceCell<Answer>>>>>,
}

fn cached<S>(inner: S) -> Sharing<S> {
    Sharing {
        inner,
        coalesces: false,
        key,
        is_stored: |answer| answer.status().is_success(),
        answers: Arc::default(),
    }
}

fn coalesced<S>(inner: S) -> Sharing<S> {
    Sharing {
        coalesces: true,
        ..cached(inner)
    }
}

/// As RFC 9111 has it: an answer that does not say for how long it is fresh is not stored.
fn cached_as_allowed<S>(inner: S) -> Sharing<S> {
    Sharing {
        is_stored: |answer| answer.headers().contains_key("cache-control"),
        ..cached(inner)
    }
}

fn cached_by_uri<S>(inner: S) -> Sharing<S> {
    Sharing {
        key: |request| request.uri().to_string(),
        ..cached(inner)
    }
}

impl<S> Service<Request<String>> for Sharing<S>
where
    S: Service<Request<String>, Response = Answer> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let sharing = self.clone();
        Box::pin(async move {
            let key = (sharing.key)(&request);
            let cell = Arc::clone(
                sharing
                    .answers
                    .lock()
                    .unwrap()
                    .entry(key.clone())
                    .or_default(),
            );
            if sharing.coalesces {
                let answer = cell
                    .get_or_try_init(|| sharing.inner.oneshot(request))
                    .await;
                sharing.answers.lock().unwrap().remove(&key);
                return answer.cloned();
            }
            if let Some(answer) = cell.get() {
                return Ok(answer.clone());
            }
            let answer = sharing.inner.oneshot(request).await?;
            if (sharing.is_stored)(&answer) {
                let _ = cell.set(answer.clone());
            }
            Ok(answer)
        })
    }
}

#[tokio::test]
async fn outside_of_the_layer_a_cache_gives_one_tenant_the_answer_to_another() {
    let token = support::TOKEN;
    let anyreach = FakeAnyreach::builder()
        .personal_access_token(
            token,
            [("org_a", ["agents:read"]), ("org_b", ["agents:read"])],
        )
        .in_memory();
    let auth = AnyreachAuthLayer::new(token_for("org_a"));
    let ask = |tenant| with(organization(tenant), get_agents());
    let outside = cached(auth.layer(anyreach.service()));
    let inside = auth.layer(cached(anyreach.service()));
    for tenant in ["org_a", "org_b", "org_b"] {
        outside.clone().oneshot(ask(tenant)).await.unwrap();
    }
    for tenant in ["org_a", "org_b", "org_b"] {
        inside.clone().oneshot(ask(tenant)).await.unwrap();
    }
    let received = anyreach.received();
    let sent = received.iter().map(|request| &request.headers()[&ORG]);
    // One through the first, and one for each tenant through the second.
    assert_eq!(sent.collect::<Vec<_>>(), ["org_a", "org_a", "org_b"]);
}

#[tokio::test]
async fn caches_and_coalescing_outside_of_the_layer_are_found() {
    for sharing in [cached, cached_as_allowed, coalesced] {
        let findings = check_stack::<_, String, _>(|store, probe| {
            let retry = ServiceBuilder::new().retry(RefreshPolicy::new());
            let auth = AnyreachAuthLayer::new(store);
            retry.layer_fn(sharing).layer(auth).service(probe)
        });
        assert_eq!(findings.await, [TenantsMixed]);
    }
}

#[tokio::test]
async fn a_cache_inside_of_the_layer_that_ignores_our_headers_is_found() {
    let findings = check!([] [.layer_fn(cached_by_uri)]);
    assert_eq!(findings, [TenantsMixed]);
}

#[tokio::test]
async fn the_documented_order_has_no_finding() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        let auth = AnyreachAuthLayer::new(store.clone());
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth)))
            .retry(RefreshPolicy::new())
            .layer(ConcurrencyLimitLayer::new(1))
            .buffer(8)
            .layer(auth)
            .layer_fn(cached)
            .layer_fn(coalesced)
            .service(probe)
    });
    assert_eq!(findings.await, []);
}

// What else the check finds.

#[tokio::test]
async fn without_the_layer_nothing_is_authenticated() {
    let findings = check_stack::<_, String, _>(|_, probe| {
        assert_eq!(format!("{probe:?}"), "StackProbe { .. }");
        probe
    })
    .await;
    assert_eq!(findings, [NotReplayed, NotAuthenticated, DenialLost]);
}

#[tokio::test]
async fn a_header_that_is_changed_below_is_found() {
    let without_organization = |mut request: Request<String>| {
        request.headers_mut().remove(&ORG);
        request
    };
    let findings = check!([] [.map_request(without_organization)]);
    assert_eq!(findings, [NotAuthenticated]);
    let no_longer_sensitive = |mut request: Request<String>| {
        if let Some(bearer) = request.headers_mut().get_mut(AUTHORIZATION) {
            bearer.set_sensitive(false);
        }
        request
    };
    let findings = check!([] [.map_request(no_longer_sensitive)]);
    assert_eq!(findings, [NotAuthenticated]);
}

#[tokio::test]
async fn both_headers_on_every_hop_are_found() {
    let findings = check_stack::<_, String, _>(|_, probe| {
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::new())
            .map_request(|mut request: Request<String>| {
                let mut bearer = HeaderValue::from_static("Bearer pat_by-hand");
                bearer.set_sensitive(true);
                let headers = request.headers_mut();
                headers.insert(AUTHORIZATION, bearer);
                headers.insert("x-anyreach-org", HeaderValue::from_static("org_1"));
                request
            })
            .service(probe)
    })
    .await;
    assert_eq!(
        findings,
        [NotReplayed, DenialLost, LeftOrigin, OverrideLost]
    );
}

#[tokio::test]
async fn requests_elsewhere_without_credentials_are_sound() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        let layer = AnyreachAuthLayer::new(store.clone())
            .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
        ServiceBuilder::new()
            .retry(RefreshPolicy::new())
            .layer(FollowRedirectLayer::new())
            .layer(layer)
            .service(probe)
    })
    .await;
    assert_eq!(findings, []);
}

#[tokio::test]
async fn an_error_that_replaces_a_denial_is_found() {
    let replaced = |_: Error| io::Error::other("something failed");
    assert_eq!(check!([.map_err(replaced)] []), [DenialLost]);
}

#[tokio::test]
async fn a_layer_that_calls_a_clone_of_what_it_readied_is_found() {
    #[derive(Clone)]
    struct Careless(StackProbe);

    impl Service<Request<String>> for Careless {
        type Response = <StackProbe as Service<Request<String>>>::Response;
        type Error = Infallible;
        type Future = <StackProbe as Service<Request<String>>>::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Service::<Request<String>>::poll_ready(&mut self.0, cx)
        }

        fn call(&mut self, request: Request<String>) -> Self::Future {
            self.0.clone().call(request)
        }
    }

    let findings = check!([] [.layer_fn(Careless)]);
    assert_eq!(findings, [CalledUnready]);
}

#[tokio::test(start_paused = true)]
async fn the_check_ends_at_a_request_that_is_not_answered() {
    let findings = check_stack::<_, String, Response<String>>(|_: CredentialStore, _| {
        service_fn(|_: Request<String>| pending::<Result<Response<Response<String>>, BoxError>>())
    })
    .await;
    assert_eq!(findings, [NotAnswered]);
}

#[test]
fn each_finding_says_what_to_do() {
    for finding in [
        NotAuthenticated,
        LeftOrigin,
        LeftSchemeOrPort,
        NotReplayed,
        RefusedSentAgain,
        DenialLost,
        OverrideLost,
        TenantsMixed,
        CalledUnready,
    ] {
        assert!(finding.to_string().contains(": "), "{finding}");
    }
}
