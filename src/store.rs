//! The credential in force: one immutable snapshot, swapped while requests are in flight.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::credential::{Credential, OrganizationApiKey, PersonalAccessToken};
use crate::denial::Provenance;

/// Holds the credential in force, and lets it be replaced while requests are in flight.
///
/// Clones share it: keep one for rotating, and give one to
/// [`AnyreachAuthLayer::new`](crate::AnyreachAuthLayer::new). Credential and organization are replaced together:
/// a request leaves with both from before a rotation, or both from after it. Versions start at 1 and only grow.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{AnyreachAuthLayer, Credential, CredentialStore};
///
/// let store = CredentialStore::new(Credential::parse("ak_4711.b2xk")?);
/// let layer = AnyreachAuthLayer::new(store.clone());
/// assert_eq!(store.version(), 1);
///
/// // Every request from here on is sent with the new key.
/// store.rotate(Credential::parse("ak_4712.bmV3")?);
/// assert_eq!(store.version(), 2);
/// # Ok::<(), tower_anyreach::InvalidCredential>(())
/// ```
#[derive(Clone)]
pub struct CredentialStore(Arc<Cell>);

struct Cell {
    /// Tells one store from another, so that a denial can say privately where its credential came from.
    id: u64,
    current: RwLock<Arc<Snapshot>>,
}

/// A credential with its organization, as it was in force at one version.
pub(crate) struct Snapshot {
    pub(crate) credential: Credential,
    pub(crate) provenance: Provenance,
}

impl CredentialStore {
    /// Creates a store with a credential that stays in force until it is rotated.
    pub fn new(credential: impl Into<Credential>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);

        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Cell {
            id,
            current: RwLock::new(Arc::new(Snapshot {
                credential: credential.into(),
                provenance: Provenance {
                    store: id,
                    version: 1,
                },
            })),
        }))
    }

    /// Puts another credential in force, for every request that is made from here on.
    ///
    /// Requests in flight keep what they left with. The bytes of the old credential are wiped when the last of
    /// them is done.
    pub fn rotate(&self, credential: impl Into<Credential>) {
        let credential = credential.into();
        let mut current = self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Snapshot {
            credential,
            provenance: Provenance {
                store: self.0.id,
                version: current.provenance.version + 1,
            },
        });
    }

    /// Returns the credential in force.
    #[must_use]
    pub fn credential(&self) -> Credential {
        self.snapshot().credential.clone()
    }

    /// Returns the version in force: 1 at first, and greater after every rotation.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.snapshot().provenance.version
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(
            &self
                .0
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl From<Credential> for CredentialStore {
    fn from(credential: Credential) -> Self {
        Self::new(credential)
    }
}

impl From<OrganizationApiKey> for CredentialStore {
    fn from(key: OrganizationApiKey) -> Self {
        Self::new(key)
    }
}

impl From<PersonalAccessToken> for CredentialStore {
    fn from(token: PersonalAccessToken) -> Self {
        Self::new(token)
    }
}

impl fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("CredentialStore")
            .field("version", &snapshot.provenance.version)
            .field("credential", &snapshot.credential)
            .finish_non_exhaustive()
    }
}
