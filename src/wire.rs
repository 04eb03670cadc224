//! What callers read: the closed list of codes and the vendor's envelope (contract, section 1).

use std::ops::Range;

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident;)*) => {
        /// Every error code a caller can get from us. A vendor's 400 passes through with its own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code's stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status it always comes with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    /// The body is not what the call takes.
    InvalidRequest = "INVALID_REQUEST", BAD_REQUEST;
    /// The task type is not in the price book.
    InvalidType = "INVALID_TYPE", BAD_REQUEST;
    /// The prompt is missing, blank or too long.
    InvalidPrompt = "INVALID_PROMPT", BAD_REQUEST;
    /// The duration is not a whole number of seconds from 3 to 15.
    InvalidDuration = "INVALID_DURATION", BAD_REQUEST;
    /// The aspect ratio is not one of the three.
    InvalidAspectRatio = "INVALID_ASPECT_RATIO", BAD_REQUEST;
    /// An image is needed.
    MissingImage = "MISSING_IMAGE", BAD_REQUEST;
    /// More than seven reference images.
    TooManyImages = "TOO_MANY_IMAGES", BAD_REQUEST;
    /// A video is needed.
    MissingVideo = "MISSING_VIDEO", BAD_REQUEST;
    /// No key, or a definite no.
    InvalidApiKey = "INVALID_API_KEY", UNAUTHORIZED;
    /// The organisation's balance does not cover the hold.
    InsufficientCredits = "INSUFFICIENT_CREDITS", PAYMENT_REQUIRED;
    /// A budget does not cover the hold.
    BudgetExceeded = "BUDGET_EXCEEDED", PAYMENT_REQUIRED;
    /// The caller may not do this.
    Forbidden = "FORBIDDEN", FORBIDDEN;
    /// The organisation or user is suspended.
    Suspended = "SUSPENDED", FORBIDDEN;
    /// The key may not create this type.
    TypeNotAllowed = "TYPE_NOT_ALLOWED", FORBIDDEN;
    /// The key may not be used from this address.
    NetworkNotAllowed = "NETWORK_NOT_ALLOWED", FORBIDDEN;
    /// No such path.
    NotFound = "NOT_FOUND", NOT_FOUND;
    /// No such task of this organisation.
    TaskNotFound = "TASK_NOT_FOUND", NOT_FOUND;
    /// The path takes another method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED;
    /// The first request with this idempotency key is still running.
    RequestInProgress = "REQUEST_IN_PROGRESS", CONFLICT;
    /// The body is over 16 MiB.
    BodyTooLarge = "BODY_TOO_LARGE", PAYLOAD_TOO_LARGE;
    /// The idempotency key was used with another body.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", UNPROCESSABLE_ENTITY;
    /// Too many requests.
    RateLimited = "RATE_LIMITED", TOO_MANY_REQUESTS;
    /// Too many unfinished tasks.
    TooManyTasks = "TOO_MANY_TASKS", TOO_MANY_REQUESTS;
    /// Our defect.
    InternalError = "INTERNAL_ERROR", INTERNAL_SERVER_ERROR;
    /// The upstream refused in a way the caller cannot mend.
    UpstreamError = "UPSTREAM_ERROR", BAD_GATEWAY;
    /// The upstream cannot be used now.
    UpstreamUnavailable = "UPSTREAM_UNAVAILABLE", SERVICE_UNAVAILABLE;
    /// The gateway cannot serve this now.
    Unavailable = "UNAVAILABLE", SERVICE_UNAVAILABLE;
    /// Whether the upstream took the task is unknown.
    OutcomeUnknown = "OUTCOME_UNKNOWN", GATEWAY_TIMEOUT;
}

/// A success.
#[derive(Debug, Serialize, ToSchema)]
pub struct Success<T> {
    /// 200, as the status.
    #[schema(minimum = 200, maximum = 200)]
    code: u16,
    /// `success`
    message: &'static str,
    /// What was asked for.
    data: T,
}

/// A success: `{"code":200,"message":"success","data":…}`.
pub fn success(data: &impl Serialize) -> String {
    // Our own types and raw JSON: serialising them cannot fail.
    serde_json::to_string(&Success { code: 200, message: "success", data }).unwrap_or_default()
}

/// An error: `{"code":…,"error":…,"message":…,"data":…}`.
pub fn failure(status: StatusCode, error: &str, message: &str, data: Option<&serde_json::Value>) -> String {
    #[derive(Serialize)]
    struct Failure<'a> {
        code: u16,
        error: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a serde_json::Value>,
    }
    serde_json::to_string(&Failure { code: status.as_u16(), error, message, data }).unwrap_or_default()
}

/// The envelope of a success around an object of which some fields are changed; see [`RawObject::with`].
pub fn success_with<T: AsRef<str>>(object: &RawObject<T>, changes: &[(&str, String)]) -> String {
    let mut text = String::from(r#"{"code":200,"message":"success","data":"#);
    object.write(&mut text, changes);
    text.push('}');
    text
}

/// A JSON object as it was written: order, number text and unknown fields kept, values unread. It is read once; `T` keeps
/// its text, and the fields are places in that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawObject<T> {
    text: T,
    /// Each key, and where its value stands.
    fields: Vec<(String, Range<usize>)>,
}

impl<T: AsRef<str>> RawObject<T> {
    /// Reads `text`; nothing if it is not a JSON object. Of duplicate keys all are kept; [`RawObject::has_duplicates`]
    /// tells.
    pub fn parse(text: T) -> Option<Self> {
        let whole = text.as_ref();
        let Fields(fields) = serde_json::from_str(whole).ok()?;
        let place = |value: &RawValue| {
            let start = value.get().as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
            Some(start..start.checked_add(value.get().len())?)
        };
        let fields = fields.into_iter().map(|(key, value)| Some((key, place(value)?)));
        let fields = fields.collect::<Option<_>>()?;
        Some(Self { text, fields })
    }

