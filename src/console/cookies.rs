//! The console's two cookies: the session, and whether pages are light or dark.

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue};

use super::Audience;
use crate::access::sessions::SessionText;

/// How long a browser keeps the cookie of a session: as long as a session lasts at most.
const SESSION_SECONDS: u32 = 24 * 3600;

/// How long a browser keeps the cookie of a sign-in at an identity provider: as long as there is time for it.
const LOGIN_SECONDS: u32 = 600;

/// How long a browser remembers the theme.
const THEME_SECONDS: u32 = 365 * 24 * 3600;

const THEME: &str = "tollgate-theme";

/// Whether pages are light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Theme {
    /// As the system is.
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub(super) const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    pub(super) fn of_text(text: &str) -> Self {
        Self::ALL.into_iter().find(|theme| theme.as_str() == text).unwrap_or_default()
    }

    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self::of_text(value(headers, THEME).unwrap_or_default())
    }

    /// The cookie that remembers the theme. Nothing depends on it but colours.
    pub(super) fn cookie(self) -> Option<HeaderValue> {
        let name = self.as_str();
        HeaderValue::try_from(format!("{THEME}={name}; Path=/; SameSite=Lax; Max-Age={THEME_SECONDS}")).ok()
    }
}

/// The cookie of a session, or of a sign-in that has begun: its name, and whether browsers send it over HTTPS only.
///
/// The prefix `__Host-` makes browsers refuse a cookie that another host, or a page without HTTPS, has set. Browsers that reach the
/// gateway at a loopback address without HTTPS, as a demo is reached, do not keep such a cookie: there it goes without.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionCookie {
    name: &'static str,
    secure: bool,
    seconds: u32,
}

impl SessionCookie {
    /// The cookie of a sign-in at an identity provider. The provider's answer, a link from another site that is followed, brings
    /// it along (`SameSite=Lax`).
    pub(super) fn of_login(headers: &HeaderMap, https: bool) -> Self {
        let secure = https || !is_loopback(headers);
        let name = if secure { "__Host-tollgate-login" } else { "tollgate-login" };
        Self { name, secure, seconds: LOGIN_SECONDS }
    }

    pub(super) fn of(audience: Audience, headers: &HeaderMap, https: bool) -> Self {
        // Cookies do not know ports: the two listeners of one machine must not overwrite each other's.
        let (host_name, plain) = match audience {
            Audience::Members => ("__Host-tollgate", "tollgate"),
            Audience::Operators => ("__Host-tollgate-operator", "tollgate-operator"),
        };
        let secure = https || !is_loopback(headers);
        Self { name: if secure { host_name } else { plain }, secure, seconds: SESSION_SECONDS }
    }

    /// The text that the request's cookie has.
    pub(super) fn read(self, headers: &HeaderMap) -> Option<SessionText> {
        SessionText::parse(value(headers, self.name)?)
    }

    /// The header that makes a browser keep a session.
    pub(super) fn keep(self, session: &SessionText) -> Option<HeaderValue> {
        self.set(session.expose(), self.seconds)
    }

    /// The header that makes a browser forget the text.
    pub(super) fn forget(self) -> Option<HeaderValue> {
        self.set("", 0)
    }

    fn set(self, text: &str, seconds: u32) -> Option<HeaderValue> {
        let Self { name, secure, .. } = self;
        let secure = if secure { "; Secure" } else { "" };
        let mut value = HeaderValue::try_from(format!(
            "{name}={text}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}"
        ))
        .ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Whether the request is for a loopback address, by the host that the browser has asked for.
fn is_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The value of a cookie. Of two with one name neither counts.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut found = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    let first = found.next();
    found.next().map_or(first, |_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, text)| (name.parse().unwrap(), HeaderValue::from_str(text).unwrap()))
            .collect()
    }

    #[test]
    fn a_session_is_kept_by_https_only_except_on_a_loopback_address() {
        let text = SessionText::parse(&"a".repeat(43)).unwrap();
        let kept = |host: &str, https| {
            let cookie = SessionCookie::of(Audience::Members, &headers(&[("host", host)]), https);
            cookie.keep(&text).unwrap().to_str().unwrap().to_owned()
        };
        for host in ["videos.example.com", "10.0.0.1:8080", "localhost.example.com", "127.0.0.1.example.com"]
        {
            let set = kept(host, false);
            assert!(set.starts_with("__Host-tollgate=") && set.ends_with("; Secure"), "{host}: {set}");
        }
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080"] {
            let set = kept(host, false);
            assert!(set.starts_with("tollgate=") && !set.contains("Secure"), "{host}: {set}");
            assert!(kept(host, true).starts_with("__Host-"), "{host}");
        }
        assert!(kept("x", true).contains("; HttpOnly; SameSite=Lax"));
    }

    #[test]
    fn a_cookie_that_is_sent_twice_is_none() {
        let of = |line: &str| value(&headers(&[("cookie", line)]), "tollgate").map(ToOwned::to_owned);
        assert_eq!(of("a=b; tollgate=x; c=d"), Some("x".into()));
        assert_eq!(of("tollgate=x; tollgate=y"), None);
        assert_eq!(of("nottollgate=x"), None);
    }
}
