use super::*;

const SECRET: &[u8] = b"ak_4711abcd.S3cr3tC4nary-Value_0123";

fn presentable(text: &str, secret: Option<&[u8]>) -> String {
    with_redaction(secret, |redaction| redaction.presentable(text))
}

fn shown(text: &str) -> String {
    presentable(text, Some(SECRET))
}

#[test]
fn a_start_ends_between_characters() {
    for (text, len, start) in [
        ("abc", 2, "ab"),
        ("abc", 9, "abc"),
        ("a\u{20ac}b", 1, "a"),
        ("a\u{20ac}b", 2, "a"),
        ("a\u{20ac}b", 3, "a"),
        ("a\u{20ac}b", 4, "a\u{20ac}"),
        ("\u{20ac}", 0, ""),
    ] {
        assert_eq!(start_of(text, len), start, "{text} {len}");
    }
}

fn each_in_hex(prefix: &str) -> String {
    SECRET
        .iter()
        .flat_map(|byte| [prefix.to_owned(), format!("{byte:02x}")])
        .collect()
}

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let bits = chunk
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            (0..=chunk.len()).map(move |digit| bits >> (18 - 6 * digit) & 63)
        })
        .map(|digit| char::from(alphabet[digit as usize]))
        .collect()
}

fn alphabet(last: [u8; 2]) -> [u8; 64] {
    let mut alphabet = [0; 64];
    for (slot, byte) in alphabet.iter_mut().zip(
        (b'A'..=b'Z')
            .chain(b'a'..=b'z')
            .chain(b'0'..=b'9')
            .chain(last),
    ) {
        *slot = byte;
    }
    alphabet
}

#[test]
fn an_echo_is_redacted_in_every_encoding() {
    let secret = std::str::from_utf8(SECRET).unwrap();
    let hex = each_in_hex("");
    let percent = each_in_hex("%");
    let mixed = secret.replace('C', "%43").replace('.', "%2e");
    for (name, echo) in [
        ("raw", secret.to_owned()),
        ("upper case", secret.to_uppercase()),
        ("without its id", secret[12..].to_owned()),
        ("cut short", secret[..20].to_owned()),
        ("hex", hex.clone()),
        ("upper hex", hex.to_uppercase()),
        ("percent", percent),
        ("mixed percent", mixed),
    ] {
        assert_eq!(
            shown(&format!("no such key: {echo} (sorry)")),
            "no such key: [redacted] (sorry)",
            "{name}"
        );
    }
    for last in [*b"+/", *b"-_"] {
        for lead in 0..3 {
            let mut bytes = vec![b'#'; lead];
            bytes.extend_from_slice(SECRET);
            let echo = base64(&bytes, &alphabet(last));
            let text = shown(&format!("key {echo}!"));
            // The first and last digits also hold bits of neighbouring bytes and may stay, but no
            // window of the secret may.
            assert!(text.contains(REDACTED), "{lead} {text}");
            assert!(text.len() < "key [redacted]!".len() + 8, "{lead} {text}");
        }
    }
}

#[test]
fn hex_at_an_odd_position_is_redacted() {
    assert_eq!(shown(&format!("f{}", each_in_hex(""))), "f[redacted]");
}

#[test]
fn a_short_secret_is_redacted_too() {
    for (text, secret, shown) in [
        ("bad abcde.", "ak_id.abcde", "bad [redacted]."),
        ("bad pat_x!", "pat_x", "bad [redacted]!"),
        ("bad abcd!", "pat_abcd", "bad [redacted]!"),
        // `%ab` in the text can also be read as a percent-encoded byte.
        ("bad %abcdef01", "ak_id.abcdef01", "bad %[redacted]"),
    ] {
        assert_eq!(presentable(text, Some(secret.as_bytes())), shown);
    }
}

#[test]
fn base64_digits_other_than_letters_are_decoded_too() {
    for last in [*b"+/", *b"-_"] {
        let echo = base64(b"~~~~~~~~~~~~", &alphabet(last));
        let text = presentable(&echo, Some(b"ak_id.~~~~~~~~~~~~"));
        assert_eq!(text, REDACTED, "{echo}");
    }
}

#[test]
fn what_follows_a_long_echo_is_shown_up_to_secrets_of_256_bytes() {
    let secret = format!("ak_id.{}", "c2VjcmV0".repeat(31));
    let text = format!("{secret} {secret} is unknown");
    assert_eq!(
        presentable(&text, Some(secret.as_bytes())),
        "[redacted] [redacted] is unknown"
    );
    let secret = format!("ak_id.{}", "c2VjcmV0".repeat(500));
    let text = format!("{secret} is unknown");
    assert_eq!(presentable(&text, Some(secret.as_bytes())), "[redacted]…");
}

#[test]
fn a_text_without_an_echo_is_unchanged() {
    for text in [
        "Token is missing organization claim.",
        "Überraschung: ak_ keys start with ak_",
        "100% of %zz",
        "",
    ] {
        assert_eq!(shown(text), text);
    }
}

#[test]
fn deceptive_characters_are_escaped() {
    assert_eq!(
        presentable("a\x1b[31mb\r\nc\u{202e}d\u{200b}\u{feff}é", None),
        "a\\u{1b}[31mb\\u{d}\\u{a}c\\u{202e}d\\u{200b}\\u{feff}é"
    );
}

#[test]
fn invisible_characters_are_escaped_and_hide_no_echo() {
    let hidden = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{180b}\u{180e}\u{200b}\u{200d}\
        \u{202e}\u{2060}\u{2066}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{1bca0}\u{1d173}\
        \u{e0001}\u{e0100}\u{e0fff}\0\t\x1b\x7f\u{85}";
    for c in hidden.chars() {
        assert_eq!(
            shown(&format!("a{c}b")),
            format!("a\\u{{{:x}}}b", u32::from(c))
        );
        for echo in [std::str::from_utf8(SECRET).unwrap(), &each_in_hex("")] {
            let echo: String = echo.chars().flat_map(|letter| [letter, c, c]).collect();
            let text = shown(&format!("key {echo}!"));
            let end = format!("\\u{{{:x}}}!", u32::from(c))
                .repeat(2)
                .replacen('!', "", 1);
            assert_eq!(text, format!("key {REDACTED}{end}"));
        }
    }
}

#[test]
fn an_escape_does_not_complete_an_echo() {
    assert_eq!(shown("bad \tC4nary-"), "bad \\u{9}C4nary-");
}

#[test]
fn no_more_than_256_characters_are_shown() {
    let exact = "x".repeat(255);
    assert_eq!(presentable(&exact, None), exact);
    for text in [
        "x".repeat(300),
        "\u{202e}".repeat(300),
        "é".repeat(20_000),
        "x".repeat(100_000),
    ] {
        let shown = presentable(&text, None);
        assert!(
            shown.chars().count() <= 256 && shown.ends_with('…'),
            "{}",
            shown.chars().count()
        );
    }
    // A secret at the cut is redacted before the text is cut.
    let shown = presentable(
        &format!("{}{}", "x".repeat(250), "ak_4711abcd.S3cr3tC4nary"),
        Some(SECRET),
    );
    assert!(!shown.contains("ak_4"), "{shown}");
}
