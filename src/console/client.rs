//! Calls of the APIs, within the process, as the signed-in caller.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::answers::Envelope;
use crate::access::sessions::SignedIn;
use crate::call::Peer;
use crate::error::GatewayError;
use crate::strict;

/// How many calls one page may make.
pub(super) const MOST_CALLS: u32 = 16;

/// The largest answer that a page reads. What the vendor says about a task may be larger: it is not shown then.
const MOST_BYTES: usize = 4 << 20;

/// An API as a service within the process.
pub type Service = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The services that pages call.
#[derive(Debug, Clone)]
pub struct Apis {
    /// The data plane; operators have no use for it.
    pub data: Service,
    /// The whole management API, whose rules decide what the caller may do.
    pub management: Service,
}

/// A refusal of an API, as a page tells it.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// The API's own word for it.
    pub(super) code: String,
    pub(super) message: String,
    /// The field that is wrong, where that is known: by the console itself, or by the place in the body that was sent.
    pub(super) field: Option<String>,
    /// Figures that belong to it.
    pub(super) data: Value,
    pub(super) request_id: Option<String>,
    pub(super) retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        let request_id = crate::telemetry::request_id();
        Self { status, code, message, field: None, data: Value::Null, request_id, retry_after: None }
    }

    /// A refusal of the sign-in itself.
    pub(super) fn of(error: &GatewayError) -> Self {
        let code = error.code().map_or("INTERNAL_ERROR", crate::wire::Code::as_str);
        let retry_after = error.retry_after().map(|after| after.as_secs().max(1));
        Self { retry_after, ..Self::new(error.status(), code, error.to_string()) }
    }

    /// Whether the same call may do better later.
    pub(super) fn is_passing(&self) -> bool {
        [429, 502, 503, 504].contains(&self.status.as_u16())
    }

    /// What an API says of a place in the body is said of the field there: people have typed into fields.
    fn located(mut self, sent: &[u8]) -> Self {
        let place = self.message.rsplit_once(" at line 1 column ");
        let Some((told, column)) = place.and_then(|(told, column)| Some((told, column.parse().ok()?))) else {
            return self;
        };
        self.field = key_at(sent, column);
        self.message = told.trim_start_matches("the body: ").to_owned();
        self
    }

    fn unreadable(what: &str) -> Self {
        tracing::error!(what, "an answer of an API cannot be shown");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "An answer could not be shown.")
    }
}

/// An answer of an API that is no refusal. Its body has not been read yet.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// A call to be made.
pub(super) struct ToCall<'a> {
    client: &'a Client,
    service: &'a Service,
    request: http::request::Builder,
    body: Bytes,
}

/// Calls the APIs for one page.
#[derive(Debug)]
pub(super) struct Client {
    apis: Apis,
    signed_in: SignedIn,
    host: Option<HeaderValue>,
    /// Where trusted proxies name the client's address.
    forwarded: Vec<(HeaderName, HeaderValue)>,
    peer: Peer,
    made: AtomicU32,
}

const FORWARDED: [&str; 2] = ["x-forwarded-for", "forwarded"];

impl Client {
    pub(super) fn new(apis: &Apis, signed_in: SignedIn, head: &Parts) -> Self {
        let forwarded = FORWARDED.iter().flat_map(|name| {
            let name = HeaderName::from_static(name);
            head.headers.get_all(&name).iter().map(move |value| (name.clone(), value.clone()))
        });
        Self {
            apis: apis.clone(),
            signed_in,
            host: head.headers.get_all(HOST).iter().next().cloned(),
            forwarded: forwarded.collect(),
            peer: Peer::of(&head.extensions),
            made: AtomicU32::new(0),
        }
    }

    /// The caller of all these calls.
    pub(super) fn signed_in(&self) -> &SignedIn {
        &self.signed_in
    }

    /// A call of the data plane.
    pub(super) fn data(&self, method: Method, place: &str) -> ToCall<'_> {
        self.to_call(&self.apis.data, method, place)
    }

    /// A call of the management API.
    pub(super) fn manage(&self, method: Method, place: &str) -> ToCall<'_> {
        self.to_call(&self.apis.management, method, place)
    }

    /// What a `GET` of the data plane answers in its `data`.
    pub(super) async fn read<T: DeserializeOwned>(&self, place: &str) -> Result<T, Problem> {
        self.data(Method::GET, place).data().await
    }

    /// What a `GET` of the management API answers.
    pub(super) async fn look<T: DeserializeOwned>(&self, place: &str) -> Result<T, Problem> {
        self.manage(Method::GET, place).whole().await
    }

    fn to_call<'a>(&'a self, service: &'a Service, method: Method, place: &str) -> ToCall<'a> {
        let mut request = Request::builder().method(method).uri(place);
        if let Some(host) = &self.host {
            request = request.header(HOST, host);
        }
        for (name, value) in &self.forwarded {
            request = request.header(name, value);
        }
        let request = request.extension(self.peer.clone()).extension(self.signed_in.clone());
        ToCall { client: self, service, request, body: Bytes::new() }
    }
}

