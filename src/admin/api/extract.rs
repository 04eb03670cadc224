//! What calls carry, read strictly: unknown fields and what is given twice are refused, and each refusal says what is
//! wrong. Every kind of input also describes itself in the OpenAPI document, so that a handler cannot read what its description does not name.

use std::fmt::Display;

use axum::Json;
use axum::http::header::ETAG;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use crate::store::StoreError;
use crate::strict;

/// Something that a handler asks for beside the path. Pairs ask for both, the first one first.
pub(super) trait Input: Sized + Send {
    /// Only what asks for a body waits for one.
    const HAS_BODY: bool = false;

    /// Adds the headers and query parameters that are read to the description of the operation.
    fn describe(parameters: &mut Vec<RefOr<Parameter>>);

    fn read(parts: &Parts, body: &Bytes) -> Result<Self, Problem>;
}

impl Input for () {
    fn describe(_: &mut Vec<RefOr<Parameter>>) {}

    fn read(_: &Parts, _: &Bytes) -> Result<Self, Problem> {
        Ok(())
    }
}

impl<A: Input, B: Input> Input for (A, B) {
    const HAS_BODY: bool = A::HAS_BODY || B::HAS_BODY;

    fn describe(parameters: &mut Vec<RefOr<Parameter>>) {
        A::describe(parameters);
        B::describe(parameters);
    }

    fn read(parts: &Parts, body: &Bytes) -> Result<Self, Problem> {
        Ok((A::read(parts, body)?, B::read(parts, body)?))
    }
}

pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Send> Input for Body<T> {
    const HAS_BODY: bool = true;

    fn describe(_: &mut Vec<RefOr<Parameter>>) {}

    fn read(parts: &Parts, body: &Bytes) -> Result<Self, Problem> {
        parse(parts, body).map(Self)
    }
}

/// Reads a JSON object. An array is refused: serde would fill fields from it by their order, which no caller can see.
pub(super) fn parse<T: DeserializeOwned>(parts: &Parts, body: &Bytes) -> Result<T, Problem> {
    strict::single_header(&parts.headers, "Content-Type")?;
    strict::read_object(body)
        .map_err(|error| Problem::Invalid(format!("the body: {}", in_words(&error.to_string()))))
}

/// What the parsers' own words mean to somebody who does not know them.
const WORDS: [(&str, &str); 9] = [
    ("Failed to deserialize query string: ", ""),
    ("invalid digit found in string", "it must be a whole number"),
    ("cannot parse integer from empty string", "it must be a whole number"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("provided string was not `true` or `false`", "it must be true or false"),
    ("invalid type: ", "it must not be "),
    ("invalid value: ", "it must not be "),
    ("unknown variant ", "it must not be "),
];

/// What serde expects, by the beginning of its words for it.
const EXPECTED: [(&str, &str); 8] = [
    ("struct ", "an object"),
    ("a map", "an object"),
    ("a sequence", "a list"),
    ("a boolean", "true or false"),
    ("a string", "a text"),
    ("u", "a whole number, not below 0"),
    ("i", "a whole number"),
    ("f", "a number"),
];

/// The message of a parser in words for people.
fn in_words(message: &str) -> String {
    let mut text = message.to_owned();
    for (theirs, ours) in WORDS {
        text = text.replace(theirs, ours);
    }
    let Some((before, expected)) = text.split_once(", expected ") else { return text };
    let end = expected.find(" at line ").unwrap_or(expected.len());
    let (kind, after) = expected.split_at(end);
    let is_number =
        |kind: &str| kind.get(1..).is_some_and(|bits| bits == "size" || bits.parse::<u8>().is_ok());
    let fits = |(begin, _): &&(&str, &str)| {
        if begin.len() == 1 { kind.starts_with(begin) && is_number(kind) } else { kind.starts_with(begin) }
    };
    let ours = EXPECTED.iter().find(fits).map_or(kind, |(_, ours)| *ours);
    format!("{before}, but {ours}{after}")
}

/// The parameters of the query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned + IntoParams + Send> Input for Query<T> {
    fn describe(parameters: &mut Vec<RefOr<Parameter>>) {
        parameters.extend(T::into_params(|| Some(ParameterIn::Query)).into_iter().map(RefOr::T));
    }

    fn read(parts: &Parts, _: &Bytes) -> Result<Self, Problem> {
        strict::check_query(parts.uri.query().unwrap_or_default())?;
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| Problem::Invalid(format!("the query: {}", in_words(&error.body_text()))))
    }
}

/// The description of an optional header.
pub(super) fn header(name: &str, description: &str, pattern: &str, longest: usize) -> RefOr<Parameter> {
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .pattern(Some(pattern))
        .max_length(Some(longest))
        .build();
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(description))
        .schema(Some(schema));
    RefOr::T(parameter.build())
}

/// A body with a version, which is sent as its `ETag`.
pub(super) struct Tagged<T>(pub(super) StatusCode, pub(super) i32, pub(super) T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let Self(status, version, body) = self;
        let mut answer = (status, Json(body)).into_response();
        if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
            answer.headers_mut().insert(ETAG, tag);
        }
        answer
    }
}

/// A reason or another text for people: trimmed, not empty, at most 200 characters, none of them a control character.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$")]
pub(super) struct Text(String);

impl TryFrom<String> for Text {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let trimmed = text.trim();
        let fits = (1..=200).contains(&trimmed.chars().count()) && !trimmed.chars().any(char::is_control);
        fits.then(|| Self(trimmed.to_owned()))
            .ok_or("a text must have 1 to 200 characters, none of them a control character")
    }
}

impl Text {
    pub(super) fn into_string(self) -> String {
        self.0
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An instant that the database can store and every answer can show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timestamp(OffsetDateTime);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at = time::serde::rfc3339::deserialize(deserializer)?;
        // The first and the last hours of the calendar fall outside of years 0 to 9999 in some time zones.
        at.checked_to_offset(UtcOffset::UTC)
            .filter(|at| (0..=9999).contains(&at.year()))
            .map(Self)
            .ok_or_else(|| D::Error::custom("the year must be from 0 to 9999 in UTC"))
    }
}

impl Timestamp {
    pub(super) fn get(self) -> OffsetDateTime {
        self.0
    }
}

/// A field that may be omitted (keeps its value) or null (back to the default).
pub(super) fn given<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// What the database found, or a 404 that names `id`.
pub(super) fn existing<T>(found: Option<T>, id: impl Display) -> Result<T, Problem> {
    found.ok_or_else(|| StoreError::NotFound(format!("there is no {id}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parsers_say_is_told_in_words() {
        for (theirs, ours) in [
            (
                "Failed to deserialize query string: limit: invalid digit found in string",
                "limit: it must be a whole number",
            ),
            ("invalid type: string \"5\", expected i64", "it must not be string \"5\", but a whole number"),
            (
                "invalid type: integer `-1`, expected u32 at line 1 column 9",
                "it must not be integer `-1`, but a whole number, not below 0 at line 1 column 9",
            ),
            ("invalid type: null, expected a string", "it must not be null, but a text"),
            ("invalid type: map, expected usize", "it must not be map, but a whole number, not below 0"),
            ("unknown variant `x`, expected `a` or `b`", "it must not be `x`, but `a` or `b`"),
            ("credits cannot be negative", "credits cannot be negative"),
        ] {
            assert_eq!(in_words(theirs), ours);
        }
    }
}
