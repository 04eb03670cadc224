//! Configuration as orchestrators and people give it: empty variables, missing underscores, wrong addresses.

use crate::support::process::{Said, Scratch, run, run_with_env};

fn least(scratch: &Scratch) -> String {
    let key = scratch.file("master_key", "k\n");
    format!(
        "[database]\nurl = \"postgres://x@127.0.0.1:1/x\"\n[upstream.kling_3]\nbase_url = \"https://vendor.example\"\n\
         master_key_file = \"{key}\"\n"
    )
}

async fn check(file: &str, env: &[(&str, &str)]) -> Said {
    run_with_env(&["config", "check", file], env).await
}

#[tokio::test]
async fn an_empty_variable_sets_nothing() {
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &least(&scratch));
    for name in [
        "TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY",
        "TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY_FILE",
        "TOLLGATE_SERVER__LISTEN",
        "TOLLGATE_DATABASE__URLS",
        "TOLLGATE_TELEMETRY__OTLP_ENDPOINT",
        "TOLLGATE_ADMIN__TLS__KEY_FILE",
        "TOLLGATE_SERVER_LISTEN",
    ] {
        for value in ["", " "] {
            let said = check(&file, &[(name, value)]).await;
            assert_eq!(said.code, 0, "{name}: {said:?}");
        }
    }
    // A variable with a value still wins, in either form.
    let said = check(&file, &[("TOLLGATE_UPSTREAM__KLING_3__MASTER_KEY", "with space")]).await;
    assert!(said.code == 2 && said.err.contains("visible ASCII"), "{said:?}");
}

#[tokio::test]
async fn a_mistake_in_the_environment_is_told_by_the_name_of_the_variable() {
    let scratch = Scratch::new();
    let file = scratch.file("gateway.toml", &least(&scratch));
    for (name, value, parts) in [
        (
            "TOLLGATE_SERVER__LISTEN",
            ":8080",
            &["TOLLGATE_SERVER__LISTEN", "127.0.0.1:8080", "0.0.0.0:8080"][..],
        ),
        (
            "TOLLGATE_SERVER_LISTEN",
            "127.0.0.1:1",
            &["TOLLGATE_SERVER_LISTEN", "written TOLLGATE_SERVER__LISTEN"],
        ),
        (
            "TOLLGATE_SERVER__LISTN",
            "x",
            &["TOLLGATE_SERVER__LISTN in the environment", "unknown field 'listn'"],
        ),
        ("TOLLGATE_LEDGER__LANES", "0", &["TOLLGATE_LEDGER__LANES", "ledger.lanes is 0", "from 1 to 64"]),
        (
            "TOLLGATE_DATABASE__URL",
            "mysql://u:hunter2@h/x",
            &["TOLLGATE_DATABASE__URL", "begins with mysql://"],
        ),
    ] {
        let said = check(&file, &[(name, value)]).await;
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{name}: {said:?}");
        for part in parts {
            assert!(said.err.contains(part), "{part}: {said:?}");
        }
        assert!(!said.err.contains("hunter2"), "{said:?}");
    }
}

/// A variable with one underscore is told with the mistakes of the file, and the field that it was meant for is not called missing.
#[tokio::test]
async fn mistakes_of_the_environment_and_of_the_file_are_told_at_once() {
    let scratch = Scratch::new();
    let text = least(&scratch).replace("https://", "ftp://").replacen(
        "[database]",
        "[log]\nlevel = \"loud\"\n[database]",
        1,
    );
    let text: String =
        text.lines().filter(|line| !line.starts_with("url")).map(|line| format!("{line}\n")).collect();
    let file = scratch.file("gateway.toml", &text);
    let said = check(&file, &[("TOLLGATE_DATABASE_URL", "postgres://127.0.0.1/x")]).await;
    assert_eq!(said.code, 2, "{said:?}");
    for part in
        ["3 problems", "written TOLLGATE_DATABASE__URL", "log.level is 'loud'", "base_url is not usable"]
    {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    assert!(!said.err.contains("database.url"), "{said:?}");
}

#[tokio::test]
async fn a_valid_configuration_is_warned_of_what_crosses_a_network_unencrypted() {
    let scratch = Scratch::new();
    let text = least(&scratch).replace("https://", "http://").replace("127.0.0.1:1", "db.example");
    let said = run(&["config", "check", &scratch.file("gateway.toml", &text)]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for part in ["warning: upstream.kling_3.base_url is plain HTTP", "sslmode=verify-full"] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
}
