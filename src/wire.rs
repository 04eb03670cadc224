//! The answers of the data plane: the closed list of error codes, and the vendor's envelope around every body.

use std::ops::Range;

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
    /// `callback_url` is not an address that may be called.
    InvalidCallback = "INVALID_CALLBACK", BAD_REQUEST;
    /// There is no API key or token, or it is not valid.
    InvalidApiKey = "INVALID_API_KEY", UNAUTHORIZED;
    /// The organisation's balance does not cover the hold.
    InsufficientCredits = "INSUFFICIENT_CREDITS", PAYMENT_REQUIRED;
    /// A budget does not cover the hold.
    BudgetExceeded = "BUDGET_EXCEEDED", PAYMENT_REQUIRED;
    /// The caller may not make this call.
    Forbidden = "FORBIDDEN", FORBIDDEN;
    /// The organisation, team or user is suspended, or the organisation's creates are stopped.
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

/// The content codings of bodies that are understood, for the header `Accept-Encoding` of a refusal.
pub const ACCEPTED_CODINGS: &str = "gzip, identity";

/// The envelope of a successful answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Success<T> {
    /// Always 200, as the HTTP status.
    #[schema(minimum = 200, maximum = 200)]
    code: u16,
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
    struct FailureBody<'a> {
        code: u16,
        error: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a serde_json::Value>,
    }
    serde_json::to_string(&FailureBody { code: status.as_u16(), error, message, data }).unwrap_or_default()
}

/// The body of a successful answer whose `data` is `object` with `changes`; see [`RawObject::with`].
pub fn success_with<T: AsRef<str>>(object: &RawObject<T>, changes: &[(&str, String)]) -> String {
    let mut text = String::from(r#"{"code":200,"message":"success","data":"#);
    object.write(&mut text, changes);
    text.push('}');
    text
}

/// A JSON object as it was written: key order, the text of numbers and unknown fields are kept, values stay unparsed. It
/// is read once: `T` owns or borrows its text, and the fields are ranges of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawObject<T> {
    text: T,
    /// Each key, and the range of its value.
    fields: Vec<(String, Range<usize>)>,
}

impl<T: AsRef<str>> RawObject<T> {
    /// Reads `text`; none if it is not a JSON object. Of duplicate keys the first one counts: a caller's text is checked by
    /// [`crate::strict`] before, the vendor's text is passed on as it is.
    pub fn parse(text: T) -> Option<Self> {
        Self::read(text).ok()
    }

    /// As [`Self::parse`], with the reason if `text` is not a JSON object.
    #[expect(
        clippy::disallowed_methods,
        reason = "it keeps every key, and the vendor may write what it likes"
    )]
    pub fn read(text: T) -> serde_json::Result<Self> {
        let whole = text.as_ref();
        let Fields(fields) = serde_json::from_str(whole)?;
        let range = |value: &RawValue| {
            let start = value.get().as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
            Some(start..start.checked_add(value.get().len())?)
        };
        let fields = fields.into_iter().map(|(key, value)| Some((key, range(value)?)));
        // The values are borrowed from the text, so each of them has a range of it.
        let fields = fields.collect::<Option<_>>().unwrap_or_default();
        Ok(Self { text, fields })
    }

    /// The keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(key, _)| key.as_str())
    }

    /// The object without `key`.
    pub fn without(mut self, key: &str) -> Self {
        self.fields.retain(|(name, _)| name != key);
        self
    }

    /// The whole object, as it was written.
    pub fn text(&self) -> &T {
        &self.text
    }

    /// All fields as they were written, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, range)| (name.as_str(), self.at(range)))
    }

    fn at(&self, range: &Range<usize>) -> &str {
        self.text.as_ref().get(range.clone()).unwrap_or_default()
    }

    /// The value of `key` as it was written; a `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, range) = self.fields.iter().find(|(name, _)| name == key)?;
        Some(self.at(range)).filter(|text| *text != "null")
    }

    /// The value of `key`, if it is a string.
    #[expect(clippy::disallowed_methods, reason = "a string has no keys")]
    pub fn string(&self, key: &str) -> Option<String> {
        self.get(key).and_then(|text| serde_json::from_str(text).ok())
    }

    /// The object as JSON, with `changes`: keys and their new values, which must be JSON. The value of a known key is
    /// replaced where it stands, others follow at the end.
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
            // Serialising a string cannot fail.
            text.push_str(&serde_json::to_string(key).unwrap_or_default());
            text.push(':');
            text.push_str(value);
        };
        for (key, range) in &self.fields {
            // Of duplicate keys the first one is replaced, because it is the one that counts.
            match left.iter().position(|(changed, _)| changed == key) {
                Some(index) => write(key, &left.remove(index).1),
                None => write(key, self.at(range)),
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
    fn only_objects_are_read() {
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
