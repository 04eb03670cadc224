//! `healthcheck`: what an orchestrator asks where there is no shell and no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::{CliError, block_on, url_of};
use crate::config::Config;

/// Below the three seconds that orchestrators tend to wait.
const TIMEOUT: Duration = Duration::from_millis(2_500);

#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// The configuration file of the gateway.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Ask whether it can do its work (/readyz), not only whether it answers (/healthz).
    #[arg(long)]
    ready: bool,
}

/// Succeeds if the gateway on this machine says that it is well.
pub(super) fn run(args: HealthcheckArgs) -> Result<(), CliError> {
    let config = Config::load(&args.config)?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let url = format!("{}{path}", url_of(here(config.admin.listen)));
    block_on(async move {
        let wrong = |why: String| CliError::Failed(format!("{url}: {why}"));
        let uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let asked = async {
            let answer = client.get(uri).await.map_err(|error| wrong(error.to_string()))?;
            let status = answer.status();
            let body =
                answer.into_body().collect().await.map_err(|error| wrong(error.to_string()))?.to_bytes();
            if status.is_success() {
                Ok(())
            } else {
                Err(wrong(format!("{status} {}", String::from_utf8_lossy(&body).trim())))
            }
        };
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(wrong("it does not answer".into())))
    })
}

/// Where a listener on this address is reached from here.
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
