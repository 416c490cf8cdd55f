//! Every name of the public face, with its signature and its default: one that is removed or changed fails to compile.

use std::error::Error as StdError;
use std::future::{Ready, ready};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use secrecy::SecretString;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_anyreach::{
    Anonymous, AnyreachAuth, AnyreachAuthLayer, BoxError, CallerHeaders, Credential, CredentialId,
    CredentialKind, CredentialStore, Denial, DenialReason, DeniedResponses, Destination, EnvError,
    Error, ForeignRequests, InvalidCredential, InvalidCredentialReason, InvalidOrganizationId,
    InvalidOrganizationIdReason, InvalidOrigin, InvalidOriginReason, OrganizationApiKey,
    OrganizationId, Origin, PersonalAccessToken, future,
};

fn key() -> OrganizationApiKey {
    OrganizationApiKey::new("ak_4711.c2VjcmV0").unwrap()
}

#[test]
fn who_we_are() {
    let _: fn(SecretString) -> Result<OrganizationApiKey, InvalidCredential> =
        OrganizationApiKey::new;
    let _: fn(String) -> Result<OrganizationApiKey, InvalidCredential> = OrganizationApiKey::new;
    let _: fn(&'static str) -> Result<OrganizationApiKey, InvalidCredential> =
        OrganizationApiKey::new;
    let _: fn(SecretString) -> Result<PersonalAccessToken, InvalidCredential> =
        PersonalAccessToken::new;
    let _: fn(String) -> Result<PersonalAccessToken, InvalidCredential> = PersonalAccessToken::new;
    let _: fn(PersonalAccessToken, OrganizationId) -> PersonalAccessToken =
        PersonalAccessToken::for_organization;
    let _: fn(OrganizationApiKey) -> Credential = Credential::from;
    let _: fn(PersonalAccessToken) -> Credential = Credential::from;
    let _: fn(SecretString) -> Result<Credential, InvalidCredential> = Credential::parse;
    let _: fn(String) -> Result<Credential, InvalidCredential> = Credential::parse;
    let _: fn() -> Result<Credential, EnvError> = Credential::from_env;
    let _: fn(&Credential) -> CredentialKind = Credential::kind;
    let _: fn(&Credential) -> &CredentialId = Credential::id;
    let _: fn(&Credential) -> Option<&OrganizationId> = Credential::organization;
    let _: fn(&InvalidCredential) -> InvalidCredentialReason = InvalidCredential::reason;
    let _: fn(&InvalidOrganizationId) -> InvalidOrganizationIdReason =
        InvalidOrganizationId::reason;
    let _: fn(&InvalidOrigin) -> InvalidOriginReason = InvalidOrigin::reason;
    let _: fn(&'static str) -> Result<OrganizationId, InvalidOrganizationId> =
        OrganizationId::try_from;
    let _: fn(String) -> Result<OrganizationId, InvalidOrganizationId> = OrganizationId::try_from;
    let _: fn(&str) -> Result<OrganizationId, InvalidOrganizationId> = OrganizationId::from_str;
    let _: fn(&OrganizationId) -> &str = OrganizationId::as_str;

    // Told apart by their prefix.
    for (text, kind) in [
        ("ak_4711.c2VjcmV0", CredentialKind::OrganizationApiKey),
        ("pat_c2VjcmV0", CredentialKind::PersonalAccessToken),
    ] {
        assert_eq!(Credential::parse(text).unwrap().kind(), kind);
    }
}

#[test]
fn an_api_key_has_no_method_that_names_an_organization() {
    /// Chosen only where the type has no method of its own by this name.
    trait NoSuchMethod: Sized {
        fn for_organization(self, _: OrganizationId) -> &'static str {
            "none"
        }
    }
    impl NoSuchMethod for OrganizationApiKey {}
    let organization = OrganizationId::try_from("org_4711").unwrap();
    assert_eq!(key().for_organization(organization), "none");
}

#[test]
fn where_credentials_may_go() {
    let _: fn() -> Origin = Origin::default;
    let _: fn(&str) -> Result<Origin, InvalidOrigin> = Origin::from_str;
    let _: fn(&'static str) -> Result<Origin, InvalidOrigin> = Origin::try_from;
    let _: fn(&str) -> Result<Origin, InvalidOrigin> = Origin::insecure;
    assert_eq!(
        Origin::default(),
        "https://api.anyreach.ai".parse().unwrap()
    );
}

type Inner = fn(Request<String>) -> Ready<Result<Response<String>, BoxError>>;
type ItsFuture = future::ResponseFuture<Ready<Result<Response<String>, BoxError>>, String>;
type Client = AnyreachAuth<tower::util::ServiceFn<Inner>>;

fn client(layer: &AnyreachAuthLayer, inner: Inner) -> Client {
    layer.layer(service_fn(inner))
}

#[test]
fn the_layer() {
    let _: fn(Credential) -> AnyreachAuthLayer = AnyreachAuthLayer::new;
    let _: fn(OrganizationApiKey) -> AnyreachAuthLayer = AnyreachAuthLayer::new;
    let _: fn(PersonalAccessToken) -> AnyreachAuthLayer = AnyreachAuthLayer::new;
    let _: fn(CredentialStore) -> AnyreachAuthLayer = AnyreachAuthLayer::new;
    let _: fn() -> AnyreachAuthLayer = AnyreachAuthLayer::per_request;
    let _: fn(AnyreachAuthLayer, Origin) -> AnyreachAuthLayer = AnyreachAuthLayer::origin;
    let _: fn(AnyreachAuthLayer) -> AnyreachAuthLayer = AnyreachAuthLayer::allow_relative_uris;
    let _: fn(AnyreachAuthLayer, CallerHeaders) -> AnyreachAuthLayer =
        AnyreachAuthLayer::caller_headers;
    let _: fn(AnyreachAuthLayer, ForeignRequests) -> AnyreachAuthLayer =
        AnyreachAuthLayer::foreign_requests;
    let _: fn(AnyreachAuthLayer) -> AnyreachAuthLayer =
        AnyreachAuthLayer::allow_missing_organization;
    let _: fn(AnyreachAuthLayer, DeniedResponses) -> AnyreachAuthLayer =
        AnyreachAuthLayer::denied_responses;
    let _: fn(AnyreachAuthLayer, usize) -> AnyreachAuthLayer = AnyreachAuthLayer::error_body_limit;
    let _: fn(AnyreachAuthLayer, Duration) -> AnyreachAuthLayer =
        AnyreachAuthLayer::error_body_timeout;

    let _: fn(&AnyreachAuthLayer, ()) -> AnyreachAuth<()> = <AnyreachAuthLayer as Layer<()>>::layer;
    let _: fn(&AnyreachAuth<()>) -> &() = AnyreachAuth::get_ref;
    let _: fn(&mut AnyreachAuth<()>) -> &mut () = AnyreachAuth::get_mut;
    let _: fn(AnyreachAuth<()>) = AnyreachAuth::into_inner;
    let _: fn(&mut Client, Request<String>) -> ItsFuture =
        <Client as Service<Request<String>>>::call;
}

#[test]
#[deny(
    unreachable_patterns,
    reason = "the last arm is reachable as long as the enum is open"
)]
fn the_options_are_open_enums_with_the_strict_choice_as_default() {
    assert_eq!(CallerHeaders::default(), CallerHeaders::Reject);
    assert_eq!(ForeignRequests::default(), ForeignRequests::Reject);
    assert_eq!(DeniedResponses::default(), DeniedResponses::IntoError);
    match CallerHeaders::default() {
        CallerHeaders::Reject | CallerHeaders::Replace | CallerHeaders::Keep => {}
        _ => unreachable!(),
    }
    match ForeignRequests::default() {
        ForeignRequests::Reject | ForeignRequests::ForwardWithoutCredentials => {}
        _ => unreachable!(),
    }
    match DeniedResponses::default() {
        DeniedResponses::IntoError | DeniedResponses::PassThrough => {}
        _ => unreachable!(),
    }
    match Credential::from(key()).kind() {
        CredentialKind::OrganizationApiKey | CredentialKind::PersonalAccessToken => {}
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn the_layers_defaults_are_the_strict_ones() {
    let fine: Inner = |_| ready(Ok(Response::new(String::new())));
    let default = || AnyreachAuthLayer::new(key());
    let to = |uri: &str| Request::get(uri).body(String::new()).unwrap();
    let refused = |layer: AnyreachAuthLayer, request: Request<String>| async move {
        client(&layer, fine).oneshot(request).await.err()
    };
    let ours = "https://api.anyreach.ai/core/agents";

    assert!(refused(default(), to(ours)).await.is_none());
    assert!(matches!(
        refused(default(), to("/core/agents")).await,
        Some(Error::UntrustedDestination(_))
    ));
    assert!(
        refused(default().allow_relative_uris(), to("/core/agents"))
            .await
            .is_none()
    );
    assert!(matches!(
        refused(default(), to("https://other.example/")).await,
        Some(Error::UntrustedDestination(_))
    ));
    let forward = default().foreign_requests(ForeignRequests::ForwardWithoutCredentials);
    assert!(
        refused(forward, to("https://other.example/"))
            .await
            .is_none()
    );
    let elsewhere = default().origin("https://other.example".parse().unwrap());
    assert!(
        refused(elsewhere.clone(), to("https://other.example/"))
            .await
            .is_none()
    );
    assert!(
        refused(elsewhere, to(ours)).await.is_some(),
        "exactly one origin"
    );

    let mut brings = to(ours);
    brings
        .headers_mut()
        .insert("authorization", "Bearer x".parse().unwrap());
    assert!(
        matches!(refused(default(), brings.clone()).await, Some(Error::CallerHeader(name)) if name == "authorization")
    );
    for choice in [CallerHeaders::Replace, CallerHeaders::Keep] {
        assert!(
            refused(default().caller_headers(choice), brings.clone())
                .await
                .is_none()
        );
    }

    let token = || PersonalAccessToken::new("pat_c2VjcmV0").unwrap();
    assert!(matches!(
        refused(AnyreachAuthLayer::new(token()), to(ours)).await,
        Some(Error::MissingOrganization)
    ));
    assert!(
        refused(
            AnyreachAuthLayer::new(token()).allow_missing_organization(),
            to(ours)
        )
        .await
        .is_none()
    );

    assert!(matches!(
        refused(AnyreachAuthLayer::per_request(), to(ours)).await,
        Some(Error::MissingCredential)
    ));
    let mut own = to(ours);
    own.extensions_mut().insert(Credential::from(key()));
    assert!(
        refused(AnyreachAuthLayer::per_request(), own)
            .await
            .is_none()
    );
    let mut anonymous = to("http://anywhere.example/");
    anonymous.extensions_mut().insert(Anonymous);
    assert!(
        refused(AnyreachAuthLayer::per_request(), anonymous)
            .await
            .is_none()
    );
    let mut named = to(ours);
    named
        .extensions_mut()
        .insert(OrganizationId::try_from("org_4711").unwrap());
    assert!(
        refused(AnyreachAuthLayer::new(token()), named.clone())
            .await
            .is_none()
    );
    assert!(matches!(
        refused(default(), named).await,
        Some(Error::UnexpectedOrganization)
    ));
}

#[tokio::test]
async fn extensions_are_read_and_not_removed() {
    let keeps: Inner = |request| {
        assert!(request.extensions().get::<Credential>().is_some());
        assert!(request.extensions().get::<OrganizationId>().is_some());
        ready(Ok(Response::new(String::new())))
    };
    let request = Request::get("https://api.anyreach.ai/")
        .extension(Credential::parse("pat_c2VjcmV0").unwrap())
        .extension(OrganizationId::try_from("org_4711").unwrap())
        .body(String::new())
        .unwrap();
    assert!(
        client(&AnyreachAuthLayer::per_request(), keeps)
            .oneshot(request)
            .await
            .is_ok()
    );

    let keeps: Inner = |request| {
        assert!(request.extensions().get::<Anonymous>().is_some());
        ready(Ok(Response::new(String::new())))
    };
    let request = Request::get("https://api.anyreach.ai/")
        .extension(Anonymous)
        .body(String::new())
        .unwrap();
    assert!(
        client(&AnyreachAuthLayer::per_request(), keeps)
            .oneshot(request)
            .await
            .is_ok()
    );
}

fn scopes_of(denial: &Denial) -> impl Iterator<Item = &str> {
    denial.required_scopes()
}

#[test]
fn what_comes_back() {
    let _: fn(Denial) -> Error = Error::Unauthorized;
    let _: fn(Denial) -> Error = Error::Forbidden;
    let _: fn(HeaderName) -> Error = Error::CallerHeader;
    let _: fn(Destination) -> Error = Error::UntrustedDestination;
    let _: fn(BoxError) -> Error = Error::Service;
    let _: [Error; 3] = [
        Error::MissingCredential,
        Error::MissingOrganization,
        Error::UnexpectedOrganization,
    ];

    let _: fn(&Error) -> Option<&Denial> = Error::denial;
    let _: fn(&Error) -> bool = Error::is_unauthorized;
    let _: fn(&Error) -> bool = Error::is_forbidden;
    let _: fn(&Error) -> bool = Error::was_sent;
    let _: for<'a> fn(&'a (dyn StdError + 'static)) -> Option<&'a Error> = Error::find;

    let _: fn(&Denial) -> StatusCode = Denial::status;
    let _: fn(&Denial) -> DenialReason = Denial::reason;
    let _: fn(&Denial) -> Option<&str> = Denial::detail;
    let _: fn(&Denial) -> &HeaderMap = Denial::headers;
    let _: fn(&Denial) -> &Bytes = Denial::body;
    let _: fn(&Denial) -> bool = Denial::is_body_truncated;
    let _: fn(&Denial) -> Option<&CredentialId> = Denial::credential;
    let _: fn(&Denial) -> Option<&OrganizationId> = Denial::organization;
    let _: fn(Denial) -> Response<Bytes> = Denial::into_response;
    // An iterator of a type that has no name.
    let _ = |denial: &Denial| scopes_of(denial).count();
}

#[test]
#[deny(
    unreachable_patterns,
    reason = "the last arm is reachable as long as the enum is open"
)]
fn errors_and_reasons_are_open_enums() {
    match Error::MissingCredential {
        Error::Unauthorized(_)
        | Error::Forbidden(_)
        | Error::MissingCredential
        | Error::MissingOrganization
        | Error::UnexpectedOrganization
        | Error::CallerHeader(_)
        | Error::UntrustedDestination(_)
        | Error::Service(_) => {}
        _ => unreachable!(),
    }
    match DenialReason::Unspecified {
        DenialReason::MissingCredential
        | DenialReason::InvalidCredential
        | DenialReason::UnrecognizedCredential
        | DenialReason::MissingOrganization
        | DenialReason::InsufficientScope
        | DenialReason::Unspecified => {}
        _ => unreachable!(),
    }
}
