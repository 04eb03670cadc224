//! The client's address behind proxies. Each proxy appends the address that it was called from, so the header is read from
//! right to left, for as long as the addresses are those of trusted proxies. What a client wrote itself is further left.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::HeaderMap;
use http::header::FORWARDED;
use ipnet::IpNet;

use crate::config::{ProxyHeader, Server};

/// Stands for a client whose address a trusted proxy does not tell: it is in no network that a key may be bound to.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The proxies that are trusted to set the client-address header.
#[derive(Debug, Clone)]
pub struct TrustedProxies {
    networks: Arc<[IpNet]>,
    header: ProxyHeader,
}

impl TrustedProxies {
    pub fn new(config: &Server) -> Self {
        Self { networks: config.trusted_proxies.as_slice().into(), header: config.proxy_header }
    }

    /// The address of the client that sent a request with these headers over a connection from `peer`.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let name = match self.header {
            ProxyHeader::XForwardedFor => "x-forwarded-for",
            ProxyHeader::Forwarded => FORWARDED.as_str(),
        };
        let mut client = peer;
        let lines: Vec<_> = headers.get_all(name).iter().collect();
        for line in lines.into_iter().rev() {
            let Ok(line) = line.to_str() else { return NOBODY };
            for hop in line.rsplit(',') {
                let address = match self.header {
                    ProxyHeader::XForwardedFor => address(hop.trim()),
                    ProxyHeader::Forwarded => forwarded_for(hop),
                };
                let Some(address) = address else { return NOBODY };
                client = address;
                if !self.trusts(client) {
                    return client;
                }
            }
        }
        client
    }

    /// Whether a connection from this address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Reads `1.2.3.4`, `1.2.3.4:5`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:5`.
fn address(text: &str) -> Option<IpAddr> {
    let text = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => address,
            _ => text,
        },
    };
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// The `for` of one element of a `Forwarded` header. A quoted text that contains commas or semicolons is cut there and so
/// yields no address.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut named = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(header: ProxyHeader, peer: &str, lines: &[&'static str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let server = Server { trusted_proxies: networks.into(), proxy_header: header, ..Server::default() };
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name, HeaderValue::from_static(value));
        }
        TrustedProxies::new(&server).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_right_most_address_that_no_trusted_proxy_has() {
        for (peer, lines, expected) in [
            ("192.0.2.9", &[][..], "192.0.2.9"),
            ("192.0.2.9", &["x-forwarded-for: 10.1.1.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["x-forwarded-for: 192.0.2.1"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["x-forwarded-for: ::ffff:192.0.2.1"], "192.0.2.1"),
            // What is left of the first untrusted address may have been written by the client.
            ("10.0.0.1", &["x-forwarded-for: 127.0.0.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["x-forwarded-for: 127.0.0.1", "x-forwarded-for: 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &["x-forwarded-for: 192.0.2.1", "x-forwarded-for: 10.9.9.9"], "192.0.2.1"),
            ("10.0.0.1", &["x-forwarded-for: 10.0.0.7, 10.0.0.2"], "10.0.0.7"),
            ("10.0.0.1", &["x-forwarded-for: garbage, 192.0.2.1:4711"], "192.0.2.1"),
            ("10.0.0.1", &["x-forwarded-for: 192.0.2.1, garbage"], "0.0.0.0"),
            ("10.0.0.1", &["x-forwarded-for: "], "0.0.0.0"),
            ("fd00::1", &["x-forwarded-for: 2001:db8::1"], "2001:db8::1"),
            ("fd00::1", &["x-forwarded-for: [2001:db8::1]:80"], "2001:db8::1"),
            ("10.0.0.1", &["forwarded: for=192.0.2.1"], "10.0.0.1"),
        ] {
            assert_eq!(client(ProxyHeader::XForwardedFor, peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn the_standard_header_where_it_is_the_configured_one() {
        for (line, expected) in [
            ("forwarded: for=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1"),
            ("forwarded: For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("forwarded: for=127.0.0.1, for=192.0.2.1, proto=http; for=10.0.0.2", "192.0.2.1"),
            ("forwarded: for=192.0.2.1, for=unknown", "0.0.0.0"),
            ("forwarded: for=192.0.2.1, for=_hidden", "0.0.0.0"),
            ("forwarded: for=192.0.2.1, proto=http", "0.0.0.0"),
            ("x-forwarded-for: 192.0.2.1", "10.0.0.1"),
        ] {
            assert_eq!(client(ProxyHeader::Forwarded, "10.0.0.1", &[line]), expected, "{line}");
        }
    }
}
