#![allow(clippy::too_many_lines, reason = "tables of environments")]
#![allow(
    clippy::redundant_closure_for_method_calls,
    reason = "the method's path is not general enough"
)]

use std::error::Error as StdError;

use super::*;

fn with<T>(variables: &[(&str, &str)], read: impl FnOnce(&Variables<'_>) -> T) -> T {
    read(&Variables(&|name| {
        let set = variables.iter().rfind(|(set, _)| *set == name);
        set.map(|(_, value)| OsString::from(value))
    }))
}

fn value(variables: &[(&str, &str)]) -> Result<Credential, EnvError> {
    with(variables, Credential::from_variables)
}

async fn store(variables: &[(&str, &str)]) -> Result<CredentialStore, EnvError> {
    with(variables, |variables| variables.place())?.open().await
}

/// Returns the text of an error with its causes, as an operator reads it.
fn text(error: &EnvError) -> String {
    let text = match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    assert_eq!(format!("{error:?}"), format!("EnvError({text})"));
    text
}

/// Setting a variable is unsafe, so the outcome is compared with a reading of what is set.
#[tokio::test]
async fn the_environment_of_the_process_is_read() {
    let outcome = |read: Result<_, EnvError>| match read {
        Ok(id) => format!("{id}"),
        Err(error) => text(&error),
    };
    let own = Variables(&|name| env::var_os(name));
    let expected = Credential::from_variables(&own).map(|credential| credential.id().clone());
    let found = Credential::from_env().map(|credential| credential.id().clone());
    assert_eq!(outcome(found), outcome(expected));
    // A test must not run the command that a developer's own environment names.
    if let Err(expected) = own.place() {
        let found = CredentialStore::from_env().await.unwrap_err();
        assert_eq!(text(&found), text(&expected));
    }
}

#[test]
fn the_token_comes_before_the_pat_and_only_a_pat_gets_the_organization() {
    for (variables, expected, organization) in [
        (&[(TOKEN, "ak_a.b\n"), (PAT, "pat_x")][..], "ak_a.b", None),
        (
            &[(TOKEN, ""), (PAT, "pat_x"), (ORGANIZATION, " org_1\n")],
            "pat_x",
            Some("org_1"),
        ),
        (&[(PAT, "pat_x"), (ORGANIZATION, "")], "pat_x", None),
        (
            &[(TOKEN, "ak_a.b"), (ORGANIZATION, "not, one")],
            "ak_a.b",
            None,
        ),
        (&[(FILE, "/f"), (PAT, "pat_x")], "pat_x", None),
    ] {
        let credential = value(variables).unwrap();
        assert_eq!(credential.expose(), expected.as_bytes());
        assert_eq!(
            credential.organization().map(OrganizationId::as_str),
            organization
        );
    }
}

#[test]
fn an_error_of_a_value_names_the_variable() {
    use EnvErrorReason::{InvalidCredential, InvalidOrganizationId, Unset};

    let unset = "neither ANYREACH_TOKEN nor ANYREACH_PAT is set";
    let instead =
        |name| format!("{unset}; {name} is set, but only `CredentialStore::from_env` reads it");
    for (variables, reason, variable, expected) in [
        (
            &[(TOKEN, ""), (PAT, "")][..],
            Unset,
            TOKEN,
            unset.to_owned(),
        ),
        (&[(TOKEN, ""), (FILE, "/f")], Unset, FILE, instead(FILE)),
        (&[(COMMAND, "c")], Unset, COMMAND, instead(COMMAND)),
        (
            &[(PAT, "Bearer x")],
            InvalidCredential,
            PAT,
            "ANYREACH_PAT does not hold a credential: invalid credential: it starts with \
             `Bearer`; give the credential alone"
                .into(),
        ),
        (
            &[(TOKEN, "pat_x"), (ORGANIZATION, "a,b")],
            InvalidOrganizationId,
            ORGANIZATION,
            "ANYREACH_ORG_ID does not hold an organization id: invalid organization id: it \
             contains a comma; a request acts for one organization"
                .into(),
        ),
    ] {
        let error = value(variables).unwrap_err();
        assert_eq!((error.reason(), error.variable()), (reason, variable));
        assert_eq!(error.is_unset(), reason == Unset);
        assert_eq!(text(&error), expected);
    }
}

/// The expected outcome: the credential and its organization, or the start of the error's text.
type Expected = Result<(&'static str, Option<&'static str>), &'static str>;

const KEY: Expected = Ok(("ak_k.s", None));
const TOKEN_ALONE: Expected = Ok(("pat_t", None));
const TOKEN_OF_1: Expected = Ok(("pat_t", Some("org_1")));
const NO_ORGANIZATION: Expected = Err("ANYREACH_ORG_ID does not hold an organization id: ");
const DIFFERENT: Expected =
    Err("ANYREACH_TOKEN and ANYREACH_PAT are set to different values; unset one");

/// Values and conflicts, which do not depend on the features.
#[tokio::test]
async fn a_store_holds_the_value_or_the_error_names_the_conflicting_variables() {
    let nothing = Err(
        "none of ANYREACH_TOKEN, ANYREACH_PAT, ANYREACH_TOKEN_FILE and ANYREACH_TOKEN_COMMAND is \
         set",
    );
    let not_a_credential = Err("ANYREACH_TOKEN does not hold a credential: ");
    let cases: [(&[(&str, &str)], Expected); 34] = [
        (&[], nothing),
        (
            &[(TOKEN, ""), (PAT, ""), (FILE, ""), (COMMAND, "")],
            nothing,
        ),
        (&[(ORGANIZATION, "org_1")], nothing),
        (
            &[(ORGANIZATION, "org_1"), (ORGANIZATION_FILE, "/o")],
            nothing,
        ),
        (
            &[(TOKEN, "ak_k.s"), (ORGANIZATION_FILE, "/o")],
            Err(
                "ANYREACH_ORG_ID_FILE needs ANYREACH_TOKEN_FILE, but ANYREACH_TOKEN is set; use \
                 ANYREACH_ORG_ID",
            ),
        ),
        (
            &[(TOKEN, "ak_k.s"), (PAT, "pat_t"), (FILE, "/f")],
            DIFFERENT,
        ),
        (
            &[(TOKEN, "ak_k.s"), (PAT, "ak_k.s"), (FILE, "/f")],
            Err("ANYREACH_TOKEN and ANYREACH_TOKEN_FILE exclude each other; unset one"),
        ),
        (&[(ORGANIZATION_FILE, "/o")], nothing),
        (&[(TOKEN, "ak_k.s")], KEY),
        (&[(TOKEN, " ak_k.s\r\n")], KEY),
        (&[(PAT, "ak_k.s")], KEY),
        (&[(PAT, "pat_t")], TOKEN_ALONE),
        (&[(TOKEN, "pat_t"), (ORGANIZATION, "org_1")], TOKEN_OF_1),
        (&[(PAT, "pat_t"), (ORGANIZATION, "\torg_1\n")], TOKEN_OF_1),
        (&[(PAT, "pat_t"), (ORGANIZATION, "")], TOKEN_ALONE),
        (&[(PAT, "pat_t"), (ORGANIZATION, " ")], NO_ORGANIZATION),
        (&[(PAT, "pat_t"), (ORGANIZATION, "a,b")], NO_ORGANIZATION),
        (&[(PAT, "pat_t"), (ORGANIZATION, "pat_t")], NO_ORGANIZATION),
        (&[(TOKEN, "ak_k.s"), (ORGANIZATION, "org_1")], KEY),
        (&[(TOKEN, "ak_k.s"), (ORGANIZATION, "a,b")], KEY),
        (&[(TOKEN, " ")], not_a_credential),
        (&[(TOKEN, "Bearer ak_k.s")], not_a_credential),
        (&[(TOKEN, "org_1")], not_a_credential),
        (&[(TOKEN, "${TOKEN}")], not_a_credential),
        (&[(TOKEN, "ak_k.s"), (PAT, "ak_k.s\n")], KEY),
        (&[(TOKEN, "ak_k.s"), (PAT, "pat_t")], DIFFERENT),
        (&[(TOKEN, "ak_k.s"), (PAT, " ")], DIFFERENT),
        (
            &[(TOKEN, "ak_k.s"), (FILE, "/f")],
            Err("ANYREACH_TOKEN and ANYREACH_TOKEN_FILE exclude each other; unset one"),
        ),
        (
            &[(TOKEN, "ak_k.s"), (COMMAND, "c")],
            Err("ANYREACH_TOKEN and ANYREACH_TOKEN_COMMAND exclude each other; unset one"),
        ),
        (
            &[(PAT, "pat_t"), (FILE, "/f")],
            Err("ANYREACH_PAT and ANYREACH_TOKEN_FILE exclude each other; unset one"),
        ),
        (
            &[(PAT, "pat_t"), (COMMAND, "c")],
            Err("ANYREACH_PAT and ANYREACH_TOKEN_COMMAND exclude each other; unset one"),
        ),
        (
            &[(FILE, "/f"), (COMMAND, "c")],
            Err("ANYREACH_TOKEN_FILE and ANYREACH_TOKEN_COMMAND exclude each other; unset one"),
        ),
        (
            &[(PAT, "pat_t"), (ORGANIZATION_FILE, "/o")],
            Err(
                "ANYREACH_ORG_ID_FILE needs ANYREACH_TOKEN_FILE, but ANYREACH_PAT is set; use \
                 ANYREACH_ORG_ID",
            ),
        ),
        (
            &[(COMMAND, "c"), (ORGANIZATION_FILE, "/o")],
            Err(
                "ANYREACH_ORG_ID_FILE needs ANYREACH_TOKEN_FILE, but ANYREACH_TOKEN_COMMAND is \
                 set; use ANYREACH_ORG_ID",
            ),
        ),
    ];
    check(&cases).await;
}

#[cfg(not(any(feature = "file", feature = "command")))]
#[tokio::test]
async fn the_error_names_a_missing_feature() {
    check(&[
        (
            &[(FILE, "/f")],
            Err(
                "ANYREACH_TOKEN_FILE is set, but needs tower-anyreach's feature \
                               `file`",
            ),
        ),
        (
            &[(COMMAND, "c")],
            Err(
                "ANYREACH_TOKEN_COMMAND is set, but needs tower-anyreach's feature `command`, and \
                 Unix",
            ),
        ),
    ])
    .await;
}

#[cfg(feature = "file")]
#[tokio::test]
async fn a_store_reads_the_file_that_the_environment_names() {
    let directory = support::Directory::new();
    let file = |name, content: &str| directory.file(name, content).to_str().unwrap().to_owned();
    let [key, token, empty] = [("key", "ak_k.s\n"), ("token", "pat_t\n"), ("empty", "")]
        .map(|(name, content)| file(name, content));
    let [one, commas] =
        [("one", "org_1\n"), ("commas", "a,b")].map(|(name, content)| file(name, content));
    let (missing, source) = (
        directory.join("missing"),
        "ANYREACH_TOKEN_FILE did not provide a credential: ",
    );
    check(&[
        (&[(FILE, &key)], KEY),
        (&[(FILE, &token)], TOKEN_ALONE),
        (&[(FILE, &token), (ORGANIZATION, "org_1")], TOKEN_OF_1),
        (&[(FILE, &token), (ORGANIZATION_FILE, &one)], TOKEN_OF_1),
        (&[(FILE, &key), (ORGANIZATION, "org_1")], KEY),
        (&[(FILE, &key), (ORGANIZATION, "a,b")], KEY),
        (&[(FILE, &key), (ORGANIZATION_FILE, &one)], KEY),
        (
            &[(FILE, &key), (ORGANIZATION_FILE, "/no/such/organization")],
            KEY,
        ),
        (&[(FILE, &token), (ORGANIZATION, "a,b")], NO_ORGANIZATION),
        (&[(FILE, &token), (ORGANIZATION_FILE, &commas)], Err(source)),
        (
            &[(FILE, &token), (ORGANIZATION_FILE, "/no/such/organization")],
            Err(source),
        ),
        (&[(FILE, missing.to_str().unwrap())], Err(source)),
        (&[(FILE, &empty)], Err(source)),
        (&[(FILE, "/")], Err(source)),
        (
            &[
                (FILE, &token),
                (ORGANIZATION, "org_1"),
                (ORGANIZATION_FILE, &one),
            ],
            Err("ANYREACH_ORG_ID and ANYREACH_ORG_ID_FILE exclude each other; unset one"),
        ),
    ])
    .await;
    let error = store(&[(FILE, "/no/such/token")]).await.unwrap_err();
    assert_eq!(
        (error.variable(), error.reason()),
        (FILE, EnvErrorReason::Source)
    );
    assert!(
        text(&error).ends_with("failed: /no/such/token: entity not found"),
        "{error:?}"
    );
    // Rotates from a token to a key, which needs no organization, and back.
    let beside_key = store(&[(FILE, &key), (ORGANIZATION, "a,b")]).await.unwrap();
    file("key", "pat_t");
    let error = beside_key.refresh().await.unwrap_err().to_string();
    assert!(
        error.contains("failed: invalid organization id: it contains a comma"),
        "{error}"
    );
    let store = store(&[(FILE, &token), (ORGANIZATION_FILE, &one)])
        .await
        .unwrap();
    file("token", "ak_2.s");
    store.refresh().await.unwrap();
    assert_eq!(found(&store), ("ak_2.s", None));
    file("token", "pat_t");
    store.rotate(Credential::parse("ak_3.s").unwrap());
    store.refresh().await.unwrap();
    assert_eq!(Ok(found(&store)), TOKEN_OF_1);
}

#[cfg(all(feature = "command", unix))]
#[tokio::test]
async fn a_store_runs_the_command_that_the_environment_names() {
    let source = Err("ANYREACH_TOKEN_COMMAND did not provide a credential: ");
    let no_line = Err(
        "ANYREACH_TOKEN_COMMAND is not a command line: it names no program, its quotes do not \
         match, or it is not Unicode",
    );
    check(&[
        (&[(COMMAND, "echo ak_k.s")], KEY),
        (&[(COMMAND, "  printf \t'%s\n' \"ak_k.s\"")], KEY),
        (&[(COMMAND, r"printf ak_k\.s")], KEY),
        (&[(COMMAND, "sh -c 'echo ak_k.s; exit 0'")], KEY),
        (
            &[(COMMAND, "echo pat_t"), (ORGANIZATION, "org_1")],
            TOKEN_OF_1,
        ),
        (&[(COMMAND, "echo pat_t")], TOKEN_ALONE),
        (&[(COMMAND, "echo ak_k.s"), (ORGANIZATION, "a,b")], KEY),
        (
            &[(COMMAND, "echo pat_t"), (ORGANIZATION, "a,b")],
            NO_ORGANIZATION,
        ),
        // There is no shell.
        (&[(COMMAND, "echo $HOME")], source),
        (&[(COMMAND, "echo ak_k.s; true")], source),
        (&[(COMMAND, "echo ak_k.s | cat")], source),
        (&[(COMMAND, "false")], source),
        (&[(COMMAND, "no-such-program")], source),
        (&[(COMMAND, "echo 'ak_k.s")], no_line),
        (&[(COMMAND, "  ")], no_line),
        (&[(COMMAND, "# no program")], no_line),
        (&[(COMMAND, "''")], no_line),
    ])
    .await;
    let error = store(&[(COMMAND, "false")]).await.unwrap_err();
    assert!(
        text(&error).ends_with("failed: `false` failed with status 1"),
        "{error:?}"
    );
}

/// A wait between two polls is the interval less up to a tenth. Reading takes real time, so only
/// the test advances the clock.
#[cfg(all(feature = "file", feature = "command", unix))]
#[tokio::test(start_paused = true)]
async fn a_file_is_polled_every_10_seconds_and_a_command_every_60() {
    async fn is_polled(store: &CredentialStore, advance: Duration) -> bool {
        let before = store.status().last_fetched();
        // The task that polls has to start its wait first.
        tokio::task::yield_now().await;
        tokio::time::advance(advance).await;
        for _ in 0..400 {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(1));
            if store.status().last_fetched() > before {
                return true;
            }
        }
        false
    }

    // While a blocking task runs, tokio does not advance a paused clock by itself.
    let (running, ended) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || ended.recv().is_err());
    let directory = support::Directory::new();
    let file = directory.file("token", "ak_a.b");
    for (name, value, seconds) in [
        (FILE, file.to_str().unwrap(), 10),
        (COMMAND, "echo ak_a.b", 60),
    ] {
        let store = store(&[(name, value)]).await.unwrap();
        let interval = Duration::from_secs(seconds);
        // The first poll may come at any time within the interval.
        assert!(is_polled(&store, interval).await, "{name}");
        for _ in 0..2 {
            assert!(!is_polled(&store, interval.mul_f64(0.89)).await, "{name}");
            assert!(is_polled(&store, interval.mul_f64(0.12)).await, "{name}");
        }
    }
    drop(running);
    assert!(blocking.await.unwrap());
}

