//! The error for a string that is not an origin.

use std::fmt;

/// The error for a string that is not an [`Origin`](crate::Origin); [`reason`](Self::reason) says
/// why. It does not contain the string.
///
/// # Examples
///
/// ```
/// use tower_anyreach::Origin;
///
/// let error = "https://api.anyreach.ai/".parse::<Origin>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "invalid origin: text follows the host and port; leave out the path, even `/`",
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOrigin(pub(super) InvalidOriginReason);

impl InvalidOrigin {
    /// Returns the rule that the text broke.
    #[must_use]
    pub fn reason(&self) -> InvalidOriginReason {
        self.0
    }
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use InvalidOriginReason as Reason;
        f.write_str("invalid origin: ")?;
        f.write_str(match self.0 {
            Reason::Empty => "it is empty",
            Reason::MissingScheme => "it does not start with `https://`",
            Reason::UnknownScheme => "its scheme is neither `https` nor `http`",
            Reason::PlainHttp => {
                "plain http is accepted for loopback hosts only; use https, or `Origin::insecure` \
                 on a protected path"
            }
            Reason::Userinfo => "it contains `@`",
            Reason::Host => {
                "its host is not a plain name, a dotted-quad IPv4 address or an IPv6 address in \
                 brackets"
            }
            Reason::Port => "its port is not a number from 1 to 65535",
            Reason::TrailingText => "text follows the host and port; leave out the path, even `/`",
        })
    }
}

impl std::error::Error for InvalidOrigin {}

/// Why a string is not an [`Origin`](crate::Origin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidOriginReason {
    /// The string is empty.
    Empty,
    /// There is no `://`.
    MissingScheme,
    /// The scheme is neither `https` nor `http`.
    UnknownScheme,
    /// Plain http is used with a host that is not loopback.
    PlainHttp,
    /// The string contains `@`.
    Userinfo,
    /// The host is missing or is not in one of the accepted forms.
    Host,
    /// The port is not a plain decimal number from 1 to 65535.
    Port,
    /// A path, query, fragment or backslash follows the host and port.
    TrailingText,
}

impl InvalidOriginReason {
    /// Returns the reason in `snake_case`. It is stable and suits a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::MissingScheme => "missing_scheme",
            Self::UnknownScheme => "unknown_scheme",
            Self::PlainHttp => "plain_http",
            Self::Userinfo => "userinfo",
            Self::Host => "host",
            Self::Port => "port",
            Self::TrailingText => "trailing_text",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::origin::Origin;

    #[test]
    fn an_error_is_a_sentence_without_the_input() {
        let error = "https://user@api.anyreach.ai".parse::<Origin>();
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "invalid origin: it contains `@`");
    }
}
