//! Signing in by an identity provider: the browser goes there by a link, and comes back with a code.
//!
//! It is a link and no form: `form-action 'self'` of the content policy also holds for where the answer to a form leads.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::SET_COOKIE;
use http::request::Parts;

use super::sign_in::{admit, enter, form, own_place};
use crate::access::callers::Caller;
use crate::access::sessions::{ProviderAnswer, SessionText};
use crate::call::Party;
use crate::console::Console;
use crate::console::client::Problem;
use crate::console::trouble::redirect;
use crate::console::visit::{Fields, address, login_cookie};
use crate::error::GatewayError;
use crate::ids::ProviderId;
use crate::strict;

/// Where providers send browsers back to.
const RETURN: &str = "/console/sign-in/return";

const NO_ADDRESS: &str = "nobody signs in here by an identity provider: an operator must set console.public_url, the address that \
                          providers send people back to";

fn no_address() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", NO_ADDRESS)
}

/// Sends the browser to the provider.
pub(in crate::console) async fn begin(
    State(console): State<Arc<Console>>,
    Path(provider): Path<String>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let back = match Fields::parse(head.uri.query().unwrap_or_default().as_bytes()) {
        Ok(query) => own_place(&query.text("back")),
        Err(trouble) => return trouble.into_response(),
    };
    match ask(&console, &head, &provider, &back).await {
        Ok((begun, place)) => {
            let mut answer = redirect(&place);
            if let Some(kept) = login_cookie(&console, &head.headers).keep(&begun) {
                answer.headers_mut().insert(SET_COOKIE, kept);
            }
            answer
        }
        Err(problem) => form(&console, &head, &back, Some(&problem), None).await,
    }
}

async fn ask(
    console: &Console,
    head: &Parts,
    provider: &str,
    back: &str,
) -> Result<(SessionText, String), Problem> {
    let redirect = console.parts.settings.address_of(RETURN).ok_or_else(no_address)?;
    let Ok(id) = provider.parse::<ProviderId>() else {
        let unknown = "there is no identity provider at this address: open it as it was given to you";
        return Err(Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", unknown));
    };
    let begun = console.parts.authenticator.begin_sign_in(id, &redirect, back, address(console, head)).await;
    let (begun, place) = begun.map_err(|error| Problem::of(&error))?;
    Ok((begun, place.into()))
}

/// Ends the sign-in with what the provider has sent the browser back with.
pub(in crate::console) async fn finish(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let cookie = login_cookie(&console, &head.headers);
    let begun = cookie.read(&head.headers);
    match open(&console, &head, begun.as_ref()).await {
        Ok((entered, back)) => {
            let mut answer = enter(&console, &head, entered, &back).await;
            if let Some(forgotten) = cookie.forget() {
                answer.headers_mut().append(SET_COOKIE, forgotten);
            }
            answer
        }
        // The cookie stays: another sign-in of this browser may be under way.
        Err(problem) => form(&console, &head, "", Some(&problem), None).await,
    }
}

async fn open(
    console: &Console,
    head: &Parts,
    begun: Option<&SessionText>,
) -> Result<((SessionText, Party), String), Problem> {
    let redirect = console.parts.settings.address_of(RETURN).ok_or_else(no_address)?;
    let answer = answer_of(head).map_err(|error| Problem::of(&error))?;
    let peer = address(console, head);
    let admit = |caller: &Caller| admit(console, caller);
    let opened = console.parts.authenticator.finish_sign_in(begun, &answer, &redirect, peer, admit).await;
    let (session, signed_in, back) = opened.map_err(|error| Problem::of(&error))?;
    Ok(((session, signed_in.caller().party()), back))
}

fn answer_of(head: &Parts) -> Result<ProviderAnswer, GatewayError> {
    let query = head.uri.query().unwrap_or_default();
    strict::check_query(query)?;
    let fields = Fields::parse(query.as_bytes()).map_err(|_| {
        GatewayError::Unauthenticated("the identity provider's answer has too many parameters")
    })?;
    let text = |name: &str| fields.get(name).map(ToOwned::to_owned);
    Ok(ProviderAnswer { code: text("code"), state: text("state"), iss: text("iss"), error: text("error") })
}
