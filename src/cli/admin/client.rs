//! A client of the management API, for the command line.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use serde::Serialize;
use serde_json::Value;

use super::super::CliError;
use super::super::output;
use crate::https::{BadTrust, Client, ClientSettings, HttpVersion, Trust};
use crate::secret::Secret;
use crate::strict;

/// Time-out of one call; statements and what-ifs of long periods are slow.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Larger than any page, statement or export. A server that is no management API may send without end.
const MAX_ANSWER: usize = 1 << 30;

/// The header of a column, and the field of each item that the column shows.
pub(super) type Column = (&'static str, &'static str);

/// A management API, the credential for it, and the form in which answers are printed.
pub(super) struct Session {
    base: String,
    token: Secret,
    json: bool,
    http: Client,
    /// Says once what is about to be changed.
    announced: Once,
}

/// The query string of a path.
pub(super) struct QueryString(url::form_urlencoded::Serializer<'static, String>);

impl Default for QueryString {
    fn default() -> Self {
        Self(url::form_urlencoded::Serializer::new(String::new()))
    }
}

impl QueryString {
    /// Adds the parameter `name` if it has a value.
    pub(super) fn add(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.append_pair(name, &value.to_string());
        }
        self
    }

    /// Appends the query string to `path`.
    pub(super) fn of(mut self, path: &str) -> String {
        let query = self.0.finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

/// Whether a URL leads to this machine.
fn is_here(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Session {
    pub(super) fn new(
        base: &str,
        ca_file: Option<&Path>,
        token: Secret,
        json: bool,
    ) -> Result<Self, CliError> {
        // The address as a demo prints it, with the path that every call adds by itself.
        let base = base.trim().trim_end_matches('/');
        let base = base.strip_suffix("/admin/v1").unwrap_or(base).trim_end_matches('/').to_owned();
        let uri: Option<Uri> = base.parse().ok();
        let is_right = |uri: &Uri| {
            // A password in it would be shown in messages.
            let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
            matches!(uri.scheme_str(), Some("http" | "https")) && !has_user
        };
        if !uri.as_ref().is_some_and(is_right) {
            return Err(CliError::Usage(
                "--url must be an http or https URL without user and password, such as http://127.0.0.1:8081"
                    .into(),
            ));
        }
        if uri.as_ref().is_some_and(|uri| uri.scheme_str() == Some("http") && !is_here(uri)) {
            eprintln!(
                "warning: {base} is plain HTTP to another host: everybody on the way can read the token; use https (admin.tls)"
            );
        }
        let http = client(ca_file)?;
        Ok(Self { base, token, json, http, announced: Once::new() })
    }

    /// Whether answers are printed as JSON.
    pub(super) fn prints_json(&self) -> bool {
        self.json
    }

    /// Sends a request. Returns the body of a successful answer; the error of another one is the API's `detail`. Before
    /// the first request that may change something, it prints on standard error at which management API.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<&Value>,
    ) -> Result<Bytes, CliError> {
        if method != Method::GET {
            self.announced.call_once(|| eprintln!("tollgate: a change at the management API {}", self.base));
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", self.token.expose()))
            .map_err(|_| CliError::Usage("the token has characters that cannot be in a token".into()))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, bearer);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|error| CliError::Usage(format!("this is not a valid request: {error}")))?;
        let unreachable = |why: String| {
            CliError::Unreachable(format!(
                "the management API at {} cannot be reached ({why}): make sure that it runs and that --url is right",
                self.base
            ))
        };
        let answer = self.http.call(request).await.map_err(|error| unreachable(error.to_string()))?;
        let status = answer.status;
        if status.is_success() {
            return Ok(answer.body);
        }
        let problem: Option<Value> = strict::read_json(&answer.body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        let said = detail.map_or_else(|| format!("the management API answered {status}"), str::to_owned);
        // What was compared is the result of the command, and may have words of a request: it is no part of the error.
        if let Some(sides) = problem.as_ref().and_then(|problem| problem.get("data")) {
            self.say(sides, format_args!("{sides:#}"));
        }
        Err(match status.as_u16() {
            503 => CliError::Unreachable(said),
            401 => CliError::Usage(format!("--token: {said}")),
            _ => CliError::Failed(said),
        })
    }

    /// Sends a request. Returns the answer as JSON, or null if it has no body.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        read(&self.send(method, path, &[], body).await?)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, CliError> {
        self.call(Method::POST, path, Some(&body)).await
    }

    pub(super) async fn patch(&self, path: &str, body: Value) -> Result<Value, CliError> {
        self.call(Method::PATCH, path, Some(&body)).await
    }

    /// Sends a request that moves credits, under the given idempotency key or a fresh one, so that a proxy on the way can
    /// safely send it again.
    pub(super) async fn move_money(
        &self,
        method: Method,
        path: &str,
        key: Option<String>,
        body: Option<Value>,
    ) -> Result<Value, CliError> {
        let key = key.unwrap_or_else(|| format!("cli-{}", uuid::Uuid::new_v4().simple()));
        if !(1..=255).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(CliError::Usage(
                "--idempotency-key must be 1 to 255 visible ASCII characters".into(),
            ));
        }
        read(&self.send(method, path, &[("idempotency-key", key)], body.as_ref()).await?)
    }

    /// Fetches all items of a list, page after page.
    pub(super) async fn items(&self, path: &str) -> Result<Vec<Value>, CliError> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}{separator}limit=200{cursor}")).await?;
            if let Some(more) = page["items"].as_array_mut() {
                items.append(more);
            }
            match page["next_cursor"].as_str() {
                Some(next) => {
                    let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
                    cursor = format!("&cursor={next}");
                }
                None => return Ok(items),
            }
        }
    }

    /// Fetches and prints all items of a list: a table, or a JSON array.
    pub(super) async fn list(&self, path: &str, columns: &[Column]) -> Result<(), CliError> {
        let items = self.items(path).await?;
        self.show_all(&items, columns);
        Ok(())
    }

    /// Prints one item: a table of one line, or JSON.
    pub(super) fn show(&self, item: &Value, columns: &[Column]) {
        if self.json { output::json(item) } else { rows(std::slice::from_ref(item), columns) }
    }

    /// Prints items: a table, or a JSON array.
    pub(super) fn show_all(&self, items: &[Value], columns: &[Column]) {
        if self.json { output::json(&items) } else { rows(items, columns) }
    }

    /// Prints `sentence`, or `value` as JSON.
    pub(super) fn say(&self, value: &impl Serialize, sentence: impl std::fmt::Display) {
        if self.json { output::json(value) } else { output::line(sentence) }
    }

    /// Prints the id of a new object, and its secret, which cannot be shown again.
    pub(super) fn say_once(&self, made: &Value, id: &str, secret: &str) -> Result<(), CliError> {
        if self.json {
            return output::secret(made);
        }
        let field = |name: &str| made[name].as_str().unwrap_or_default();
        output::secret(format_args!("{}\n{}\nkeep it: it is not shown again", field(id), field(secret)))
    }
}