fn found(store: &CredentialStore) -> (&'static str, Option<&'static str>) {
    let credential = store.credential();
    let known = ["ak_k.s", "ak_2.s", "pat_t"];
    let known = known
        .into_iter()
        .find(|known| known.as_bytes() == credential.expose());
    let organization = credential.organization();
    (known.unwrap(), organization.map(|_| "org_1"))
}

async fn check(cases: &[(&[(&str, &str)], Expected)]) {
    for (variables, expected) in cases {
        match (store(variables).await, expected) {
            (Ok(store), expected) => {
                assert_eq!(Ok(found(&store)), *expected, "{variables:?}");
                let organization = store.credential().organization().cloned();
                assert!(organization.is_none_or(|id| id.as_str() == "org_1"));
            }
            (Err(error), Err(expected)) => {
                let text = text(&error);
                assert!(text.starts_with(expected), "{variables:?}: {text}");
                assert!(text.contains(error.variable()), "{variables:?}: {text}");
                let is_unset = text.ends_with(" is set");
                assert_eq!(error.is_unset(), is_unset, "{variables:?}: {text}");
            }
            (Err(error), Ok(_)) => panic!("{variables:?}: {error:?}"),
        }
    }
}

#[cfg(feature = "tracing")]
#[test]
fn an_organization_beside_an_api_key_is_a_warning_once_for_each_store() {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        tracing::callsite::rebuild_interest_cache();
        let beside = |organization| {
            with(&[(organization, "org_1")], |variables| {
                variables.organization()
            })
        };
        for variable in [ORGANIZATION, ORGANIZATION_FILE] {
            let organization = beside(variable);
            for _ in 0..2 {
                let key = Credential::parse("ak_k.s").unwrap();
                assert!(organization.join(key).is_ok());
            }
        }
        let token = Credential::parse("pat_t").unwrap();
        assert!(beside(ORGANIZATION).join(token).is_ok());
    });
    let line = |name| {
        format!(
            " WARN tower_anyreach: organization not read: an organization API key is bound to its \
             own variable=\"{name}\"\n"
        )
    };
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(logged, line(ORGANIZATION) + &line(ORGANIZATION_FILE));
}
