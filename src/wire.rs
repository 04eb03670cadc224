//! The answers of the data plane: the closed list of error codes, and the vendor's envelope around every body.

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident;)*) => {
        /// Every error code of the gateway. A 400 of the vendor passes through with the vendor's own code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code's stable text on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that always goes with the code.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    /// The request is malformed.
    InvalidRequest = "INVALID_REQUEST", BAD_REQUEST;
    /// The task type is not in the price book.
    InvalidType = "INVALID_TYPE", BAD_REQUEST;
    /// The prompt is missing, blank or too long.
    InvalidPrompt = "INVALID_PROMPT", BAD_REQUEST;
    /// The duration is not a whole number of seconds from 3 to 15.
    InvalidDuration = "INVALID_DURATION", BAD_REQUEST;
    /// The aspect ratio is not 16:9, 9:16 or 1:1.
    InvalidAspectRatio = "INVALID_ASPECT_RATIO", BAD_REQUEST;
    /// The task type needs an image.
    MissingImage = "MISSING_IMAGE", BAD_REQUEST;
    /// More than seven reference images.
    TooManyImages = "TOO_MANY_IMAGES", BAD_REQUEST;
    /// The task type needs a video.
    MissingVideo = "MISSING_VIDEO", BAD_REQUEST;
    /// There is no API key or token, or it is not valid.
    InvalidApiKey = "INVALID_API_KEY", UNAUTHORIZED;
    /// The organisation's balance does not cover the hold.
    InsufficientCredits = "INSUFFICIENT_CREDITS", PAYMENT_REQUIRED;
    /// A budget does not cover the hold.
    BudgetExceeded = "BUDGET_EXCEEDED", PAYMENT_REQUIRED;
    /// The caller may not make this call.
    Forbidden = "FORBIDDEN", FORBIDDEN;
    /// The organisation, team or user is suspended.
    Suspended = "SUSPENDED", FORBIDDEN;
    /// The key may not create this task type.
    TypeNotAllowed = "TYPE_NOT_ALLOWED", FORBIDDEN;
    /// The key may not be used from this address.
    NetworkNotAllowed = "NETWORK_NOT_ALLOWED", FORBIDDEN;
    /// The path does not exist.
    NotFound = "NOT_FOUND", NOT_FOUND;
    /// The organisation has no task with this id.
    TaskNotFound = "TASK_NOT_FOUND", NOT_FOUND;
    /// The path does not take this method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED;
    /// The first request with this idempotency key is still in progress.
    RequestInProgress = "REQUEST_IN_PROGRESS", CONFLICT;
    /// The body is over 16 MiB.
    BodyTooLarge = "BODY_TOO_LARGE", PAYLOAD_TOO_LARGE;
    /// The idempotency key was used with another body.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED", UNPROCESSABLE_ENTITY;
    /// A rate limit was reached, or the vendor is busy.
    RateLimited = "RATE_LIMITED", TOO_MANY_REQUESTS;
    /// The organisation has too many unfinished tasks.
    TooManyTasks = "TOO_MANY_TASKS", TOO_MANY_REQUESTS;
    /// A defect of the gateway.
    InternalError = "INTERNAL_ERROR", INTERNAL_SERVER_ERROR;
    /// The upstream refused the request for a reason that the caller cannot change.
    UpstreamError = "UPSTREAM_ERROR", BAD_GATEWAY;
    /// The upstream cannot be reached or is not called right now.
    UpstreamUnavailable = "UPSTREAM_UNAVAILABLE", SERVICE_UNAVAILABLE;
    /// The gateway cannot serve the request right now.
    Unavailable = "UNAVAILABLE", SERVICE_UNAVAILABLE;
    /// Whether the upstream accepted the task is unknown.
    OutcomeUnknown = "OUTCOME_UNKNOWN", GATEWAY_TIMEOUT;
}

/// The envelope of a successful answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Success<T> {
    /// Always 200, as the HTTP status.
    #[schema(minimum = 200, maximum = 200)]
    code: u16,
    /// Always `success`.
    message: &'static str,
    data: T,
}

/// The body of a successful answer: `{"code":200,"message":"success","data":…}`.
pub fn success(data: &impl Serialize) -> String {
    // Only types of ours and raw JSON come here: serialising them cannot fail.
    serde_json::to_string(&Success { code: 200, message: "success", data }).unwrap_or_default()
}

/// The body of an error: `{"code":…,"error":…,"message":…,"data":…}`.
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

/// A JSON object as it was written: key order, the text of numbers and unknown fields are kept, values stay unparsed.
#[derive(Debug, Clone)]
pub struct RawObject(Vec<(String, Box<RawValue>)>);

impl RawObject {
    /// Reads `text`; none if it is not a JSON object. Duplicate keys are kept: [`RawObject::has_duplicates`] finds them.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub fn empty() -> Self {
        Self(Vec::new())
    }

    /// Whether this object or an object inside of it has a key twice.
    pub fn has_duplicates(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        self.0.iter().any(|(key, value)| {
            !seen.insert(key.as_str())
                || (value.get().starts_with(['{', '['])
                    && serde_json::from_str::<UniqueKeys>(value.get()).is_err_and(|error| refuses(&error)))
        })
    }

    /// The value of `key` as it was written; a `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.get())
            .filter(|text| *text != "null")
    }

    /// The value of `key`, if it is a string.
    pub fn string(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|text| serde_json::from_str(text).ok())
    }

    /// Replaces the value of `key`, or adds it at the end. If `value` is not JSON, nothing changes.
    pub fn set(&mut self, key: &str, value: String) {
        let Ok(value) = RawValue::from_string(value) else { return };
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, slot)) => *slot = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// The object as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for RawObject {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> serde::Deserialize<'de> for RawObject {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = RawObject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawObject(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Whether a nested value is refused: it has a key twice, or is nested too deeply to find out. Other oddities, such as a
/// number that no float can hold, are left to the vendor to judge.
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
        let text = r#"{"b":1.50,"a":{"x":1E3},"n":null}"#;
        let mut object = RawObject::parse(text).unwrap();
        assert_eq!(object.to_json(), text);
        assert_eq!(object.get("n"), None, "null counts as absent");
        object.set("n", "5".into());
        object.set("z", "true".into());
        assert_eq!(object.to_json(), r#"{"b":1.50,"a":{"x":1E3},"n":5,"z":true}"#);
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
