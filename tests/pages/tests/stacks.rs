//! `check_stack` finds nothing in each stack that the pages recommend.

use std::future::ready;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{Either, Full};
use hyper_util::client::pool::cache;
use support::SECOND;
use tokio::time::Sleep;
use tower::limit::ConcurrencyLimitLayer;
use tower::retry::Policy;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_anyreach::follow_redirect::RedirectPolicy;
use tower_anyreach::retry::RefreshPolicy;
use tower_anyreach::test_util::{StackFinding, StackProbe, check_stack};
use tower_anyreach::{AnyreachAuthLayer, BoxError, Error, RelativeUris};
use tower_http::decompression::DecompressionLayer;
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::trace::TraceLayer;

/// The reqwest section's policy: it retries failures and some responses, and no denial.
#[derive(Clone)]
struct Transient(u32);

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for Transient {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Sleep> {
        match result {
            Ok(busy) if [429, 503].contains(&busy.status().as_u16()) => {}
            Err(Error::Service(_)) => {}
            _ => return None,
        }
        self.0 = self.0.checked_sub(1)?;
        Some(tokio::time::sleep(SECOND))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn the_whole_documented_order_has_no_finding() {
    let findings = check_stack::<_, String, _>(|store, probe| {
        let auth = AnyreachAuthLayer::new(store);
        ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .map_err(Error::from_boxed)
            .timeout(SECOND * 10)
            .retry(Transient(3))
            .layer(FollowRedirectLayer::with_policy(RedirectPolicy::new(&auth)))
            .map_err(Error::from_boxed)
            .retry(RefreshPolicy::new())
            .layer(ConcurrencyLimitLayer::new(8))
            .buffer(8)
            .layer(auth)
            .layer(DecompressionLayer::new())
            .timeout(SECOND * 3)
            .service(probe)
    });
    assert_eq!(findings.await, []);
}

/// The stack of the hyper section, around any client.
async fn check_hyper<C>(client: impl FnOnce(StackProbe) -> C) -> Vec<StackFinding>
where
    C: Service<Request<String>, Response = Response<Full<Bytes>>, Error: Into<BoxError>> + Clone,
{
    check_stack::<_, String, _>(|store, probe| {
        ServiceBuilder::new()
            .map_err(Error::from_boxed)
            .timeout(SECOND * 10)
            .retry(RefreshPolicy::new())
            .layer(AnyreachAuthLayer::new(store))
            .timeout(SECOND * 3)
            .service(client(probe))
    })
    .await
}

#[tokio::test]
async fn the_stack_of_the_hyper_section_has_no_finding() {
    assert_eq!(check_hyper(|probe| probe).await, []);
}

#[tokio::test]
async fn the_stack_over_hypers_composable_pool_has_no_finding() {
    // A pool as on the page, whose connections are probes.
    let pooled = |probe: StackProbe| {
        let pool = cache::builder().build(service_fn(move |_: Uri| {
            ready(Ok::<_, BoxError>(probe.clone()))
        }));
        service_fn(move |request: Request<String>| {
            let mut pool = pool.clone();
            async move {
                let origin = Uri::from_static("https://api.anyreach.ai/");
                let mut connection = pool.ready().await?.call(origin).await?;
                let ready = ServiceExt::<Request<String>>::ready(&mut connection).await?;
                Ok::<_, BoxError>(ready.call(request).await?)
            }
        })
    };
    assert_eq!(check_hyper(pooled).await, []);
}

#[tokio::test]
async fn the_stack_of_the_reqwest_section_has_no_finding() {
    let findings = check_stack::<_, Bytes, _>(|store, probe| {
        ServiceBuilder::new()
            .map_err(Error::from_boxed)
            .timeout(SECOND * 30)
            .retry(Transient(3))
            .retry(RefreshPolicy::new())
            .layer(AnyreachAuthLayer::new(store))
            .timeout(SECOND * 10)
            .filter(|request: Request<Bytes>| {
                // As reqwest does, which cannot be below this check.
                reqwest::Request::try_from(request.clone()).map(|_| request)
            })
            .service(probe)
    });
    assert_eq!(findings.await, []);
}

#[tokio::test]
async fn the_stack_of_the_gateway_has_no_finding() {
    type Upload = Either<Full<Bytes>, String>;

    let findings = check_stack::<_, String, _>(|store, probe| {
        let refresh = RefreshPolicy::new().clone_body_with(|body: &Upload| match body {
            Either::Left(bytes) => Some(Either::Left(bytes.clone())),
            Either::Right(_) => None,
        });
        ServiceBuilder::new()
            // The gateway keeps small bodies.
            .map_request(|request: Request<String>| {
                request.map(|body| Upload::Left(Full::from(body)))
            })
            .retry(refresh)
            .layer(AnyreachAuthLayer::new(store).relative_uris(RelativeUris::Complete))
            .timeout(SECOND * 5)
            .service(probe)
    });
    assert_eq!(findings.await, []);
}

#[tokio::test]
async fn the_one_layer_of_the_first_call_lacks_a_refresh_alone() {
    let findings =
        check_stack::<_, String, _>(|store, probe| AnyreachAuthLayer::new(store).layer(probe));
    assert_eq!(findings.await, [StackFinding::NotReplayed]);
}
