//! `CredentialSource`, and what is shown of its errors.

use std::any::{type_name, type_name_of_val};
use std::error::Error;
use std::fmt;
use std::pin::Pin;

use tower_anyreach::source::AnySource;
use tower_anyreach::{InvalidCredential, InvalidCredentialReason, InvalidOrganizationId};

use crate::prelude::*;

/// What a careless source might put into its errors.
const CANARY: &str = "S0URCE-C4NARY";
#[tokio::test]
async fn a_source_may_hold_state_be_shared_boxed_or_chosen_at_run_time() {
    struct Vault(String);
    impl CredentialSource for Vault {
        async fn fetch(&self) -> Result<Credential, BoxError> {
            let text = &self.0;
            yield_now().await;
            Ok(Credential::parse(text.clone())?)
        }
    }
    type Boxed = Pin<Box<dyn Future<Output = Result<Credential, BoxError>> + Send>>;

    async fn function() -> Result<Credential, BoxError> {
        Ok(key_of("v1"))
    }
    let shared = Arc::new(Vault(key("v1")));
    let any = AnySource::new(Arc::clone(&shared));
    let text = key("v1");
    let closure = move || ready(Ok(credential(&text)));
    let boxed = || -> Boxed { Box::pin(function()) };
    let boxed_closure: Box<dyn Fn() -> Boxed + Send + Sync> = Box::new(boxed);
    for store in [
        CredentialStore::load(function).await,
        CredentialStore::load(async || Ok(key_of("v1"))).await,
        CredentialStore::load(shared).await,
        CredentialStore::load(any.clone()).await,
        CredentialStore::load(Arc::new(any)).await,
        CredentialStore::load(closure).await,
        CredentialStore::load(boxed).await,
        CredentialStore::load(boxed_closure).await,
    ] {
        assert_in_force(&store.unwrap(), "v1");
    }
}

#[tokio::test]
async fn a_sources_question_mark_takes_this_crates_own_errors() {
    let source = async || Ok(Credential::parse("Bearer ak_4711.S0URCE-C4NARY")?);
    let invalid = CredentialStore::load(source).await.unwrap_err();
    let cause: &InvalidCredential = invalid.expose_cause().unwrap().downcast_ref().unwrap();
    assert_eq!(cause.reason(), InvalidCredentialReason::BearerIncluded);
    let source = async || {
        let organization = OrganizationId::try_from("S0URCE-C4NARY, of two")?;
        let token = PersonalAccessToken::new("pat_4711.c2VjcmV0")?;
        Ok(token.for_organization(organization).into())
    };
    let unnamed = CredentialStore::load(source).await.unwrap_err();
    assert!(
        unnamed
            .expose_cause()
            .unwrap()
            .is::<InvalidOrganizationId>()
    );
    // The texts of these errors are known to hold no secret, so they are shown.
    for error in [invalid, unnamed] {
        let text = format!(" failed: {}", error.expose_cause().unwrap());
        assert!(error.to_string().ends_with(&text), "{error}");
        assert_silent(&error);
    }
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
        let text = format!("{error} {error:#} {error:?} {error:#?}");
        assert!(!text.contains(CANARY), "{text}");
        next = error.source();
    }
}

#[tokio::test]
async fn only_expose_cause_shows_a_sources_error_and_its_chain() {
    let error = CredentialStore::load(careless).await.unwrap_err();
    assert_silent(&error);
    assert_eq!(error.reason(), SourceErrorReason::Failed);
    assert!(error.source().is_none());
    let any = anyhow::Error::new(error.clone());
    assert!(!format!("{any} {any:#} {any:?} {any:#?}").contains(CANARY));
    let text = format!("credential source `{}` failed", type_name_of_val(&careless));
    assert_eq!(error.to_string(), text);
    assert_eq!(format!("{error:?}"), format!("SourceError({text})"));
    let cause = error.expose_cause().unwrap();
    assert_eq!(cause.to_string(), CANARY);
    assert!(cause.is::<Careless>());
    assert_eq!(cause.source().unwrap().to_string(), CANARY);
}

#[tokio::test(start_paused = true)]
async fn each_source_error_has_its_text() {
    let name = type_name::<Script>();
    let too_long = "exceeded its time limit";
    for (fetch, text) in [(Fetch::Hangs, too_long), (Fetch::PanicsLater, "panicked")] {
        let error = CredentialStore::load(Script::new(fetch)).await.unwrap_err();
        let text = format!("credential source `{name}` {text}");
        assert_eq!(error.to_string(), text);
        assert!(error.expose_cause().is_none());
    }
    let text = SourceErrorReason::NoRuntime.to_string();
    assert_eq!(text, "needs a tokio runtime with its timer enabled");
}

#[tokio::test]
async fn debug_of_a_source_is_its_type_and_its_time() {
    let loader = CredentialStore::loader(careless).or_start_with(key_of("v1"));
    let loader = loader.timeout(SECOND * 3);
    let name = type_name_of_val(&careless);
    let shown = format!("{loader:?}");
    let start = format!("Loader {{ source: {name:?}, timeout: 3s, refresh_every: None, ");
    assert!(shown.starts_with(&start), "{shown}");
    let store = loader.load().await.unwrap();
    let source = format!("source: Some({name:?})");
    assert!(format!("{store:?}").contains(&source), "{store:?}");
}
