//! `Origin`: the texts that it is parsed from and refuses, what it shows, and the URIs that it builds.

use tower_anyreach::InvalidOriginReason::{
    Empty, Host, MissingScheme, PlainHttp, Port, TrailingText, UnknownScheme, Userinfo,
};

use crate::prelude::*;

const DEFAULT: &str = "https://api.anyreach.ai";
const EXPLICIT_PORT: &str = "https://anyreach.proxy.example:8443";

#[test]
fn origin_takes_scheme_host_and_port_and_shows_them() {
    assert_eq!(Origin::default().to_string(), DEFAULT);
    let same = "https://proxy:65535 https://under_score.example https://xn--bcher-kva.ex https://10.1.2.3:8443 \
                https://[::1]:8443 http://localhost:443 http://127.255.255.254 http://[::1]";
    let changed = [
        ("https://api.anyreach.ai:443", DEFAULT),
        ("HTTPS://API.Anyreach.AI", DEFAULT),
        ("https://[FD00::1]:443", "https://[fd00::1]"),
        ("http://LocalHost:80", "http://localhost"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[0:0:0:0:0:0:0:1]"),
    ];
    let same = same.split(' ').chain([EXPLICIT_PORT]);
    for (text, shown) in same.map(|text| (text, text)).chain(changed) {
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
    #[rustfmt::skip]
    let refused: [(_, &[&str]); 8] = [
        (Empty, &[""]),
        (MissingScheme, &["api.anyreach.ai", "//api.anyreach.ai"]),
        (UnknownScheme, &["://api.anyreach.ai", " https://api.anyreach.ai"]),
        (PlainHttp, &[
            "http://api.anyreach.ai", "http://128.0.0.1", "http://[::2]", "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
        ]),
        (Userinfo, &["https://user@api.anyreach.ai", "https://@api.anyreach.ai"]),
        (TrailingText, &[
            "https://api.anyreach.ai/", "https://api.anyreach.ai?a", "https://api.anyreach.ai\\", "https:///",
        ]),
        (Host, &[
            "https://", "https://.", "https://api.anyreach.ai.", "https://api..anyreach.ai",
            "https://api.anyreach.ai ", "https://api%2eanyreach.ai", "https://api.anyreach.ai,evil",
            "https://b\u{fc}cher.example", "https://127.1", "https://0x7f000001", "https://proxy.1",
            "https://::1", "https://[::1", "https://[]", "https://[1.2.3.4]", "https://[fe80::1%25eth0]",
            "https://[::1]x",
        ]),
        (Port, &[
            "https://api.anyreach.ai:", "https://api.anyreach.ai:0", "https://api.anyreach.ai:0443",
            "https://api.anyreach.ai:+443", "https://api.anyreach.ai:65536", "https://api.anyreach.ai:443:443",
            "https://[::1]:",
        ]),
    ];
    let texts = |(reason, texts): (_, &'static [&'static str])| {
        texts.iter().map(move |text| (*text, reason))
    };
    for (text, reason) in refused.into_iter().flat_map(texts) {
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
        for path in "|core|*|?a|@evil.example/|:8443/|https://a/|/a b|/a#b".split('|') {
            assert!(origin.uri(path).is_err(), "{path}");
        }
    }
}
