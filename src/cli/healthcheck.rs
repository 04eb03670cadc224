//! `tollgate healthcheck`: the health check of a container without a shell and without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::{CliError, block_on};
use crate::config::Config;

/// Less than the three seconds that orchestrators usually wait.
const TIMEOUT: Duration = Duration::from_millis(2_500);

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
    block_on(async move {
        let wrong = |why: String| CliError::Failed(format!("{url}: {why}"));
        let uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody::default()))
            .with_no_client_auth();
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(https);
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
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(wrong("no answer in time".into())))
    })
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

/// Accepts any certificate. The gateway's certificate names the host that its callers use, not this machine. A health
/// check sends nothing secret, so it need not know who answers.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl Default for Anybody {
    fn default() -> Self {
        Self(aws_lc_rs::default_provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
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
