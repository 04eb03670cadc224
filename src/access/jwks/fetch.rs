//! One GET, bounded in time and size. Redirects are not followed: what is configured is what is asked.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::safe_url::is_safe;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest sets (dozens of keys with their certificates) have a tenth of this.
const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct Fetcher(legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl Fetcher {
    pub(super) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // It is asked every few minutes: no connection is kept.
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(https);
        Self(client)
    }

    pub(super) async fn fetch(&self, url: &Url) -> Result<Bytes, &'static str> {
        tokio::time::timeout(TIMEOUT, self.get(url)).await.unwrap_or(Err("no answer in time"))
    }

    async fn get(&self, url: &Url) -> Result<Bytes, &'static str> {
        if !is_safe(url) {
            return Err("neither https nor on this machine");
        }
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.as_str().parse::<Uri>().map_err(|_| "not a URL")?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        let answer = self.0.request(request).await.map_err(|_| "not reached")?;
        if answer.status() != StatusCode::OK {
            return Err("an answer other than 200");
        }
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        body.map(|body| body.to_bytes()).map_err(|_| "cut off, or too large")
    }
}
