//! Refuses input that gives a value twice. Whichever of the two values were used, the caller may have meant the other one,
//! and would never know.
//!
//! Every JSON text from outside is read by [`read_json`] (or checked by [`check_json`], where only parts of it are read), every
//! body of a caller by [`read_object`] (or checked by [`check_object`]), whose errors say what else the bytes are,
//! every header with one value by [`single_header`], every query string by [`single_parameter`] or [`check_query`].
//! `clippy.toml` bans the functions of serde_json that keep the last of two values. The TOML parser refuses duplicate keys
//! by itself.

mod diagnosis;
mod fold;
mod host;
mod json;

use std::collections::HashSet;

use http::{HeaderMap, HeaderValue};
use url::form_urlencoded;

pub use self::diagnosis::{HalfPair, Position, half_pair};
pub use self::fold::{Names, folded, is_ignorable, is_unseen};
pub use self::host::{BadHost, check_host};
pub(crate) use self::json::shown;
pub use self::json::{BadJson, MAX_DEPTH, check_json, check_object, read_json, read_object};

/// A header or a query parameter that may be given only once was given twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GivenTwice {
    #[error("the header {0} is given twice: send it once")]
    Header(&'static str),
    #[error("the query parameter '{0}' is given twice: send it once")]
    Parameter(String),
}

impl GivenTwice {
    fn parameter(name: &str) -> Self {
        Self::Parameter(json::shown(name))
    }
}

/// The value of the header `name`; an error if it is given twice.
pub fn single_header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a HeaderValue>, GivenTwice> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(GivenTwice::Header(name)),
        (value, None) => Ok(value),
    }
}

/// The decoded value of the parameter `name` of a query string; an error if it is given twice.
pub fn single_parameter(query: &str, name: &str) -> Result<Option<String>, GivenTwice> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(GivenTwice::parameter(name)),
        (value, None) => Ok(value.map(|(_, value)| value.into_owned())),
    }
}

/// Refuses a query string in which any parameter is given twice.
pub fn check_query(query: &str) -> Result<(), GivenTwice> {
    let mut seen = HashSet::new();
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        if let Some(name) = seen.replace(name) {
            return Err(GivenTwice::parameter(&name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_given_once_or_refused_by_name() {
        let mut headers = HeaderMap::new();
        assert_eq!(single_header(&headers, "If-Match"), Ok(None));
        headers.append("if-match", HeaderValue::from_static("\"1\""));
        assert_eq!(single_header(&headers, "If-Match").unwrap().unwrap(), "\"1\"");
        headers.append("if-match", HeaderValue::from_static("\"1\""));
        let refused = single_header(&headers, "If-Match").unwrap_err();
        assert_eq!(refused.to_string(), "the header If-Match is given twice: send it once", "though equal");
    }

    #[test]
    fn a_parameter_is_given_once_or_refused_by_name() {
        assert_eq!(single_parameter("a=1&b=x%20y", "b"), Ok(Some("x y".into())));
        assert_eq!(single_parameter("a=1&b=2", "c"), Ok(None));
        assert!(single_parameter("a=1&%61=1", "a").unwrap_err().to_string().contains("'a' is given twice"));
        assert_eq!(single_parameter("a=1&a=1&b=2", "b"), Ok(Some("2".into())));
        assert_eq!(check_query("a=1&b=1&c"), Ok(()));
        assert_eq!(check_query("a=1&b=1&%61"), Err(GivenTwice::Parameter("a".into())));
    }
}
