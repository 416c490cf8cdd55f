//! What the environment holds: a credential, or where to find one.
//!
//! [`Variables`] reads the variables, in one place for both functions. [`Credential::from_env`] takes a value alone.
//! [`CredentialStore::from_env`] takes a [`Place`]: the value, a file or a command; a [`FromPlace`] is the source that it makes of the
//! latter two, and adds the organization, which only a personal access token needs.

use std::env;
use std::error::Error as StdError;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Once;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::credential::{Credential, InvalidCredential, OrganizationHeader, parse_organization};
use crate::error::BoxError;
use crate::events;
use crate::organization::{InvalidOrganizationId, OrganizationId};
#[cfg(all(feature = "command", unix))]
use crate::source::CommandSource;
#[cfg(feature = "file")]
use crate::source::FileSource;
use crate::source::{AnySource, CredentialSource, SourceError};
use crate::store::CredentialStore;

const TOKEN: &str = "ANYREACH_TOKEN";
const PAT: &str = "ANYREACH_PAT";
const ORGANIZATION: &str = "ANYREACH_ORG_ID";
const ORGANIZATION_FILE: &str = "ANYREACH_ORG_ID_FILE";
const FILE: &str = "ANYREACH_TOKEN_FILE";
const COMMAND: &str = "ANYREACH_TOKEN_COMMAND";

impl Credential {
    /// Reads a credential from the environment variables that Anyreach's own examples use.
    ///
    /// 1. `ANYREACH_TOKEN` is taken, either kind; if it is not set, `ANYREACH_PAT`.
    /// 2. With a personal access token, `ANYREACH_ORG_ID` names its organization if set. With an organization API key it is not read,
    ///    and feature `tracing` warns.
    /// 3. `ANYREACH_TOKEN_FILE` and `ANYREACH_TOKEN_COMMAND` are not read; the error names one that is set instead.
    ///    [`CredentialStore::from_env`] reads them.
    /// 4. An empty variable counts as not set. Surrounding ASCII whitespace is trimmed.
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
    ///
    /// # Errors
    ///
    /// [`EnvError`], which names the variable: neither is set, the value is not a credential, or
    /// `ANYREACH_ORG_ID` is not an organization id.
    pub fn from_env() -> Result<Self, EnvError> {
        Self::from_variables(&Variables(&|name| env::var_os(name)))
    }

    fn from_variables(variables: &Variables<'_>) -> Result<Self, EnvError> {
        let set = [TOKEN, PAT].into_iter().find(|name| variables.has(name));
        let Some(name) = set else {
            let instead = [FILE, COMMAND].into_iter().find(|name| variables.has(name));
            return Err(EnvError(EnvErrorKind::Unset { instead }));
        };
        variables.organization().join(variables.credential(name)?)
    }
}

impl CredentialStore {
    /// Creates a store from the environment, which holds the credential or says where it is: an operator can move it without a change
    /// of code.
    ///
    /// | variables | meaning |
    /// |---|---|
    /// | `ANYREACH_TOKEN` or `ANYREACH_PAT` | the credential itself; set to different values, they are an error |
    /// | `ANYREACH_TOKEN_FILE` | a path, for a [`FileSource`](crate::source::FileSource) that is polled every 10 seconds; needs feature `file` |
    /// | `ANYREACH_TOKEN_COMMAND` | a command line, for a [`CommandSource`](crate::source::CommandSource) that is polled every 60 seconds; needs feature `command`, and Unix |
    /// | `ANYREACH_ORG_ID` | the organization of a personal access token |
    /// | `ANYREACH_ORG_ID_FILE` | a path to that, beside `ANYREACH_TOKEN_FILE` only |
    ///
    /// 1. Only one of the first three rows may be set. Nothing falls back to another row.
    /// 2. The command line is split into words as a shell does it, with quotes and backslashes. It is run without a shell: nothing is
    ///    expanded.
    /// 3. Beside an organization API key, the organization is not read, and feature `tracing` warns.
    /// 4. An empty variable counts as not set. ASCII whitespace around a credential or an organization is trimmed.
    ///
    /// `ANYREACH_TOKEN`, `ANYREACH_PAT` and `ANYREACH_ORG_ID` are Anyreach's own names. The others are this crate's.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use tower_anyreach::{AnyreachAuthLayer, CredentialStore};
    ///
    /// match CredentialStore::from_env().await {
    ///     Ok(store) => drop(AnyreachAuthLayer::new(store)),
    ///     Err(error) => assert!(error.to_string().contains("ANYREACH_")),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`EnvError`], which names the variable: none is set, two are that exclude each other, a value is not a credential, an
    /// organization id or a command line, a feature is missing, or the file or command gave no credential.
    ///
    /// # Panics
    ///
    /// With a file or a command, panics on a tokio runtime whose timer is not enabled.
    pub async fn from_env() -> Result<Self, EnvError> {
        let place = Variables(&|name| env::var_os(name)).place()?;
        place.open().await
    }
}

