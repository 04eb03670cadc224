//! Collectors of spans: over gRPC, over HTTP, and some that are of no use.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use super::database::until;

/// A span as a collector got it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty: it has none.
    pub parent: String,
    pub failed: bool,
    pub state: String,
    /// Numbers as text.
    pub attributes: BTreeMap<String, String>,
    pub resource: BTreeMap<String, String>,
}

impl Seen {
    pub fn get(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).map_or("", String::as_str)
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector that keeps what it gets.
#[derive(Clone)]
pub struct Collector {
    pub address: SocketAddr,
    /// What a configuration calls what it speaks.
    pub protocol: &'static str,
    kept: Kept,
}

#[derive(Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<Seen>>>,
    authorization: Arc<Mutex<Vec<String>>>,
}

impl Kept {
    fn take(&self, headers: &HeaderMap, request: ExportTraceServiceRequest) {
        let authorization = headers.get("authorization").map_or("", |value| value.to_str().unwrap());
        self.authorization.lock().unwrap().push(authorization.to_owned());
        for group in request.resource_spans {
            let resource = group.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
                self.spans.lock().unwrap().push(Seen {
                    kind: span.kind(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    failed: span.status.as_ref().is_some_and(|status| status.code == 2),
                    state: span.trace_state,
                    attributes: texts(&span.attributes),
                    resource: resource.clone(),
                    name: span.name,
                });
            }
        }
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let headers = request.metadata().clone().into_headers();
        self.take(&headers, request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub async fn http() -> Self {
        let (listener, kept) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Kept::default());
        let address = listener.local_addr().unwrap();
        let taking = kept.clone();
        let take = axum::routing::post(async move |headers: HeaderMap, body: bytes::Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            taking.take(&headers, ExportTraceServiceRequest::decode(body).unwrap());
            ExportTraceServiceResponse::default().encode_to_vec()
        });
        let router = axum::Router::new().route("/v1/traces", take);
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { address, protocol: "http", kept }
    }

    pub async fn grpc() -> Self {
        let (listener, kept) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Kept::default());
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(kept.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(async { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
        Self { address, protocol: "grpc", kept }
    }

    pub fn spans(&self) -> Vec<Seen> {
        self.kept.spans.lock().unwrap().clone()
    }

    /// The `authorization` of every export.
    pub fn authorizations(&self) -> Vec<String> {
        self.kept.authorization.lock().unwrap().clone()
    }

    /// Waits for spans of these names in a trace; its spans so far.
    pub async fn trace(&self, trace: &str, names: &[&str]) -> Vec<Seen> {
        let of_it = || -> Vec<Seen> { self.spans().into_iter().filter(|span| span.trace == trace).collect() };
        until(&format!("{names:?} of {trace} are there"), async || {
            let seen = of_it();
            names.iter().all(|name| seen.iter().any(|span| span.name == *name))
        })
        .await;
        of_it()
    }
}

/// Takes connections, and says nothing.
pub async fn black_hole() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            silent.push(stream);
        }
    });
    address
}
