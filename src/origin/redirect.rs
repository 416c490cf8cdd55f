//! Decides whether the `Location` of a redirect certainly leads away from the origin.

use std::net::Ipv4Addr;

/// Returns whether every URL parser reads a `Location` as one of a host other than the origin's.
///
/// That is so for a plain absolute URL of another host, and for a plain reference within the host
/// that answered. Anything else may lead to the origin:
///
/// - IPv6 literals, upper-case schemes, userinfo, backslashes and characters outside visible ASCII;
/// - Punycode of ASCII, because `xn--api-` is `api` to the `url` crate before 2.5.4
///   (CVE-2024-12224);
/// - if the origin is an IPv4 address, any host whose last label starts with a digit, because
///   `http://2130706433/` is 127.0.0.1 to the `url` crate.
///
/// `answered_by_near_miss` says that the host that answered is another spelling of the origin's.
pub(crate) fn is_plainly_elsewhere(
    location: &[u8],
    origin_host: &str,
    answered_by_near_miss: bool,
) -> bool {
    let is_visible = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let Some(text) = std::str::from_utf8(location).ok().filter(is_visible) else {
        return false;
    };
    let absolute = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match absolute {
        Some(rest) => is_another_host(before_path(rest), origin_host),
        None if answered_by_near_miss => false,
        None => !(text.starts_with("//") || text.contains('\\') || before_path(text).contains(':')),
    }
}

pub(super) fn is_another_host(authority: &str, origin_host: &str) -> bool {
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let name = host.trim_end_matches('.');
    let last_label = name.rsplit('.').next().unwrap_or_default();
    let may_be_ipv4 = origin_host.parse::<Ipv4Addr>().is_ok()
        && last_label.starts_with(|c: char| c.is_ascii_digit());
    let is_punycode_of_ascii = |label: &str| {
        label.ends_with('-')
            && label
                .get(..4)
                .is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
    };
    !host.is_empty()
        && !name.split('.').any(is_punycode_of_ascii)
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && !name.eq_ignore_ascii_case(origin_host)
        && !may_be_ipv4
}

fn before_path(text: &str) -> &str {
    &text[..text.find(['/', '?', '#']).unwrap_or(text.len())]
}
