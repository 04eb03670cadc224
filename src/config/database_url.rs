//! The form of a database URL, so that every mistake in one is told in words, and without showing the password.

use std::net::IpAddr;

use url::{Host, ParseError, Url};

/// The parameters that may follow a `?`; the driver would ignore others, such as a mistyped `sslmod`.
const PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// The values of `sslmode`, the weakest first. From `require` on a connection without TLS is refused.
const MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const FIRST_WITH_TLS: &str = "require";

const FORM: &str = "postgres://user@host:5432/database";

/// What is wrong with a database URL, in words for an operator; nothing if it can be used. The words repeat no part of the
/// URL that may be secret.
pub fn database_url_problem(text: &str) -> Option<String> {
    problem(text.trim()).err()
}

fn problem(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("it is empty; it must be of the form {FORM}"));
    }
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("postgres" | "postgresql") => {}
        Some(other) if other.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte)) => {
            return Err(format!("it begins with {other}://, but the ledger needs PostgreSQL: {FORM}"));
        }
        _ if text.split_whitespace().all(|word| word.contains('=')) => {
            return Err(format!("it is a list of settings such as 'host=…'; it must be a URL: {FORM}"));
        }
        _ => return Err(format!("it does not begin with postgres://; it must be of the form {FORM}")),
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(
            "there is a space or a line break in it; in a password or a name a space is written %20".into()
        );
    }
    // A comma is allowed in a password.
    let authority = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
        return Err("it names several servers; give each of them a URL of its own in database.urls".into());
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.matches(':').count() > 1 && host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
        return Err("an IPv6 address is written in brackets, such as [::1] or [2001:db8::5]:5432".into());
    }
    let url = Url::parse(text).map_err(in_words)?;
    if url.fragment().is_some() {
        return Err("there is a # in it; in a password or a name that is written %23".into());
    }
    if url.port() == Some(0) {
        return Err("its port is 0; it must be that of the server, usually 5432".into());
    }
    if url.path().trim_start_matches('/').contains('/') {
        return Err(
            "there is more than one / after the host: the name of the database is one word, and in a password / is written \
             %2F"
                .into(),
        );
    }
    for part in [url.username(), url.password().unwrap_or_default(), url.path()] {
        if percent_encoding::percent_decode_str(part).decode_utf8().is_err() {
            return Err("a %… in it does not stand for a character in UTF-8".into());
        }
    }
    parameters(&url)
}

fn parameters(url: &Url) -> Result<(), String> {
    for (name, value) in url.query_pairs() {
        let plain = name.split('[').next().unwrap_or_default();
        if !PARAMETERS.contains(&plain) {
            // A name that is no word may be a piece of a password.
            let is_word = |name: &str| {
                name.len() <= 32
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            };
            let name = if is_word(plain) { format!("the parameter {plain}") } else { "a parameter".into() };
            return Err(format!(
                "{name} is not known: leave it out (known are {}); in a password ? is written %3F and & is written %26",
                PARAMETERS.iter().filter(|name| !name.contains('-')).copied().collect::<Vec<_>>().join(", ")
            ));
        }
        let right = match plain {
            "sslmode" | "ssl-mode" => (!MODES.contains(&&*value)).then(|| MODES.join(", ")),
            "port" => {
                (!value.parse::<u16>().is_ok_and(|port| port > 0)).then(|| "a port from 1 to 65535".into())
            }
            "hostaddr" => value.parse::<IpAddr>().is_err().then(|| "an IP address".into()),
            "statement-cache-capacity" => value.parse::<usize>().is_err().then(|| "a whole number".into()),
            _ => None,
        };
        if let Some(right) = right {
            return Err(format!("its parameter {plain} is not usable; it must be {right}"));
        }
    }
    Ok(())
}

fn in_words(error: ParseError) -> String {
    let of_password = "in a password the characters / ? # @ : % are written %2F %3F %23 %40 %3A %25";
    match error {
        ParseError::EmptyHost => format!("it names no host; it must be of the form {FORM}"),
        ParseError::InvalidPort => format!("its port is not a number from 1 to 65535; {of_password}"),
        ParseError::InvalidIpv6Address => {
            "the address in [ ] is no IPv6 address; it must be like [::1] or [2001:db8::5]".into()
        }
        ParseError::InvalidIpv4Address => "its host is no IPv4 address; it must be like 10.0.0.5".into(),
        _ => format!("its host is not usable; {of_password}"),
    }
}

