//! Tower middleware that authenticates a client's requests to the Anyreach API.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod authorize;
mod classify;
mod credential;
mod denial;
mod error;
pub mod future;
mod layer;
mod organization;
mod origin;
mod redact;
#[cfg(feature = "retry")]
pub mod retry;
mod service;
pub mod source;
mod store;
mod sync;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use crate::authorize::{Anonymous, CallerHeaders, ForeignRequests};
pub use crate::credential::{
    Credential, CredentialId, CredentialKind, EnvError, InvalidCredential, InvalidCredentialReason,
    OrganizationApiKey, PersonalAccessToken,
};
pub use crate::denial::{Denial, DenialReason};
pub use crate::error::{BoxError, Error};
pub use crate::layer::{AnyreachAuthLayer, DeniedResponses};
pub use crate::organization::{InvalidOrganizationId, InvalidOrganizationIdReason, OrganizationId};
pub use crate::origin::{
    Destination, DestinationReason, InvalidOrigin, InvalidOriginReason, Origin,
};
pub use crate::service::AnyreachAuth;
pub use crate::source::{CredentialSource, SourceError, SourceErrorReason};
pub use crate::store::{CredentialStore, Loader, RefreshGuard, Refreshed};
