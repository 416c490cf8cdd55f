//! Files with anything in them: a source takes a credential or a pair, and prints nothing of what it refuses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tower_anyreach::source::{CredentialSource, FileError, FileSource};
use tower_anyreach::{CredentialKind, CredentialStore, OrganizationId};

use super::credentials::{WORDS, id_of, kind_of, trimmed};
use super::organizations::is_organization;
use super::script::Script;

/// The most that a file may hold.
const MAX_LEN: usize = 8 * 1024;

/// Where an organization comes from.
#[derive(Debug, Clone, Copy)]
enum Organization {
    None,
    Fixed,
    File,
}

/// Reads several pairs at once, because each takes 50 ms.
pub(crate) fn file_bytes(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut pairs = Vec::new();
    while pairs.is_empty() || (!script.is_over() && pairs.len() < 8) {
        let organization =
            script.choose(&[Organization::None, Organization::Fixed, Organization::File]);
        pairs.push((organization, script.spelled(WORDS), script.spelled(WORDS)));
    }
    let directory = tempfile::tempdir().unwrap();
    support::runtime::current_thread().block_on(async {
        let mut reads = tokio::task::JoinSet::new();
        for (number, (organization, credential, named)) in pairs.into_iter().enumerate() {
            let path = directory.path().join(format!("{number}-credential"));
            let other = directory.path().join(format!("{number}-organization"));
            std::fs::write(&path, &credential).unwrap();
            std::fs::write(&other, &named).unwrap();
            reads.spawn(check(organization, credential, named, path, other));
        }
        reads.join_all().await;
    });
}

async fn check(
    organization: Organization,
    credential: Vec<u8>,
    named: Vec<u8>,
    path: PathBuf,
    other: PathBuf,
) {
    let fixed = || OrganizationId::try_from("org_fixed").unwrap();
    let source = || match organization {
        Organization::None => FileSource::new(&path),
        Organization::Fixed => FileSource::new(&path).organization(fixed()),
        Organization::File => FileSource::new(&path).organization_file(&other),
    };

    // What is to be taken: the credential, and the organization beside it.
    let text = std::str::from_utf8(&credential)
        .ok()
        .filter(|text| text.len() <= MAX_LEN);
    let kind = text.and_then(kind_of);
    let expected_organization = match organization {
        Organization::None => Ok(None),
        Organization::Fixed => Ok(Some("org_fixed".to_owned())),
        Organization::File => {
            let trimmed = named.trim_ascii();
            if named.len() <= MAX_LEN && is_organization(trimmed) {
                Ok(Some(String::from_utf8_lossy(trimmed).into_owned()))
            } else {
                Err(())
            }
        }
    };
    let expected = match (kind, expected_organization) {
        (Some(CredentialKind::OrganizationApiKey), Ok(Some(_))) | (_, Err(())) | (None, _) => None,
        (Some(kind), Ok(organization)) => Some((kind, organization)),
    };

    match (source().fetch().await, expected) {
        (Ok(credential), Some((kind, organization))) => {
            assert_eq!(credential.kind(), kind);
            assert_eq!(
                credential.organization().map(OrganizationId::as_str),
                organization.as_deref()
            );
            let trimmed = trimmed(text.unwrap_or_default());
            assert_eq!(credential.id().to_string(), id_of(trimmed, kind));
        }
        (Err(error), None) => {
            let error = error.downcast::<FileError>().unwrap();
            assert_shows_nothing(&error, &path, &other);
            // What a store makes of it says no more.
            if let Err(shared) = CredentialStore::load(source()).await {
                assert!(shared.to_string().ends_with(&error.to_string()), "{shared}");
                assert!(shared.to_string().len() < error.to_string().len() + 128);
            }
        }
        (fetched, expected) => panic!("{fetched:?}, expected {expected:?}"),
    }
}

/// It is the path, and a sentence that depends on the reason alone, so it holds no text.
fn assert_shows_nothing(error: &FileError, path: &Path, other: &Path) {
    static SENTENCES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

    assert!(error.path() == path || error.path() == other);
    let shown = error.to_string();
    let sentence = shown.strip_prefix(&format!("{}: ", error.path().display()));
    let sentence = sentence.unwrap_or_else(|| panic!("{shown}")).to_owned();
    assert!(sentence.len() < 128);
    assert_eq!(format!("{error:?}"), format!("FileError({shown})"));
    let mut sentences = SENTENCES.lock().unwrap();
    let reason = format!("{:?}", error.reason());
    assert_eq!(
        *sentences.entry(reason).or_insert_with(|| sentence.clone()),
        sentence
    );
}
