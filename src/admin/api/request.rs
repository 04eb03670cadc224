//! What requests carry, read strictly: unknown fields, and whatever is given twice, are refused, and every refusal says
//! what is wrong.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::ETAG;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use crate::store::{LedgerError, Slice};
use crate::strict;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse(&bytes(request, state).await?).map(Self)
    }
}

/// The whole body.
pub(super) async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    strict::single_header(request.headers(), "Content-Type")?;
    Bytes::from_request(request, state).await.map_err(|error| {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::TooLarge
        } else {
            Problem::Invalid("the body could not be read to its end".into())
        }
    })
}

/// Every body is an object: by an array's order alone nobody sees what is meant.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Problem::Invalid("the body must be a JSON object".into()));
    }
    strict::read_json(bytes).map_err(|error| Problem::Invalid(format!("the body: {error}")))
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        strict::check_query(parts.uri.query().unwrap_or_default())?;
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| Problem::Invalid(format!("the query: {}", error.body_text())))
    }
}

/// Parts of the path. What is no id of the right kind names nothing.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|path: axum::extract::Path<T>| Self(path.0))
            .map_err(|error| Problem::NotFound(format!("the path: {}", error.body_text())))
    }
}

/// The version a change is meant for (`If-Match`); none: whichever it is.
pub(super) struct IfMatch(pub(super) Option<i32>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = strict::single_header(&parts.headers, "If-Match")? else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).parse();
        version
            .map(|version| Self(Some(version)))
            .map_err(|_| Problem::Invalid("If-Match must be the ETag of an earlier answer".into()))
    }
}

/// A header that may be sent, for the document.
fn header(name: &str, description: &str, pattern: &str, longest: usize) -> Vec<Parameter> {
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
    vec![parameter.build()]
}

impl IntoParams for IfMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        header("If-Match", "The ETag it must still have", r#"^("[0-9]{1,9}"|\*)$"#, 11)
    }
}

/// The key under which a request that moves money is done once (`Idempotency-Key`).
pub(super) struct IdempotencyKey(pub(super) Option<String>);

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        header(
            "Idempotency-Key",
            "The same key and the same body are done once, for 72 hours",
            "^[!-~]+$",
            255,
        )
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = strict::single_header(&parts.headers, "Idempotency-Key")? else {
            return Ok(Self(None));
        };
        let bytes = value.as_bytes();
        if !(1..=255).contains(&bytes.len()) || !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(Problem::Invalid("Idempotency-Key must be 1 to 255 visible ASCII characters".into()));
        }
        Ok(Self(value.to_str().ok().map(str::to_owned)))
    }
}

/// Something with a version, which is its ETag.
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

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items.
    items: Vec<T>,
    /// What to send as `cursor` for those behind them; none: there are no more.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// `items` holds one more than `limit` if there are more.
    pub(super) fn of<C: Display>(items: Vec<T>, limit: Limit, cursor: impl Fn(&T) -> C) -> Json<Self> {
        let (items, next_cursor) = limit.cut(items, cursor);
        Json(Self { items, next_cursor })
    }
}

/// Items of a page: 1 to 200, 50 if left out.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u16")]
pub(super) struct Limit(u16);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u16> for Limit {
    type Error = &'static str;

    fn try_from(limit: u16) -> Result<Self, Self::Error> {
        (1..=200).contains(&limit).then_some(Self(limit)).ok_or("limit must be from 1 to 200")
    }
}

impl Limit {
    /// Cuts off the one too many, and says how to go on if there was one.
    pub(super) fn cut<T, C: Display>(
        self,
        mut items: Vec<T>,
        cursor: impl Fn(&T) -> C,
    ) -> (Vec<T>, Option<String>) {
        let limit = usize::from(self.0);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|last| cursor(last).to_string());
        (items, next_cursor)
    }

    /// One more than the page holds: whether there is more is then known.
    pub(super) fn and_one(self) -> u16 {
        self.0.saturating_add(1)
    }

    /// The part of a list behind `cursor`.
    pub(super) fn behind<Id: FromStr>(self, cursor: Option<&str>) -> Result<Slice<Id>, Problem> {
        let unreadable = |_| Problem::Invalid("cursor must be the next_cursor of an earlier answer".into());
        let after = cursor.map(str::parse).transpose().map_err(unreadable)?;
        Ok(Slice { after, limit: self.and_one() })
    }
}

/// A name or a reason: trimmed, not empty, at most 200 characters, none of them a control character.
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
            .ok_or("a text of 1 to 200 characters is wanted, none of them a control character")
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

/// An instant, as it can be stored and shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct At(OffsetDateTime);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at = time::serde::rfc3339::deserialize(deserializer)?;
        // The first and the last hours of the calendar are in no year that can be written elsewhere.
        at.checked_to_offset(UtcOffset::UTC)
            .filter(|at| (0..=9999).contains(&at.year()))
            .map(Self)
            .ok_or_else(|| D::Error::custom("a year from 0 to 9999 is wanted, by the clock of UTC"))
    }
}

impl At {
    pub(super) fn get(self) -> OffsetDateTime {
        self.0
    }
}

/// A field that may be left out (it stays) or null (back to the default).
pub(super) fn given<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// What was there a moment ago.
pub(super) fn there<T>(found: Option<T>, id: impl Display) -> Result<T, Problem> {
    found.ok_or_else(|| LedgerError::NotFound(format!("there is no {id}")).into())
}
