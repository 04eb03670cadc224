//! The HTTP client of one backend. HTTP/1.1 only: there, a body that was never polled proves that no byte of the request
//! was written, because head and body are written together.

mod body;
mod tracked;

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, StatusCode, Uri};

pub use self::tracked::MaySend;

use self::body::Said;
use self::tracked::TrackedBody;
use super::breaker::Observation;
use super::gate::Refusal;
use super::outcome::{CreateOutcome, Envelope, create_outcome, status_report};
use super::report::Report;
use crate::bulk::{Bulk, ByteShare, NotWorked, Payer, Room};
use crate::clock::Clock;
use crate::config::{UpstreamConfig, ms};
use crate::fail_point;
use crate::https::{self, ClientSettings, Connections, Egress, HttpVersion, Trust, Unreached};
use crate::telemetry::Span;

/// The outcome of a create whose answer there was no way to read.
const UNREAD: CreateOutcome = CreateOutcome::Unknown { reason: "the upstream's answer could not be read" };

/// A reason for which the upstream is not reached is logged at most so often, unless it is another one than before.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The longest `Retry-After` that is believed, in seconds: a day.
const LONGEST_PAUSE: u64 = 86_400;

/// A backend that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
#[error("upstream {0}")]
pub struct BadUpstream(pub(super) Cow<'static, str>);

/// Why a status call told nothing about the task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The vendor answered 404. One such answer proves nothing: it may be about the key, or a passing fault.
    #[error("the upstream does not know the task")]
    NotFound,
    /// A 404 or the like that is not in the vendor's envelope: something else than its API has answered.
    #[error("HTTP {0}, and not in the form of the vendor's API")]
    NotVendors(StatusCode),
    /// The vendor refused the master key.
    #[error("the upstream refused the master key")]
    KeyRejected,
    /// The vendor could not be reached.
    #[error("the upstream could not be reached: {0}")]
    Unreachable(&'static str),
    /// The vendor was reached, but its answer did not come, or not in time.
    #[error("the upstream did not answer: {0}")]
    Unanswered(&'static str),
    /// The answer says nothing about the task.
    #[error("the upstream's answer says nothing about the task: HTTP {0}")]
    Unreadable(StatusCode),
    /// The call was not admitted; nothing was sent.
    #[error("the upstream was not asked: {0}")]
    NotAsked(#[from] Refusal),
    /// The task's account is not in the configuration, so there is no key to ask with.
    #[error("the task's account is not in this gateway's configuration")]
    UnknownAccount,
}

impl StatusError {
    /// The outcomes of calls in metrics.
    pub(super) const LABELS: [&str; 5] =
        [Self::NONE, "not found", "key rejected", "unreachable", "unreadable"];
    /// The outcome of a successful call in metrics.
    pub(super) const NONE: &str = "ok";

    /// The name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotFound | Self::NotVendors(StatusCode::NOT_FOUND) => "not found",
            Self::KeyRejected => "key rejected",
            Self::Unreachable(_) | Self::Unanswered(_) => "unreachable",
            Self::Unreadable(_) | Self::NotVendors(_) => "unreadable",
            Self::NotAsked(_) => "not asked",
            Self::UnknownAccount => "unknown account",
        }
    }

    /// Whether the answer was a 404, whoever wrote it.
    pub fn is_404(&self) -> bool {
        matches!(self, Self::NotFound | Self::NotVendors(StatusCode::NOT_FOUND))
    }

    /// An answer that says nothing of the task; whether it is in the vendor's envelope.
    fn of(status: StatusCode, enveloped: bool) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::KeyRejected,
            // A proxy or CDN on the way says these, too.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Self::Unreadable(status),
            _ if status.is_client_error() && !enveloped => Self::NotVendors(status),
            StatusCode::NOT_FOUND => Self::NotFound,
            _ => Self::Unreadable(status),
        }
    }

    /// What the error tells about the backend. A backend that refuses a call works.
    pub(super) fn evidence(&self) -> Observation {
        match self {
            Self::Unreachable(_) => Observation::CannotBeReached,
            Self::Unanswered(_) => Observation::FailedRequest,
            Self::Unreadable(status)
                if *status != StatusCode::REQUEST_TIMEOUT && status.is_client_error() =>
            {
                Observation::Works
            }
            Self::Unreadable(_) => Observation::FailedRequest,
            Self::NotFound
            | Self::NotVendors(_)
            | Self::KeyRejected
            | Self::NotAsked(_)
            | Self::UnknownAccount => Observation::Works,
        }
    }
}