    /// All of it, as it was written.
    pub fn text(&self) -> &T {
        &self.text
    }

    fn at(&self, place: &Range<usize>) -> &str {
        self.text.as_ref().get(place.clone()).unwrap_or_default()
    }

    /// Whether a key stands twice, here or in an object within.
    pub fn has_duplicates(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        self.fields.iter().any(|(key, place)| {
            let value = self.at(place);
            !seen.insert(key.as_str())
                || (value.starts_with(['{', '['])
                    && serde_json::from_str::<UniqueKeys>(value).is_err_and(|error| refuses(&error)))
        })
    }

    /// The value of `key` as it was written; a `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, place) = self.fields.iter().find(|(name, _)| name == key)?;
        Some(self.at(place)).filter(|text| *text != "null")
    }

    /// The value of `key`, if it is a string.
    pub fn string(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|text| serde_json::from_str(text).ok())
    }

    /// The object as JSON, with `changes`: keys and their new values, which must be JSON. A key that is there keeps its
    /// place, others follow at the end.
    pub fn with(&self, changes: &[(&str, String)]) -> String {
        let mut text = String::new();
        self.write(&mut text, changes);
        text
    }

    fn write(&self, text: &mut String, changes: &[(&str, String)]) {
        text.reserve(self.text.as_ref().len() + 64);
        let mut left: Vec<&(&str, String)> = changes.iter().collect();
        let mut separator = '{';
        let mut write = |key: &str, value: &str| {
            text.push(separator);
            separator = ',';
            // A string: serialising it cannot fail.
            text.push_str(&serde_json::to_string(key).unwrap_or_default());
            text.push(':');
            text.push_str(value);
        };
        for (key, place) in &self.fields {
            // Of a key that stands twice the first is changed, as the first is read.
            match left.iter().position(|(changed, _)| changed == key) {
                Some(index) => write(key, &left.remove(index).1),
                None => write(key, self.at(place)),
            }
        }
        for (key, value) in left {
            write(key, value);
        }
        if separator == '{' {
            text.push('{');
        }
        text.push('}');
    }
}

/// The fields of an object, borrowed from its text.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> serde::de::Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Whether a value within is refused: it has a key twice, or is too deep for that to be told. What is merely odd (a
/// number no float can hold) is the vendor's to judge.
fn refuses(error: &serde_json::Error) -> bool {
    error.is_data() || error.to_string().starts_with("recursion limit")
}

/// Accepts any JSON in which no object has a key twice.
struct UniqueKeys;

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> serde::de::Visitor<'de> for Any {
            type Value = UniqueKeys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON without duplicate keys")
            }
            fn visit_bool<E>(self, _: bool) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }
            fn visit_i64<E>(self, _: i64) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }
            fn visit_u64<E>(self, _: u64) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }
            fn visit_f64<E>(self, _: f64) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }
            fn visit_str<E>(self, _: &str) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }
            fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
                Ok(UniqueKeys)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<UniqueKeys, A::Error> {
                while seq.next_element::<UniqueKeys>()?.is_some() {}
                Ok(UniqueKeys)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
                let mut seen = std::collections::HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    map.next_value::<UniqueKeys>()?;
                    if !seen.insert(key) {
                        return Err(serde::de::Error::custom("duplicate key"));
                    }
                }
                Ok(UniqueKeys)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_keep_order_and_number_text() {
        let text = r#"{"b":1.50,"a":{"x": 1E3},"n":null,"\u0062":2}"#;
        let object = RawObject::parse(text).unwrap();
        assert_eq!(object.text(), &text);
        assert_eq!(object.with(&[]), r#"{"b":1.50,"a":{"x": 1E3},"n":null,"b":2}"#);
        assert_eq!(object.get("n"), None, "null counts as absent");
        let changes = [("z", "true".into()), ("n", "5".into()), ("b", "\"x\"".into())];
        let changed = r#"{"b":"x","a":{"x": 1E3},"n":5,"b":2,"z":true}"#;
        assert_eq!(object.with(&changes), changed);
        let enveloped = format!(r#"{{"code":200,"message":"success","data":{changed}}}"#);
        assert_eq!(success_with(&object, &changes), enveloped);
        let empty = RawObject::parse("{ }").unwrap();
        assert_eq!(empty.with(&[]), "{}");
        assert_eq!(empty.with(&changes[..1]), r#"{"z":true}"#);
    }

    #[test]
    fn duplicates_are_found_at_any_depth_and_in_any_spelling() {
        let duplicates = |text| RawObject::parse(text).unwrap().has_duplicates();
        assert!(duplicates(r#"{"type":1,"typ\u0065":2}"#));
        assert!(duplicates(r#"{"a":[{"b":1,"b":2}]}"#));
        assert!(!duplicates(r#"{"a":{"b":1},"b":[1.5,-2,null,true,"x"]}"#));
        assert!(RawObject::parse("[]").is_none());
        assert!(RawObject::parse("{\"a\":1} x").is_none());
    }

    #[test]
    fn envelopes() {
        assert_eq!(success(&1), r#"{"code":200,"message":"success","data":1}"#);
        assert_eq!(
            failure(
                StatusCode::PAYMENT_REQUIRED,
                "INSUFFICIENT_CREDITS",
                "no",
                Some(&serde_json::json!({"required": 400}))
            ),
            r#"{"code":402,"error":"INSUFFICIENT_CREDITS","message":"no","data":{"required":400}}"#
        );
    }
}
