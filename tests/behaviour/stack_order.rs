//! The order of layers: what each wrong one does. That the documented one does none of it is in campaigns, `ecosystem`.

use std::future::{Ready, pending, ready};
use std::io;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use tower::limit::ConcurrencyLimitLayer;
use tower::retry::Policy;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::test_util::{StackFinding, StackProbe, check_stack};
use tower_anyreach::{AnyreachAuthLayer, CredentialStore, Error, ForeignRequests};
use tower_http::follow_redirect::FollowRedirectLayer;

use support::{KEY, Recorder, credential, get, get_agents};

/// An ordinary policy that has never heard of credentials: once more after a 401.
#[derive(Clone)]
struct OnceMore;

impl<R> Policy<Request<String>, Response<R>, std::convert::Infallible> for OnceMore {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        request: &mut Request<String>,
        result: &mut Result<Response<R>, std::convert::Infallible>,
    ) -> Option<Self::Future> {
        let is_refused =
            matches!(result, Ok(response) if response.status() == StatusCode::UNAUTHORIZED);
        let again = is_refused && request.extensions_mut().insert(Attempted).is_none();
        again.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<String>) -> Option<Request<String>> {
        Some(request.clone())
    }
}

#[derive(Clone)]
struct Attempted;

#[tokio::test]
async fn outside_of_a_retry_the_refused_credential_is_sent_again() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .layer(AnyreachAuthLayer::new(store))
            .retry(OnceMore)
            .service(probe)
    })
    .await;
    assert_eq!(
        findings,
        [StackFinding::RefusedSentAgain, StackFinding::NotReplayed]
    );
}

#[tokio::test]
async fn outside_of_a_refresh_policy_nothing_is_replayed() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .layer(AnyreachAuthLayer::new(store.clone()))
            .retry(RefreshPolicy::new(store))
            .map_err(BoxError::from)
            .service(probe)
    })
    .await;
    assert_eq!(findings, [StackFinding::NotReplayed]);
}

#[tokio::test]
async fn outside_of_redirects_the_organization_leaves() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store))
            .layer(FollowRedirectLayer::new())
            .service(probe)
    })
    .await;
    assert_eq!(findings, [StackFinding::LeftOrigin]);
}

#[tokio::test]
async fn outside_of_limits_a_refused_request_leaves_its_permit_with_the_handle() {
    let layer = AnyreachAuthLayer::new(credential(KEY));
    let wrong = ServiceBuilder::new()
        .map_err(BoxError::from)
        .layer(layer.clone())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(Recorder::default());
    let mut first = wrong.clone();
    refuse(&mut first).await;
    let mut second = wrong.clone();
    assert!(
        at_once(second.ready()).is_none(),
        "the only permit is still with the first handle"
    );
    drop(first);
    assert!(at_once(second.ready()).is_some());

    let right = ServiceBuilder::new()
        .map_err(BoxError::from)
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(layer)
        .service(Recorder::default());
    let mut first = right.clone();
    refuse(&mut first).await;
    let mut second = right;
    assert!(at_once(second.ready()).is_some());
    second.call(get_agents()).await.unwrap();
}

/// What there is at once.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Sends a request that the layer refuses.
async fn refuse<S>(client: &mut S)
where
    S: Service<Request<String>, Response = Response<String>, Error = BoxError>,
{
    let request = get("https://evil.example/");
    let outcome = client.ready().await.unwrap().call(request).await;
    let error = outcome.unwrap_err();
    assert!(!Error::find(error.as_ref()).unwrap().was_sent());
}

// What else the check finds.

#[tokio::test]
async fn without_the_layer_nothing_is_authenticated() {
    let findings = check_stack::<_, String, _>(|_, probe| {
        assert_eq!(format!("{probe:?}"), "StackProbe { .. }");
        probe
    })
    .await;
    assert_eq!(
        findings,
        [
            StackFinding::NotReplayed,
            StackFinding::NotAuthenticated,
            StackFinding::DenialLost
        ]
    );
}

#[tokio::test]
async fn a_header_that_is_changed_below_is_found() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store))
            .map_request(|mut request: Request<String>| {
                request.headers_mut().remove("x-anyreach-org");
                request
            })
            .service(probe)
    })
    .await;
    assert_eq!(findings, [StackFinding::NotAuthenticated]);
}

#[tokio::test]
async fn a_credential_that_is_no_longer_marked_sensitive_is_found() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store))
            .map_request(|mut request: Request<String>| {
                let bearer = request.headers_mut().get_mut(AUTHORIZATION).unwrap();
                bearer.set_sensitive(false);
                request
            })
            .service(probe)
    })
    .await;
    assert_eq!(findings, [StackFinding::NotAuthenticated]);
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
        [
            StackFinding::NotReplayed,
            StackFinding::DenialLost,
            StackFinding::LeftOrigin
        ]
    );
}

#[tokio::test]
async fn requests_elsewhere_without_credentials_are_sound() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        let layer = AnyreachAuthLayer::new(store.clone())
            .foreign_requests(ForeignRequests::ForwardWithoutCredentials);
        ServiceBuilder::new()
            .retry(RefreshPolicy::new(store))
            .layer(FollowRedirectLayer::new())
            .layer(layer)
            .service(probe)
    })
    .await;
    assert_eq!(findings, []);
}

#[tokio::test]
async fn an_error_that_replaces_a_denial_is_found() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .map_err(|_: Error| io::Error::other("something failed"))
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store))
            .service(probe)
    })
    .await;
    assert_eq!(findings, [StackFinding::DenialLost]);
}

#[tokio::test]
async fn a_layer_that_calls_a_clone_of_what_it_readied_is_found() {
    #[derive(Clone)]
    struct Careless(StackProbe);

    impl Service<Request<String>> for Careless {
        type Response = <StackProbe as Service<Request<String>>>::Response;
        type Error = std::convert::Infallible;
        type Future = <StackProbe as Service<Request<String>>>::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Service::<Request<String>>::poll_ready(&mut self.0, cx)
        }

        fn call(&mut self, request: Request<String>) -> Self::Future {
            self.0.clone().call(request)
        }
    }

    let findings = check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .retry(RefreshPolicy::new(store.clone()))
            .layer(AnyreachAuthLayer::new(store))
            .service(Careless(probe))
    })
    .await;
    assert_eq!(findings, [StackFinding::CalledUnready]);
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_does_not_answer_is_given_up() {
    let findings = check_stack::<_, String, Response<String>>(|_: CredentialStore, _| {
        service_fn(|_: Request<String>| pending::<Result<Response<Response<String>>, BoxError>>())
    })
    .await;
    assert_eq!(findings, [StackFinding::NotAnswered]);
}

#[test]
fn each_finding_says_what_to_do() {
    for finding in [
        StackFinding::NotAuthenticated,
        StackFinding::LeftOrigin,
        StackFinding::NotReplayed,
        StackFinding::RefusedSentAgain,
        StackFinding::DenialLost,
        StackFinding::CalledUnready,
    ] {
        assert!(finding.to_string().contains(": "), "{finding}");
    }
}
