//! `CredentialSource`, and what is shown of its errors.

use std::any::{type_name, type_name_of_val};
use std::error::Error;
use std::fmt;

use tower_anyreach::{
    BoxError, Credential, CredentialSource, CredentialStore, InvalidCredentialReason,
    InvalidOrganizationId, OrganizationId, PersonalAccessToken, Refreshed, SourceError,
    SourceErrorReason,
};

use crate::scripted::{assert_in_force, key, key_of};

/// What a careless source might put into its errors.
const CANARY: &str = "S0URCE-C4NARY";

// Sources.

#[tokio::test]
async fn a_closure_a_function_and_a_type_that_borrows_from_itself_are_sources() {
    struct Vault {
        path: String,
    }

    impl CredentialSource for Vault {
        async fn fetch(&self) -> Result<Credential, BoxError> {
            let path = &self.path;
            tokio::task::yield_now().await;
            Ok(Credential::parse(key(path))?)
        }
    }

    async fn function() -> Result<Credential, BoxError> {
        Ok(key_of("function"))
    }
    let store = CredentialStore::load(function).await.unwrap();
    assert_in_force(&store, "function");

    let store = CredentialStore::load(async || Ok(key_of("async")))
        .await
        .unwrap();
    assert_in_force(&store, "async");

    let path = String::from("mine");
    let store = CredentialStore::load(Vault { path }).await.unwrap();
    assert_in_force(&store, "mine");
    assert_eq!(store.refresh().await.unwrap(), Refreshed::Unchanged);
}

#[tokio::test]
async fn a_sources_question_mark_takes_this_crates_own_errors() {
    let source = async || Ok(Credential::parse("Bearer ak_4711.S0URCE-C4NARY")?);
    let error = CredentialStore::load(source).await.unwrap_err();
    let cause = error.expose_cause().unwrap();
    let cause = cause
        .downcast_ref::<tower_anyreach::InvalidCredential>()
        .unwrap();
    assert_eq!(cause.reason(), InvalidCredentialReason::BearerIncluded);
    assert!(
        error.to_string().contains(&cause.to_string()),
        "it is known to hold no secret: {error}"
    );
    assert_silent(&error);

    let source = async || {
        let organization = OrganizationId::try_from("S0URCE-C4NARY, of two")?;
        Ok(PersonalAccessToken::new("pat_4711.c2VjcmV0")?
            .for_organization(organization)
            .into())
    };
    let error = CredentialStore::load(source).await.unwrap_err();
    let cause = error.expose_cause().unwrap();
    let cause = cause.downcast_ref::<InvalidOrganizationId>().unwrap();
    assert!(
        error.to_string().ends_with(&format!(" failed: {cause}")),
        "so is this: {error}"
    );
    assert_silent(&error);
}

// Their errors.

#[derive(Debug)]
struct Careless(Option<Box<Self>>);

impl fmt::Display for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CANARY)
    }
}

impl Error for Careless {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_deref().map(|error| error as _)
    }
}

async fn careless() -> Result<Credential, BoxError> {
    Err(Careless(Some(Box::new(Careless(None)))).into())
}

#[track_caller]
fn assert_silent(error: &SourceError) {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        for text in [
            format!("{error}"),
            format!("{error:#}"),
            format!("{error:?}"),
            format!("{error:#?}"),
        ] {
            assert!(!text.contains(CANARY), "{text}");
        }
        next = error.source();
    }
}

#[tokio::test]
async fn a_sources_error_and_its_chain_stay_hidden_but_for_expose_cause() {
    let error = CredentialStore::load(careless).await.unwrap_err();
    assert_silent(&error);
    assert_eq!(error.reason(), SourceErrorReason::Failed);
    assert!(error.source().is_none());
    let any = anyhow::Error::new(error.clone());
    assert!(!format!("{any} {any:#} {any:?} {any:#?}").contains(CANARY));
    let name = type_name_of_val(&careless);
    assert_eq!(
        error.to_string(),
        format!("credential source `{name}` failed")
    );
    assert_eq!(format!("{error:?}"), format!("SourceError({error})"));
    let cause = error.expose_cause().unwrap();
    assert_eq!(cause.to_string(), CANARY);
    assert!(cause.is::<Careless>());
    assert_eq!(cause.source().unwrap().to_string(), CANARY);
}

#[tokio::test(start_paused = true)]
async fn the_texts_of_source_errors_are_these() {
    async fn hangs() -> Result<Credential, BoxError> {
        std::future::pending().await
    }
    async fn panics() -> Result<Credential, BoxError> {
        crate::scripted::panic_quietly()
    }
    let (hanging, panicking) = (CredentialStore::load(hangs), CredentialStore::load(panics));
    for (outcome, name, text) in [
        (
            hanging.await,
            type_name_of_val(&hangs),
            "exceeded its time limit",
        ),
        (panicking.await, type_name_of_val(&panics), "panicked"),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("credential source `{name}` {text}")
        );
        assert!(error.expose_cause().is_none());
    }
    assert_eq!(
        SourceErrorReason::NoRuntime.to_string(),
        "needs a tokio runtime with its timer enabled"
    );
}

#[tokio::test]
async fn debug_of_a_source_is_its_type_and_its_time() {
    struct Vault;
    impl CredentialSource for Vault {
        async fn fetch(&self) -> Result<Credential, BoxError> {
            Ok(Credential::parse("ak_4711.c2VjcmV0")?)
        }
    }
    let loader = CredentialStore::loader(Vault).timeout(std::time::Duration::from_secs(3));
    let name = type_name::<Vault>();
    assert_eq!(
        format!("{loader:?}"),
        format!(
            "Loader {{ source: {name:?}, timeout: 3s, refresh_every: None, or_start_with: None }}"
        )
    );
    let store = loader.load().await.unwrap();
    let source = format!("source: Some({name:?})");
    assert!(format!("{store:?}").contains(&source), "{store:?}");
}
