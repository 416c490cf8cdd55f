//! The environment alone moves the credential of one unchanged program from one place to another.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use secret_managers::manager::Manager;
use secret_managers::rotation::{end, spawn};
use tokio::process::Command;
use tower_anyreach::test_util::FakeAnyreach;

#[tokio::test]
async fn a_credential_moves_from_a_value_to_a_file_to_openbao_to_pass_without_a_change_of_code() {
    const KEY: &str = "ak_op.c2VjcmV0";

    let anyreach = FakeAnyreach::builder()
        .api_key(KEY, "org_acme", ["agents:read"])
        .start()
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, KEY).unwrap();
    let (openbao, pass) = (
        Manager::openbao().await.unwrap(),
        Manager::pass().await.unwrap(),
    );
    openbao.write(KEY).await.unwrap();
    pass.write(KEY).await.unwrap();
    let of = |manager: &Manager| {
        let mut environment = manager.environment.clone();
        environment.push(("ANYREACH_TOKEN_COMMAND", manager.command.to_owned()));
        environment
    };
    for environment in [
        vec![("ANYREACH_TOKEN", KEY.to_owned())],
        vec![("ANYREACH_TOKEN_FILE", file.to_str().unwrap().to_owned())],
        of(&openbao),
        of(&pass),
    ] {
        let mut client = Command::new(env!("CARGO_BIN_EXE_client"));
        client.envs(environment.iter().cloned());
        let (child, mut lines) = spawn(client, &anyreach).unwrap();
        let first = lines.next_line().await.unwrap().unwrap();
        assert!(first.starts_with("credential ak_op"), "{first}");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let last = end(child, lines).await.unwrap();
        assert!(
            last.starts_with("requests ") && last.contains(" failures 0 "),
            "{environment:?}: {last}"
        );
    }
    assert_eq!(anyreach.violations(), []);
}
