//! What it prints.

use std::path::Path;

use support::{printed, program};

const EXPECTED: &str = "\
A call that goes well:
trace: answered with 200
Anyreach answered 200.

The key is rotated, and nobody tells the store:
trace: answered with 200
Anyreach answered 401, then 200.
In force: ak_new…#391c4ce0, version 2.

Two answers of 503:
trace: answered with 200
After both, Anyreach answered 200.

A redirect to another host:
trace: Error: the request goes to a host other than http://127.0.0.1:PORT, the configured origin: insert an `Anonymous` extension, use another client, or set `origin`
The other host received 0 requests.

An attempt without an answer:
trace: Error: the inner service failed; see the error's `source()`
the inner service failed; see the error's `source()`: request timed out.

503 for longer than all attempts may take:
trace: Error: request timed out
request timed out.
";

#[test]
fn each_layer_does_what_it_is_there_for() {
    let printed = printed(&mut program(Path::new(env!("CARGO_BIN_EXE_full_stack"))));
    assert_eq!(printed.stderr, "");
    assert_eq!(printed.stdout, EXPECTED);
    assert_eq!(printed.code, Some(0));
}