/// A client that trusts the certificates in `ca_file` and no others; without one, those of the authorities that this
/// machine trusts.
fn client(ca_file: Option<&Path>) -> Result<Client, CliError> {
    let unusable = |file: &Path, why: String| CliError::Usage(format!("--ca-file {}: {why}", file.display()));
    let trust = match ca_file {
        Some(file) => Trust::Only(std::fs::read(file).map_err(|error| unusable(file, error.to_string()))?),
        None => Trust::Machine(None),
    };
    let settings = ClientSettings {
        trust,
        proxy: None,
        version: HttpVersion::Http1,
        connect_timeout: TIMEOUT,
        idle_timeout: Duration::from_secs(90),
    };
    Client::new(&settings, TIMEOUT, MAX_ANSWER).map_err(|error| match (ca_file, error) {
        (Some(file), BadTrust::Pem(why)) => unusable(file, why),
        (_, error) => CliError::Failed(error.to_string()),
    })
}

fn read(body: &Bytes) -> Result<Value, CliError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    strict::read_json(body).map_err(|_| {
        CliError::Failed(
            "the answer is not JSON: make sure that --url is a management API (admin.listen)".into(),
        )
    })
}

fn rows(items: &[Value], columns: &[Column]) {
    let header: Vec<&str> = columns.iter().map(|(header, _)| *header).collect();
    let row = |item: &Value| columns.iter().map(|(_, field)| cell(item, field)).collect();
    output::table(&header, &items.iter().map(row).collect::<Vec<Vec<String>>>());
}

fn cell(item: &Value, field: &str) -> String {
    match field.split('.').fold(item, |value, part| &value[part]) {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts: Vec<String> = list
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect();
            texts.join(",")
        }
        other => other.to_string(),
    }
}
