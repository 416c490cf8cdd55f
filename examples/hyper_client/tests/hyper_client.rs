//! The output of the example.

use std::path::Path;

use support::{printed, program};

const EXPECTED: &str = "\
FakeAnyreach behind TLS at https://localhost:PORT.

HTTP/2, negotiated in the TLS handshake:
ok  a good key            200 over HTTP/2.0
ok  a revoked key         401, the credential was rejected: it is invalid or deleted, or possibly expired; rotate it
ok  its replacement       200 over HTTP/2.0
ok  calls at once         16 of 16 answered
ok  connections           1

HTTP/1.1, which reuses a connection only after the last response was read:
ok  a good key            200 over HTTP/1.1
ok  a revoked key         401, the credential was rejected: it is invalid or deleted, or possibly expired; rotate it
ok  its replacement       200 over HTTP/1.1
ok  connections           1

A client that trusts the public authorities only, as for the real API:
ok  unknown certificate   the inner service failed (cause in `source()`): client error (Connect): invalid peer certificate: UnknownIssuer
ok  requests received     0
";

#[test]
fn one_tls_connection_carries_a_denial_and_later_requests_in_both_versions_of_http() {
    let printed = printed(&mut program(Path::new(env!("CARGO_BIN_EXE_hyper_client"))));
    assert_eq!(printed.stderr, "");
    assert_eq!(printed.stdout, EXPECTED);
    assert_eq!(printed.code, Some(0));
}
