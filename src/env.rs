//! The credential that the environment holds.

use std::env;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;

use zeroize::Zeroizing;

use crate::credential::{Credential, InvalidCredential, OrganizationHeader, parse_organization};
use crate::organization::InvalidOrganizationId;

/// Variables that say where the credential is, rather than what it is.
const UNREAD: [&str; 2] = ["ANYREACH_TOKEN_FILE", "ANYREACH_TOKEN_COMMAND"];

impl Credential {
    /// Reads a credential from the environment variables that Anyreach's own examples use.
    ///
    /// 1. `ANYREACH_TOKEN` is taken, either kind; if it is not set, `ANYREACH_PAT`.
    /// 2. With a personal access token, `ANYREACH_ORG_ID` names its organization if set. With an organization
    ///    API key it is ignored.
    /// 3. `ANYREACH_TOKEN_FILE` and `ANYREACH_TOKEN_COMMAND` are not read; the error names one that is set instead.
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
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, EnvError> {
        let value = |name: &'static str| {
            variable(name)
                .map(|value| Zeroizing::new(value.into_encoded_bytes()))
                .filter(|value| !value.is_empty())
                .map(|value| (name, value))
        };
        let (name, text) = value("ANYREACH_TOKEN")
            .or_else(|| value("ANYREACH_PAT"))
            .ok_or_else(|| {
                let instead = UNREAD.into_iter().find(|name| value(name).is_some());
                EnvError(EnvErrorKind::Unset { instead })
            })?;
        let mut credential = Self::parse_bytes(&text)
            .map_err(|error| EnvError(EnvErrorKind::Credential(name, error)))?;
        let organization = match credential.kind().organization_header() {
            OrganizationHeader::Needed => value("ANYREACH_ORG_ID"),
            OrganizationHeader::Never => None,
        };
        if let Some((name, text)) = organization {
            let organization = parse_organization(&text)
                .map_err(|error| EnvError(EnvErrorKind::Organization(name, error)))?;
            credential = credential.with_organization(organization);
        }
        Ok(credential)
    }
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
#[derive(Clone, PartialEq, Eq)]
pub struct EnvError(EnvErrorKind);

#[derive(Clone, PartialEq, Eq)]
enum EnvErrorKind {
    Unset { instead: Option<&'static str> },
    Credential(&'static str, InvalidCredential),
    Organization(&'static str, InvalidOrganizationId),
}

/// Why the environment holds no usable credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EnvErrorReason {
    /// Neither `ANYREACH_TOKEN` nor `ANYREACH_PAT` is set.
    Unset,
    /// The variable's value is not a credential.
    InvalidCredential,
    /// The variable's value is not an organization id.
    InvalidOrganizationId,
}

impl EnvErrorReason {
    /// Returns the reason in `snake_case`, stable, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::InvalidCredential => "invalid_credential",
            Self::InvalidOrganizationId => "invalid_organization_id",
        }
    }
}

impl EnvError {
    /// Returns what is wrong.
    #[must_use]
    pub fn reason(&self) -> EnvErrorReason {
        match self.0 {
            EnvErrorKind::Unset { .. } => EnvErrorReason::Unset,
            EnvErrorKind::Credential(..) => EnvErrorReason::InvalidCredential,
            EnvErrorKind::Organization(..) => EnvErrorReason::InvalidOrganizationId,
        }
    }

