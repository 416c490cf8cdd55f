//! reqwest: not a service but a builder of requests, so that the two headers are measured as its users set them.

use std::hint::black_box;

use http::{HeaderMap, Method};
use reqwest::{Client, Request, RequestBuilder, Url};

use crate::contenders::{Case, ORGANIZATION, TOKEN, X_ANYREACH_ORG, filled, put_back};

/// The builder with the two headers, and without them.
pub(crate) const NAMES: [&str; 2] = ["reqwest", "reqwest_bare"];

/// Builds the requests of a case.
pub(crate) struct Building {
    client: Client,
    url: Url,
    headers: HeaderMap,
    authenticated: bool,
}

impl Building {
    pub(crate) fn new(case: &Case, name: &str) -> Self {
        let url = "https://api.anyreach.ai/core/agents";
        Self {
            client: Client::new(),
            url: url.parse().expect("a valid URL"),
            headers: case.headers.clone(),
            authenticated: name == NAMES[0],
        }
    }

    pub(crate) fn build(&self) -> HeaderMap {
        let mut request = Request::new(Method::GET, self.url.clone());
        *request.headers_mut() = filled(&self.headers);
        let mut builder = RequestBuilder::from_parts(self.client.clone(), request);
        if self.authenticated {
            builder = builder
                .bearer_auth(TOKEN)
                .header(X_ANYREACH_ORG.as_str(), ORGANIZATION);
        }
        let mut request = builder.build().expect("a valid request");
        std::mem::take(request.headers_mut())
    }

    /// Builds one request and drops it.
    #[inline]
    pub(crate) fn run(&self) {
        put_back(black_box(self.build()));
    }
}
