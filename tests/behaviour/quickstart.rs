//! The quickstart as a newcomer runs it: a process of its own, which gets nothing but its environment.

use support::{example, printed};

const EXPECTED: &str = "
ok  API key               200, agents listed: 1
ok  missing scope         403, the credential lacks a scope, or possibly its user is not a member of the organization; `GET /admin/members/me/scopes` lists a member's scopes; the server asked for agents:manage
ok  another host          the request goes to a host other than http://127.0.0.1:PORT, the configured origin: insert an `Anonymous` extension, use another client, or set `origin`
ok  revoked key           401, the credential was rejected: it is invalid or deleted, or possibly expired; rotate it
ok  token for org_acme    200, agents listed: 1
ok  token for org_globex  200, agents listed: 1
ok  rotation              16 of 16 requests answered, ";

#[test]
fn without_an_account_every_row_is_as_it_should_be() {
    // An empty variable counts as not set.
    for environment in [&[][..], &[("ANYREACH_TOKEN", ""), ("ANYREACH_PAT", "")]] {
        let printed = printed(example("quickstart").envs(environment.iter().copied()));
        let stdout = printed.stdout;
        assert_eq!((printed.code, &*printed.stderr), (Some(0), ""), "{stdout}");
        let start = "Asking FakeAnyreach at http://127.0.0.1:PORT";
        assert!(stdout.starts_with(start), "{stdout}");
        assert!(stdout.contains(EXPECTED), "{stdout}");
        let end = " requests and 0 violations.\n";
        assert!(stdout.ends_with(end), "{stdout}");
        assert_eq!(stdout.lines().count(), 11, "{stdout}");
        assert!(!stdout.contains("secret"), "{stdout}");
    }
}

const CANARY: &str = "qZ7xVw9Kj3";

/// No run gets as far as a socket.
#[test]
fn a_wrong_value_is_one_line_that_names_the_variable_and_not_the_value() {
    let token = "ANYREACH_TOKEN";
    for (variable, value, complaint) in [
        (token, r#""ak_qZ7xVw9Kj3.qZ7xVw9Kj3""#, "quote"),
        (token, "qZ7xVw9Kj3", "neither `ak_` nor `pat_`"),
        ("ANYREACH_PAT", "Pat_qZ7xVw9Kj3", "lower case"),
    ] {
        let [stdout, stderr] = refused_with([(variable, value), ("ANYREACH_ORG_ID", CANARY)]);
        assert_eq!(stdout, "");
        let start = format!("quickstart: {variable} does not hold a credential: ");
        assert!(stderr.starts_with(&start), "{stderr}");
        assert!(stderr.contains(complaint), "{stderr}");
    }
    // A token without a usable organization.
    for organization in ["", "qZ7xVw9Kj3,qZ7xVw9Kj3", "'qZ7xVw9Kj3'"] {
        let pat = ("ANYREACH_PAT", "pat_qZ7xVw9Kj3");
        let [_, stderr] = refused_with([pat, ("ANYREACH_ORG_ID", organization)]);
        assert!(stderr.contains("ANYREACH_ORG_ID"), "{stderr}");
    }
}

/// What the quickstart prints in this environment. Its error is one line without three characters of the canary in a row.
fn refused_with(environment: [(&str, &str); 2]) -> [String; 2] {
    let printed = printed(example("quickstart").envs(environment));
    let (stdout, stderr) = (printed.stdout, printed.stderr);
    assert!(matches!(printed.code, Some(1 | 2)), "{environment:?}");
    assert!(!stdout.contains(CANARY), "{environment:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let mut parts = CANARY.as_bytes().windows(3);
    let is_shown = |part| stderr.as_bytes().windows(3).any(|shown| shown == part);
    assert!(!parts.any(is_shown), "{stderr}");
    [stdout, stderr]
}
