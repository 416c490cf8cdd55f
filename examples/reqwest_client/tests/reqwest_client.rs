//! What it prints.

use std::path::Path;

use support::{printed, program};

const EXPECTED: &str = "\
Asking FakeAnyreach at http://127.0.0.1:PORT.

ok  a good call         200
ok  missing scope       403, the credential lacks a scope, or possibly its user is not a member of the organization; check its scopes with `GET /admin/members/me/scopes`; the server asked for agents:manage
ok  https only          the inner service failed; see the error's `source()`: builder error for url (http://127.0.0.1:PORT/core/agents): URL scheme is not allowed

The origin answers with a redirect to another host:
ok  redirects off       307 to \"http://localhost:PORT/\"; the other host saw nothing
ok  followed outside    the request goes to a host other than http://127.0.0.1:PORT, the configured origin: insert an `Anonymous` extension, use another client, or set `origin`; the other host saw nothing
ok  reqwest's default   200; the other host saw X-Anyreach-Org
";

#[test]
fn reqwest_below_the_layer_keeps_credentials_at_the_origin() {
    // A proxy that the environment names is none for what stays on loopback; nothing listens at port 1.
    for proxy in [None, Some(("http_proxy", "http://127.0.0.1:1"))] {
        let printed = printed(program(Path::new(env!("CARGO_BIN_EXE_reqwest_client"))).envs(proxy));
        assert_eq!(printed.stderr, "");
        assert_eq!(printed.stdout, EXPECTED);
        assert_eq!(printed.code, Some(0));
    }
}
