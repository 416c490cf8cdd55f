//! `Error`: its texts, and how it is found in what middleware made of it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use tower::buffer::Buffer;
use tower_test::mock;

use crate::classify::{HTML, JSON, NO_CREDENTIAL, NO_ORGANIZATION, UNRECOGNIZED, layer, token};
use crate::prelude::*;
use support::with_names;

const NOPE: &str = r#"{"detail": "Nope"}"#;

/// A client that is denied everything.
async fn deny(_: Request<String>) -> Result<Response<String>, io::Error> {
    Ok(answer(StatusCode::UNAUTHORIZED, NOPE))
}

async fn error_of<S>(service: S) -> BoxError
where
    S: Service<Request<String>, Error: Into<BoxError>>,
{
    let outcome = service.oneshot(get_agents()).await;
    outcome.err().expect("an error").into()
}

/// The error of a denied request, boxed.
async fn denied() -> BoxError {
    error_of(layer().layer(service_fn(deny))).await
}

// Finding it.

#[tokio::test]
async fn find_sees_through_every_wrapper() {
    let auth = || layer().layer(service_fn(deny));
    let ours = || async { Error::from_boxed(denied().await) };
    let in_io = || async { io::Error::other(denied().await) };
    let in_anyhow = || async { anyhow::Error::new(ours().await).context("listing agents") };
    // The inner layer would refuse what the outer one attaches, so the outer one has another origin.
    let outer = layer().foreign_requests(FORWARD);
    let outer = outer.origin("https://other.example".parse().unwrap());
    let stack = ServiceBuilder::new().buffer(1).timeout(SECOND).load_shed();
    let in_service = Error::Service(denied().await);

    for (name, error) in [
        ("nothing", denied().await),
        ("buffer and others", error_of(stack.service(auth())).await),
        ("anyhow", in_anyhow().await.context("at start").into()),
        ("io", in_io().await.into()),
        ("io in io", io::Error::other(in_io().await).into()),
        ("anyhow in io", io::Error::other(in_anyhow().await).into()),
        ("service", Error::Service(denied().await).into()),
        ("twice service", Error::Service(in_service.into()).into()),
        ("auth around auth", error_of(outer.layer(auth())).await),
    ] {
        let found = Error::find(error.as_ref()).unwrap_or_else(|| panic!("{name}: {error:?}"));
        assert_eq!(found.denial().unwrap().detail(), Some("Nope"), "{name}");
        if !error.is::<Error>() {
            let found = Error::from_boxed(error);
            assert!(found.is_unauthorized(), "{name}");
            assert!(found.refusal().is_none(), "{name}");
        }
    }
}

#[tokio::test]
async fn find_returns_the_innermost_that_is_more_than_a_wrapper() {
    // A readiness error kills a buffer, and comes out of it as the source of another.
    let refused = send(&AnyreachAuthLayer::per_request(), get_agents()).refusal();
    let (broken, mut handle) = mock::pair::<Request<String>, Response<String>>();
    handle.send_error(Error::Service(refused.into()));
    let error = error_of(Buffer::new(broken, 1)).await;
    let found = Error::find(error.as_ref());
    assert!(found.is_some_and(Error::is_refused), "{error:?}");

    let cause = || io::Error::other("connection refused");
    for foreign in [
        BoxError::from("connection refused"),
        Error::Service("connection refused".into()).into(),
        io::Error::other(Error::Service(cause().into())).into(),
        io::Error::from(io::ErrorKind::TimedOut).into(),
        anyhow::Error::new(cause()).context("x").into(),
    ] {
        assert!(Error::find(foreign.as_ref()).is_none(), "{foreign:?}");
    }
}

/// An error around another one, or around itself.
#[derive(Debug)]
struct Wrapped(Option<BoxError>);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl StdError for Wrapped {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        if let Some(inner) = &self.0 {
            return Some(inner.as_ref());
        }
        assert!(CALLS.fetch_add(1, Relaxed) < 10_000, "endless");
        Some(self)
    }
}

#[test]
fn find_ends_on_an_error_that_is_its_own_source_and_reaches_deeper_than_any_stack() {
    let endless: BoxError = Box::new(Wrapped(None));
    assert!(Error::find(endless.as_ref()).is_none());
    let service = Error::Service(endless);
    assert!(Error::find(&service).is_none());
    let wrapped = Box::new(Wrapped(Some(Box::new(service))));
    assert_eq!(Error::from_boxed(wrapped).label(), "service");

    let refused = send(&AnyreachAuthLayer::per_request(), get_agents()).refusal();
    let mut deep: BoxError = Box::new(refused);
    for _ in 0..16 {
        deep = io::Error::other(Wrapped(Some(deep))).into();
    }
    assert!(Error::find(deep.as_ref()).is_some_and(Error::is_refused));
    assert!(Error::from_boxed(deep).is_refused());
}

// Its texts.

#[tokio::test]
async fn a_chain_of_errors_reads_as_one_sentence_after_the_other() {
    let sentence = denied().await.to_string();
    let on_the_way = "the inner service failed (cause in `source()`): ";
    let reset = io::Error::other("connection reset by peer");
    let failed = |cause: BoxError| anyhow::Error::new(Error::Service(cause));
    // What failed on the way is mentioned once.
    for (any, start, end) in [
        (anyhow::Error::from_boxed(denied().await), "", &*sentence),
        (failed(denied().await), on_the_way, &sentence),
        (failed(reset.into()), on_the_way, "connection reset by peer"),
    ] {
        let any = any.context("listing agents");
        assert_eq!(format!("{any:#}"), format!("listing agents: {start}{end}"));
    }
}

