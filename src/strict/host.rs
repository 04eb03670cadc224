//! The host that a request names. A request without one, or with two, may mean another site than the one that answers it.

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Uri, Version};

/// Why a request is refused for the host that it names (RFC 9112, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    #[error("the header Host is missing: HTTP/1.1 requires it")]
    Missing,
    #[error("the header Host is given twice: send it once")]
    Twice,
    #[error("the header Host must be a host name or an address, with or without a port")]
    Malformed,
    #[error("the header Host names another host than the ':authority' of the request")]
    Another,
}

/// Checks that a request names one host. Only HTTP/1.0 knows requests without any.
pub fn check_host(head: &Parts) -> Result<(), BadHost> {
    check(head.version, &head.uri, &head.headers)
}

fn check(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), BadHost> {
    let mut lines = headers.get_all(HOST).iter();
    let Some(line) = lines.next() else {
        let named = version < Version::HTTP_11 || (version >= Version::HTTP_2 && uri.authority().is_some());
        return if named { Ok(()) } else { Err(BadHost::Missing) };
    };
    if lines.next().is_some() {
        return Err(BadHost::Twice);
    }
    let named = line.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    let named = named.filter(is_plain).ok_or(BadHost::Malformed)?;
    match uri.authority() {
        // Of HTTP/1.1 the header is ignored where the request line names a host.
        Some(authority) if version >= Version::HTTP_2 && *authority != named => Err(BadHost::Another),
        _ => Ok(()),
    }
}

/// Whether it is a name or an address with at most a port. A URL could have more there, such as a user.
fn is_plain(named: &Authority) -> bool {
    let host = named.host();
    let port = named.as_str().strip_prefix(host).unwrap_or("?");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let host_is_plain = host.starts_with('[') || (!host.is_empty() && host.bytes().all(plain));
    host_is_plain && (port.is_empty() || port == ":" || is_port(port))
}

fn is_port(port: &str) -> bool {
    port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn checked(version: Version, uri: &'static str, hosts: &[&'static str]) -> Result<(), BadHost> {
        let mut headers = HeaderMap::new();
        hosts.iter().for_each(|host| {
            headers.append(HOST, HeaderValue::from_static(host));
        });
        check(version, &Uri::from_static(uri), &headers)
    }

    #[test]
    fn a_request_names_one_host() {
        for host in ["localhost", "tollgate_1:8080", "192.0.2.1", "[2001:db8::1]:443", "EXAMPLE.com"] {
            assert_eq!(checked(Version::HTTP_11, "/x", &[host]), Ok(()), "{host}");
        }
        for host in ["", "a b", "user@host", "host/path", "a,b", "host:port:1"] {
            assert_eq!(checked(Version::HTTP_11, "/x", &[host]), Err(BadHost::Malformed), "{host}");
        }
        assert_eq!(checked(Version::HTTP_11, "/x", &[]), Err(BadHost::Missing));
        assert_eq!(checked(Version::HTTP_11, "/x", &["a", "a"]), Err(BadHost::Twice));
        assert_eq!(checked(Version::HTTP_11, "http://b/x", &["a"]), Ok(()));
        assert_eq!(checked(Version::HTTP_10, "/x", &[]), Ok(()));
        assert_eq!(checked(Version::HTTP_2, "http://a/x", &[]), Ok(()));
        assert_eq!(checked(Version::HTTP_2, "http://a/x", &["A"]), Ok(()));
        assert_eq!(checked(Version::HTTP_2, "http://a/x", &["b"]), Err(BadHost::Another));
        assert_eq!(checked(Version::HTTP_2, "/x", &[]), Err(BadHost::Missing));
    }
}
