//! The order of layers: what each wrong one does, and what `check_stack` finds. The documented order has no finding.

use std::collections::HashMap;

use http::Uri;
use http::header::{HOST, LOCATION};
use tokio::sync::OnceCell;
use tower::limit::ConcurrencyLimitLayer;
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::test_util::{FakeAnyreach, StackFinding, StackProbe, check_stack};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::{FilterCredentials, Policy};

use crate::prelude::*;

use StackFinding::{
    CalledUnready, DenialLost, LeftOrigin, LeftSchemeOrPort, NotAnswered, NotAuthenticated,
    NotReplayed, OverrideLost, RefusedSentAgain, TenantsMixed,
};

/// Asserts the findings for a stack, or for the documented order with these layers outside and inside of it.
macro_rules! assert_finds {
    ($findings:expr, |$store:pat_param, $probe:pat_param| $stack:expr) => {
        let findings = check_stack::<_, String, _>(|$store, $probe| $stack).await;
        assert_eq!(findings, $findings);
    };
    ($findings:expr, [$($outside:tt)*] [$($inside:tt)*]) => {
        assert_finds!($findings, |store, probe| ServiceBuilder::new()
            $($outside)*
            .retry(RefreshPolicy::new())
            .layer(AnyreachAuthLayer::new(store))
            $($inside)*
            .service(probe))
    };
}

#[tokio::test]
async fn a_layer_outside_of_a_retry_sends_the_denied_credential_again() {
    assert_finds!([RefusedSentAgain, NotReplayed], |store, probe| {
        let retry = ServiceBuilder::new().retry(once_more());
        AnyreachAuthLayer::new(store).layer(retry.service(probe))
    });
}

#[tokio::test]
async fn a_layer_outside_of_a_refresh_policy_replays_nothing() {
    assert_finds!([NotReplayed], |store, probe| {
        let inner = ServiceBuilder::new().map_err(BoxError::from);
        AnyreachAuthLayer::new(store.clone()).layer(replaying(inner.service(probe)))
    });
}

#[tokio::test]
async fn a_layer_outside_of_redirects_lets_the_organization_leave() {
    assert_finds!([LeftOrigin], [] [.layer(FollowRedirectLayer::new())]);
}

#[tokio::test]
async fn a_layer_outside_of_a_limit_leaves_the_permit_of_a_refused_request_reserved() {
    let limit = || ServiceBuilder::new().concurrency_limit(1);
    let inside = layer().layer(limit().service(Recorder::default()));
    assert_eq!(has_permit_after_refusal(inside).await, [false, true]);
    let outside = limit().service(layer().layer(Recorder::default()));
    assert_eq!(has_permit_after_refusal(outside).await, [true, true]);
}

/// Sends a request that the layer refuses, and returns whether a clone gets the permit then, and once the first handle is gone.
async fn has_permit_after_refusal<S>(mut client: S) -> [bool; 2]
where
    S: Service<Request<String>, Response = Response<String>, Error = Error> + Clone,
{
    let mut clone = client.clone();
    let request = get("https://evil.example/");
    let outcome = client.ready().await.unwrap().call(request).await;
    let reason = outcome.unwrap_err().refusal().unwrap().reason();
    assert_eq!(reason, RefusalReason::ForeignDestination);
    let at_once = task::spawn(clone.ready()).poll().is_ready();
    drop(client);
    [at_once, task::spawn(clone.ready()).poll().is_ready()]
}

// Redirects at the origin.

