use crate::config::Config;
use crate::config::tests::{LEAST, are_told};

const ACCOUNTS: &str = "[[upstream.kling_o3.accounts]]\nname = \"a\"\nmaster_key = \"k\"";

fn o3(more: &str) -> String {
    format!("[upstream.kling_o3]\nbase_url = \"http://x\"\nmaster_key = \"k\"\n{more}")
}

fn with_base(url: &str) -> String {
    o3("").replace("http://x", url)
}

/// A backend with two accounts.
fn pool(one: &str, other: &str, weight: u32) -> String {
    let account = |name| {
        format!("[[upstream.kling_o3.accounts]]\nname = \"{name}\"\nmaster_key = \"k\"\nweight = {weight}\n")
    };
    format!("[upstream.kling_o3]\nbase_url = \"http://x\"\n{}{}", account(one), account(other))
}

#[test]
fn accounts_end_up_in_one_place() {
    let names = |more: &str| -> Vec<String> {
        let config = Config::from_toml(&format!("{LEAST}\n{more}")).unwrap();
        let all = [Some(config.upstream.kling_3), config.upstream.kling_o3];
        let accounts = all.into_iter().flatten().flat_map(|upstream| upstream.accounts);
        accounts
            .map(|account| {
                format!("{} {} {}", account.name, account.master_key.unwrap().expose(), account.weight)
            })
            .collect()
    };
    assert_eq!(names(""), ["main sk-test 1"]);
    assert_eq!(names(&pool("a", "b", 3)), ["main sk-test 1", "a k 3", "b k 3"]);
    assert_eq!(names(&o3("")), ["main sk-test 1", "main k 1"], "two that are unnamed are both called main");
    let same = "[upstream.kling_o3]\nbase_url = \"https://vendor.example/\"\nmaster_key = \"sk-test\"\naccount = \"main\"";
    assert_eq!(names(same), ["main sk-test 1", "main sk-test 1"], "one account for both backends");
}

#[test]
fn the_first_byte_is_not_waited_for_longer_than_the_whole() {
    let upstream = |more: &str| Config::from_toml(&format!("{LEAST}\n{more}")).unwrap().upstream.kling_3;
    assert_eq!(upstream("").first_byte_timeout().as_secs(), 240);
    assert_eq!(upstream("create_timeout_ms = 60000").first_byte_timeout().as_secs(), 60);
    assert_eq!(upstream("first_byte_timeout_ms = 5000").first_byte_timeout().as_secs(), 5);
}

#[test]
fn exceptions_from_the_proxy_that_no_server_has_are_refused() {
    let with = |host: &str| {
        Config::from_toml(&format!(
            "{LEAST}\n[upstream]\nproxy_url = \"http://x\"\nproxy_exceptions = [\"a.example\", \"{host}\"]"
        ))
    };
    for good in [
        "corp",
        ".corp.example",
        "my_host-1",
        "10.0.0.1",
        "10.0.0.0/8",
        "::1",
        "fd00::/8",
        "xn--bcher-kva.example",
    ] {
        assert!(with(good).is_ok(), "{good}: {:?}", with(good).map(|_| ()));
    }
    for bad in [
        "https://id.corp",
        "id.corp:8443",
        "id.corp/path",
        "10.0.0.0/33",
        "10.0.0",
        "10.0.0.256",
        "::ffff:10.0.0.0/104",
        "::ffff:10.0.0.1",
        "[::1]",
        "bücher.example",
        "*.corp",
        ".",
        "a..b",
    ] {
        let told = with(bad).unwrap_err().to_string();
        assert!(told.contains("upstream.proxy_exceptions is '"), "{bad}: {told}");
        assert!(told.contains("without scheme and port"), "{bad}: {told}");
    }
}

#[test]
fn problems_of_backends_accounts_and_proxies_name_field_value_and_remedy() {
    are_told(&[
        (&o3("").replace("http://x", "https://x/v/api/"), &["base_url: it ends in /api", "leave that out"]),
        (&o3("").replace("http://x", "https://x/api/generate"), &["ends in /api/generate"]),
        (
            "[upstream.kling_o3]\nbase_url = \"ftp://x\"\nmaster_key = \"k\"",
            &["base_url is not usable", "http or https"],
        ),
        ("[upstream.kling_o3]\nbase_url = \"http://x\"", &["master_key is missing"]),
        (
            &o3("first_byte_timeout_ms = 2000\ncreate_timeout_ms = 1000"),
            &["first_byte_timeout_ms is 2000", "at most create_timeout_ms"],
        ),
        (
            "[upstream.kling_o3]\nbase_url = \"http://x/#a\"\nmaster_key = \"k\"",
            &["base_url is not usable", "http or https"],
        ),
        (&with_base("http://x//api//"), &["base_url: it ends in /api,"]),
        (&with_base("http://x/v1/api/generate/"), &["base_url: it ends in /api/generate,"]),
        (&with_base("http://x/api/status"), &["base_url: it ends in /api/status,"]),
        ("[upstream]\nproxy_url = \"https://x\"", &["upstream.proxy_url is not usable", "http URL"]),
        ("[upstream]\nproxy_url = \"http://u:hunter2@x\"", &["upstream.proxy_url", "proxy_credentials_file"]),
        ("[upstream]\nproxy_credentials = \"u:hunter2\"", &["given without proxy_url"]),
        (
            "[upstream]\nproxy_url = \"http://x\"\nproxy_credentials = \"hunter2\"",
            &["proxy_credentials is not shown", "user:password"],
        ),
        (
            "[upstream]\nproxy_url = \"http://x\"\nproxy_exceptions = [\"a, b\"]",
            &["upstream.proxy_exceptions is 'a, b'", "each by itself"],
        ),
        ("[upstream]\nproxy_exceptions = [\"a\"]", &["proxy_exceptions is given without proxy_url"]),
        (&o3("breaker_open_ms = 0"), &["breaker_open_ms is 0", "from 10 to 3600000"]),
        (&o3("max_creates = 0"), &["max_creates is 0", "from 1 to 100000"]),
        (&o3("max_polls = 1000000"), &["max_polls is 1000000", "from 1 to 100000"]),
        (&o3("account = \"\""), &["account is ''", "1 to 64 characters"]),
        (&o3("account = \"main\""), &["kling_o3", "'main'", "another than those of kling_3"]),
        (&o3(ACCOUNTS), &["master_key is given beside accounts", "left out"]),
        (&pool("a", "a", 1), &["accounts.name is 'a' twice", "no other account"]),
        (&pool("a", "main", 1), &["kling_o3", "'main'", "another than those of kling_3"]),
        (&pool("a", "b", 0), &["weight is 0 for all", "above 0"]),
        (&pool("a", "b", 1).replace("master_key", "# master_key"), &["accounts.master_key is missing"]),
    ]);
}
