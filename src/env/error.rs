//! The error of both `from_env` functions.

use std::error::Error as StdError;
use std::fmt;

use super::{COMMAND, ORGANIZATION, ORGANIZATION_FILE, PAT, TOKEN};
use crate::credential::InvalidCredential;
use crate::organization::InvalidOrganizationId;
use crate::source::SourceError;

/// The error returned when the environment holds no usable credential. It names the variable and
/// the cause, never the value.
///
/// `Debug` shows the whole text with its cause, because a `main` that returns the error prints
/// `Debug`.
///
/// # Examples
///
/// ```
/// use tower_anyreach::{Credential, EnvErrorReason};
///
/// # unsafe { std::env::set_var("ANYREACH_TOKEN", "${ANYREACH_TOKEN}") };
/// // With ANYREACH_TOKEN='${ANYREACH_TOKEN}', a template that was not filled in:
/// let error = Credential::from_env().unwrap_err();
/// assert_eq!(
///     (error.variable(), error.reason()),
///     ("ANYREACH_TOKEN", EnvErrorReason::InvalidCredential)
/// );
/// ```
#[derive(Clone)]
pub struct EnvError(pub(super) EnvErrorKind);

#[derive(Clone)]
pub(super) enum EnvErrorKind {
    /// For `Credential::from_env`, which does not read `instead`.
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
    /// No variable is set that holds a credential or says where to find one, or none that
    /// [`Credential::from_env`](crate::Credential::from_env) reads.
    Unset,
    /// Two variables are set that exclude each other.
    Conflict,
    /// The variable's value is not a credential.
    InvalidCredential,
    /// The variable's value is not an organization id.
    InvalidOrganizationId,
    /// The variable's value is not a command line: it names no program, its quotes do not match, or
    /// it is not Unicode.
    InvalidCommandLine,
    /// The variable needs a feature that is not enabled.
    MissingFeature,
    /// The file or command that the variable names returned no credential. The error's source says
    /// why.
    Source,
}

impl EnvErrorReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
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
    pub(super) fn of_organization(error: InvalidOrganizationId) -> Self {
        Self(EnvErrorKind::Organization(ORGANIZATION, error))
    }

    /// Returns why the environment holds no usable credential.
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

    /// Returns the name of the variable that caused the error. For two that exclude each other, it
    /// is the first.
    ///
    /// If none is set, it is `ANYREACH_TOKEN`. The error of
    /// [`Credential::from_env`](crate::Credential::from_env) names `ANYREACH_TOKEN_FILE` or
    /// `ANYREACH_TOKEN_COMMAND` if that is set instead.
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

    /// Returns whether no credential is set, as opposed to one that cannot be used.
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
                    Some(name) => write!(
                        f,
                        "; {name} is set, but only `CredentialStore::from_env` reads it",
                    ),
                    None => Ok(()),
                }
            }
            EnvErrorKind::NothingSet => f.write_str(
                "none of ANYREACH_TOKEN, ANYREACH_PAT, ANYREACH_TOKEN_FILE and \
                 ANYREACH_TOKEN_COMMAND is set",
            ),
            EnvErrorKind::Conflict(one, other) => write_conflict(f, one, other),
            EnvErrorKind::Credential(name, _) => write!(f, "{name} does not hold a credential"),
            EnvErrorKind::Organization(name, _) => {
                write!(f, "{name} does not hold an organization id")
            }
            EnvErrorKind::MissingFeature(name, feature) => {
                write!(
                    f,
                    "{name} is set, but needs tower-anyreach's feature {feature}",
                )
            }
            EnvErrorKind::CommandLine(name) => {
                write!(
                    f,
                    "{name} is not a command line: it names no program, its quotes do not match, \
                     or it is not Unicode",
                )
            }
            EnvErrorKind::Source(name, _) => write!(f, "{name} did not provide a credential"),
        }
    }
}

fn write_conflict(f: &mut fmt::Formatter<'_>, one: &str, other: &str) -> fmt::Result {
    match (one, other) {
        (TOKEN, PAT) => {
            f.write_str("ANYREACH_TOKEN and ANYREACH_PAT are set to different values; unset one")
        }
        (TOKEN | PAT | COMMAND, ORGANIZATION_FILE) => write!(
            f,
            "ANYREACH_ORG_ID_FILE needs ANYREACH_TOKEN_FILE, but {one} is set; use \
             ANYREACH_ORG_ID"
        ),
        _ => write!(f, "{one} and {other} exclude each other; unset one"),
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
