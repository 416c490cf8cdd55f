//! What types show and how they compare: labels for metrics, `Debug` of what holds no credential.

use std::collections::BTreeSet;

use tower_anyreach::{
    AnyreachAuth, CredentialKind, EnvErrorReason, InvalidCredentialReason,
    InvalidOrganizationIdReason, InvalidOriginReason,
};

use crate::prelude::*;

/// Checks each reason's `as_str()`.
macro_rules! labels {
    ($($reason:ident: $($variant:ident $(($of:expr))? $label:literal)*;)*) => {
        $($(assert_eq!($reason::$variant$(($of))?.as_str(), $label);)*)*
    };
}

#[test]
fn labels_are_stable() {
    labels! {
        DenialReason: MissingCredential "missing_credential" InvalidCredential "invalid_credential"
            UnrecognizedCredential "unrecognized_credential" Unspecified "unspecified" MissingOrganization
            "missing_organization" InsufficientScope "insufficient_scope";
        RefusalReason: MissingCredential "missing_credential" UnexpectedOrganization "unexpected_organization"
            MissingOrganization "missing_organization" CallerHeader "caller_header" Method "method" ForeignDestination
            "foreign_destination" RelativeUri "relative_uri" Scheme "scheme" Authority "authority" Userinfo "userinfo"
            HostHeader "host_header" ForeignRedirect "foreign_redirect" TooManyHeaders "too_many_headers";
        SourceErrorReason: Failed "failed" TimedOut "timed_out" Panicked "panicked" NoRuntime "no_runtime";
        EnvErrorReason: Unset "unset" Conflict "conflict" InvalidCredential "invalid_credential" InvalidOrganizationId
            "invalid_organization_id" Source "source" InvalidCommandLine "invalid_command_line" MissingFeature
            "missing_feature";
        InvalidOriginReason: Empty "empty" MissingScheme "missing_scheme" UnknownScheme "unknown_scheme" PlainHttp
            "plain_http" Userinfo "userinfo" Host "host" Port "port" TrailingText "trailing_text";
        InvalidOrganizationIdReason: Empty "empty" TooLong "too_long" NonAscii "non_ascii" Whitespace "whitespace"
            ControlCharacter "control_character" Comma "comma" Quote "quote" Credential "credential";
        InvalidCredentialReason: Empty "empty" TooLong "too_long" ByteOrderMark "byte_order_mark" NonAscii "non_ascii"
            Utf16 "utf_16" ControlCharacter "control_character" Quoted "quoted" BearerIncluded "bearer_included"
            Placeholder "placeholder" PrefixCase "prefix_case" Base64 "base64" UnknownPrefix "unknown_prefix"
            NothingAfterPrefix "nothing_after_prefix" InnerWhitespace "inner_whitespace" InvalidCharacter
            "invalid_character" OtherKind "other_kind";
    }
}

#[cfg(all(unix, feature = "file", feature = "command"))]
#[test]
fn labels_of_a_source_are_stable() {
    use std::io::ErrorKind::NotFound;
    use tower_anyreach::source::{CommandErrorReason, FileErrorReason};

    let credential = Credential::parse("").unwrap_err().reason();
    let organization = OrganizationId::new("").unwrap_err().reason();
    labels! {
        CommandErrorReason: Io(NotFound) "io" Failed(Some(1)) "failed" TimedOut "timed_out" TooLarge "too_large"
            InvalidCredential(credential) "invalid_credential" UnexpectedOrganization "unexpected_organization";
        FileErrorReason: Io(NotFound) "io" NotAFile "not_a_file" TooLarge "too_large" WorldWritable "world_writable"
            WorldWritableDirectory "world_writable_directory" Unlinked "unlinked" Unsettled "unsettled" StillReading
            "still_reading" InvalidCredential(credential) "invalid_credential" InvalidOrganization(organization)
            "invalid_organization" UnexpectedOrganization "unexpected_organization";
    }
}

#[test]
fn debug_shows_the_options_and_the_id_of_a_credential() {
    let show = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let id = credential(TOKEN).id().to_string();
    let layer = AnyreachAuthLayer::new(token_for("org_1"));
    let (mut head, _) = get_agents().into_parts();
    let authorized = layer.authorize(&mut head).unwrap();
    let both = format!("credential: CredentialId({id}), organization: Some(OrganizationId(org_1))");
    assert_eq!(show(&authorized), format!("Authorized {{ {both}, .. }}"));
    let status = StatusCode::UNAUTHORIZED;
    let answer = authorized.on_response(status, &head.headers, &head.extensions);
    let unread = unread(answer);
    assert_eq!(show(&unread), "UnreadDenial { status: 401, .. }");
    assert_eq!(show(&unread.read(String::new())), "ReadDenial { .. }");
    let (mut head, _) = with(Anonymous, get_agents()).into_parts();
    let anonymous = layer.authorize(&mut head).unwrap();
    assert_eq!(show(&anonymous), "Authorized { .. }");
    let answer = anonymous.on_response(status, &head.headers, &head.extensions);
    assert!(matches!(answer, Answer::Pass), "{answer:?}");
}

#[cfg(all(feature = "retry", feature = "follow-redirect"))]
#[test]
fn debug_of_policies_and_sources_shows_limits_and_names() {
    let policy = tower_anyreach::follow_redirect::RedirectPolicy::new(&layer());
    let shown = "RedirectPolicy { origin: Origin(https://api.anyreach.ai), relative_uris: Reject, remaining: 10, .. }";
    assert_eq!(format!("{policy:?}"), shown);
    let policy = format!("{:?}", RefreshPolicy::default());
    assert_eq!(policy, "RefreshPolicy { max_wait: 3s, .. }");
    let source = tower_anyreach::source::AnySource::new(async || Ok(credential(KEY)));
    let source = format!("{source:?}");
    assert!(source.starts_with("AnySource(behaviour"), "{source}");
}

#[test]
fn an_organization_id_is_ordered_and_borrowed_as_its_text() {
    let ids: BTreeSet<_> = ["org_b", "org_a"].into_iter().map(organization).collect();
    let texts: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    assert_eq!(texts, ["org_a", "org_b"]);
}

#[test]
fn a_credential_is_parsed_from_text_by_its_prefix() {
    let key: Credential = KEY.parse().unwrap();
    assert_eq!(key.kind(), CredentialKind::OrganizationApiKey);
    let neither = "token".parse::<Credential>().unwrap_err();
    assert_eq!(neither.reason(), InvalidCredentialReason::UnknownPrefix);
}

#[test]
fn the_inner_service_is_within_reach() {
    let mut auth: AnyreachAuth<Vec<u8>> = layer().layer(vec![1]);
    auth.get_mut().push(2);
    assert_eq!(auth.get_ref(), &[1, 2]);
    assert_eq!(auth.into_inner(), [1, 2]);
}
