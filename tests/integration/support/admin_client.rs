//! A client of the management API.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tollgate::store::{KeySpec, OperatorRole};

use super::gateway::{Caller, TestGateway};
use crate::support::seed::admin_named;

/// Calls of one caller.
pub struct AdminClient<'a> {
    gateway: &'a TestGateway,
    on_data_listener: bool,
    pub token: String,
}

/// What came back.
#[derive(Debug)]
pub struct AdminAnswer {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub headers: HeaderMap,
    pub body: Value,
}

impl AdminAnswer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        self.body
    }
}

impl<'a> AdminClient<'a> {
    pub fn new(gateway: &'a TestGateway, token: impl Into<String>) -> Self {
        Self { gateway, on_data_listener: false, token: token.into() }
    }

    /// The same caller on the data listener.
    pub fn on_data_listener(&self) -> Self {
        Self { gateway: self.gateway, on_data_listener: true, token: self.token.clone() }
    }

    /// An operator of that role.
    pub async fn operator(gateway: &'a TestGateway, role: OperatorRole) -> Self {
        let made = gateway.db.database().create_operator_token("a test", role, None).await.unwrap();
        Self::new(gateway, made.1.expose())
    }

    /// An admin of the organisation of `of`.
    pub async fn org_admin(gateway: &'a TestGateway, of: &Caller) -> Self {
        let db = gateway.db.database();
        let user = db.add_user(of.org, &admin_named("its admin")).await.unwrap();
        let spec = KeySpec { name: "admin".into(), env: "test".into(), ..KeySpec::default() };
        let (_, text) = db.create_key(of.org, user, &spec).await.unwrap();
        Self::new(gateway, text.expose())
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> AdminAnswer {
        self.call_with(method, path, body, &[]).await
    }

    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> AdminAnswer {
        let url = match self.on_data_listener {
            true => self.gateway.url(path),
            false => self.gateway.admin_url(path),
        };
        let mut request = self.gateway.client.request(method, url);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let etag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        let headers = answer.headers().clone();
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let text = answer.text().await.unwrap();
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: not JSON: {text}"))
        };
        AdminAnswer { status, etag, headers, body }
    }

    pub async fn get(&self, path: &str) -> AdminAnswer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> AdminAnswer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> AdminAnswer {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> AdminAnswer {
        self.call(Method::DELETE, path, None).await
    }
}
