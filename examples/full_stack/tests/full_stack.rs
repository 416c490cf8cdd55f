//! The output of the example.

use std::path::Path;

use support::{printed, program};

const EXPECTED: &str = "\
A successful call:
trace: status 200
Anyreach answered 200.

The key is rotated in the secret manager:
trace: status 200
Anyreach answered 401, then 200.
In force: ak_new…#391c4ce0, version 2.

Two responses are 503:
trace: status 200
Then Anyreach answered 200.

A redirect to another host:
trace: an error
the request goes to a host other than http://127.0.0.1:PORT, the configured origin: insert an `Anonymous` extension, use another client, or set `origin`.
The other host received 0 requests.

An attempt has no response:
trace: an error
the inner service failed (cause in `source()`): request timed out.

Every response is 503, until the time limit of the call:
trace: an error
request timed out.
";

#[test]
fn each_layer_serves_its_purpose() {
    let printed = printed(&mut program(Path::new(env!("CARGO_BIN_EXE_full_stack"))));
    assert_eq!(printed.stderr, "");
    assert_eq!(printed.stdout, EXPECTED);
    assert_eq!(printed.code, Some(0));
}
