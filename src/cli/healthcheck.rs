//! `tollgate healthcheck`: the health check of a container without a shell and without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode};
use serde_json::Value;

use super::{CliError, block_on};
use crate::config::Config;
use crate::https::{Client, ClientSettings, HttpVersion, Trust};
use crate::strict;

/// Less than the three seconds that orchestrators usually wait.
const TIMEOUT: Duration = Duration::from_millis(2_500);

/// Longer than any answer of /readyz.
const MAX_ANSWER: usize = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Configuration file of the gateway.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check whether the gateway can do its work (/readyz), not only whether it answers (/healthz).
    #[arg(long)]
    ready: bool,
}

/// Succeeds if the health check of the gateway on this machine does.
pub(super) fn run(args: HealthcheckArgs) -> Result<(), CliError> {
    let config = Config::load(&args.config)?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let scheme = if config.admin.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", here(config.admin.listen));
    let wrong = |why: String| CliError::Failed(format!("{url}: {why}"));
    let settings = ClientSettings {
        // The certificate names the host that callers use, not this address, and may be newer than the one in the
        // files. Nothing secret is sent, and the answer grants nothing.
        trust: Trust::Any,
        proxy: None,
        version: HttpVersion::Http1,
        connect_timeout: TIMEOUT,
        idle_timeout: Duration::ZERO,
    };
    let client = Client::new(&settings, TIMEOUT, MAX_ANSWER).map_err(|error| wrong(error.to_string()))?;
    let request = Request::get(&url).body(Bytes::new()).map_err(|error| wrong(error.to_string()))?;
    block_on(async move {
        let answer = client.call(request).await.map_err(|error| wrong(error.to_string()))?;
        if answer.status.is_success() { Ok(()) } else { Err(wrong(reason(answer.status, &answer.body))) }
    })
}

/// What keeps the gateway from being ready, in words.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let told: Option<Value> = strict::read_json(body).ok();
    let parts = told.as_ref().and_then(Value::as_object).into_iter().flatten();
    let unwell = parts.filter_map(|(part, state)| match state {
        Value::String(state) if state != "ok" => Some(format!("{}: {state}", part.replace('_', " "))),
        Value::Bool(true) if part == "draining" => Some("it is shutting down".to_owned()),
        _ => None,
    });
    let unwell: Vec<String> = unwell.collect();
    if unwell.is_empty() {
        return format!("{status} {}", String::from_utf8_lossy(body).trim());
    }
    format!("not ready: {}", unwell.join("; "))
}

/// The address at which this machine reaches a listener on `listen`.
fn here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_in_words() {
        let reason = |body: &str| reason(StatusCode::SERVICE_UNAVAILABLE, body.as_bytes());
        assert_eq!(
            reason(r#"{"ready":false,"database":"ok","lease":"not renewed","price_book":"there is none"}"#),
            "not ready: lease: not renewed; price book: there is none"
        );
        assert_eq!(reason(r#"{"ready":false,"draining":true}"#), "not ready: it is shutting down");
        assert_eq!(reason("no gateway\n"), "503 Service Unavailable no gateway");
    }

    #[test]
    fn everywhere_is_reached_by_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("10.1.2.3:8081", "10.1.2.3:8081"),
        ] {
            assert_eq!(here(listen.parse().unwrap()).to_string(), expected);
        }
    }
}