impl ToCall<'_> {
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// A body of JSON.
    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.request = self.request.header(CONTENT_TYPE, "application/json");
        self.body = body.into();
        self
    }

    /// What the data plane answers in its `data`.
    pub(super) async fn data<T: DeserializeOwned>(self) -> Result<T, Problem> {
        let answer = self.send().await?;
        let read = strict::read_json::<Envelope<T>>(&answer);
        read.map(|envelope| envelope.data).map_err(|error| Problem::unreadable(&error.to_string()))
    }

    /// What the management API answers.
    pub(super) async fn whole<T: DeserializeOwned>(self) -> Result<T, Problem> {
        let answer = self.send().await?;
        strict::read_json(&answer).map_err(|error| Problem::unreadable(&error.to_string()))
    }

    /// Makes the call and reads the answer; a refusal of the API is the error.
    pub(super) async fn send(self) -> Result<Bytes, Problem> {
        whole(self.unread().await?.body).await
    }

    /// Makes the call, and leaves it to the browser to read the answer; a refusal of the API is the error.
    pub(super) async fn unread(self) -> Result<Answer, Problem> {
        let made = self.client.made.fetch_add(1, Ordering::Relaxed);
        if made >= MOST_CALLS {
            return Err(Problem::unreadable("a page made more calls than it may"));
        }
        let sent = self.body.clone();
        let request = self.request.body(Body::from(self.body));
        let request = request.map_err(|error| Problem::unreadable(&error.to_string()))?;
        let Ok(answer) = self.service.clone().oneshot(request).await;
        let (head, body) = answer.into_parts();
        if head.status.is_success() || head.status.is_redirection() {
            return Ok(Answer { headers: head.headers, body });
        }
        Err(refusal(head.status, &head.headers, &whole(body).await?).located(&sent))
    }
}

async fn whole(body: Body) -> Result<Bytes, Problem> {
    let bytes = Limited::new(body, MOST_BYTES).collect().await;
    Ok(bytes.map_err(|_| Problem::unreadable("an answer is too large"))?.to_bytes())
}

/// The key of the object whose value is at this place, or ends there.
fn key_at(object: &[u8], place: usize) -> Option<String> {
    let (mut depth, mut at, mut found) = (0_u32, 0, None);
    while at < place.min(object.len()) {
        match object.get(at)? {
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let begin = at.checked_add(1)?;
                at = begin;
                while *object.get(at)? != b'"' {
                    at += if object.get(at) == Some(&b'\\') { 2 } else { 1 };
                }
                if depth == 1 && object.get(at.checked_add(1)?) == Some(&b':') {
                    found = std::str::from_utf8(object.get(begin..at)?).ok().map(ToOwned::to_owned);
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The body of a refusal: of the data plane's, or a problem document of the management API.
#[derive(Deserialize)]
struct RefusalBody {
    error: Option<String>,
    message: Option<String>,
    code: Option<Value>,
    detail: Option<String>,
    #[serde(default)]
    data: Value,
}

fn refusal(status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Problem {
    let read: RefusalBody = strict::read_json(bytes).unwrap_or(RefusalBody {
        error: None,
        message: None,
        code: None,
        detail: None,
        data: Value::Null,
    });
    let text = |name: &'static str| {
        strict::single_header(headers, name).ok().flatten().and_then(|value| value.to_str().ok())
    };
    let code = read.error.or_else(|| Some(read.code?.as_str()?.to_owned()));
    Problem {
        status,
        code: code.unwrap_or_default(),
        message: read.message.or(read.detail).unwrap_or_else(|| "The call was refused.".into()),
        field: None,
        data: read.data,
        request_id: text("x-request-id").map(ToOwned::to_owned),
        retry_after: text("retry-after").and_then(|seconds| seconds.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_place_in_the_body_names_the_field_there() {
        let sent = br#"{"allowed_networks":["nowhere"],"name":"a \"b\": c","days":7}"#;
        let located = |column: usize| {
            let said = format!("the body: it is wrong at line 1 column {column}");
            let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid_request", said).located(sent);
            (problem.message, problem.field)
        };
        let of = |field: &str| ("it is wrong".to_owned(), Some(field.to_owned()));
        assert_eq!([located(30), located(51), located(60)], [of("allowed_networks"), of("name"), of("days")]);
        let other = Problem::new(StatusCode::CONFLICT, "conflict", "it is taken").located(sent);
        assert_eq!((other.message.as_str(), other.field), ("it is taken", None));
    }
}
