//! The settings of the data plane's listener.

use std::net::SocketAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Tls;
use super::check::Check;

/// The data plane's listener.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address of the data plane.
    pub listen: SocketAddr,
    /// Time-out for a client to send the head of a request, and for an idle connection.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub header_timeout_ms: u64,
    /// Time-out for a client to send the body of a request.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub body_timeout_ms: u64,
    /// Time after which a create that the vendor has not answered is answered 504; the gateway goes on with it.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub create_deadline_ms: u64,
    /// Time for requests in flight to finish on SIGTERM, after `drain_ms`.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub shutdown_grace_ms: u64,
    /// Time to serve on after SIGTERM, while `/readyz` already says that the gateway is not ready. Longer than a load
    /// balancer takes to notice. `shutdown_grace_ms` begins after it.
    #[schemars(range(min = 0, max = 86_400_000))]
    pub drain_ms: u64,
    /// Networks of the proxies that are trusted to set the client-address header.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies name the client's address. The other header is ignored, because a client can
    /// forge a header that the proxies do not set.
    pub proxy_header: ProxyHeader,
    /// Origins of pages whose scripts may call the data plane from a browser, such as `https://app.example.com`. Whoever reads
    /// such a page can read the key that it uses.
    pub cors_origins: Vec<String>,
    /// Whether the organisations' own part of the management API, `/admin/v1`, is served on this listener too: what members and
    /// admins of an organisation may call, and nothing that is for operators alone.
    pub tenant_api: bool,
    /// The most connections at a time. Connections without valid credentials get a quarter of all, and another quarter where valid
    /// credentials came from their network within a day; a network (an IPv4 address, or the /64 of an IPv6 address), or there the
    /// organisation or operator that they were, gets half of those that are free. Of the others an organisation or an operator gets
    /// half of those that are free. Trusted proxies get what is free; each request that they send over HTTP/1.1 counts as a
    /// connection of its caller.
    #[schemars(range(min = 16, max = 100_000))]
    pub max_connections: usize,
    /// How long a client may take to read a piece (64 KiB) of an answer; then its connection is closed.
    #[schemars(range(min = 1_000, max = 600_000))]
    pub write_timeout_ms: u64,
    /// The most bytes of bodies and answers in memory at a time, with the copies that are made of them. One organisation gets half
    /// of what is free; what finds no room is answered 503.
    #[schemars(range(min = 100_663_296, max = 1_099_511_627_776_u64))]
    pub max_bytes_under_way: usize,
    /// Serve HTTPS instead of HTTP.
    pub tls: Option<Tls>,
}

/// The header in which proxies name the client's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`: a list of addresses, each proxy adding one at its end.
    #[default]
    XForwardedFor,
    /// `Forwarded` as RFC 7239 defines it: its `for` parameters.
    Forwarded,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            header_timeout_ms: 60_000,
            body_timeout_ms: 60_000,
            create_deadline_ms: 60_000,
            shutdown_grace_ms: 30_000,
            drain_ms: 0,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            cors_origins: Vec::new(),
            tenant_api: true,
            max_connections: 2_000,
            write_timeout_ms: 30_000,
            max_bytes_under_way: 192 << 20,
            tls: None,
        }
    }
}

impl Server {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        for listed in &self.cors_origins {
            let same = |url: Url| url.origin().ascii_serialization() == *listed;
            if !listed.starts_with("http") || !listed.parse().is_ok_and(same) {
                let right = "a list of origins, each a scheme and a host, such as https://app.example.com";
                check.wrong("server.cors_origins", format!("'{listed}'"), right);
            }
        }
    }
}
