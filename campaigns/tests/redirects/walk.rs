//! Where a chain leads, by the `url` crate, RFC 9110 section 15.4 and the documentation of tower-http's `FollowRedirect`.

use campaigns::judge::Judge;
use http::{HeaderValue, Method, StatusCode, Uri};
use tower_anyreach::RelativeUris;
use url::Url;

use crate::draw::Case;

/// A request of the chain.
#[derive(Clone)]
pub(crate) struct Hop {
    pub(crate) uri: Uri,
    pub(crate) method: Method,
    pub(crate) body_len: usize,
}

/// The hops of a chain that stays at the origin, and the status of the answer to the last one.
pub(crate) struct Walk {
    pub(crate) hops: Vec<Hop>,
    pub(crate) status: StatusCode,
}

impl Walk {
    /// Follows at most `limit` redirects. `None` if a hop is not at the origin.
    pub(crate) fn of(case: &Case, judge: &Judge, limit: usize) -> Option<Self> {
        let mut url = first(case, judge)?;
        let completed = uri_of(&url).unwrap();
        let mut hop = Hop {
            uri: case.uri.scheme().map_or(completed, |_| case.uri.clone()),
            method: case.method.clone(),
            body_len: case.body_len,
        };
        let mut hops = vec![hop.clone()];
        for (followed, (status, locations)) in case.answers.iter().enumerate() {
            // tower-http removes the body of a POST that becomes a GET, and of every request that a 303 redirects.
            match status.as_u16() {
                301 | 302 if hop.method == Method::POST => {
                    (hop.method, hop.body_len) = (Method::GET, 0);
                }
                303 if hop.method == Method::HEAD => hop.body_len = 0,
                303 => (hop.method, hop.body_len) = (Method::GET, 0),
                _ => {}
            }
            let first = locations.first().map(HeaderValue::as_bytes);
            let location = first.and_then(|first| str::from_utf8(first).ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.and_then(|next| uri_of(&next).map(|uri| (next, uri)));
            // A body that is not cloned is sent once.
            let is_lost = hop.body_len > 0 && !case.clones_bodies;
            let Some((next, uri)) = next.filter(|_| !is_lost && followed < limit) else {
                let status = *status;
                return Some(Self { hops, status });
            };
            if !judge.is_same_origin(&next) {
                return None;
            }
            (hop.uri, url) = (uri, next);
            hops.push(hop.clone());
        }
        let status = StatusCode::OK;
        Some(Self { hops, status })
    }
}

/// Returns the URL of the first request, if it is at the origin and the layer does not refuse it.
fn first(case: &Case, judge: &Judge) -> Option<Url> {
    let text = case.uri.to_string();
    let is_completed = case.relative == RelativeUris::Complete && !text.starts_with("//");
    if !judge.leads_to_us(&case.uri) || !(case.uri.scheme().is_some() || is_completed) {
        return None;
    }
    Url::parse(case.origin).unwrap().join(&text).ok()
}

/// Returns the URI of a URL, without its fragment; a follower stops where it is no URI to `http`.
fn uri_of(url: &Url) -> Option<Uri> {
    Uri::try_from(String::from(url.clone())).ok()
}
