//! Checks and removes the headers that a request already has. Almost no request runs this code.

use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{HeaderMap, HeaderValue};

use super::{MAX_HEADER_NAMES, ORGANIZATION, PROXY_CONNECTION, Reason};
use crate::config::{CallerHeaders, Config};
use crate::credential::CredentialKind;
use crate::origin::Origin;
use crate::refusal::RefusalReason;

/// Checks the headers of a request that is forwarded without credentials.
pub(super) fn check_foreign_headers(config: &Config, headers: &HeaderMap) -> Result<(), Reason> {
    if config.caller_headers == CallerHeaders::Replace {
        return Ok(());
    }
    for name in [ORGANIZATION, AUTHORIZATION] {
        let mut lines = headers.get_all(name.as_str()).iter();
        if lines.any(|line| name == ORGANIZATION || is_credential(line)) {
            return Err((RefusalReason::CallerHeader, Some(name)));
        }
    }
    Ok(())
}

/// Checks the headers of a request that is to carry credentials, if it has one that matters here or
/// too many.
///
/// It makes one more pass over the names, and looks up only those that are present: a lookup costs
/// half as much as a pass.
#[cold]
pub(super) fn check_caller_headers(config: &Config, headers: &HeaderMap) -> Result<(), Reason> {
    let (mut has_host, mut has_hop_by_hop, mut ours) = (false, false, None);
    for name in headers.keys() {
        if *name == HOST {
            has_host = true;
        } else if *name == AUTHORIZATION || *name == ORGANIZATION {
            ours = ours.or(Some(name));
        } else if *name == CONNECTION || *name == PROXY_CONNECTION {
            has_hop_by_hop = true;
        }
    }
    if has_host && !host_names_origin(&config.origin, headers) {
        return Err((RefusalReason::HostHeader, Some(HOST)));
    }
    if headers.keys_len() > MAX_HEADER_NAMES {
        return Err((RefusalReason::TooManyHeaders, None));
    }
    if has_hop_by_hop {
        for name in [CONNECTION, PROXY_CONNECTION] {
            let mut lines = headers.get_all(name.as_str()).iter();
            if lines.any(names_layer_header) {
                return Err((RefusalReason::CallerHeader, Some(name)));
            }
        }
    }
    match ours {
        Some(name) if config.caller_headers == CallerHeaders::Reject => {
            Err((RefusalReason::CallerHeader, Some(name.clone())))
        }
        _ => Ok(()),
    }
}

/// Returns whether there is one `Host` line and it names the origin. More than one line is an
/// error, even if they agree (RFC 9112 section 3.2).
fn host_names_origin(origin: &Origin, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST.as_str()).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => origin.is_authority(host.as_bytes()),
        _ => false,
    }
}

/// Returns whether a line of `Connection` names one of the layer's headers. HTTP/2 clients remove
/// the headers it names (RFC 9113 section 8.2.2).
fn names_layer_header(line: &HeaderValue) -> bool {
    line.as_bytes().split(|byte| *byte == b',').any(|name| {
        let name = name.trim_ascii();
        name.eq_ignore_ascii_case(b"authorization") || name.eq_ignore_ascii_case(b"x-anyreach-org")
    })
}

/// Returns whether a line of `Authorization` is a bearer token that starts like a credential of
/// Anyreach.
fn is_credential(line: &HeaderValue) -> bool {
    let line = line.as_bytes().trim_ascii_start();
    let Some((scheme, token)) = line.split_at_checked(b"Bearer".len()) else {
        return false;
    };
    let token_start = token.trim_ascii_start();
    scheme.eq_ignore_ascii_case(b"Bearer")
        && token_start.len() < token.len()
        && CredentialKind::ALL
            .iter()
            .any(|kind| token_start.starts_with(kind.prefix().as_bytes()))
}

/// Removes `X-Anyreach-Org`, and each line of `Authorization` that holds a credential of Anyreach.
/// Other lines stay.
pub(super) fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(ORGANIZATION.as_str());
    let lines = headers.get_all(AUTHORIZATION.as_str());
    if lines.iter().any(is_credential) {
        let others = lines.iter().filter(|line| !is_credential(line));
        let others: Vec<_> = others.cloned().collect();
        // An entry is not available in a map that is full, and removing always succeeds.
        headers.remove(AUTHORIZATION.as_str());
        for line in others {
            drop(headers.try_append(AUTHORIZATION.as_str(), line));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn credentials_are_removed_from_a_map_that_is_full() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Basic b3RoZXI="));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer ak_k.s"));
        for number in 0.. {
            let name = HeaderName::try_from(format!("x-{number}")).expect("a name");
            if headers
                .try_append(name, HeaderValue::from_static(""))
                .is_err()
            {
                break;
            }
        }
        remove_credentials(&mut headers);
        let left: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
        assert_eq!(left, ["Basic b3RoZXI="]);
    }
}
