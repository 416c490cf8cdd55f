//! The example `mcp_client`, as it was built beside this test.

use support::{example, printed};

const EXPECTED: &str = "\
Calling tools at http://127.0.0.1:PORT/mcp/.

ok  API key         result: {}
ok  token, named    result: {}
ok  token, unnamed  401: Token is missing organization claim.
                    no organization was sent, which a personal access token needs; use `for_organization` or insert an `OrganizationId` extension; on `/mcp/`, give `organization_id` in each `call_tool`
ok  revoked key     401: Invalid credential.
                    the credential was rejected: it is invalid or deleted, or possibly expired; rotate it
ok  anonymous       401: Missing Bearer token

The server received 0 violations.
";

#[test]
fn each_denial_of_the_edge_is_explained() {
    let printed = printed(&mut example("mcp_client"));
    assert_eq!(printed.stderr, "");
    assert_eq!(printed.stdout, EXPECTED);
    assert_eq!(printed.code, Some(0));
}
