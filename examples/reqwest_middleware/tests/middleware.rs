//! The middleware below a real client, against a server with the documented rules.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyreach_reqwest_middleware::{AnyreachMiddleware, anyreach_error};
use reqwest::redirect::Policy;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use tokio::time::timeout;
use tower_anyreach::test_util::FakeAnyreach;
use tower_anyreach::{
    AnyreachAuthLayer, Credential, CredentialStore, OrganizationId, RefusalReason,
};

async fn anyreach() -> FakeAnyreach {
    FakeAnyreach::builder()
        .api_key("ak_old.secret", "org_acme", ["agents:read"])
        .personal_access_token("pat_secret", [("org_globex", ["agents:read"])])
        .start()
        .await
        .unwrap()
}

fn client(anyreach: &FakeAnyreach, store: impl Into<CredentialStore>) -> ClientWithMiddleware {
    let auth = AnyreachAuthLayer::new(store).origin(anyreach.origin());
    let client = reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy();
    ClientBuilder::new(client.build().unwrap())
        .with(AnyreachMiddleware(auth))
        .build()
}

fn statuses(anyreach: &FakeAnyreach) -> Vec<u16> {
    let received = anyreach.received();
    received
        .iter()
        .map(|request| request.status().as_u16())
        .collect()
}

#[tokio::test]
async fn a_rotated_credential_is_tried_once_after_a_401_for_bodies_that_can_be_sent_twice() {
    let anyreach = anyreach().await;
    let store = CredentialStore::load(async || Ok(Credential::parse("ak_old.secret")?))
        .await
        .unwrap();
    let client = client(&anyreach, store.clone());
    let agents = anyreach.uri("/core/agents").to_string();
    assert_eq!(client.get(&agents).send().await.unwrap().status(), 200);
    // Nothing else to try: the denial is the answer.
    anyreach.rotate("ak_old.secret", "ak_new.secret");
    let error = client.get(&agents).send().await.unwrap_err();
    assert!(anyreach_error(&error).unwrap().is_unauthorized());
    // Rotated in while a request is under way.
    let sent = client.get(&agents).send();
    let rotated = async { store.rotate(Credential::parse("ak_new.secret").unwrap()) };
    assert_eq!(tokio::join!(sent, rotated).0.unwrap().status(), 200);
    assert_eq!(statuses(&anyreach).last(), Some(&200));
    let forbidden = client.post(&agents).body("{}").send().await.unwrap_err();
    assert!(anyreach_error(&forbidden).unwrap().is_forbidden());
    assert!(anyreach.violations().is_empty());
}

#[tokio::test]
async fn a_request_says_by_extensions_for_which_organization_it_is() {
    let anyreach = anyreach().await;
    let client = client(&anyreach, Credential::parse("pat_secret").unwrap());
    let agents = anyreach.uri("/core/agents").to_string();
    let organization = OrganizationId::new("org_globex").unwrap();
    let response = client
        .get(&agents)
        .with_extension(organization)
        .send()
        .await;
    assert_eq!(response.unwrap().status(), 200);
    let error = client.get(&agents).send().await.unwrap_err();
    let refusal = anyreach_error(&error).unwrap().refusal().unwrap();
    assert_eq!(refusal.reason(), RefusalReason::MissingOrganization);
    let error = client
        .get("https://elsewhere.example/")
        .send()
        .await
        .unwrap_err();
    let refusal = anyreach_error(&error).unwrap().refusal().unwrap();
    assert_eq!(refusal.reason(), RefusalReason::ForeignDestination);
    assert_eq!(statuses(&anyreach), [200]);
}

#[tokio::test]
async fn a_denial_is_returned_at_once_or_in_place_of_a_refused_replay() {
    let anyreach = anyreach().await;
    let store = CredentialStore::load(async || Ok(Credential::parse("pat_unknown")?))
        .await
        .unwrap();
    let client = client(&anyreach, store.clone());
    let agents = anyreach.uri("/core/agents").to_string();
    let organization = OrganizationId::new("org_globex").unwrap();
    // The new credential is an API key, which no organization goes with.
    let sent = client.get(&agents).with_extension(organization).send();
    let rotated = async { store.rotate(Credential::parse("ak_old.secret").unwrap()) };
    let error = tokio::join!(sent, rotated).0.unwrap_err();
    assert!(anyreach_error(&error).unwrap().is_unauthorized());
    assert_eq!(statuses(&anyreach), [401]);

    // A source that hangs would be waited for.
    let asked = AtomicBool::new(false);
    let source = move || {
        let is_asked = asked.swap(true, Ordering::Relaxed);
        async move {
            if is_asked {
                std::future::pending::<()>().await;
            }
            Ok(Credential::parse("ak_unknown.secret")?)
        }
    };
    let client = self::client(&anyreach, CredentialStore::load(source).await.unwrap());
    let body = reqwest::Body::wrap(reqwest::Body::from("{}"));
    let sent = client.post(&agents).body(body).send();
    let error = timeout(Duration::from_secs(2), sent).await.unwrap();
    assert!(
        anyreach_error(&error.unwrap_err())
            .unwrap()
            .is_unauthorized()
    );
}
