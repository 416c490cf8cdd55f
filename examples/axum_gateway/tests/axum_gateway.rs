//! What it prints.

use std::path::Path;

use support::{printed, program};

const EXPECTED: &str = "\
A gateway to FakeAnyreach, as its tenants see it:

ok  acme      GET   200 1 of org_acme
ok  globex    GET   200 1 of org_globex
ok  initech   GET   200 1 of org_initech
ok  acme      POST  200 made for org_acme
ok  globex    POST  403 {\"any_of\":[\"agents:manage\"],\"error\":\"not granted\"}
ok  stranger  GET   401 {\"error\":\"who are you?\"}
ERROR initech: Anyreach answered 401: the credential is invalid, expired or deleted; rotate it (credential ak_initec…#8dfa1229)
ok  initech   GET   502 {\"error\":\"the gateway's credential was refused\"}
ERROR hooli: the personal access token names no organization: use `for_organization`, insert an `OrganizationId` extension, or set ANYREACH_ORG_ID where `from_env` reads it
ok  hooli     GET   500 {\"error\":\"the gateway made a mistake\"}

Where nobody listens at the origin:

ERROR acme: the request could not be completed: client error (Connect): tcp connect error: REASON
ok  acme      GET   502 {\"error\":\"Anyreach could not be reached\"}

A request that is on its way when the gateway is told to stop:

ok  acme      POST  200 made for org_acme

The gateway has shut down.

Anyreach received 7 requests, no tenant's token, and saw 0 violations.
";

#[test]
fn tenants_are_kept_apart_and_each_failure_is_whose_it_is() {
    let printed = printed(&mut program(Path::new(env!("CARGO_BIN_EXE_axum_gateway"))));
    assert_eq!(printed.stderr, "");
    assert_eq!(without_the_systems_reason(&printed.stdout), EXPECTED);
    assert_eq!(printed.code, Some(0));
}

/// Why there is no connection, each system says in its own words.
fn without_the_systems_reason(stdout: &str) -> String {
    let mut shown = String::new();
    for line in stdout.split_inclusive('\n') {
        match line.split_once("tcp connect error: ") {
            Some((before, _)) => shown = shown + before + "tcp connect error: REASON\n",
            None => shown += line,
        }
    }
    shown
}
