//! Files with any content: a source accepts a credential or a pair, and its errors show nothing of the content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tower_anyreach::source::{CredentialSource, FileError, FileSource};
use tower_anyreach::{CredentialKind, CredentialStore, OrganizationId};

use super::credentials::{WORDS, id_of, kind_of, trimmed};
use super::organizations::is_organization;
use super::script::Script;

/// The largest file that is read.
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
    let directory = support::Directory::new();
    support::runtime::current_thread().block_on(async {
        let mut reads = tokio::task::JoinSet::new();
        while reads.is_empty() || (!script.is_over() && reads.len() < 8) {
            let organization =
                script.choose(&[Organization::None, Organization::Fixed, Organization::File]);
            let (credential, named) = (script.spelled(WORDS), script.spelled(WORDS));
            let path = directory.file(&format!("{}-credential", reads.len()), &credential);
            let other = directory.file(&format!("{}-organization", reads.len()), &named);
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
    let source = || match organization {
        Organization::None => FileSource::new(&path),
        Organization::Fixed => FileSource::new(&path).organization(support::organization("org_1")),
        Organization::File => FileSource::new(&path).organization_file(&other),
    };
    // The credential that the source must give, and the organization beside it.
    let text = str::from_utf8(&credential).unwrap_or_default();
    let kind = kind_of(text).filter(|_| text.len() <= MAX_LEN);
    let organization = match organization {
        Organization::None => Some(None),
        Organization::Fixed => Some(Some("org_1".to_owned())),
        Organization::File => {
            let (is_short, named) = (named.len() <= MAX_LEN, named.trim_ascii());
            let is_organization = is_short && is_organization(named);
            is_organization.then(|| Some(String::from_utf8_lossy(named).into_owned()))
        }
    };
    let expected = kind.zip(organization).filter(|(kind, organization)| {
        *kind == CredentialKind::PersonalAccessToken || organization.is_none()
    });

    match (source().fetch().await, expected) {
        (Ok(credential), Some((kind, organization))) => {
            assert_eq!(credential.kind(), kind);
            let of = credential.organization().map(OrganizationId::as_str);
            assert_eq!(of, organization.as_deref());
            assert_eq!(credential.id().to_string(), id_of(trimmed(text), kind));
        }
        (Err(error), None) => {
            let error = error.downcast::<FileError>().unwrap();
            assert_shows_nothing(&error, &path, &other);
            // The store's error shows no more.
            if let Err(shared) = CredentialStore::load(source()).await {
                assert!(shared.to_string().ends_with(&error.to_string()), "{shared}");
                assert!(shared.to_string().len() < error.to_string().len() + 128);
            }
        }
        (fetched, expected) => panic!("{fetched:?}, expected {expected:?}"),
    }
}

/// Asserts that an error shows the path, and a sentence that depends on the reason alone.
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
    let first = sentences.entry(reason).or_insert_with(|| sentence.clone());
    assert_eq!(*first, sentence);
}