/// A stack with this follower of redirects outside of the documented rest.
async fn check_follower<P: Policy<String, Error> + Clone>(
    follower: impl FnOnce(&AnyreachAuthLayer) -> FollowRedirectLayer<P>,
) -> Vec<StackFinding> {
    check_stack::<_, String, _>(|store, probe| {
        let auth = AnyreachAuthLayer::new(store.clone());
        follower(&auth).layer(replaying(auth.layer(probe)))
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
    let allow: [fn(FilterCredentials) -> FilterCredentials; 4] = [
        FilterCredentials::allow_extension::<Anonymous>,
        FilterCredentials::allow_extension::<Credential>,
        FilterCredentials::allow_extension::<CredentialStore>,
        FilterCredentials::allow_extension::<OrganizationId>,
    ];
    for dropped in 0..=4 {
        let kept = (0..4).filter(|kind| *kind != dropped);
        let none = FilterCredentials::new().block_any();
        let filter = kept.fold(none, |filter, kind| allow[kind](filter));
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
    assert_finds!([OverrideLost], [.map_request(clear)] []);
}

/// Follows one redirect, and removes credentials from it unless this says that it leads to the same server.
fn following<S, R>(
    inner: S,
    is_same: fn(&Uri, &Uri) -> bool,
) -> impl Service<Request<String>, Response = Response<R>, Error = S::Error, Future: Send> + Clone
where
    S: Service<Request<String>, Response = Response<R>, Future: Send, Error: Send> + Clone + Send,
    R: Send,
{
    service_fn(move |request: Request<String>| {
        let (inner, mut next) = (inner.clone(), request.clone());
        async move {
            let response = inner.clone().oneshot(request).await?;
            let location = response.headers().get(LOCATION);
            let uri = location.and_then(|to| to.to_str().ok()?.parse::<Uri>().ok());
            let Some(uri) = uri.filter(|uri| uri.host().is_some()) else {
                return Ok(response);
            };
            if !is_same(&uri, next.uri()) {
                next.headers_mut().remove(AUTHORIZATION);
                next.headers_mut().remove(&ORG);
            }
            *next.uri_mut() = uri;
            inner.oneshot(next).await
        }
    })
}

#[tokio::test]
async fn a_follower_that_compares_host_names_is_sound_outside_and_sends_credentials_by_plain_http_inside()
 {
    let comparisons: [fn(&Uri, &Uri) -> bool; 3] = [
        |a, b| a.host() == b.host(),
        |a, b| (a.host(), a.scheme()) == (b.host(), b.scheme()),
        |a, b| (a.host(), a.port_u16()) == (b.host(), b.port_u16()),
    ];
    for is_same in comparisons {
        assert_finds!([], [.layer_fn(|inner| following(inner, is_same))] []);
        assert_finds!([LeftSchemeOrPort], [] [.layer_fn(|inner| following(inner, is_same))]);
    }
}

// Two tenants and one URI.

type Answer = Response<Full<Bytes>>;

/// What a cache and a coalescing layer take for the same request.
fn key(request: &Request<String>) -> String {
    // `Debug` of the map would hide the sensitive ones.
    let values = request.headers().values().map(HeaderValue::as_bytes);
    format!("{} {:?}", request.uri(), values.collect::<Vec<_>>())
}

/// Which requests get the same answer, and for how long.
#[derive(Clone, Copy)]
struct Sharing {
    key: fn(&Request<String>) -> String,
    is_stored: fn(&Answer) -> bool,
    /// Only while the first request is in flight.
    coalesces: bool,
}

const CACHED: Sharing = Sharing {
    key,
    is_stored: |answer| answer.status().is_success(),
    coalesces: false,
};
const COALESCED: Sharing = Sharing {
    coalesces: true,
    ..CACHED
};
/// As RFC 9111 has it: an answer that does not say for how long it is fresh is not stored.
const CACHED_AS_ALLOWED: Sharing = Sharing {
    is_stored: |answer| answer.headers().contains_key("cache-control"),
    ..CACHED
};
const CACHED_BY_URI: Sharing = Sharing {
    key: |request| request.uri().to_string(),
    ..CACHED
};

impl Sharing {
    fn around<S>(
        self,
        inner: S,
    ) -> impl Service<Request<String>, Response = Answer, Error = S::Error, Future: Send> + Clone
    where
        S: Service<Request<String>, Response = Answer, Future: Send, Error: Send> + Clone + Send,
    {
        let answers: Arc<Mutex<HashMap<String, Arc<OnceCell<Answer>>>>> = Arc::default();
        service_fn(move |request: Request<String>| {
            let (inner, answers) = (inner.clone(), Arc::clone(&answers));
            async move {
                let key = (self.key)(&request);
                let cell = Arc::clone(answers.lock().unwrap().entry(key.clone()).or_default());
                if self.coalesces {
                    let answer = cell.get_or_try_init(|| inner.oneshot(request)).await;
                    answers.lock().unwrap().remove(&key);
                    return answer.cloned();
                }
                if let Some(answer) = cell.get() {
                    return Ok(answer.clone());
                }
                let answer = inner.oneshot(request).await?;
                if (self.is_stored)(&answer) {
                    let _ = cell.set(answer.clone());
                }
                Ok(answer)
            }
        })
    }
}

#[tokio::test]
async fn a_cache_outside_of_the_layer_gives_one_tenant_the_answer_to_another() {
    let scopes = ["org_a", "org_b"].map(|name| (name, ["agents:read"]));
    let builder = FakeAnyreach::builder().personal_access_token(TOKEN, scopes);
    let anyreach = builder.in_memory();
    let auth = AnyreachAuthLayer::new(token_for("org_a"));
    let ask = |tenant| with(organization(tenant), get_agents());
    let outside = CACHED.around(auth.layer(anyreach.service()));
    let inside = auth.layer(CACHED.around(anyreach.service()));
    for tenant in ["org_a", "org_b", "org_b"] {
        outside.clone().oneshot(ask(tenant)).await.unwrap();
        inside.clone().oneshot(ask(tenant)).await.unwrap();
    }
    let received = anyreach.received();
    let sent = received.iter().map(|request| &request.headers()[&ORG]);
    // One through the first, and one for each tenant through the second.
    assert_eq!(sent.collect::<Vec<_>>(), ["org_a", "org_a", "org_b"]);
}

#[tokio::test]
async fn caches_and_coalescing_outside_of_the_layer_are_found() {
    for sharing in [CACHED, CACHED_AS_ALLOWED, COALESCED] {
        assert_finds!([TenantsMixed], |store, probe| {
            let retry = ServiceBuilder::new().retry(RefreshPolicy::new());
            let auth = AnyreachAuthLayer::new(store);
            let around = |inner| sharing.around(inner);
            retry.layer_fn(around).layer(auth).service(probe)
        });
    }
}

#[tokio::test]
async fn a_cache_inside_of_the_layer_that_ignores_our_headers_is_found() {
    assert_finds!([TenantsMixed], [] [.layer_fn(|inner| CACHED_BY_URI.around(inner))]);
}

#[tokio::test]
async fn the_documented_order_has_no_finding() {
    assert_finds!([], |store, probe| {
        let auth = AnyreachAuthLayer::new(store.clone());
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth)))
            .retry(RefreshPolicy::new())
            .layer(ConcurrencyLimitLayer::new(1))
            .buffer(8)
            .layer(auth)
            .layer_fn(|inner| CACHED.around(inner))
            .layer_fn(|inner| COALESCED.around(inner))
            .service(probe)
    });
}

