//! `Origin`: the texts that it is parsed from and refuses, what it shows, and the URIs that it builds.

use tower_anyreach::InvalidOriginReason;

use crate::prelude::*;

const DEFAULT: &str = "https://api.anyreach.ai";
const EXPLICIT_PORT: &str = "https://anyreach.proxy.example:8443";

#[test]
fn origin_takes_scheme_host_and_port_and_shows_them() {
    assert_eq!(Origin::default().to_string(), DEFAULT);
    for (text, shown) in [
        ("https://api.anyreach.ai:443", DEFAULT),
        ("HTTPS://API.Anyreach.AI", DEFAULT),
        (EXPLICIT_PORT, EXPLICIT_PORT),
        ("https://proxy:65535", "https://proxy:65535"),
        ("https://under_score.example", "https://under_score.example"),
        ("https://xn--bcher-kva.ex", "https://xn--bcher-kva.ex"),
        ("https://10.1.2.3:8443", "https://10.1.2.3:8443"),
        ("https://[FD00::1]:443", "https://[fd00::1]"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("http://LocalHost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://127.255.255.254", "http://127.255.255.254"),
        ("http://[::1]", "http://[::1]"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[0:0:0:0:0:0:0:1]"),
    ] {
        let origin: Origin = text.parse().unwrap();
        assert_eq!(origin.to_string(), shown, "{text}");
        assert_eq!(format!("{origin:?}"), format!("Origin({shown})"));
        assert_eq!(Origin::try_from(text).unwrap(), origin);
        assert_eq!(Origin::insecure(text).unwrap(), origin);
        // The displayed text, without a default port, is that of the same origin.
        assert_eq!(shown.parse::<Origin>().unwrap(), origin);
    }
}

#[test]
fn origin_refuses_everything_else_with_its_reason() {
    use InvalidOriginReason::{
        Empty, Host, MissingScheme, PlainHttp, Port, TrailingText, UnknownScheme, Userinfo,
    };
    for (text, reason) in [
        ("", Empty),
        ("api.anyreach.ai", MissingScheme),
        ("//api.anyreach.ai", MissingScheme),
        ("://api.anyreach.ai", UnknownScheme),
        (" https://api.anyreach.ai", UnknownScheme),
        ("http://api.anyreach.ai", PlainHttp),
        ("http://128.0.0.1", PlainHttp),
        ("http://[::2]", PlainHttp),
        ("http://localhost.evil.example", PlainHttp),
        ("http://127.0.0.1.evil.example", PlainHttp),
        ("https://user@api.anyreach.ai", Userinfo),
        ("https://@api.anyreach.ai", Userinfo),
        ("https://api.anyreach.ai/", TrailingText),
        ("https://api.anyreach.ai?a", TrailingText),
        ("https://api.anyreach.ai\\", TrailingText),
        ("https:///", TrailingText),
        ("https://", Host),
        ("https://.", Host),
        ("https://api.anyreach.ai.", Host),
        ("https://api..anyreach.ai", Host),
        ("https://api.anyreach.ai ", Host),
        ("https://api%2eanyreach.ai", Host),
        ("https://api.anyreach.ai,evil", Host),
        ("https://b\u{fc}cher.example", Host),
        ("https://127.1", Host),
        ("https://0x7f000001", Host),
        ("https://proxy.1", Host),
        ("https://::1", Host),
        ("https://[::1", Host),
        ("https://[]", Host),
        ("https://[1.2.3.4]", Host),
        ("https://[fe80::1%25eth0]", Host),
        ("https://[::1]x", Host),
        ("https://api.anyreach.ai:", Port),
        ("https://api.anyreach.ai:0", Port),
        ("https://api.anyreach.ai:0443", Port),
        ("https://api.anyreach.ai:+443", Port),
        ("https://api.anyreach.ai:65536", Port),
        ("https://api.anyreach.ai:443:443", Port),
        ("https://[::1]:", Port),
    ] {
        for outcome in [text.parse(), Origin::try_from(text)] {
            assert_eq!(outcome.unwrap_err().reason(), reason, "{text:?}");
        }
        let insecurely = Origin::insecure(text).err().map(|error| error.reason());
        let expected = Some(reason).filter(|reason| *reason != PlainHttp);
        assert_eq!(insecurely, expected, "{text:?}");
    }
}

#[test]
fn an_origin_builds_uris_of_its_own_and_refuses_what_is_no_path() {
    for text in [DEFAULT, EXPLICIT_PORT, "http://[::1]:8080"] {
        let origin: Origin = text.parse().unwrap();
        for path in "/ /core/agents?page=1 //evil.example/ /@evil.example".split(' ') {
            let uri = origin.uri(path).unwrap();
            assert_eq!(uri.to_string(), format!("{text}{path}"));
            let head = send(&layer().origin(origin.clone()), get(&uri.to_string())).head();
            assert_carries(&head, KEY, None);
        }
        for path in "|core|*|?a|@evil.example/|:8443/|https://a/|/a b".split('|') {
            assert!(origin.uri(path).is_err(), "{path}");
        }
    }
}
