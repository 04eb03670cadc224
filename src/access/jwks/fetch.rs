//! One GET, bounded in time and size. Redirects are not followed: what is configured is what is asked.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{Request, StatusCode, Uri};
use url::Url;

use crate::https::{BadTrust, CallError, Client, ClientSettings, Egress, HttpVersion, Trust};
use crate::safe_url::is_safe;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest sets (dozens of keys with their certificates) have a tenth of this.
const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct Fetcher(Client);

impl Fetcher {
    pub(super) fn new(egress: &Egress) -> Result<Self, BadTrust> {
        let settings = ClientSettings {
            trust: Trust::Machine(egress.authorities.clone()),
            proxy: egress.proxy.clone(),
            version: HttpVersion::Http1,
            connect_timeout: TIMEOUT,
            // A provider is asked every few minutes.
            idle_timeout: Duration::ZERO,
        };
        Ok(Self(Client::new(&settings, TIMEOUT, MAX_BODY)?))
    }

    /// The body of the answer; otherwise why there is none, for the log.
    pub(super) async fn fetch(&self, url: &Url) -> Result<Bytes, String> {
        if !is_safe(url) {
            return Err("neither https nor on this machine".into());
        }
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = url.as_str().parse::<Uri>().map_err(|_| "not a URL")?;
        let accepted = HeaderValue::from_static("application/json, application/jwk-set+json");
        request.headers_mut().insert(ACCEPT, accepted);
        match self.0.call(request).await {
            Ok(answer) if answer.status == StatusCode::OK => Ok(answer.body),
            Ok(answer) => Err(format!("the answer is {}, not 200", answer.status.as_u16())),
            Err(CallError::NotReached(why)) => Err(format!("not reached: {why}")),
            Err(CallError::Broken(why)) => Err(format!("cut off: {why}")),
            Err(error @ (CallError::TimedOut | CallError::TooLarge(_))) => Err(error.to_string()),
        }
    }
}
