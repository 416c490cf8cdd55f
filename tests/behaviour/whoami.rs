//! The example `whoami`, as it was built beside this test.

use support::{example, printed};

const EXPECTED: &str = "\
Asking FakeAnyreach, because the environment holds no credential.

ak_reader…#f01bc848, an API key, in its own organization:
  agents          read

pat_…#eebcaa54, a personal access token, in org_acme:
  agents          manage, read
  conversations   read
  Conversations lack their transcript, summary, recording and metadata,
  which need conversations:read_sensitive.

pat_…#eebcaa54, a personal access token, in org_globex:
  conversations   read_sensitive

ak_former…#6ecf55bc, an API key, in its own organization:
  401: Anyreach does not know this credential. It is mistyped or deleted, or possibly expired.
  Next: create a new key in the dashboard, at /api-keys, and replace this one.

pat_…#eebcaa54, a personal access token, in no organization:
  Not sent: the token is valid in each organization of its user, and names none of them.
  Next: set ANYREACH_ORG_ID to the id of one. The name in the dashboard's address is not the id.

pat_…#eebcaa54, a personal access token, in org_foreign:
  403: The token is valid. Any member may list their scopes, so its user is probably not a member of org_foreign.
  Next: check ANYREACH_ORG_ID, or have the user invited.
";

#[test]
fn each_caller_sees_what_it_may_do_or_what_to_do_next() {
    // An empty variable counts as not set.
    for environment in [None, Some(("ANYREACH_TOKEN", ""))] {
        let printed = printed(example("whoami").envs(environment));
        assert_eq!(printed.stderr, "");
        assert_eq!(printed.stdout, EXPECTED);
        assert_eq!(printed.code, Some(0));
    }
}

/// Neither run gets as far as a socket.
#[test]
fn a_credential_of_the_environment_is_used_and_not_shown() {
    let unnamed = printed(example("whoami").env("ANYREACH_PAT", "pat_secret"));
    assert_eq!((unnamed.code, &*unnamed.stderr), (Some(1), ""));
    let start = "\npat_…#eebcaa54, a personal access token, in no organization:\n  Not sent: ";
    assert!(unnamed.stdout.starts_with(start), "{}", unnamed.stdout);
    assert!(EXPECTED.contains(&unnamed.stdout), "{}", unnamed.stdout);

    let quoted = printed(example("whoami").env("ANYREACH_TOKEN", "'ak_reader.secret'"));
    assert_eq!((quoted.code, &*quoted.stdout), (Some(2), ""));
    let stderr = quoted.stderr;
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let start = "whoami: ANYREACH_TOKEN does not hold a credential: ";
    assert!(stderr.starts_with(start), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
}
