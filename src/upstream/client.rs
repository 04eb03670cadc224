//! The HTTP client of one backend. HTTP/1.1 only: there, "the body was never asked for" proves that no byte of the
//! request was written, because head and body leave together.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::outcome::{CreateOutcome, StatusReport, create_outcome, status_report};
use crate::config::{UpstreamConfig, ms};
use crate::secret::Secret;

/// Answers may echo a request with its images.
const MAX_ANSWER: usize = 24 << 20;

/// Seconds of a `Retry-After` that are believed: a day.
const LONGEST_PAUSE: u64 = 86_400;

/// A backend that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
#[error("upstream {0}")]
pub struct BadUpstream(&'static str);

/// Why a status call told nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The vendor does not know the task, or our key: one such answer proves nothing.
    #[error("the upstream does not know the task")]
    NotFound,
    /// Our master key was refused.
    #[error("the upstream refused our key")]
    KeyRejected,
    /// It could not be reached, or not in time.
    #[error("the upstream could not be asked: {0}")]
    Unreachable(&'static str),
    /// It answered something that says nothing about the task.
    #[error("the upstream's answer says nothing: HTTP {0}")]
    Unreadable(StatusCode),
}

impl StatusError {
    /// Its name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::KeyRejected => "key rejected",
            Self::Unreachable(_) => "unreachable",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

#[derive(Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Tracked>,
    generate: Uri,
    status: String,
    authorization: HeaderValue,
    connect_timeout: Duration,
    create_timeout: Duration,
    status_timeout: Duration,
}

struct Answered {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

enum Failed {
    NotSent(&'static str),
    Unknown(&'static str),
}

impl Client {
    pub(super) fn new(config: &UpstreamConfig) -> Result<Self, BadUpstream> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(ms(config.connect_timeout_ms)));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(ms(config.idle_timeout_ms))
            .build(https);
        let base = config.base_url.as_str().trim_end_matches('/');
        let key = config.master_key.as_ref().map(Secret::expose).unwrap_or_default();
        let mut authorization = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_| BadUpstream("master_key has characters that cannot stand in a header"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            http,
            generate: format!("{base}/api/generate")
                .parse()
                .map_err(|_| BadUpstream("base_url is not a URL"))?,
            status: format!("{base}/api/status?task_id="),
            authorization,
            connect_timeout: ms(config.connect_timeout_ms),
            create_timeout: ms(config.create_timeout_ms),
            status_timeout: ms(config.status_timeout_ms),
        })
    }

    pub(super) async fn create(&self, body: Bytes) -> CreateOutcome {
        match self.call(Method::POST, self.generate.clone(), Some(body), self.create_timeout).await {
            Ok(answer) => create_outcome(answer.status, answer.retry_after, &answer.body),
            Err(Failed::NotSent(reason)) => CreateOutcome::NotSent { reason },
            Err(Failed::Unknown(reason)) => CreateOutcome::Unknown { reason },
        }
    }

    pub(super) async fn status(&self, task: &str) -> Result<StatusReport, StatusError> {
        let encoded: String = url::form_urlencoded::byte_serialize(task.as_bytes()).collect();
        let uri = format!("{}{encoded}", self.status)
            .parse()
            .map_err(|_| StatusError::Unreachable("bad task id"))?;
        match self.call(Method::GET, uri, None, self.status_timeout).await {
            Ok(answer) => match status_report(task, &answer.body) {
                Some(report) => Ok(report),
                None => Err(match answer.status {
                    StatusCode::NOT_FOUND => StatusError::NotFound,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => StatusError::KeyRejected,
                    other => StatusError::Unreadable(other),
                }),
            },
            Err(Failed::NotSent(reason) | Failed::Unknown(reason)) => Err(StatusError::Unreachable(reason)),
        }
    }

    /// One call; headers by allow-list.
    async fn call(
        &self,
        method: Method,
        uri: Uri,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Answered, Failed> {
        let sending = Arc::new(Sending::default());
        if body.is_none() {
            // Only a body tells that a request was begun; without one it counts as begun.
            sending.start();
        }
        let mut request = Request::new(Tracked { bytes: body, sending: sending.clone() });
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        if let Ok(id) = HeaderValue::try_from(uuid::Uuid::new_v4().to_string()) {
            headers.insert("x-request-id", id);
        }

        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| {
                if error.is_connect() || sending.never_begun() {
                    Failed::NotSent("the upstream cannot be reached")
                } else {
                    Failed::Unknown("the connection to the upstream broke")
                }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|_| Failed::Unknown("the upstream's answer broke off"))?.to_bytes();
            let retry_after: Option<u64> =
                head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds.min(LONGEST_PAUSE)));
            Ok(Answered { status: head.status, retry_after, body })
        };
        let mut exchange = std::pin::pin!(exchange);
        // Connecting, TLS included, has its own, shorter deadline; `cancel` wins only if no byte was written.
        if let Ok(answer) = tokio::time::timeout(self.connect_timeout, &mut exchange).await {
            return answer;
        }
        if sending.cancel() {
            return Err(Failed::NotSent("connecting to the upstream took too long"));
        }
        tokio::time::timeout(timeout.saturating_sub(self.connect_timeout), exchange)
            .await
            .unwrap_or(Err(Failed::Unknown("the upstream did not answer in time")))
    }
}

/// Whether a request's body was asked for: the last instant at which it can still be taken back.
#[derive(Debug, Default)]
struct Sending(AtomicU8);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const CANCELLED: u8 = 2;

impl Sending {
    fn start(&self) -> bool {
        self.0.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire) != Err(CANCELLED)
    }

    fn cancel(&self) -> bool {
        self.0.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn never_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) != BEGUN
    }
}

/// A body that remembers that it was asked for.
#[derive(Debug)]
struct Tracked {
    bytes: Option<Bytes>,
    sending: Arc<Sending>,
}

#[derive(Debug, thiserror::Error)]
#[error("cancelled before it was sent")]
struct Cancelled;

impl Body for Tracked {
    type Data = Bytes;
    type Error = Cancelled;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cancelled>>> {
        if !self.sending.start() {
            return Poll::Ready(Some(Err(Cancelled)));
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