/// Whether passwords and rows may cross a network unencrypted: the server is on another host, and the URL does not ask for
/// TLS.
pub(super) fn is_exposed(text: &str) -> bool {
    let Ok(url) = Url::parse(text.trim()) else { return false };
    let parameter = |wanted: &[&str]| {
        url.query_pairs()
            .filter(|(name, _)| wanted.contains(&&**name))
            .last()
            .map(|(_, value)| value.into_owned())
    };
    let host =
        parameter(&["host", "hostaddr"]).or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default();
    let mode = parameter(&["sslmode", "ssl-mode"]);
    let at = |mode: &str| MODES.iter().position(|known| *known == mode);
    let asks = mode.is_some_and(|mode| at(&mode) >= at(FIRST_WITH_TLS));
    !asks && !is_here(&host)
}

/// Whether a host of a database URL is this machine.
fn is_here(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.is_empty()
        || host.starts_with('/')
        || host.to_ascii_lowercase().starts_with("%2f")
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a URL leads to this machine.
pub(super) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_can_be_used_are_not_complained_of() {
        for url in [
            "postgres://x",
            "postgresql://tollgate@localhost/tollgate",
            "postgres://u:p%40ss@[::1]:5433/x",
            "postgres://u:a,b@db.example/x?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgres://me@localhost:2/y?host=/run/pg&password=hunter2",
            "postgres:///x?host=/run/postgresql",
            "postgres://u@%2Frun%2Fpostgresql/x",
            "postgres://u@h/x?options=-c%20tollgate.data_may_be_lost%3Don",
            "postgres://u@h/x?options[geqo]=off",
            " postgres://u@h/x\n",
        ] {
            assert_eq!(database_url_problem(url), None, "{url}");
        }
    }

    #[test]
    fn mistakes_are_told_in_words_and_without_the_password() {
        for (url, expected) in [
            ("", "empty"),
            ("mysql://u:hunter2@h/x", "begins with mysql://, but the ledger needs PostgreSQL"),
            ("jdbc:postgresql://h/x", "begins with jdbc:postgresql://"),
            ("https://u:hunter2@h/x", "begins with https://"),
            ("host=db user=me password=hunter2", "list of settings"),
            ("db.example/tollgate", "does not begin with postgres://"),
            ("postgres:/u:hunter2@h/x", "does not begin with postgres://"),
            ("postgres://u:hunter 2@h/x", "%20"),
            ("postgres://u:hunter2@a:1,b:2/x", "several servers"),
            ("postgres://u:hunter2@h:port/x", "its port is not a number"),
            ("postgres://u:hun/ter2@h/x", "its port is not a number"),
            ("postgres://u:hunter2@h:70000/x", "its port is not a number"),
            ("postgres://u:hunter2@h:0/x", "its port is 0"),
            ("postgres://u:hunter2@[::1/x", "no IPv6 address"),
            ("postgres://u:hunter2@::1/x", "in brackets"),
            ("postgres://u:hunter2@h/x#y", "%23"),
            ("postgres://u:hunter2@h/x/y", "more than one /"),
            ("postgres://u:hunter2%ff@h/x", "UTF-8"),
            ("postgres://u:hunter2@h/x?sslmod=require", "the parameter sslmod is not known"),
            ("postgres://u:hunter2@h/x?sslmode=on", "must be disable, allow, prefer"),
            ("postgres://u:hunter2@h/x?port=x", "from 1 to 65535"),
            ("postgres://u:hunter2@h/x?hostaddr=h", "an IP address"),
        ] {
            let told = database_url_problem(url).unwrap_or_else(|| panic!("{url} is taken"));
            assert!(told.contains(expected), "{url}: {told}");
            assert!(!told.contains("hunter") && !told.contains("ter2"), "{url}: {told}");
        }
    }

    #[test]
    fn a_server_elsewhere_without_tls_is_exposed() {
        for (url, exposed) in [
            ("postgres://u@db.example/x", true),
            ("postgres://u@db.example/x?sslmode=prefer", true),
            ("postgres://u@db.example/x?sslmode=require", false),
            ("postgres://u@10.0.0.5/x?ssl-mode=verify-full", false),
            ("postgres://u@localhost/x", false),
            ("postgres://u@[::1]/x", false),
            ("postgres:///x?host=/run/pg", false),
            ("postgres://u@%2Frun/x", false),
            ("postgres://u@localhost/x?host=db.example", true),
        ] {
            assert_eq!(is_exposed(url), exposed, "{url}");
        }
    }
}