    /// Returns the name of the variable to look at. If neither `ANYREACH_TOKEN` nor `ANYREACH_PAT` is set, this is
    /// `ANYREACH_TOKEN_FILE` or `ANYREACH_TOKEN_COMMAND` where one of these is set instead, otherwise `ANYREACH_TOKEN`.
    #[must_use]
    pub fn variable(&self) -> &'static str {
        match self.0 {
            EnvErrorKind::Unset { instead } => instead.unwrap_or("ANYREACH_TOKEN"),
            EnvErrorKind::Credential(name, _) | EnvErrorKind::Organization(name, _) => name,
        }
    }

    /// Returns whether no credential is set at all, as opposed to one that cannot be used.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        matches!(self.0, EnvErrorKind::Unset { .. })
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            EnvErrorKind::Unset { instead } => {
                f.write_str("neither ANYREACH_TOKEN nor ANYREACH_PAT is set")?;
                match instead {
                    Some(name) => write!(f, "; {name} is, which is not read here"),
                    None => Ok(()),
                }
            }
            EnvErrorKind::Credential(name, _) => write!(f, "{name} does not hold a credential"),
            EnvErrorKind::Organization(name, _) => {
                write!(f, "{name} does not hold an organization id")
            }
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
            EnvErrorKind::Unset { .. } => None,
            EnvErrorKind::Credential(_, error) => Some(error),
            EnvErrorKind::Organization(_, error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Credential, EnvError> {
        Credential::from_variables(|name| {
            variables
                .iter()
                .find_map(|(known, value)| (*known == name).then(|| OsString::from(value)))
        })
    }

    #[test]
    fn environment_gives_the_token_first_and_an_organization_to_a_pat_only() {
        let credential =
            from(&[("ANYREACH_TOKEN", "ak_a.b\n"), ("ANYREACH_PAT", "pat_x")]).unwrap();
        assert_eq!(credential.expose(), b"ak_a.b");

        let credential = from(&[
            ("ANYREACH_TOKEN", ""),
            ("ANYREACH_PAT", "pat_x"),
            ("ANYREACH_ORG_ID", " org_1\n"),
        ])
        .unwrap();
        assert_eq!(credential.expose(), b"pat_x");
        assert_eq!(credential.organization().unwrap().as_str(), "org_1");

        let credential = from(&[("ANYREACH_PAT", "pat_x"), ("ANYREACH_ORG_ID", "")]).unwrap();
        assert_eq!(credential.organization(), None);

        let credential = from(&[
            ("ANYREACH_TOKEN", "ak_a.b"),
            ("ANYREACH_ORG_ID", "not, one"),
        ])
        .unwrap();
        assert_eq!(credential.organization(), None);
    }

    #[test]
    fn environment_errors_name_the_variable() {
        let error = from(&[("ANYREACH_TOKEN", ""), ("ANYREACH_PAT", "")]).unwrap_err();
        assert!(error.is_unset());
        assert_eq!(error.variable(), "ANYREACH_TOKEN");
        assert_eq!(
            error.to_string(),
            "neither ANYREACH_TOKEN nor ANYREACH_PAT is set"
        );
        assert_eq!(format!("{error:?}"), format!("EnvError({error})"));

        let error = from(&[("ANYREACH_PAT", "Bearer x")]).unwrap_err();
        assert_eq!(error.variable(), "ANYREACH_PAT");
        assert_eq!(error.to_string(), "ANYREACH_PAT does not hold a credential");
        assert_eq!(error.reason(), EnvErrorReason::InvalidCredential);
        let cause = error.source().unwrap().to_string();
        assert_eq!(
            cause,
            "invalid credential: it starts with `Bearer`; give the credential alone"
        );
        assert_eq!(format!("{error:?}"), format!("EnvError({error}: {cause})"));

        let error = from(&[("ANYREACH_TOKEN", "pat_x"), ("ANYREACH_ORG_ID", "a,b")]).unwrap_err();
        assert_eq!(error.variable(), "ANYREACH_ORG_ID");
        assert!(!error.is_unset());
    }

    #[test]
    fn an_error_names_the_file_or_command_that_is_set_instead() {
        for name in UNREAD {
            let error = from(&[("ANYREACH_TOKEN", ""), (name, "/run/secrets/key")]).unwrap_err();
            assert!(error.is_unset());
            assert_eq!(error.variable(), name);
            let expected = format!(
                "neither ANYREACH_TOKEN nor ANYREACH_PAT is set; {name} is, which is not read here"
            );
            assert_eq!(error.to_string(), expected);
        }
        assert!(from(&[("ANYREACH_TOKEN_FILE", "f"), ("ANYREACH_PAT", "pat_x")]).is_ok());
    }
}
