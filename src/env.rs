//! Reads a credential from the environment, or finds the file or command that it names.
//!
//! [`Variables`] reads the variables for both functions. [`Credential::from_env`] accepts a value
//! only. [`CredentialStore::from_env`] finds a [`Place`]: a value, a file or a command.
//! [`EnvSource`] is the source for the latter two. It adds the organization, which only a personal
//! access token needs.

mod error;

use std::env;
use std::ffi::{OsStr, OsString};
use std::sync::Once;
use std::time::Duration;

use zeroize::Zeroizing;

use self::error::EnvErrorKind;
pub use self::error::{EnvError, EnvErrorReason};
use crate::credential::{Credential, OrganizationHeader, parse_organization};
use crate::error::BoxError;
use crate::events;
use crate::organization::{InvalidOrganizationId, OrganizationId};
#[cfg(all(feature = "command", unix))]
use crate::source::CommandSource;
#[cfg(feature = "file")]
use crate::source::FileSource;
use crate::source::{AnySource, CredentialSource};
use crate::store::CredentialStore;

const TOKEN: &str = "ANYREACH_TOKEN";
const PAT: &str = "ANYREACH_PAT";
const ORGANIZATION: &str = "ANYREACH_ORG_ID";
const ORGANIZATION_FILE: &str = "ANYREACH_ORG_ID_FILE";
const FILE: &str = "ANYREACH_TOKEN_FILE";
const COMMAND: &str = "ANYREACH_TOKEN_COMMAND";

impl Credential {
    /// Reads a credential from the environment variables of Anyreach's own examples.
    ///
    /// 1. It reads `ANYREACH_TOKEN`, or `ANYREACH_PAT` if the former is not set. Both may hold
    ///    either kind of credential.
    /// 2. For a personal access token, it reads the organization from `ANYREACH_ORG_ID`, if set.
    ///    For an organization API key, it does not, and with feature `tracing` a warning is logged.
    /// 3. It does not read `ANYREACH_TOKEN_FILE`, `ANYREACH_TOKEN_COMMAND` or
    ///    `ANYREACH_ORG_ID_FILE`, which [`CredentialStore::from_env`] reads. If one of the first
    ///    two is set instead, the error names it.
    /// 4. An empty variable counts as not set. Surrounding ASCII whitespace is trimmed.
    ///
    /// # Errors
    ///
    /// Returns [`EnvError`], which names the variable, if neither variable is set, if the value is
    /// not a credential, or if `ANYREACH_ORG_ID` is not an organization id.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_anyreach::Credential;
    ///
    /// match Credential::from_env() {
    ///     Ok(credential) => assert!(credential.id().to_string().contains('#')),
    ///     Err(error) => assert!(error.to_string().contains("ANYREACH_")),
    /// }
    /// ```
    pub fn from_env() -> Result<Self, EnvError> {
        Self::from_variables(&Variables(&|name| env::var_os(name)))
    }

    fn from_variables(variables: &Variables<'_>) -> Result<Self, EnvError> {
        let set = [TOKEN, PAT].into_iter().find(|name| variables.has(name));
        let Some(name) = set else {
            let instead = [FILE, COMMAND].into_iter().find(|name| variables.has(name));
            return Err(EnvError(EnvErrorKind::Unset { instead }));
        };
        let joined = variables.organization().join(variables.credential(name)?);
        joined.map_err(EnvError::of_organization)
    }
}

