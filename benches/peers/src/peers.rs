//! The peers: libraries that attach headers in a tower service, each around the same inner service.

use std::sync::Arc;

use http::Uri;
use kube_client::client::ConfigExt;
use octocrab::service::middleware::auth_header::AuthHeaderLayer;
use octocrab::service::middleware::extra_headers::ExtraHeadersLayer;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tower::{BoxError, ServiceBuilder};

use crate::harness::{self, BOTH, Contender, Inner, TOKEN, X_ANYREACH_ORG, bearer, organization};

/// Returns the contenders of the harness, and the peers.
pub(crate) fn contenders() -> Vec<Contender> {
    let mut contenders = harness::contenders();
    contenders.extend([kube_client(), octocrab(), tonic()]);
    #[cfg(feature = "cf-gears")]
    contenders.push(crate::cf_gears::contender());
    contenders
}

/// Stacks both layers as `kube_client::client::ClientBuilder` does, with a static token.
fn kube_client() -> Contender {
    Contender::new("kube_client", BOTH, || {
        let mut config = kube_client::Config::new(Uri::from_static("https://api.anyreach.ai"));
        config.auth_info.token = Some(TOKEN.into());
        let extra = (X_ANYREACH_ORG.clone(), organization());
        config.headers.push(extra);
        let auth = config.auth_layer().expect("a valid token");
        let extra = config.extra_headers_layer().expect("valid headers");
        ServiceBuilder::new()
            .layer(auth.expect("a token was set"))
            .layer(extra)
            .map_err(BoxError::from)
            .service(Inner::default())
    })
}

/// Stacks both layers as `octocrab::OctocrabBuilder` does. The first compares the host.
fn octocrab() -> Contender {
    Contender::new("octocrab", BOTH, || {
        let host = Uri::from_static("https://api.anyreach.ai");
        let headers = Arc::new(vec![(X_ANYREACH_ORG.clone(), organization())]);
        let auth = AuthHeaderLayer::new(Some(bearer(TOKEN)), host.clone(), host);
        ServiceBuilder::new()
            .layer(auth)
            .layer(ExtraHeadersLayer::new(headers))
            .service(Inner::default())
    })
}

fn tonic() -> Contender {
    Contender::new("tonic", BOTH, || {
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {TOKEN}").parse().expect("visible ASCII");
        authorization.set_sensitive(true);
        let organization =
            MetadataValue::<Ascii>::try_from(organization().as_bytes()).expect("visible ASCII");
        InterceptedService::new(Inner::default(), move |mut request: tonic::Request<()>| {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", authorization.clone());
            metadata.insert("x-anyreach-org", organization.clone());
            Ok(request)
        })
    })
}
