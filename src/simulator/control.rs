//! The simulator's own pages under `/_sim/`. They are not the vendor's and need none of its keys: whoever reaches them reads
//! requests with their keys, and sets faults. So they are open on a loopback address only, or need a token.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, ORIGIN};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;
use subtle::ConstantTimeEq;
use url::form_urlencoded;

use super::answer;
use super::clock::Millis;
use super::script::Active;
use super::shared::Shared;
use super::wire::WireBody;

/// Who may use the pages.
pub(super) enum Guard {
    /// Every program that reaches the simulator, which listens on this machine only.
    Open,
    /// Who presents this token.
    Token(String),
    /// Nobody: other machines reach the simulator, and there is no token.
    Shut,
}

impl Guard {
    /// The guard of a simulator that listens on `address`.
    pub(super) fn of(token: Option<String>, address: IpAddr) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if address.is_loopback() => Self::Open,
            None => Self::Shut,
        }
    }

    /// Why a request is refused.
    fn complaint(&self, parts: &Parts) -> Option<&'static str> {
        match self {
            // A page in a browser on this machine reaches loopback addresses too. Programs send no such header.
            Self::Open if parts.headers.contains_key(ORIGIN) => {
                Some("these pages are not for web pages of other origins")
            }
            Self::Open => None,
            Self::Token(token) => {
                let given = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let given = given
                    .and_then(|value| value.split_once(' '))
                    .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let fits =
                    given.is_some_and(|(_, given)| given.trim().as_bytes().ct_eq(token.as_bytes()).into());
                (!fits).then_some("give the token of the simulator's own pages: Authorization: Bearer TOKEN")
            }
            Self::Shut => Some(
                "the simulator listens for other machines too, so its own pages need a token: start it with \
                 --script-token-file",
            ),
        }
    }
}

pub(super) fn handle(shared: &Shared, parts: &Parts, body: &[u8]) -> Response<WireBody> {
    if let Some(complaint) = shared.guard.complaint(parts) {
        return answer::failure(StatusCode::FORBIDDEN, "FORBIDDEN", complaint);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_need_a_token_that_was_given() {
        let complains = |token: Option<&str>, address: &str, headers: &[(&str, &str)]| {
            let mut request = http::Request::post("/_sim/script");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            Guard::of(token.map(str::to_owned), address.parse().unwrap()).complaint(&parts).is_some()
        };
        let bearer = |token| ("authorization", token);
        for address in ["127.0.0.1", "::1"] {
            assert!(!complains(None, address, &[]));
            assert!(
                complains(None, address, &[("origin", "https://elsewhere.example")]),
                "a page in a browser"
            );
        }
        for address in ["0.0.0.0", "::", "10.0.0.5"] {
            assert!(complains(None, address, &[]) && complains(None, address, &[bearer("Bearer t")]));
        }
        for address in ["127.0.0.1", "0.0.0.0"] {
            assert!(!complains(Some("t"), address, &[bearer("Bearer t")]));
            for wrong in ["Bearer u", "Bearer", "t", "Bearer tt", "Basic t"] {
                assert!(complains(Some("t"), address, &[bearer(wrong)]), "{wrong}");
            }
            assert!(complains(Some("t"), address, &[]));
        }
    }
}
