//! One more gateway on the database of a test's gateway.

use super::gateway::{MASTER_KEY, TestGateway};
use super::process::{Process, Scratch};

/// A process in front of the same vendor, and where it listens.
pub async fn another_with(gateway: &TestGateway, scratch: &Scratch, lease_ms: u32) -> (Process, String) {
    let (process, data, _) = another_with_operations(gateway, scratch, lease_ms).await;
    (process, data)
}

/// The same, and where its operations listener is.
pub async fn another_with_operations(
    gateway: &TestGateway,
    scratch: &Scratch,
    lease_ms: u32,
) -> (Process, String, String) {
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nmax_connections = 20000\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         acquire_timeout_ms = 20000\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n\
         [ledger]\nlease_ms = {lease_ms}\nreserve_timeout_ms = 20000\n[limits]\norg_create_per_minute = 0\nmax_open_tasks = 0\nmax_exposure_per_day = 0\n",
        gateway.db.url(),
        gateway.simulator()
    );
    let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    let serving = process.event("serving").await;
    let address = |listener: &str| serving[listener].as_str().unwrap().to_owned();
    (process, address("data"), address("operations"))
}