#[derive(Debug)]
pub(super) struct VendorClient {
    http: Connections<TrackedBody>,
    generate: Uri,
    status: String,
    connect_timeout: Duration,
    create: Deadlines,
    poll: Deadlines,
    bulk: Bulk,
    clock: Clock,
    /// Why the upstream was not reached, as it was last logged.
    told: Mutex<Option<(Unreached, Instant)>>,
}

/// Deadlines of a call, counted from its beginning.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// Deadline for the head of the answer.
    first_byte: Duration,
    /// Deadline for the whole call, from sending to the last byte of the answer.
    whole: Duration,
}

struct VendorAnswer {
    status: StatusCode,
    retry_after: Option<Duration>,
    said: Said,
    share: Option<ByteShare>,
}

enum CallFailure {
    NotSent(&'static str),
    Withheld,
    Unknown(&'static str),
}

impl VendorClient {
    pub(super) fn new(
        config: &UpstreamConfig,
        egress: &Egress,
        bulk: Bulk,
        clock: Clock,
    ) -> Result<Self, BadUpstream> {
        let settings = ClientSettings {
            trust: Trust::Machine(egress.authorities.clone()),
            proxy: egress.proxy.clone(),
            version: HttpVersion::Http1,
            connect_timeout: ms(config.connect_timeout_ms),
            idle_timeout: ms(config.idle_timeout_ms),
        };
        let http = https::connections(&settings)
            .map_err(|error| BadUpstream(format!("cannot be called by TLS: {error}").into()))?;
        let base = config.base_url.as_str().trim_end_matches('/');
        let (create, poll) = (ms(config.create_timeout_ms), ms(config.status_timeout_ms));
        Ok(Self {
            http,
            generate: format!("{base}/api/generate")
                .parse()
                .map_err(|_| BadUpstream("base_url is not a URL".into()))?,
            status: format!("{base}/api/status?task_id="),
            connect_timeout: ms(config.connect_timeout_ms),
            create: Deadlines { first_byte: config.first_byte_timeout(), whole: create },
            poll: Deadlines { first_byte: poll, whole: poll },
            bulk,
            clock,
            told: Mutex::default(),
        })
    }

    /// The URL that creates are sent to.
    pub(super) fn endpoint(&self) -> String {
        self.generate.to_string()
    }

    pub(super) async fn create(
        &self,
        authorization: &HeaderValue,
        body: Bytes,
        may_send: MaySend,
        payer: Payer,
        span: &mut Span,
    ) -> CreateOutcome {
        let body = TrackedBody::of(body, may_send);
        let request = self.request(Method::POST, self.generate.clone(), authorization, body);
        span.set_word("url.template", "/api/generate");
        match self.call(request, self.create, payer, span).await {
            Ok(mut answer) => {
                let room = Room::from(answer.share.take());
                let read = |answer: VendorAnswer| {
                    create_outcome(answer.status, answer.retry_after, answer.said.envelope())
                };
                let mut outcome = self.read(payer, answer, read).await.unwrap_or(UNREAD);
                if let CreateOutcome::Accepted { report, .. } = &mut outcome {
                    report.keep(room);
                }
                outcome
            }
            Err(CallFailure::NotSent(reason)) => CreateOutcome::NotSent { reason },
            Err(CallFailure::Withheld) => CreateOutcome::Withheld,
            Err(CallFailure::Unknown(reason)) => CreateOutcome::Unknown { reason },
        }
    }

    pub(super) async fn status(
        &self,
        authorization: &HeaderValue,
        task: &str,
        payer: Payer,
        span: &mut Span,
    ) -> Result<Report, StatusError> {
        let encoded: String = url::form_urlencoded::byte_serialize(task.as_bytes()).collect();
        let uri = format!("{}{encoded}", self.status)
            .parse()
            .map_err(|_| StatusError::Unreachable("bad task id"))?;
        let request = self.request(Method::GET, uri, authorization, TrackedBody::none());
        span.set_word("url.template", "/api/status");
        match self.call(request, self.poll, payer, span).await {
            Ok(mut answer) => {
                let room = Room::from(answer.share.take());
                let (status, task) = (answer.status, task.to_owned());
                let read = move |answer: VendorAnswer| {
                    let envelope = answer.said.envelope();
                    let enveloped = envelope.as_ref().is_some_and(Envelope::is_vendors);
                    status_report(&task, envelope).ok_or(enveloped)
                };
                match self.read(payer, answer, read).await {
                    Ok(Ok(mut report)) => {
                        report.keep(room);
                        Ok(report)
                    }
                    Ok(Err(enveloped)) => Err(StatusError::of(status, enveloped)),
                    Err(NotWorked::TooManyWait(_)) => Err(StatusError::NotAsked(Refusal::Full)),
                    Err(NotWorked::Panicked) => Err(StatusError::Unreadable(status)),
                }
            }
            Err(CallFailure::NotSent(reason)) => Err(StatusError::Unreachable(reason)),
            Err(CallFailure::Unknown(reason)) => Err(StatusError::Unanswered(reason)),
            Err(CallFailure::Withheld) => Err(StatusError::Unreachable("withheld")),
        }
    }

    /// A request with only the headers listed here: nothing of the client's headers reaches the vendor.
    fn request(
        &self,
        method: Method,
        uri: Uri,
        authorization: &HeaderValue,
        body: TrackedBody,
    ) -> Request<TrackedBody> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        https::introduce(headers);
        if let Ok(id) = HeaderValue::try_from(uuid::Uuid::new_v4().to_string()) {
            headers.insert("x-request-id", id);
        }
        request
    }

    async fn call(
        &self,
        mut request: Request<TrackedBody>,
        deadlines: Deadlines,
        payer: Payer,
        span: &mut Span,
    ) -> Result<VendorAnswer, CallFailure> {
        let Deadlines { first_byte, whole } = deadlines;
        span.propagate(request.headers_mut());
        span.set_word("http.request.method", if request.method() == Method::POST { "POST" } else { "GET" });
        span.set("server.address", self.generate.host().unwrap_or_default());
        let usual = if self.generate.scheme_str() == Some("https") { 443 } else { 80 };
        span.set_number("server.port", self.generate.port_u16().unwrap_or(usual));
        let begun = self.clock.now();
        let is_create = request.method() == Method::POST;
        let sending = request.body().sending.clone();
        let mut head = std::pin::pin!(https::send(&self.http, request));
        // Connecting, TLS included, has its own, shorter deadline; `cancel` succeeds only if no byte was written.
        let connected = begun + self.connect_timeout.min(first_byte);
        let answer = match tokio::time::timeout_at(connected.into(), &mut head).await {
            Ok(answer) => answer,
            Err(_) if sending.cancel() => {
                return Err(CallFailure::NotSent("connecting to the upstream took too long"));
            }
            Err(_) => tokio::time::timeout_at((begun + first_byte).into(), head)
                .await
                .map_err(|_| CallFailure::Unknown("the upstream did not begin to answer in time"))?,
        };
        let answer = answer.map_err(|error| {
            if sending.was_withheld() {
                CallFailure::Withheld
            } else if let Some((unreached, why)) = https::unreached(&error) {
                self.tell(unreached, &why);
                CallFailure::NotSent(words(unreached))
            } else if sending.never_begun() {
                CallFailure::NotSent(words(Unreached::Other))
            } else {
                CallFailure::Unknown("the connection to the upstream broke")
            }
        })?;
        if is_create {
            fail_point::reach("create.head");
        }
        let (head, body) = answer.into_parts();
        span.set_number("http.response.status_code", head.status.as_u16());
        let said = Box::pin(body::read(&self.bulk, body, payer));
        let (said, share) = tokio::time::timeout_at((begun + whole).into(), said)
            .await
            .unwrap_or(Err("the upstream did not answer in time"))
            .map_err(CallFailure::Unknown)?;
        #[expect(clippy::disallowed_methods, reason = "an answer of the vendor's is taken as it comes")]
        let retry_after: Option<u64> =
            head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds.min(LONGEST_PAUSE)));
        Ok(VendorAnswer { status: head.status, retry_after, said, share })
    }

    /// Logs why the upstream is not reached, but not for each call.
    fn tell(&self, unreached: Unreached, why: &str) {
        let now = self.clock.now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.is_some_and(|(before, at)| before == unreached && now.duration_since(at) < TOLD_EVERY) {
            *told = Some((unreached, now));
            tracing::warn!(server = self.generate.host(), why, "the upstream cannot be reached");
        }
    }

    /// Reads an answer, a large one on a thread of its own.
    async fn read<T: Send + 'static>(
        &self,
        payer: Payer,
        answer: VendorAnswer,
        read: impl FnOnce(VendorAnswer) -> T + Send + 'static,
    ) -> Result<T, NotWorked> {
        self.bulk.workers.run(payer, answer.said.unread(), move || read(answer)).await
    }
}

