//! Conditional calls (RFC 9110, section 13): `If-Match` for changes, `If-None-Match` for what is only read.
//!
//! An `ETag` is a version number, and a version has one meaning. A proxy that compresses an answer makes its tag weak (nginx)
//! or adds a suffix to it (Apache, Caddy, Jetty): such a tag still names the version, so it is taken as the version's own. In this
//! `If-Match` is more lenient than the RFC, which wants weak tags never to match.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::path::{Operation, Parameter, PathItem};
use utoipa::openapi::{RefOr, ResponseBuilder};

use super::extract::{Input, header};
use super::problem::Problem;
use crate::strict;

/// The most tags of one header.
const MOST: usize = 16;

/// What proxies add to the tag of an answer that they compress.
const SUFFIXES: [&str; 6] = ["--gzip", "--br", "-gzip", "-br", "-zstd", ";gzip"];

/// The form of both headers.
const PATTERN: &str = r#"^(\*|(W/)?"[0-9]{1,9}"(, (W/)?"[0-9]{1,9}"){0,15})$"#;

/// The version of a tag that is not one of ours: no resource has it.
const NEVER: i32 = -1;

/// The tags of a condition.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// The tag `*`, which every version of a resource that exists fits.
    Any,
    /// The versions that the tags name, in their order.
    Versions(Vec<i32>),
}

impl Tags {
    fn of(headers: &HeaderMap, name: &'static str) -> Result<Option<Self>, Problem> {
        let Some(value) = strict::single_header(headers, name)? else { return Ok(None) };
        let tags = value.to_str().ok().and_then(Self::parse);
        let right = format!("{name} must be *, or up to {MOST} ETags of earlier answers");
        tags.map(Some).ok_or(Problem::Invalid(right))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        if rest == "*" {
            return Some(Self::Any);
        }
        // As some clients send it.
        if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Versions(vec![version(rest)]));
        }
        let mut versions = Vec::new();
        while !rest.is_empty() {
            let tag = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
            let (opaque, after) = tag.split_once('"')?;
            versions.push(version(opaque));
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(more) => more.trim_start_matches([',', ' ', '\t']),
                None if after.is_empty() => after,
                None => return None,
            };
        }
        (1..=MOST).contains(&versions.len()).then_some(Self::Versions(versions))
    }
}

/// The version that a tag names.
fn version(opaque: &str) -> i32 {
    let number = SUFFIXES.iter().find_map(|suffix| opaque.strip_suffix(suffix)).unwrap_or(opaque);
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| digits).unwrap_or(NEVER)
}

/// The version that a change is meant for (`If-Match`); none: any version.
pub(super) struct IfMatch(pub(super) Option<i32>);

/// The one of several versions in `If-Match` that an attempt is made with.
#[derive(Clone, Copy)]
struct Attempt(i32);

impl Input for IfMatch {
    fn describe(parameters: &mut Vec<RefOr<Parameter>>) {
        let description = "The `ETag` of the version you want to change, or several. If it was changed since then, nothing \
                           happens (412). Omitted: any version.";
        parameters.push(header("If-Match", description, PATTERN, 255));
    }

    fn read(parts: &Parts, _: &Bytes) -> Result<Self, Problem> {
        let first = match Tags::of(&parts.headers, "If-Match")? {
            None | Some(Tags::Any) => None,
            Some(Tags::Versions(versions)) => versions.first().copied(),
        };
        Ok(Self(parts.extensions.get::<Attempt>().map(|attempt| attempt.0).or(first)))
    }
}

/// Whether an operation changes only the version that its caller names.
pub(super) fn is_conditional(operation: &Operation) -> bool {
    let mut parameters = operation.parameters.iter().flatten();
    parameters.any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == "If-Match"))
}

/// Describes `If-None-Match` of what can be changed with `If-Match`: its answer has a tag.
pub(super) fn describe_read(item: &mut PathItem) {
    if let Some(read) = &mut item.get {
        let description = "The `ETag` of the version you have, or several. If it has not been changed since then, the answer is \
                           304, without a body.";
        read.parameters.get_or_insert_default().push(header("If-None-Match", description, PATTERN, 255));
        let unchanged = ResponseBuilder::new().description("You have this version").build();
        read.responses.responses.insert("304".into(), RefOr::T(unchanged));
    }
}

/// Refuses a condition that is given twice, also where it would not be looked at.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    strict::single_header(headers, "If-None-Match")?;
    Ok(())
}

/// The further versions that `If-Match` allows. A change is tried with one after the other, because it changes nothing if the
/// resource has another version.
pub(super) fn further_versions(parts: &Parts) -> std::vec::IntoIter<i32> {
    match Tags::of(&parts.headers, "If-Match") {
        Ok(Some(Tags::Versions(mut versions))) => {
            versions.remove(0);
            versions
        }
        _ => Vec::new(),
    }
    .into_iter()
}

/// Makes [`IfMatch`] read this version from now on.
pub(super) fn attempt(parts: &mut Parts, version: i32) {
    parts.extensions.insert(Attempt(version));
}

/// 304 instead of an answer whose version the caller has already (`If-None-Match`).
pub(super) fn unless_known(parts: &Parts, answer: Response) -> Result<Response, Problem> {
    let reads = [Method::GET, Method::HEAD].contains(&parts.method);
    #[expect(clippy::disallowed_methods, reason = "an answer of ours has each header once")]
    let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
    let (true, Some(tag)) = (reads && answer.status() == StatusCode::OK, tag) else { return Ok(answer) };
    let known = match Tags::of(&parts.headers, "If-None-Match")? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::Versions(versions)) => versions.contains(&version(tag.trim_matches('"'))),
    };
    if !known {
        return Ok(answer);
    }
    let (mut head, _) = answer.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    Ok(Response::from_parts(head, Body::empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_proxies_hand_them_on() {
        let versions = |text: &str| match Tags::parse(text) {
            Some(Tags::Versions(versions)) => versions,
            other => panic!("{text}: {other:?}"),
        };
        for (text, expected) in [
            ("\"6\"", &[6][..]),
            ("6", &[6]),
            ("W/\"6\"", &[6]),
            ("\"6-gzip\"", &[6]),
            ("\"6--gzip\"", &[6]),
            ("W/\"6--br\"", &[6]),
            ("W/\"6-br\"", &[6]),
            ("\"5\", W/\"6\",\"7\"", &[5, 6, 7]),
            ("\"5\" , , \"6\"", &[5, 6]),
            ("\"somebody's, else\"", &[NEVER]),
            ("\"\"", &[NEVER]),
            ("\"-1\"", &[NEVER]),
            ("\"99999999999\"", &[NEVER]),
        ] {
            assert_eq!(versions(text), expected, "{text}");
        }
        assert_eq!(Tags::parse(" * "), Some(Tags::Any));
        for bad in [
            "",
            "six",
            "\"6",
            "6\"",
            "w/\"6\"",
            "\"5\" \"6\"",
            "\"5\", *",
            &vec!["\"1\""; MOST + 1].join(","),
        ] {
            assert_eq!(Tags::parse(bad), None, "{bad}");
        }
    }
}
