//! The simulator's own pages under `/_sim/`. They are not the vendor's and need no key.

use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use super::answer;
use super::clock::Millis;
use super::script::Active;
use super::shared::Shared;
use super::wire::WireBody;

pub(super) fn handle(shared: &Shared, parts: &Parts, body: &[u8]) -> Response<WireBody> {
    match (parts.uri.path(), &parts.method) {
        ("/_sim/books", &Method::GET) => books(shared, parts.uri.query()),
        ("/_sim/books", _) => answer::wrong_method("GET"),
        ("/_sim/requests", &Method::GET) => answer::json(StatusCode::OK, &shared.recorder.show()),
        ("/_sim/requests", &Method::DELETE) => {
            shared.recorder.clear();
            answer::json(StatusCode::OK, &shared.recorder.show())
        }
        ("/_sim/requests", _) => answer::wrong_method("GET, DELETE"),
        ("/_sim/script", &Method::GET) => show_script(shared),
        ("/_sim/script", &Method::POST) => match Active::read(body) {
            Ok(active) => set_script(shared, active),
            Err(complaint) => answer::failure(StatusCode::BAD_REQUEST, "INVALID_SCRIPT", &complaint),
        },
        ("/_sim/script", &Method::DELETE) => set_script(shared, Active::default()),
        ("/_sim/script", _) => answer::wrong_method("GET, POST, DELETE"),
        _ => answer::not_found(),
    }
}

fn books(shared: &Shared, query: Option<&str>) -> Response<WireBody> {
    let mut account = None;
    let mut summary = None;
    let refuse = |complaint: String| answer::failure(StatusCode::BAD_REQUEST, "INVALID_REQUEST", &complaint);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let parameter = match &*name {
            "account" => &mut account,
            "summary" => &mut summary,
            _ => {
                return refuse(format!(
                    "{name:?} is no parameter of the books; there are account and summary"
                ));
            }
        };
        if parameter.replace(value).is_some() {
            return refuse(format!("{name:?} is given twice"));
        }
    }
    let summary = summary.is_some_and(|summary| summary == "true");
    answer::json(StatusCode::OK, &shared.books.read(account.as_deref(), !summary, Millis::now()))
}

fn set_script(shared: &Shared, active: Active) -> Response<WireBody> {
    shared.recorder.switch(active.record);
    shared.script.set(active);
    show_script(shared)
}

fn show_script(shared: &Shared) -> Response<WireBody> {
    answer::json(StatusCode::OK, &json!(shared.script.active().show()))
}