/// Why a request was not sent, in a few words for the operators' view of its hold.
fn words(unreached: Unreached) -> &'static str {
    match unreached {
        Unreached::Name => "the upstream's name has no address",
        Unreached::Refused => "the upstream refused the connection",
        Unreached::Time => "connecting to the upstream took too long",
        Unreached::Certificate => "the upstream's certificate is not trusted",
        Unreached::Tls => "the TLS handshake with the upstream failed",
        Unreached::Proxy => "the proxy opened no tunnel to the upstream",
        Unreached::Other => "the upstream cannot be reached",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::Config;

    async fn client(more: &str) -> (TcpListener, VendorClient) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::from_toml(&format!(
            "[database]\nurl = \"postgres://x\"\n[upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"k\"\n{more}",
            listener.local_addr().unwrap()
        ));
        let config = config.unwrap().upstream.kling_3;
        let client = VendorClient::new(&config, &Egress::default(), Bulk::new(100 << 20), Clock).unwrap();
        (listener, client)
    }

    async fn create(client: &VendorClient, may_send: bool) -> CreateOutcome {
        let key = HeaderValue::from_static("Bearer k");
        let body = Bytes::from_static(b"{\"type\":\"x\"}");
        client.create(&key, body, Arc::new(move || may_send), Payer::Operators, &mut Span::default()).await
    }

    async fn read(stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.unwrap_or_default();
        bytes.truncate(read);
        bytes
    }

    #[tokio::test]
    async fn what_may_not_be_sent_leaves_no_byte_on_the_connection() {
        let (listener, client) = client("").await;
        let vendor = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream).await
        };
        let (outcome, seen) = tokio::join!(create(&client, false), vendor);
        assert_eq!(outcome, CreateOutcome::Withheld);
        assert_eq!(String::from_utf8_lossy(&seen), "");
    }

    #[tokio::test]
    async fn head_and_body_leave_together_and_an_answer_must_begin_in_time() {
        let (listener, client) = client("first_byte_timeout_ms = 100").await;
        let vendor = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            (read(&mut stream).await, stream)
        };
        let (outcome, (seen, _stream)) = tokio::join!(create(&client, true), vendor);
        let reason = "the upstream did not begin to answer in time";
        assert_eq!(outcome, CreateOutcome::Unknown { reason });
        let seen = String::from_utf8(seen).unwrap();
        assert!(
            seen.starts_with("POST /api/generate HTTP/1.1\r\n") && seen.ends_with("{\"type\":\"x\"}"),
            "{seen}"
        );
        assert!(seen.contains("content-length: 12\r\n"), "{seen}");
    }
}
