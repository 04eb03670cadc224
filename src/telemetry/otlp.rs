//! OTLP, the protocol of trace collectors: the same Protobuf message over HTTP/1.1, or in a gRPC call over HTTP/2.
//!
//! A gRPC call of this kind is one POST whose body is the message behind five bytes, and whose result stands in the
//! trailers; that is all of gRPC that is needed here.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Request, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use url::Url;

use super::export::BadTelemetry;
use crate::config::{OtlpProtocol, Telemetry};
use crate::https::{Answer, Authorities, Client, ClientSettings, HttpVersion, Trust};

/// How long a collector may take over a batch, the second attempt included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before the second attempt, unless the collector says how long.
const PAUSE: Duration = Duration::from_millis(200);
/// Answers say how many spans were refused, and why.
const MAX_ANSWER: usize = 64 << 10;

const GRPC_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC_OK: u32 = 0;
/// gRPC's codes after which OTLP allows another attempt: cancelled, deadline exceeded, aborted, out of range,
/// unavailable, data loss.
const GRPC_TRANSIENT: [u32; 6] = [1, 4, 10, 11, 14, 15];

/// Sends spans to one collector.
///
/// The processor calls it from a thread that has no Tokio reactor, so the call itself runs on the gateway's runtime.
#[derive(Debug)]
pub(super) struct Otlp {
    collector: Arc<Collector>,
    resource: ResourceAttributesWithSchema,
    runtime: Handle,
    calls: TaskTracker,
}

#[derive(Debug)]
struct Collector {
    client: Client,
    protocol: OtlpProtocol,
    uri: Uri,
    headers: HeaderMap,
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
enum BatchOutcome {
    Taken,
    /// The collector took the batch without some of its spans.
    Partly {
        refused: i64,
    },
    /// It may be taken after this time.
    Later(Duration),
    Refused,
}

impl Otlp {
    /// Needs a Tokio runtime; connects to nothing yet.
    pub(super) fn new(
        endpoint: &Url,
        config: &Telemetry,
        authorities: Option<Authorities>,
    ) -> Result<Self, BadTelemetry> {
        let settings = ClientSettings {
            trust: Trust::Machine(authorities),
            // A collector is inside the private network.
            proxy: None,
            version: match config.protocol {
                OtlpProtocol::Grpc => HttpVersion::Http2,
                OtlpProtocol::Http => HttpVersion::Http1,
            },
            connect_timeout: TIMEOUT,
            idle_timeout: Duration::from_secs(90),
        };
        let client = Client::new(&settings, TIMEOUT, MAX_ANSWER)
            .map_err(|error| BadTelemetry::new(error.to_string()))?;
        let uri =
            address(endpoint, config.protocol).ok_or_else(|| BadTelemetry::new("it is no URL".into()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            if let (Ok(name), Ok(mut value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value.expose()))
            {
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        let content = match config.protocol {
            OtlpProtocol::Grpc => {
                headers.insert(TE, HeaderValue::from_static("trailers"));
                "application/grpc"
            }
            OtlpProtocol::Http => "application/x-protobuf",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
        let runtime = Handle::try_current().map_err(|error| BadTelemetry::new(error.to_string()))?;
        Ok(Self {
            collector: Arc::new(Collector { client, protocol: config.protocol, uri, headers }),
            resource: ResourceAttributesWithSchema::default(),
            runtime,
            calls: TaskTracker::new(),
        })
    }
}

impl SpanExporter for Otlp {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let collector = self.collector.clone();
        let sending = async move { tokio::time::timeout(TIMEOUT, collector.send(&body)).await };
        match self.calls.spawn_on(sending, &self.runtime).await {
            Ok(Ok(BatchOutcome::Taken)) => Ok(()),
            Ok(Ok(BatchOutcome::Partly { refused })) => {
                tracing::warn!(spans = refused, "the trace collector refused some spans of a batch");
                Ok(())
            }
            Ok(Ok(BatchOutcome::Later(_) | BatchOutcome::Refused)) => {
                Err(OTelSdkError::InternalFailure("the collector did not take it".into()))
            }
            Ok(Err(_)) => Err(OTelSdkError::Timeout(TIMEOUT)),
            // The runtime has ended.
            Err(_) => Err(OTelSdkError::AlreadyShutdown),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

impl Collector {
    /// One more attempt and no third: the queue is short, and what waits in it is worth as much as what failed.
    async fn send(&self, message: &[u8]) -> BatchOutcome {
        match self.attempt(message).await {
            BatchOutcome::Later(pause) => {
                tokio::time::sleep(pause.mul_f64(rand::random_range(1.0..1.5))).await;
                self.attempt(message).await
            }
            ended => ended,
        }
    }

    async fn attempt(&self, message: &[u8]) -> BatchOutcome {
        let body = match self.protocol {
            OtlpProtocol::Grpc => match framed(message) {
                Some(body) => body,
                None => return BatchOutcome::Refused,
            },
            OtlpProtocol::Http => Bytes::copy_from_slice(message),
        };
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        match self.client.call(request).await {
            Ok(answer) => match self.protocol {
                OtlpProtocol::Grpc => grpc_outcome(&answer),
                OtlpProtocol::Http => http_outcome(&answer),
            },
            Err(_) => BatchOutcome::Later(PAUSE),
        }
    }
}

/// Where batches go. A gRPC method has no path before it.
fn address(endpoint: &Url, protocol: OtlpProtocol) -> Option<Uri> {
    let base = endpoint.as_str().trim_end_matches('/');
    match protocol {
        OtlpProtocol::Grpc => {
            let mut parts = base.parse::<Uri>().ok()?.into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static(GRPC_METHOD));
            Uri::from_parts(parts).ok()
        }
        OtlpProtocol::Http if base.ends_with("/v1/traces") => base.parse().ok(),
        OtlpProtocol::Http => format!("{base}/v1/traces").parse().ok(),
    }
}

/// A gRPC message: not compressed, so long, and then itself.
fn framed(message: &[u8]) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(message.len().checked_add(5)?);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).ok()?);
    frame.put_slice(message);
    Some(frame.freeze())
}

#[expect(clippy::disallowed_methods, reason = "an answer of the collector's is taken as it comes")]
fn http_outcome(answer: &Answer) -> BatchOutcome {
    match answer.status {
        status if status.is_success() => taken(&answer.body),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let asked = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            BatchOutcome::Later(asked.map_or(PAUSE, Duration::from_secs))
        }
        _ => BatchOutcome::Refused,
    }
}

#[expect(clippy::disallowed_methods, reason = "an answer of the collector's is taken as it comes")]
fn grpc_outcome(answer: &Answer) -> BatchOutcome {
    // One that failed at once has its status in the headers, and no trailers.
    let status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    let status: Option<u32> = status.and_then(|value| value.to_str().ok()?.parse().ok());
    match status {
        Some(GRPC_OK) => taken(answer.body.get(5..).unwrap_or_default()),
        Some(code) if GRPC_TRANSIENT.contains(&code) => BatchOutcome::Later(PAUSE),
        Some(_) => BatchOutcome::Refused,
        // A proxy in between answered by itself.
        None => http_outcome(answer),
    }
}

fn taken(message: &[u8]) -> BatchOutcome {
    let answer = ExportTraceServiceResponse::decode(message).unwrap_or_default();
    match answer.partial_success {
        Some(part) if part.rejected_spans > 0 => BatchOutcome::Partly { refused: part.rejected_spans },
        _ => BatchOutcome::Taken,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.collect(),
            body: Bytes::new(),
            trailers: HeaderMap::new(),
        }
    }

