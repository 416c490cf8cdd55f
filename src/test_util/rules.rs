//! The decision about one request, without sockets and without async: its head and body in, an
//! admission or a refusal out.
//!
//! The order of the checks is a choice of the fake: violations, the public paths, the credential,
//! its organization, the endpoint, the scopes. [`FakeAnyreach`](super::FakeAnyreach) lists which
//! answers are documented.

use std::collections::{BTreeMap, HashMap};

use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;

use super::record::Rule;

const ORGANIZATION: HeaderName = HeaderName::from_static("x-anyreach-org");

/// The known credentials and their rights.
#[derive(Default)]
pub(super) struct Accounts(HashMap<String, Rights>);

impl Accounts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn add(&mut self, credential: String, rights: Rights) {
        rights.assert_fit(&credential);
        self.0.insert(credential, rights);
    }

    pub(super) fn rotate(&mut self, old: &str, new: String) -> bool {
        let Some(rights) = self.0.get(old) else {
            return false;
        };
        rights.assert_fit(&new);
        if let Some(rights) = self.0.remove(old) {
            self.0.insert(new, rights);
        }
        true
    }

    pub(super) fn revoke(&mut self, credential: &str) -> bool {
        self.0.remove(credential).is_some()
    }

    /// Decides about a request by its head, and on `/mcp/` also by the organization that its body
    /// names.
    pub(super) fn judge(&self, head: &Parts, body: &[u8]) -> Result<Admission<'_>, Refusal> {
        if let Some(&rule) = broken_rules(&head.headers).first() {
            return Err(Refusal::Violation(rule));
        }
        let endpoint = Endpoint::of(head);
        if endpoint == Endpoint::Public {
            return Ok(Admission::Anyone);
        }

        let credential = bearer(&head.headers).ok_or(Refusal::MissingCredential)?;
        let rights = self.rights(credential)?;
        let (organization, scopes) = rights.in_organization(head, endpoint, body)?;

        let accepted = endpoint.accepted_scopes().ok_or(Refusal::UnknownEndpoint)?;
        let granted = |accepted: &&str| scopes.iter().any(|scope| scope == accepted);
        if !accepted.is_empty() && !accepted.iter().any(granted) {
            return Err(Refusal::InsufficientScope(accepted));
        }
        Ok(Admission::Caller {
            organization,
            scopes,
        })
    }

    fn rights(&self, credential: &[u8]) -> Result<&Rights, Refusal> {
        if !credential.starts_with(b"ak_") && !credential.starts_with(b"pat_") {
            return Err(Refusal::UnrecognizedCredential);
        }
        std::str::from_utf8(credential)
            .ok()
            .and_then(|credential| self.0.get(credential))
            .ok_or(Refusal::UnknownCredential)
    }
}

/// The organizations of a credential, and its scopes in each.
pub(super) enum Rights {
    ApiKey {
        organization: String,
        scopes: Vec<String>,
    },
    PersonalAccessToken {
        organizations: BTreeMap<String, Vec<String>>,
    },
}

impl Rights {
    /// Returns the organization that a request acts for, and the scopes that it has there.
    fn in_organization(
        &self,
        head: &Parts,
        endpoint: Endpoint<'_>,
        body: &[u8],
    ) -> Result<(&String, &Vec<String>), Refusal> {
        match self {
            Self::ApiKey {
                organization,
                scopes,
            } => Ok((organization, scopes)),
            Self::PersonalAccessToken { organizations } => {
                let named = match head.headers.get(ORGANIZATION) {
                    Some(value) => value.to_str().unwrap_or_default().to_owned(),
                    None if endpoint == Endpoint::Mcp => {
                        organization_argument(body).ok_or(Refusal::MissingOrganization)?
                    }
                    None => return Err(Refusal::MissingOrganization),
                };
                organizations
                    .get_key_value(&named)
                    .ok_or(Refusal::ForeignOrganization)
            }
        }
    }

    pub(super) fn api_key(
        organization: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self::ApiKey {
            organization: organization.into(),
            scopes: scopes.into_iter().map(Into::into).collect(),
        }
    }

    pub(super) fn personal_access_token(
        organizations: impl IntoIterator<
            Item = (
                impl Into<String>,
                impl IntoIterator<Item = impl Into<String>>,
            ),
        >,
    ) -> Self {
        Self::PersonalAccessToken {
            organizations: organizations
                .into_iter()
                .map(|(organization, scopes)| {
                    let scopes = scopes.into_iter().map(Into::into).collect();
                    (organization.into(), scopes)
                })
                .collect(),
        }
    }

    fn assert_fit(&self, credential: &str) {
        match self {
            Self::ApiKey { .. } => assert!(
                credential.starts_with("ak_"),
                "an organization API key starts with `ak_`"
            ),
            Self::PersonalAccessToken { .. } => assert!(
                credential.starts_with("pat_"),
                "a personal access token starts with `pat_`"
            ),
        }
    }
}

/// A request that passed all checks.
#[derive(Debug, PartialEq)]
pub(super) enum Admission<'a> {
    Anyone,
    Caller {
        organization: &'a str,
        scopes: &'a [String],
    },
}