// What else the check finds.

#[tokio::test]
async fn a_stack_without_the_layer_authenticates_nothing() {
    assert_finds!([NotReplayed, NotAuthenticated, DenialLost], |_, probe| {
        assert_eq!(format!("{probe:?}"), "StackProbe { .. }");
        probe
    });
}

#[tokio::test]
async fn a_header_that_is_changed_below_is_found() {
    let without_organization = |mut request: Request<String>| {
        request.headers_mut().remove(&ORG);
        request
    };
    assert_finds!([NotAuthenticated], [] [.map_request(without_organization)]);
    let no_longer_sensitive = |mut request: Request<String>| {
        let values = request.headers_mut().values_mut();
        values.for_each(|value| value.set_sensitive(false));
        request
    };
    assert_finds!([NotAuthenticated], [] [.map_request(no_longer_sensitive)]);
}

#[tokio::test]
async fn both_headers_on_every_hop_are_found() {
    let by_hand = |mut request: Request<String>| {
        let mut bearer = HeaderValue::from_static("Bearer pat_by-hand");
        bearer.set_sensitive(true);
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ORG.clone(), HeaderValue::from_static("org_1"));
        request
    };
    let expected = [NotReplayed, DenialLost, LeftOrigin, OverrideLost];
    assert_finds!(expected, |_, probe| {
        let inner = ServiceBuilder::new().map_request(by_hand);
        FollowRedirectLayer::new().layer(inner.service(probe))
    });
}

#[tokio::test]
async fn requests_elsewhere_without_credentials_are_sound() {
    assert_finds!([], |store, probe| {
        let auth = AnyreachAuthLayer::new(store.clone()).foreign_requests(FORWARD);
        replaying(FollowRedirectLayer::new().layer(auth.layer(probe)))
    });
}

#[tokio::test]
async fn an_error_that_replaces_a_denial_is_found() {
    let replaced = |_: Error| io::Error::other("something failed");
    assert_finds!([DenialLost], [.map_err(replaced)] []);
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

    assert_finds!([CalledUnready], [] [.layer_fn(Careless)]);
}

#[tokio::test]
async fn a_client_that_writes_host_and_path_to_its_connection_is_sound() {
    let bare = |mut request: Request<String>| {
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("api.anyreach.ai:443"));
        *request.uri_mut() = request.uri().path().parse().unwrap();
        request
    };
    assert_finds!([], [] [.map_request(bare)]);
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
    let of_headers = [NotAuthenticated, LeftOrigin, LeftSchemeOrPort];
    let of_replays = [NotReplayed, RefusedSentAgain, DenialLost];
    let others = [TenantsMixed, OverrideLost, CalledUnready];
    for finding in [of_headers, of_replays, others].concat() {
        assert!(finding.to_string().contains(": "), "{finding}");
    }
}