impl CredentialStore {
    /// Creates a store from the environment, so that an operator can move the credential without a
    /// change of code.
    ///
    /// | variables | meaning |
    /// |---|---|
    /// | `ANYREACH_TOKEN` or `ANYREACH_PAT` | the credential; if both are set, they must be equal |
    /// | `ANYREACH_TOKEN_FILE` | the path of a file with the credential |
    /// | `ANYREACH_TOKEN_COMMAND` | a command line that prints the credential |
    /// | `ANYREACH_ORG_ID` | the organization of a personal access token |
    /// | `ANYREACH_ORG_ID_FILE` | the path of a file with the organization |
    ///
    /// 1. Only variables of one of the first three rows may be set. None falls back to another.
    /// 2. The file is read by a [`FileSource`](crate::source::FileSource) and polled every 10
    ///    seconds. It needs feature `file`. `ANYREACH_ORG_ID_FILE` may be set only with it, and not
    ///    together with `ANYREACH_ORG_ID`.
    /// 3. The command is run by a [`CommandSource`](crate::source::CommandSource) and polled every
    ///    60 seconds. It needs feature `command`, and Unix. The line is split into words as a shell
    ///    does it, with quotes and backslashes. It is run without a shell, so nothing is expanded.
    /// 4. For an organization API key, the organization is not read, and with feature `tracing` a
    ///    warning is logged.
    /// 5. An empty variable counts as not set. ASCII whitespace around a credential or an
    ///    organization is trimmed.
    ///
    /// `ANYREACH_TOKEN`, `ANYREACH_PAT` and `ANYREACH_ORG_ID` are names from Anyreach's examples.
    /// The others are this crate's own.
    ///
    /// # Errors
    ///
    /// Returns [`EnvError`], which names the variable, if none is set, if two are set that exclude
    /// each other, if a value is not a credential, an organization id or a command line, if a
    /// feature is missing, or if the file or command returned no credential.
    ///
    /// # Panics
    ///
    /// With a file or a command, panics on a tokio runtime whose timer is not enabled, or that has
    /// ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use tower_anyreach::{AnyreachAuthLayer, CredentialStore};
    ///
    /// match CredentialStore::from_env().await {
    ///     Ok(store) => drop(AnyreachAuthLayer::new(store)),
    ///     Err(error) => assert!(error.to_string().contains("ANYREACH_")),
    /// }
    /// # }
    /// ```
    pub async fn from_env() -> Result<Self, EnvError> {
        let place = Variables(&|name| env::var_os(name)).place()?;
        place.open().await
    }
}

/// The variables of the environment, or those of a test.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    fn text(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let value = self.value(name)?;
        Some(Zeroizing::new(value.into_encoded_bytes()))
    }

    fn credential(&self, name: &'static str) -> Result<Credential, EnvError> {
        let text = self.text(name).unwrap_or_default();
        Credential::parse_bytes(&text)
            .map_err(|error| EnvError(EnvErrorKind::Credential(name, error)))
    }

    fn organization(&self) -> Organization {
        let set = [ORGANIZATION, ORGANIZATION_FILE];
        Organization {
            variable: set.into_iter().find(|name| self.has(name)),
            id: self
                .text(ORGANIZATION)
                .map(|text| parse_organization(&text)),
            warned: Once::new(),
        }
    }

    /// Finds where the credential is, and refuses variables that exclude each other.
    fn place(&self) -> Result<Place, EnvError> {
        let set: Vec<_> = [TOKEN, PAT, FILE, COMMAND]
            .into_iter()
            .filter(|name| self.has(name))
            .collect();
        let is_same = |one, other| {
            self.text(one).unwrap_or_default().trim_ascii()
                == self.text(other).unwrap_or_default().trim_ascii()
        };
        let name = match *set {
            [] => return Err(EnvError(EnvErrorKind::NothingSet)),
            [name] => name,
            [TOKEN, PAT] if is_same(TOKEN, PAT) => TOKEN,
            [TOKEN, PAT, other, ..] if is_same(TOKEN, PAT) => {
                return Err(EnvError(EnvErrorKind::Conflict(TOKEN, other)));
            }
            [one, other, ..] => return Err(EnvError(EnvErrorKind::Conflict(one, other))),
        };
        let beside = if name == FILE { ORGANIZATION } else { name };
        if self.has(ORGANIZATION_FILE) && self.has(beside) {
            return Err(EnvError(EnvErrorKind::Conflict(beside, ORGANIZATION_FILE)));
        }
        let organization = self.organization();
        // Paths and command lines are not secrets, so their memory need not be wiped.
        Ok(match name {
            FILE => Place::File {
                path: self.value(FILE).unwrap_or_default(),
                organization_path: self.value(ORGANIZATION_FILE),
                organization,
            },
            COMMAND => Place::Command {
                line: self.value(COMMAND).unwrap_or_default(),
                organization,
            },
            _ => {
                let joined = organization.join(self.credential(name)?);
                Place::Value(joined.map_err(EnvError::of_organization)?)
            }
        })
    }
}

