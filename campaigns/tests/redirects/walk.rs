//! Where a chain leads, by the `url` crate, RFC 9110 section 15.4 and the documentation of tower-http's `FollowRedirect`.

use http::{Method, StatusCode, Uri};
use tower_anyreach::RelativeUris;
use url::Url;

use crate::draw::Case;

/// A request of the chain.
pub(crate) struct Hop {
    pub(crate) uri: Uri,
    pub(crate) method: Method,
    pub(crate) body_len: usize,
}

/// The hops of a chain, as far as it can be followed.
pub(crate) struct Walk {
    pub(crate) hops: Vec<Hop>,
    /// The status of the answer to the last hop.
    pub(crate) status: StatusCode,
    /// Every hop that a follower makes is at the origin.
    pub(crate) stays_at_the_origin: bool,
}

impl Walk {
    /// Follows at most `limit` redirects; a body that is not cloned is sent once.
    pub(crate) fn of(case: &Case, clones_bodies: bool, limit: usize) -> Self {
        let ours = Url::parse(case.target().origin).unwrap();
        let mut walk = Self {
            hops: Vec::new(),
            status: StatusCode::OK,
            stays_at_the_origin: false,
        };
        let Some(mut url) = first(case, &ours) else {
            return walk;
        };
        walk.hops.push(Hop {
            uri: if case.uri.scheme().is_some() {
                case.uri.clone()
            } else {
                uri_of(&url).unwrap()
            },
            method: case.method.clone(),
            body_len: case.body_len,
        });
        for (followed, (status, locations)) in case.answers.iter().enumerate() {
            walk.status = *status;
            let last = walk.hops.last().unwrap();
            let becomes_get = match status.as_u16() {
                301 | 302 => last.method == Method::POST,
                303 => last.method != Method::HEAD,
                _ => false,
            };
            // tower-http removes the body of a POST that becomes a GET, and of every request that a 303 redirects.
            let is_emptied = becomes_get || *status == StatusCode::SEE_OTHER;
            let (method, body_len) = match (becomes_get, is_emptied) {
                (true, _) => (Method::GET, 0),
                (false, true) => (last.method.clone(), 0),
                (false, false) => (last.method.clone(), last.body_len),
            };
            let next = locations
                .first()
                .and_then(|location| std::str::from_utf8(location.as_bytes()).ok())
                .and_then(|location| url.join(location).ok())
                .and_then(|next| uri_of(&next).map(|uri| (next, uri)));
            let is_lost = body_len > 0 && !clones_bodies;
            let Some((next, uri)) = next.filter(|_| !is_lost && followed < limit) else {
                walk.stays_at_the_origin = true;
                return walk;
            };
            if !is_at(&next, &ours) {
                return walk;
            }
            walk.hops.push(Hop {
                uri,
                method,
                body_len,
            });
            url = next;
        }
        walk.status = StatusCode::OK;
        walk.stays_at_the_origin = true;
        walk
    }
}

/// Returns the URL of the first request, if it is at the origin and the layer does not refuse it.
fn first(case: &Case, ours: &Url) -> Option<Url> {
    let text = case.uri.to_string();
    if case.uri.scheme().is_none() {
        let is_completed = case.relative == RelativeUris::Complete
            && text.starts_with('/')
            && !text.starts_with("//");
        return is_completed.then(|| ours.join(&text).unwrap());
    }
    // The exact spelling: the origin's text, perhaps with its default port, and then the path.
    let url = Url::parse(&text).ok()?;
    let origin = case.target().origin;
    let rest = text.strip_prefix(origin)?;
    let default_port = format!(":{}", ours.port_or_known_default()?);
    let rest = match rest.strip_prefix(&default_port) {
        Some(rest) if ours.port().is_none() => rest,
        _ => rest,
    };
    (rest.starts_with('/') && is_at(&url, ours)).then_some(url)
}

fn is_at(url: &Url, ours: &Url) -> bool {
    url.origin() == ours.origin() && url.username().is_empty() && url.password().is_none()
}

/// Returns the URI of a URL, without its fragment; a follower stops where it is no URI to `http`.
fn uri_of(url: &Url) -> Option<Uri> {
    Uri::try_from(String::from(url.clone())).ok()
}
