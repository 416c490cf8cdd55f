use std::fmt;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri, Version};

/// A request as [`FakeAnyreach`](super::FakeAnyreach) received it, with the status of its response.
///
/// # Security
///
/// `Debug` shows neither the body nor the query, and no header that may hold a credential: such
/// headers are marked sensitive here, even if the client did not mark them. The accessors return
/// everything.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower::ServiceExt;
/// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder()
/// #     .api_key("ak_id.secret", "org_acme", ["agents:read"])
/// #     .in_memory();
/// # let request = http::Request::get(anyreach.uri("/core/agents?page=2"))
/// #     .header("authorization", "Bearer ak_id.secret")
/// #     .body(String::from("hello"))?;
/// # anyreach.service().oneshot(request).await?;
/// // `GET /core/agents?page=2`, with `ak_id.secret` and the body `hello`:
/// let request = anyreach.received().remove(0);
/// assert_eq!(request.path(), "/core/agents");
/// assert_eq!(request.headers()["authorization"], "Bearer ak_id.secret");
/// assert!(!format!("{request:?}").contains("secret"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ReceivedRequest {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
    status: StatusCode,
}

impl ReceivedRequest {
    pub(super) fn new(head: &Parts, status: StatusCode) -> Self {
        let mut headers = head.headers.clone();
        for (name, value) in &mut headers {
            let sensitive = value.is_sensitive()
                || [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name)
                || may_hold_credential(value.as_bytes());
            value.set_sensitive(sensitive);
        }
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers,
            body: Bytes::new(),
            status,
        }
    }

    pub(super) fn complete(&mut self, body: Bytes, status: StatusCode) {
        self.body = body;
        self.status = status;
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the URI as it arrived: path and query over HTTP/1.1, the absolute URI over HTTP/2.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// Returns the HTTP version of the request.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns all headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the first 1 MiB of the body, or nothing until the body has ended.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the status of the response. Until the body has ended, or if the hook closed the
    /// connection, returns the status that the head alone leads to.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl fmt::Debug for ReceivedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedRequest")
            .field("method", &self.method)
            .field("path", &presentable(self.path()))
            .field("version", &self.version)
            .field("headers", &self.headers)
            .field("body_len", &self.body.len())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A request that broke a [`Rule`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower::ServiceExt;
/// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder()
/// #     .api_key("ak_id.secret", "org_acme", ["agents:read"])
/// #     .in_memory();
/// # let request = http::Request::get(anyreach.uri("/core/agents?page=2"))
/// #     .header("authorization", "Bearer ak_id.secret").header("x-anyreach-org", "org_acme")
/// #     .body(String::from("hello"))?;
/// # anyreach.service().oneshot(request).await?;
/// // An API key beside an `X-Anyreach-Org`:
/// let violation = anyreach.violations().remove(0);
/// let text = "has an `X-Anyreach-Org` header beside an `ak_` credential";
/// assert!(violation.to_string().ends_with(text));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    rule: Rule,
    request: usize,
    method: Method,
    path: String,
}

impl Violation {
    pub(super) fn new(rule: Rule, request: usize, head: &Parts) -> Self {
        Self {
            rule,
            request,
            method: head.method.clone(),
            path: presentable(head.uri.path()).to_owned(),
        }
    }

    /// Returns the rule that was broken.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Returns the index of the request in [`received`](super::FakeAnyreach::received).
    #[must_use]
    pub fn request(&self) -> usize {
        self.request
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            request,
            method,
            path,
        } = self;
        write!(f, "request {request} ({method} {path}) has {rule}")
    }
}

/// A rule that every request must follow, whatever its response.
/// [`FakeAnyreach`](super::FakeAnyreach#violations) explains each.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower::ServiceExt;
/// # let anyreach = tower_anyreach::test_util::FakeAnyreach::builder()
/// #     .api_key("ak_id.secret", "org_acme", ["agents:read"])
/// #     .in_memory();
/// # let request = http::Request::get(anyreach.uri("/core/agents?page=2"))
/// #     .header("authorization", "Bearer ak_id.secret").header("x-anyreach-org", "org_acme")
/// #     .body(String::from("hello"))?;
/// # anyreach.service().oneshot(request).await?;
/// // An API key beside an `X-Anyreach-Org`:
/// let violation = anyreach.violations().remove(0);
/// use tower_anyreach::test_util::Rule;
///
/// let violations = anyreach.violations();
/// assert!(violations.iter().all(|it| it.rule() == Rule::OrganizationBesideApiKey));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// More than one `Authorization` header.
    SeveralAuthorizations,
    /// More than one `X-Anyreach-Org` header.
    SeveralOrganizations,
    /// An `X-Anyreach-Org` header without a value.
    EmptyOrganization,
    /// An `X-Anyreach-Org` header beside an `ak_` credential, whether the fake knows the credential
    /// or not.
    OrganizationBesideApiKey,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SeveralAuthorizations => "more than one `Authorization` header",
            Self::SeveralOrganizations => "more than one `X-Anyreach-Org` header",
            Self::EmptyOrganization => "an empty `X-Anyreach-Org` header",
            Self::OrganizationBesideApiKey => {
                "an `X-Anyreach-Org` header beside an `ak_` credential"
            }
        })
    }
}

/// Hides a path that may hold a credential.
fn presentable(path: &str) -> &str {
    if may_hold_credential(path.as_bytes()) {
        "[path that may hold a credential]"
    } else {
        path
    }
}

fn may_hold_credential(text: &[u8]) -> bool {
    [&b"ak_"[..], b"pat_"].into_iter().any(|prefix| {
        let mut windows = text.windows(prefix.len());
        windows.any(|window| window.eq_ignore_ascii_case(prefix))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    #[test]
    fn headers_that_the_client_marked_and_credentials_are_sensitive() {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        let request = Request::get("/").header("x-signature", secret);
        let request = request.header("x-key", "Key=AK_1").header("x-page", "1");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let received = ReceivedRequest::new(&head, StatusCode::OK);
        let shown = format!("{:?}", received.headers());
        assert_eq!(
            shown,
            r#"{"x-signature": Sensitive, "x-key": Sensitive, "x-page": "1"}"#
        );
    }
}