/// The variables of the environment, or of a test.
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

    /// Reads where the credential is, and refuses variables that contradict each other.
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
            [one, other, ..] => return Err(EnvError(EnvErrorKind::Conflict(one, other))),
        };
        let beside = if name == FILE { ORGANIZATION } else { name };
        if self.has(ORGANIZATION_FILE) && self.has(beside) {
            return Err(EnvError(EnvErrorKind::Conflict(beside, ORGANIZATION_FILE)));
        }
        let organization = self.organization();
        // Only what is no secret is read into memory that is not wiped.
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
            _ => Place::Value(organization.join(self.credential(name)?)?),
        })
    }
}

/// What the environment says about the organization.
struct Organization {
    /// The variable that is set.
    variable: Option<&'static str>,
    /// What it holds, unless that is a path.
    id: Option<Result<OrganizationId, InvalidOrganizationId>>,
    warned: Once,
}

impl Organization {
    /// Gives a personal access token its organization. An API key carries its own: what is set beside it is not read, and logged once.
    fn join(&self, credential: Credential) -> Result<Credential, EnvError> {
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
            (OrganizationHeader::Needed, Some(Err(error))) => {
                let kind = EnvErrorKind::Organization(ORGANIZATION, error.clone());
                Err(EnvError(kind))
            }
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
        .ok_or(EnvError(EnvErrorKind::CommandLine(COMMAND)))?;
    Ok(AnySource::new(CommandSource::new(program).args(words)))
}

#[cfg(not(all(feature = "command", unix)))]
fn command(_: &OsStr) -> Result<AnySource, EnvError> {
    let feature = "`command`, and Unix";
    Err(EnvError(EnvErrorKind::MissingFeature(COMMAND, feature)))
}

/// A source that the environment names. Its personal access tokens get the organization that the environment names.
struct FromPlace {
    source: AnySource,
    organization: Organization,
}

impl CredentialSource for FromPlace {
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
    let source = FromPlace {
        source,
        organization,
    };
    let loader = CredentialStore::loader(source).refresh_every(interval);
    loader.load().await.map_err(|error| {
        // The organization's error is from the environment already.
        let of_organization = error.expose_cause().and_then(|cause| cause.downcast_ref());
        match of_organization {
            Some(EnvError(kind)) => EnvError(kind.clone()),
            None => EnvError(EnvErrorKind::Source(variable, error)),
        }
    })
}

/// The environment holds no usable credential; the error names the variable and what is wrong, never its value.
///
/// `Debug` shows the whole sentence, cause included, because that is what a `main` that returns the error prints.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, EnvErrorReason};
///
/// # unsafe { std::env::set_var("ANYREACH_TOKEN", "${ANYREACH_TOKEN}") };
/// // With ANYREACH_TOKEN='${ANYREACH_TOKEN}', a template that was never filled in:
/// let error = Credential::from_env().unwrap_err();
/// assert_eq!((error.variable(), error.reason()), ("ANYREACH_TOKEN", EnvErrorReason::InvalidCredential));
/// ```
#[derive(Clone)]
pub struct EnvError(EnvErrorKind);

#[derive(Clone)]
enum EnvErrorKind {
    /// For a function that takes values alone.
    Unset {
        instead: Option<&'static str>,
    },
    NothingSet,
    Conflict(&'static str, &'static str),
    Credential(&'static str, InvalidCredential),
    Organization(&'static str, InvalidOrganizationId),
    #[cfg_attr(
        all(feature = "file", feature = "command", unix),
        expect(dead_code, reason = "no feature is missing")
    )]
    MissingFeature(&'static str, &'static str),
    #[cfg_attr(
        not(all(feature = "command", unix)),
        expect(dead_code, reason = "no command line is read")
    )]
    CommandLine(&'static str),
    Source(&'static str, SourceError),
}

/// Why the environment holds no usable credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EnvErrorReason {
    /// No variable is set that holds a credential or says where one is.
    Unset,
    /// Two variables are set that exclude each other.
    Conflict,
    /// The variable's value is not a credential.
    InvalidCredential,
    /// The variable's value is not an organization id.
    InvalidOrganizationId,
    /// The variable's value is not a command line: its quotes do not match, or it is not Unicode.
    InvalidCommandLine,
    /// The variable needs a feature that is not enabled.
    MissingFeature,
    /// The file or the command that the variable names gave no credential; the error's source says why.
    Source,
}

