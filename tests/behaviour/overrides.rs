//! The extensions by which a request brings its own credential, store or organization, or asks for none.

use http::Extensions;

use crate::prelude::*;

/// The overrides among a request's extensions.
fn own(extensions: &Extensions) -> (Option<String>, Option<&OrganizationId>, [bool; 2]) {
    let credential = extensions.get::<Credential>();
    let id = credential.map(|credential| credential.id().to_string());
    let store = extensions.get::<CredentialStore>();
    let anonymous = extensions.get::<Anonymous>();
    let is_there = [store.is_some(), anonymous.is_some()];
    (id, extensions.get(), is_there)
}

#[derive(Debug)]
enum Outcome {
    Carries(&'static str, Option<&'static str>),
    Nothing,
    /// With the credential and the organization that the refusal names.
    Refused(RefusalReason, Option<&'static str>, Option<&'static str>),
}

#[test]
fn anonymous_comes_before_a_credential_a_store_and_the_layers_store() {
    use Outcome::{Carries, Nothing, Refused};
    use RefusalReason::{MissingCredential, MissingOrganization, UnexpectedOrganization};
    const OTHER_KEY: &str = "ak_other.key";
    const OTHER_TOKEN: &str = "pat_other";
    const STORES_KEY: &str = "ak_store.key";
    type Insert<'a> = &'a dyn Fn(Request<String>) -> Request<String>;

    let key = layer();
    let token = AnyreachAuthLayer::new(token_for("org_1"));
    let bare_token = AnyreachAuthLayer::new(credential(TOKEN));
    let lenient = bare_token.clone().require_organization(false);
    let strict = lenient.clone().require_organization(true);
    let per_request = AnyreachAuthLayer::per_request();
    let for_org_2 = PersonalAccessToken::new(OTHER_TOKEN).unwrap();
    let for_org_2 = Credential::from(for_org_2.for_organization(organization("org_2")));
    let own_key: Insert<'_> = &|request| with(credential(OTHER_KEY), request);
    let own_token: Insert<'_> = &|request| with(credential(OTHER_TOKEN), request);
    let own_org_2: Insert<'_> = &|request| with(for_org_2.clone(), request);
    let store: Insert<'_> = &|request| with(CredentialStore::new(credential(STORES_KEY)), request);
    let token_store: Insert<'_> = &|request| with(CredentialStore::new(for_org_2.clone()), request);
    let org_9: Insert<'_> = &|request| with(organization("org_9"), request);
    let anonymous: Insert<'_> = &|request| with(Anonymous, request);
    #[rustfmt::skip]
    let table: [(_, &[Insert<'_>], _); 27] = [
        (&key, &[], Carries(KEY, None)),
        (&key, &[org_9], Refused(UnexpectedOrganization, Some(KEY), Some("org_9"))),
        (&key, &[own_key], Carries(OTHER_KEY, None)),
        (&key, &[own_org_2], Carries(OTHER_TOKEN, Some("org_2"))),
        (&key, &[own_org_2, org_9], Carries(OTHER_TOKEN, Some("org_9"))),
        (&key, &[own_token], Refused(MissingOrganization, Some(OTHER_TOKEN), None)),
        (&key, &[own_token, org_9], Carries(OTHER_TOKEN, Some("org_9"))),
        (&key, &[store], Carries(STORES_KEY, None)),
        (&key, &[own_key, store], Carries(OTHER_KEY, None)),
        (&key, &[token_store], Carries(OTHER_TOKEN, Some("org_2"))),
        (&key, &[token_store, org_9], Carries(OTHER_TOKEN, Some("org_9"))),
        (&key, &[store, org_9], Refused(UnexpectedOrganization, Some(STORES_KEY), Some("org_9"))),
        (&key, &[own_key, store, org_9, anonymous], Nothing),
        (&token, &[], Carries(TOKEN, Some("org_1"))),
        (&token, &[org_9], Carries(TOKEN, Some("org_9"))),
        // The layer's organization belongs to the layer's token, not to the request's.
        (&token, &[own_token], Refused(MissingOrganization, Some(OTHER_TOKEN), None)),
        (&token, &[anonymous], Nothing),
        (&bare_token, &[], Refused(MissingOrganization, Some(TOKEN), None)),
        (&bare_token, &[org_9], Carries(TOKEN, Some("org_9"))),
        (&strict, &[], Refused(MissingOrganization, Some(TOKEN), None)),
        (&lenient, &[], Carries(TOKEN, None)),
        (&lenient, &[own_token], Carries(OTHER_TOKEN, None)),
        (&per_request, &[], Refused(MissingCredential, None, None)),
        (&per_request, &[org_9], Refused(MissingCredential, None, Some("org_9"))),
        (&per_request, &[own_key], Carries(OTHER_KEY, None)),
        (&per_request, &[own_org_2], Carries(OTHER_TOKEN, Some("org_2"))),
        (&per_request, &[store], Carries(STORES_KEY, None)),
    ];
    for (at, (layer, inserts, expected)) in table.into_iter().enumerate() {
        let case = format!("row {at}: {expected:?}");
        let insert = |request, insert: &Insert<'_>| insert(request);
        let request = inserts.iter().fold(get_agents(), insert);
        let before = request.extensions().clone();
        let sent = send(layer, request);
        if let Refused(reason, of, organization) = expected {
            let error = sent.refusal();
            let refusal = error.refusal().unwrap();
            assert_eq!(refusal.reason(), reason, "{case}");
            let of = of.map(|text| credential(text).id().clone());
            assert_eq!(refusal.credential(), of.as_ref(), "{case}");
            let named = refusal.organization().map(OrganizationId::as_str);
            assert_eq!(named, organization, "{case}");
            continue;
        }
        let head = sent.head();
        assert_eq!(own(&head.extensions), own(&before), "{case}");
        match expected {
            Carries(text, organization) => assert_carries(&head, text, organization),
            _ => assert_carries_nothing(&head),
        }
    }
}
