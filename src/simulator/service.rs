//! From a request to its answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::script::Active;
use super::shared::Shared;
use super::wire::{Cut, WireBody};
use super::{answer, control, create, status, video};

/// The vendor takes images as `data:` URIs.
const LARGEST_BODY: usize = 32 * 1024 * 1024;

/// Answers one request; an error cuts its connection.
pub(super) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<WireBody>, Cut> {
    let (parts, incoming) = request.into_parts();
    let body = read(incoming).await?;
    let path = parts.uri.path();
    if !path.starts_with("/_sim/") {
        let (length, kept) = match &body {
            Ok(body) => (body.len() as u64, Some(&body[..])),
            Err(TooLarge { length }) => (*length, None),
        };
        shared.recorder.note(&parts, length, kept);
    }
    let Ok(body) = body else {
        let message = "The request body is larger than 32 MiB";
        return Ok(answer::failure(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message));
    };
    match (path, &parts.method) {
        ("/api/generate", &Method::POST) => {
            let script = shared.script.active();
            match authenticate(&shared, &script, &parts, true) {
                Some(account) => create::create(&shared, &script, account, &body).await,
                None => Ok(answer::invalid_key()),
            }
        }
        ("/api/status", &Method::GET) => {
            let script = shared.script.active();
            match authenticate(&shared, &script, &parts, false) {
                Some(account) => status::status(&shared, &script, account, parts.uri.query()).await,
                None => Ok(answer::invalid_key()),
            }
        }
        ("/api/generate", _) => Ok(answer::wrong_method("POST")),
        ("/api/status", _) => Ok(answer::wrong_method("GET")),
        ("/healthz", &Method::GET | &Method::HEAD) => Ok(answer::json(StatusCode::OK, &"ok")),
        ("/healthz", _) => Ok(answer::wrong_method("GET, HEAD")),
        _ if path.starts_with("/videos/") => Ok(video::serve(&shared, &parts)),
        _ if path.starts_with("/_sim/") => Ok(control::handle(&shared, &parts, &body)),
        _ => Ok(answer::not_found()),
    }
}

/// The account of the request's key, if the key is good.
fn authenticate<'a>(
    shared: &'a Shared,
    script: &Active,
    parts: &Parts,
    is_create: bool,
) -> Option<&'a Arc<str>> {
    let account = bearer(parts).and_then(|key| shared.books.account(key));
    if let (Some(account), true) = (account, is_create) {
        shared.books.count_create(account);
    }
    account.filter(|account| !script.is_rejected(account))
}

fn bearer(parts: &Parts) -> Option<&str> {
    let (scheme, key) = parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

struct TooLarge {
    length: u64,
}

/// Reads the body to its end. One that is too large is read too, without being kept: its sender should see the
/// answer, not a reset connection.
async fn read(mut incoming: Incoming) -> Result<Result<Bytes, TooLarge>, Cut> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut length: u64 = 0;
    while let Some(frame) = incoming.frame().await {
        // The sender closed the connection: there is no one to answer.
        let Ok(data) = frame.map_err(|_| Cut)?.into_data() else { continue };
        length += data.len() as u64;
        if length > LARGEST_BODY as u64 {
            first.clear();
            rest = BytesMut::new();
        } else if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    if length > LARGEST_BODY as u64 {
        return Ok(Err(TooLarge { length }));
    }
    Ok(Ok(if rest.is_empty() { first } else { rest.freeze() }))
}