impl EnvErrorReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Conflict => "conflict",
            Self::InvalidCredential => "invalid_credential",
            Self::InvalidOrganizationId => "invalid_organization_id",
            Self::InvalidCommandLine => "invalid_command_line",
            Self::MissingFeature => "missing_feature",
            Self::Source => "source",
        }
    }
}

impl EnvError {
    /// Returns what is wrong.
    #[must_use]
    pub fn reason(&self) -> EnvErrorReason {
        match self.0 {
            EnvErrorKind::Unset { .. } | EnvErrorKind::NothingSet => EnvErrorReason::Unset,
            EnvErrorKind::Conflict(..) => EnvErrorReason::Conflict,
            EnvErrorKind::Credential(..) => EnvErrorReason::InvalidCredential,
            EnvErrorKind::Organization(..) => EnvErrorReason::InvalidOrganizationId,
            EnvErrorKind::CommandLine(_) => EnvErrorReason::InvalidCommandLine,
            EnvErrorKind::MissingFeature(..) => EnvErrorReason::MissingFeature,
            EnvErrorKind::Source(..) => EnvErrorReason::Source,
        }
    }

    /// Returns the name of the variable to look at; of two that exclude each other, the first.
    ///
    /// If none is set, this is `ANYREACH_TOKEN`. [`Credential::from_env`] names `ANYREACH_TOKEN_FILE` or `ANYREACH_TOKEN_COMMAND` where
    /// one of these is set instead.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        match self.0 {
            EnvErrorKind::Unset { instead } => instead.unwrap_or(TOKEN),
            EnvErrorKind::NothingSet => TOKEN,
            EnvErrorKind::Credential(name, _)
            | EnvErrorKind::Organization(name, _)
            | EnvErrorKind::Conflict(name, _)
            | EnvErrorKind::MissingFeature(name, _)
            | EnvErrorKind::CommandLine(name)
            | EnvErrorKind::Source(name, _) => name,
        }
    }

    /// Returns whether no credential is set at all, as opposed to one that cannot be used.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.reason() == EnvErrorReason::Unset
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            EnvErrorKind::Unset { instead } => {
                f.write_str("neither ANYREACH_TOKEN nor ANYREACH_PAT is set")?;
                match instead {
                    Some(name) => write!(f, "; {name} is, which `CredentialStore::from_env` reads"),
                    None => Ok(()),
                }
            }
            EnvErrorKind::NothingSet => f.write_str(
                "none of ANYREACH_TOKEN, ANYREACH_PAT, ANYREACH_TOKEN_FILE and ANYREACH_TOKEN_COMMAND is set",
            ),
            EnvErrorKind::Conflict(TOKEN, PAT) => {
                f.write_str("ANYREACH_TOKEN and ANYREACH_PAT are set to different values; unset one")
            }
            EnvErrorKind::Conflict(name @ (TOKEN | PAT | COMMAND), ORGANIZATION_FILE) => write!(
                f,
                "ANYREACH_ORG_ID_FILE goes with ANYREACH_TOKEN_FILE only, and {name} is set; use ANYREACH_ORG_ID"
            ),
            EnvErrorKind::Conflict(one, other) => {
                write!(f, "{one} and {other} exclude each other; unset one")
            }
            EnvErrorKind::Credential(name, _) => write!(f, "{name} does not hold a credential"),
            EnvErrorKind::Organization(name, _) => {
                write!(f, "{name} does not hold an organization id")
            }
            EnvErrorKind::MissingFeature(name, feature) => {
                write!(f, "{name} is set, which needs tower-anyreach's feature {feature}")
            }
            EnvErrorKind::CommandLine(name) => {
                write!(f, "{name} is not a command line: its quotes do not match, or it is not Unicode")
            }
            EnvErrorKind::Source(name, _) => write!(f, "{name} gave no credential"),
        }
    }
}

impl fmt::Debug for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            Some(cause) => write!(f, "EnvError({self}: {cause})"),
            None => write!(f, "EnvError({self})"),
        }
    }
}

impl StdError for EnvError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            EnvErrorKind::Credential(_, error) => Some(error),
            EnvErrorKind::Organization(_, error) => Some(error),
            EnvErrorKind::Source(_, error) => Some(error),
            EnvErrorKind::Unset { .. }
            | EnvErrorKind::NothingSet
            | EnvErrorKind::Conflict(..)
            | EnvErrorKind::MissingFeature(..)
            | EnvErrorKind::CommandLine(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
