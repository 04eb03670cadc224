//! The way to a server: a TCP connection to it, or a tunnel (HTTP `CONNECT`) through the configured proxy.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;
use url::Url;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// This machine is never asked for through a proxy: the proxy would ask itself.
const ON_THIS_MACHINE: &str = "localhost,127.0.0.0/8,::1";

/// A proxy for connections to the internet.
#[derive(Debug, Clone)]
pub struct Proxy {
    rules: Arc<Matcher>,
    /// Host and port of the proxy, for errors.
    place: Arc<str>,
}

impl Proxy {
    /// The proxy at `url`, which must be an http URL without user. `credentials` are `user:password`. Hosts in `except` (names
    /// with all names below them, addresses, networks) are asked directly.
    pub fn new(url: &Url, credentials: Option<&str>, except: &[String]) -> Option<Self> {
        let place = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
        let mut full = url.clone();
        if let Some((user, password)) = credentials.and_then(|both| both.split_once(':')) {
            full.set_username(user).ok()?;
            full.set_password(Some(password)).ok()?;
        }
        let except = except.iter().map(String::as_str).chain([ON_THIS_MACHINE]).collect::<Vec<_>>().join(",");
        let rules = Matcher::builder().all(full.as_str()).no(except).build();
        Some(Self { rules: Arc::new(rules), place: place.into() })
    }

    fn for_server(&self, server: &Uri) -> Option<Intercept> {
        self.rules.intercept(server)
    }
}

/// No tunnel through the proxy to the server.
#[derive(Debug, thiserror::Error)]
#[error("the proxy at {place} opened no tunnel to the server")]
pub(super) struct NoTunnel {
    place: Arc<str>,
    source: BoxError,
}

/// Opens connections, through the proxy where its rules say so.
#[derive(Debug, Clone)]
pub struct Connector {
    tcp: HttpConnector,
    proxy: Option<Proxy>,
    timeout: Duration,
}

impl Connector {
    /// `timeout` covers the whole way through a proxy; a direct connection has that of `tcp`.
    pub(super) fn new(tcp: HttpConnector, proxy: Option<Proxy>, timeout: Duration) -> Self {
        Self { tcp, proxy, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let through =
            self.proxy.as_ref().and_then(|proxy| Some((proxy.for_server(&server)?, proxy.place.clone())));
        let Some((through, place)) = through else {
            let connecting = self.tcp.call(server);
            return Box::pin(async move { connecting.await.map_err(Into::into) });
        };
        let mut tunnel = Tunnel::new(through.uri().clone(), self.tcp.clone());
        if let Some(authorization) = through.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let timeout = self.timeout;
        Box::pin(async move {
            let Some(server) = with_port(&server) else { return Err("a URL without a host".into()) };
            // A proxy that takes a connection and says nothing more must not keep it.
            let source: BoxError = match tokio::time::timeout(timeout, tunnel.call(server)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error.into(),
                Err(late) => late.into(),
            };
            Err(NoTunnel { place, source }.into())
        })
    }
}

/// The server with its port: a tunnel to a server without one would lead to 443 for http too.
fn with_port(server: &Uri) -> Option<Uri> {
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", server.host()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_for_all_but_the_exceptions_and_this_machine() {
        let url = "http://proxy.corp:3128".parse().unwrap();
        let except = ["internal.example".to_owned(), "10.0.0.0/8".to_owned()];
        let proxy = Proxy::new(&url, Some("gate way:p@ss:word"), &except).unwrap();
        for (server, through) in [
            ("https://vendor.example", true),
            ("http://vendor.example", true),
            ("https://id.internal.example", false),
            ("https://internal.example", false),
            ("https://notinternal.example", true),
            ("https://10.1.2.3", false),
            ("https://11.1.2.3", true),
            ("http://127.0.0.1:99", false),
            ("http://[::1]:99", false),
            ("http://localhost:99", false),
        ] {
            let found = proxy.for_server(&server.parse().unwrap());
            assert_eq!(found.is_some(), through, "{server}");
        }
        let found = proxy.for_server(&"https://vendor.example".parse().unwrap()).unwrap();
        // printf 'gate way:p@ss:word' | base64
        assert_eq!(found.basic_auth().unwrap(), "Basic Z2F0ZSB3YXk6cEBzczp3b3Jk");
        assert_eq!(found.uri(), "http://proxy.corp:3128/");
        assert!(!format!("{proxy:?}").contains("word"), "{proxy:?}");
    }

    #[test]
    fn a_tunnel_leads_to_the_port_of_the_scheme() {
        for (server, expected) in [
            ("http://a.example/x", "a.example:80"),
            ("https://a.example", "a.example:443"),
            ("https://a.example:8443", "a.example:8443"),
            ("http://[::2]", "[::2]:80"),
        ] {
            assert_eq!(with_port(&server.parse().unwrap()).unwrap(), expected);
        }
    }
}