/// The reason for a response that is not a success.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    Violation(Rule),
    BrokenBody,
    MissingCredential,
    UnrecognizedCredential,
    UnknownCredential,
    MissingOrganization,
    ForeignOrganization,
    InsufficientScope(&'static [&'static str]),
    UnknownEndpoint,
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Violation(_) | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::MissingCredential
            | Self::UnrecognizedCredential
            | Self::UnknownCredential
            | Self::MissingOrganization => StatusCode::UNAUTHORIZED,
            Self::ForeignOrganization | Self::InsufficientScope(_) => StatusCode::FORBIDDEN,
            Self::UnknownEndpoint => StatusCode::NOT_FOUND,
        }
    }

    /// Returns the text of the body. `Missing Bearer token`, `Unrecognized token format. ...` and
    /// the one about the organization claim are documented by Anyreach. The other texts are the
    /// fake's own.
    pub(super) fn text(&self, on_mcp: bool) -> String {
        let text = match self {
            Self::Violation(rule) => return format!("The request has {rule}."),
            Self::MissingCredential if on_mcp => "Missing Bearer token",
            Self::UnrecognizedCredential if on_mcp => {
                "Unrecognized token format. Expected a personal access token (pat_...) \
                 or organization API key (ak_...)."
            }
            Self::BrokenBody => "The body ended too early.",
            Self::MissingCredential => "Not authenticated.",
            Self::UnrecognizedCredential | Self::UnknownCredential => "Invalid credential.",
            Self::MissingOrganization => "Token is missing organization claim.",
            Self::ForeignOrganization => "Not a member of the organization.",
            Self::InsufficientScope(_) => "Insufficient scope.",
            Self::UnknownEndpoint => "Not found",
        };
        text.to_owned()
    }

    /// Returns the challenge of RFC 6750, section 3. None was found in Anyreach's documentation.
    pub(super) fn challenge(&self) -> Option<HeaderValue> {
        let Self::InsufficientScope(accepted) = self else {
            return None;
        };
        let scope = accepted.join(" ");
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
        Some(HeaderValue::from_str(&challenge).expect("scopes are visible ASCII"))
    }
}

/// The endpoints of the fake, by method and path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Endpoint<'a> {
    Public,
    Mcp,
    OwnScopes,
    ListAgents,
    CreateAgent,
    Conversation(&'a str),
    Unknown,
}

impl<'a> Endpoint<'a> {
    pub(super) fn of(head: &'a Parts) -> Self {
        let path = head.uri.path();
        if path.starts_with("/core/public/web-widgets/") {
            return Self::Public;
        }
        match (&head.method, path) {
            (&Method::POST, "/mcp/") => Self::Mcp,
            (&Method::GET, "/admin/members/me/scopes") => Self::OwnScopes,
            (&Method::GET, "/core/agents") => Self::ListAgents,
            (&Method::POST, "/core/agents") => Self::CreateAgent,
            (&Method::GET, _) => match path.strip_prefix("/core/conversations/") {
                Some(id) if !id.is_empty() && !id.contains('/') => Self::Conversation(id),
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    /// Returns the scopes of which any one is enough. An empty list needs no scope; `None` is an
    /// unknown endpoint.
    fn accepted_scopes(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Public | Self::Mcp | Self::OwnScopes => Some(&[]),
            Self::ListAgents => Some(&["agents:read", "agents:manage"]),
            Self::CreateAgent => Some(&["agents:manage"]),
            Self::Conversation(_) => Some(&[
                "conversations:read",
                "conversations:read_sensitive",
                "conversations:manage",
            ]),
            Self::Unknown => None,
        }
    }
}

/// Returns all rules that the headers break.
pub(super) fn broken_rules(headers: &HeaderMap) -> Vec<Rule> {
    let organizations = headers.get_all(ORGANIZATION);
    let count = organizations.iter().count();
    // Each of several credentials may be an API key.
    let beside_api_key = || {
        headers
            .get_all(AUTHORIZATION)
            .iter()
            .filter_map(bearer_in)
            .any(|credential| credential.starts_with(b"ak_"))
    };
    [
        (
            Rule::SeveralAuthorizations,
            headers.get_all(AUTHORIZATION).iter().count() > 1,
        ),
        (Rule::SeveralOrganizations, count > 1),
        (
            Rule::EmptyOrganization,
            organizations.iter().any(HeaderValue::is_empty),
        ),
        (
            Rule::OrganizationBesideApiKey,
            count > 0 && beside_api_key(),
        ),
    ]
    .into_iter()
    .filter_map(|(rule, broken)| broken.then_some(rule))
    .collect()
}

pub(super) fn on_mcp(head: &Parts) -> bool {
    head.uri.path().starts_with("/mcp/")
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(AUTHORIZATION).and_then(bearer_in)
}

/// Returns what follows the scheme, in any case, and one space.
fn bearer_in(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(b"Bearer".len())?;
    let credential = rest.strip_prefix(b" ")?;
    scheme.eq_ignore_ascii_case(b"Bearer").then_some(credential)
}

/// Returns the `organization_id` argument of an MCP message `tools/call` for the tool `call_tool`.
fn organization_argument(body: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(body).ok()?;
    let params = message.get("params")?;
    if message.get("method")? != "tools/call" || params.get("name")? != "call_tool" {
        return None;
    }
    let organization = params.get("arguments")?.get("organization_id")?;
    organization.as_str().map(str::to_owned)
}