    #[test]
    fn batches_go_to_the_protocols_own_path() {
        let to =
            |endpoint: &str, protocol| address(&endpoint.parse().unwrap(), protocol).unwrap().to_string();
        assert_eq!(
            to("http://c:4317", OtlpProtocol::Grpc),
            "http://c:4317/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        );
        for endpoint in ["https://c/a", "https://c/a/", "https://c/a/v1/traces"] {
            assert_eq!(to(endpoint, OtlpProtocol::Http), "https://c/a/v1/traces");
        }
    }

    #[test]
    fn a_frame_is_its_length_and_the_message() {
        assert_eq!(framed(b"abc").unwrap()[..], *b"\0\0\0\0\x03abc");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert_eq!(http_outcome(&answer(200, &[])), BatchOutcome::Taken);
        assert_eq!(http_outcome(&answer(503, &[])), BatchOutcome::Later(PAUSE));
        let asked = answer(429, &[("retry-after", "3")]);
        assert_eq!(http_outcome(&asked), BatchOutcome::Later(Duration::from_secs(3)));
        for status in [302, 400, 401, 404, 500] {
            assert_eq!(http_outcome(&answer(status, &[])), BatchOutcome::Refused, "{status}");
        }
        for (code, outcome) in [
            ("0", BatchOutcome::Taken),
            ("14", BatchOutcome::Later(PAUSE)),
            ("3", BatchOutcome::Refused),
            ("16", BatchOutcome::Refused),
        ] {
            assert_eq!(grpc_outcome(&answer(200, &[("grpc-status", code)])), outcome, "{code}");
        }
        assert_eq!(grpc_outcome(&answer(502, &[])), BatchOutcome::Later(PAUSE), "from a proxy");
        assert_eq!(grpc_outcome(&answer(404, &[])), BatchOutcome::Refused, "from what is no collector");
    }

    #[test]
    fn spans_that_were_refused_are_told() {
        let part = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".into() };
        let message = ExportTraceServiceResponse { partial_success: Some(part) }.encode_to_vec();
        assert_eq!(taken(&message), BatchOutcome::Partly { refused: 2 });
        let mut grpc = answer(200, &[]);
        grpc.trailers.insert("grpc-status", HeaderValue::from_static("0"));
        grpc.body = framed(&message).unwrap();
        assert_eq!(grpc_outcome(&grpc), BatchOutcome::Partly { refused: 2 });
        assert_eq!(taken(b""), BatchOutcome::Taken);
    }
}