#[test]
fn every_error_and_every_reason_has_its_text() {
    let refused = |layer: &AnyreachAuthLayer, request| send(layer, request).refusal();
    let denied = |layer: &AnyreachAuthLayer, status, headers: &[(&str, &str)], body: &str| {
        let inner = Recorder::answering(answer_with(status, headers, body.to_owned()));
        send_to(&inner, layer, get_agents()).outcome.unwrap_err()
    };
    let mcp = |text| format!(r#"{{"error": "{text}"}}"#);
    let rest = |text| format!(r#"{{"detail": "{text}"}}"#);
    let with_header = |name, value| with_headers(&[(name, value)], get_agents());
    let mut trace = get_agents();
    *trace.method_mut() = Method::TRACE;

    let (key, bare) = (layer(), AnyreachAuthLayer::new(token()));
    let lenient = bare.clone().require_organization(false);
    let organization = organization("org_4711");
    let named = AnyreachAuthLayer::new(token().for_organization(organization.clone()));
    let per_request = AnyreachAuthLayer::per_request();
    let with_organization = with(organization, get_agents());
    let many = with_names(16_385, get_agents());
    let home = [("location", "https://api.anyreach.ai/s3cret")];
    let elsewhere = Recorder::answering(answer_with(307, &home, String::new()));
    let upload = with(Anonymous, get("https://storage.example/"));
    let redirected = send_to(&elsewhere, &key, upload).outcome.unwrap_err();
    #[rustfmt::skip]
    let table = [
        (denied(&key, 401, JSON, &mcp(NO_CREDENTIAL)), "unauthorized",
            "Anyreach answered 401: no credential arrived, although one was sent; check whether a proxy removes `authorization` (credential ak_4711ab…#e3e84d12)"),
        (denied(&key, 401, JSON, &rest("s3cret")), "unauthorized",
            "Anyreach answered 401: the credential was rejected: it is invalid or deleted, or possibly expired; rotate it (credential ak_4711ab…#e3e84d12)"),
        (denied(&key, 401, JSON, &mcp(UNRECOGNIZED)), "unauthorized",
            "Anyreach answered 401: the form of the credential was not recognized; check the configured value \
             (credential ak_4711ab…#e3e84d12)"),
        (denied(&lenient, 401, JSON, &rest(NO_ORGANIZATION)), "unauthorized",
            "Anyreach answered 401: no organization was sent, which a personal access token needs; use `for_organization` or insert an `OrganizationId` extension; on `/mcp/`, give `organization_id` in each `call_tool` (credential pat_…#dad237e6)"),
        (denied(&named, 403, JSON, &rest("s3cret")), "forbidden",
            "Anyreach answered 403: the credential lacks a scope, or possibly its user is not a member of org_4711; `GET /admin/members/me/scopes` lists a member's scopes (credential pat_…#dad237e6, organization org_4711)"),
        (denied(&key, 403, JSON, &rest("s3cret")), "forbidden",
            "Anyreach answered 403: the credential lacks a scope, or possibly its user is not a member of the organization; `GET /admin/members/me/scopes` lists a member's scopes (credential ak_4711ab…#e3e84d12)"),
        (denied(&key, 403, HTML, "<html>"), "forbidden",
            "a server answered 403: the response is not in the format of the API; check for a proxy or firewall that answered instead \
             (credential ak_4711ab…#e3e84d12)"),
        (refused(&per_request, get_agents()), "refused",
            "there is no credential for the request: insert a `Credential`, `CredentialStore` or `Anonymous` extension"),
        (refused(&bare, get_agents()), "refused",
            "the personal access token needs an organization for `x-anyreach-org`: use `for_organization`, insert an `OrganizationId` extension, or set ANYREACH_ORG_ID if `from_env` reads the token"),
        (refused(&key, with_organization), "refused",
            "an organization was given for an organization API key, which is bound to its own and takes no `x-anyreach-org`: remove the `OrganizationId`"),
        (refused(&key, with_header("authorization", "Bearer s3cret")), "refused",
            "the request already has an `authorization` header: remove it, or use `CallerHeaders::Replace`"),
        (refused(&key, with_header("x-anyreach-org", "s3cret")), "refused",
            "the request already has an `x-anyreach-org` header: remove it, or use `CallerHeaders::Replace`"),
        (refused(&key, with_header("connection", "authorization, s3cret")), "refused",
            "the `connection` header names `authorization` or `x-anyreach-org`, and an HTTP/2 client removes the headers it names: remove these names from it"),
        // The texts that are about the URI are in `destinations`.
        (refused(&key, trace), "refused",
            "CONNECT and TRACE disclose `authorization` to others: use another method, or insert an `Anonymous` extension"),
        (refused(&key, with_header("host", "s3cret.example")), "refused",
            "the `host` header does not name https://api.anyreach.ai: remove the header"),
        (refused(&key, many), "refused",
            "the request has more than 16384 header names: send fewer"),
        (redirected, "refused",
            "a redirect from another host may lead to https://api.anyreach.ai, where only the caller may choose requests: send a new one"),
        (Error::Service("connection refused".into()), "service", "the inner service failed (cause in `source()`)"),
    ];
    for (error, label, text) in table {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.label(), label, "{text}");
        let shown = format!("{error:?} {error:#?}");
        assert!(!shown.to_lowercase().contains("s3cr"), "{shown}");
    }
}