/// The organization that the environment names.
struct Organization {
    /// The variable that is set.
    variable: Option<&'static str>,
    /// Its value, unless that is a path.
    id: Option<Result<OrganizationId, InvalidOrganizationId>>,
    warned: Once,
}

impl Organization {
    /// Adds the organization to a personal access token. For an API key, which is bound to its own,
    /// it logs a warning once instead.
    fn join(&self, credential: Credential) -> Result<Credential, InvalidOrganizationId> {
        match (credential.kind().organization_header(), &self.id) {
            (OrganizationHeader::Never, _) => {
                if let Some(name) = self.variable {
                    self.warned.call_once(|| events::variable_not_read(name));
                }
                Ok(credential)
            }
            (OrganizationHeader::Needed, None) => Ok(credential),
            (OrganizationHeader::Needed, Some(Ok(id))) => {
                Ok(credential.with_organization(id.clone()))
            }
            (OrganizationHeader::Needed, Some(Err(error))) => Err(error.clone()),
        }
    }
}

/// Where the credential is.
enum Place {
    Value(Credential),
    File {
        path: OsString,
        organization_path: Option<OsString>,
        organization: Organization,
    },
    Command {
        line: OsString,
        organization: Organization,
    },
}

impl Place {
    async fn open(self) -> Result<CredentialStore, EnvError> {
        match self {
            Self::Value(credential) => Ok(CredentialStore::new(credential)),
            Self::File {
                path,
                organization_path,
                organization,
            } => {
                let source = file(path, organization_path)?;
                load(FILE, Duration::from_secs(10), source, organization).await
            }
            Self::Command { line, organization } => {
                let source = command(&line)?;
                load(COMMAND, Duration::from_secs(60), source, organization).await
            }
        }
    }
}

#[cfg(feature = "file")]
#[allow(clippy::unnecessary_wraps, reason = "as without the feature")]
fn file(path: OsString, organization_path: Option<OsString>) -> Result<AnySource, EnvError> {
    let source = FileSource::new(path);
    Ok(AnySource::new(match organization_path {
        Some(path) => source.organization_file_of_token(path),
        None => source,
    }))
}

#[cfg(not(feature = "file"))]
fn file(_: OsString, _: Option<OsString>) -> Result<AnySource, EnvError> {
    Err(EnvError(EnvErrorKind::MissingFeature(FILE, "`file`")))
}

#[cfg(all(feature = "command", unix))]
fn command(line: &OsStr) -> Result<AnySource, EnvError> {
    let words = line.to_str().and_then(|line| shell_words::split(line).ok());
    let mut words = words.unwrap_or_default().into_iter();
    let program = words
        .next()
        .filter(|program| !program.is_empty())
        .ok_or(EnvError(EnvErrorKind::CommandLine(COMMAND)))?;
    Ok(AnySource::new(CommandSource::new(program).args(words)))
}

#[cfg(not(all(feature = "command", unix)))]
fn command(_: &OsStr) -> Result<AnySource, EnvError> {
    let feature = "`command`, and Unix";
    Err(EnvError(EnvErrorKind::MissingFeature(COMMAND, feature)))
}

/// The source that the environment names. It adds the organization of the environment to personal
/// access tokens.
struct EnvSource {
    source: AnySource,
    organization: Organization,
}

impl CredentialSource for EnvSource {
    async fn fetch(&self) -> Result<Credential, BoxError> {
        Ok(self.organization.join(self.source.fetch().await?)?)
    }
}

async fn load(
    variable: &'static str,
    interval: Duration,
    source: AnySource,
    organization: Organization,
) -> Result<CredentialStore, EnvError> {
    let source = EnvSource {
        source,
        organization,
    };
    let loader = CredentialStore::loader(source).refresh_every(interval);
    loader.load().await.map_err(|error| {
        // `EnvSource` is the only one of the sources here that returns this error.
        let cause = error.expose_cause().and_then(|cause| cause.downcast_ref());
        match cause.cloned() {
            Some(invalid) => EnvError::of_organization(invalid),
            None => EnvError(EnvErrorKind::Source(variable, error)),
        }
    })
}

#[cfg(test)]
mod tests;
