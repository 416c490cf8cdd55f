//! The peers: how others in the field set two headers, each around the same inner service.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Uri};
use kube_client::client::ConfigExt;
use octocrab::service::middleware::auth_header::AuthHeaderLayer;
use octocrab::service::middleware::extra_headers::ExtraHeadersLayer;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tower::{BoxError, Service, ServiceBuilder};

use crate::contenders::{
    self, Body, Contender, Inner, Judge, ORGANIZATION, TOKEN, X_ANYREACH_ORG, authorization,
    organization,
};

/// Gives the judge all contenders there are.
pub(crate) fn judge_all<I: Inner>(inner: &I, judge: &mut impl Judge<I>) {
    contenders::judge_all(inner, judge);
    judge.judge("map_request", inner, map_request);
    judge.judge("map_request_formatting", inner, map_request_formatting);
    judge.judge("boxed_async", inner, boxed_async);
    judge.judge("octocrab", inner, octocrab);
    judge.judge("kube_client", inner, kube_client);
    judge.judge("tonic", inner, tonic);
}

fn map_request<I: Inner>(inner: I) -> impl Contender {
    let (authorization, organization) = (authorization(), organization());
    ServiceBuilder::new()
        .map_request(move |mut request: Request<Body>| {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
            headers.insert(&X_ANYREACH_ORG, organization.clone());
            request
        })
        .service(inner)
}

/// What people write.
fn map_request_formatting<I: Inner>(inner: I) -> impl Contender {
    let (token, organization) = (TOKEN.to_owned(), ORGANIZATION.to_owned());
    ServiceBuilder::new()
        .map_request(move |mut request: Request<Body>| {
            let bearer = format!("Bearer {token}").parse().expect("visible ASCII");
            let organization = organization.parse().expect("visible ASCII");
            request.headers_mut().insert("authorization", bearer);
            request.headers_mut().insert("x-anyreach-org", organization);
            request
        })
        .service(inner)
}

/// The middleware of textbooks, whose future is boxed so that it need not be named.
#[derive(Clone)]
struct BoxedAsync<S> {
    inner: S,
    authorization: HeaderValue,
    organization: HeaderValue,
}

impl<I: Inner> Service<Request<Body>> for BoxedAsync<I> {
    type Response = I::Response;
    type Error = I::Error;
    type Future = Pin<Box<dyn Future<Output = Result<I::Response, I::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone is not ready: it stays here, and the one that is goes into the future.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let authorization = self.authorization.clone();
        let organization = self.organization.clone();
        Box::pin(async move {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization);
            headers.insert(&X_ANYREACH_ORG, organization);
            inner.call(request).await
        })
    }
}

fn boxed_async<I: Inner>(inner: I) -> impl Contender {
    BoxedAsync {
        inner,
        authorization: authorization(),
        organization: organization(),
    }
}

/// Both layers as `octocrab::OctocrabBuilder` stacks them. The first compares the host, as ours does.
fn octocrab<I: Inner>(inner: I) -> impl Contender {
    let host = Uri::from_static("https://api.anyreach.ai");
    let extra_headers = vec![(X_ANYREACH_ORG.clone(), organization())];
    ServiceBuilder::new()
        .layer(AuthHeaderLayer::new(
            Some(authorization()),
            host.clone(),
            host,
        ))
        .layer(ExtraHeadersLayer::new(Arc::new(extra_headers)))
        .service(inner)
}

/// Both layers as `kube_client::client::ClientBuilder` stacks them, with a static token.
fn kube_client<I: Inner>(inner: I) -> impl Contender {
    let mut config = kube_client::Config::new(Uri::from_static("https://api.anyreach.ai"));
    config.auth_info.token = Some(TOKEN.into());
    config
        .headers
        .push((X_ANYREACH_ORG.clone(), organization()));
    let auth_layer = config.auth_layer().expect("a token is ASCII");
    ServiceBuilder::new()
        .layer(auth_layer.expect("there is a token"))
        .layer(
            config
                .extra_headers_layer()
                .expect("nobody is impersonated"),
        )
        .map_err(BoxError::from)
        .service(inner)
}

fn tonic<I: Inner>(inner: I) -> impl Contender {
    let mut authorization: MetadataValue<Ascii> =
        format!("Bearer {TOKEN}").parse().expect("a token is ASCII");
    authorization.set_sensitive(true);
    let organization: MetadataValue<Ascii> = ORGANIZATION.parse().expect("visible ASCII");
    InterceptedService::new(inner, move |mut request: tonic::Request<()>| {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", authorization.clone());
        metadata.insert("x-anyreach-org", organization.clone());
        Ok(request)
    })
}
